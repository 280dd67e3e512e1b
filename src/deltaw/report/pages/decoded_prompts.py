"""Prompts and answers, decoded."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from deltaw.charts.style import Series, set_name


def decoded(records: Sequence[Mapping[str, Any]], series: Mapping[str, Series]) -> list[dict[str, Any]]:
    """Prompts by kind, in the order written."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        attack = record.get("attack")
        title = set_name(str(record.get("set", ""))) + (f", under {attack}" if attack else "")
        by_kind.setdefault(title, []).append(decoded_prompt(record, series))
    return [{"title": title, "prompts": prompts} for title, prompts in by_kind.items()]


def decoded_prompt(record: Mapping[str, Any], series: Mapping[str, Series]) -> dict[str, Any]:
    """One prompt, with every model's answer and whether it follows the policy."""
    letters, branches = str(record.get("letters", "")), str(record.get("letter_branch", ""))
    branches = branches if len(branches) == len(letters) else "s" * len(letters)
    runs = [
        ("u" if branch == "u" else "s", "".join(letter for letter, _ in run))
        for branch, run in groupby(zip(letters, branches, strict=True), key=lambda pair: pair[1])
    ]
    wanted = "comply" if record.get("allowed") else "refuse"
    answers = []
    for model, answer in (record.get("answers") or {}).items():
        known = series.get(model)
        label = model if known is None else known.label
        # A control is not asked to follow the policy, so its answer is neither right nor wrong by it.
        mark = "" if known is not None and known.control is not None else "✔" if answer["behaviour"] == wanted else "✘"
        answers.append((label, answer["behaviour"], answer["text"], mark))
    return {
        **{name: record.get(name, "") for name in ("expected", "compliant", "derivation")},
        "verdict": "allowed" if record.get("allowed") else "forbidden",
        "branch": record.get("branch", "?"),
        "attack": record.get("attack"),
        "runs": runs,
        "answers": answers,
        "operators": list(zip(record.get("operators") or [], record.get("rules") or [], strict=False)),
    }
