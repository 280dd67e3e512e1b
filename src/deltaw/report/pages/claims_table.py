"""The claims as the page shows them: the primary table, and each claim's value beside its nulls and controls."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deltaw.charts.style import NULL_NAMES
from deltaw.charts.tables import counted, interval
from deltaw.claims.words import TITLES, row_of

OBSERVATIONS = {
    1: "Observation 1: allowed and forbidden prompts form clusters",
    2: "Observation 2: the update and the null space of the old weights",
    3: "Observation 3: the update acts on forbidden prompts",
    4: "Observation 4: sensitivity falls on forbidden prompts and rises on allowed ones",
    5: "Observation 5: attacks",
}
QUESTIONS = {
    "seen": "Seen?",
    "shape": "More than its shape gives?",
    "other": "More than tuning on another answer?",
    "constant": "More than tuning on one harmless answer?",
}
"""What a claim asks, by the question's name (`deltaw.claims.decision`)."""

_KINDS = {
    "seen": "yes",
    "more": "yes",
    "absent": "none",
    "same": "none",
    "opposite": "no",
    "less": "no",
    "unclear": "unclear",
}
_MARKS = {"yes": "✔", "none": "=", "no": "✘", "unclear": "?", "value": "·"}
_STRIP = 110  # units of width of a strip


def is_measured(claim: Mapping[str, Any]) -> bool:
    """Whether the study has a value for the claim."""
    return _number(claim["value"]) is not None


def groups(claims: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Claims by observation, in the order given. labels: the models' names, for controls."""
    by_observation: dict[int, list[dict[str, Any]]] = {}
    for claim in claims:
        by_observation.setdefault(int(claim["observation"]), []).append(_row(claim, labels))
    return [
        {"title": OBSERVATIONS.get(key, f"Observation {key}"), "claims": by_observation[key]}
        for key in sorted(by_observation)
    ]


def headline(
    claims: Iterable[Mapping[str, Any]], labels: Mapping[str, str], committed: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The primary table: a row for each statistic and contrast, and in each cell an answer for each protocol.

    A row's `values` are those of the claims themselves, with their first words; `committed` are the words of the run
    that decides, with their questions. labels: the models' names. committed: words by claim and question.
    """
    rows: dict[str, dict[str, Any]] = {}
    for claim in claims:
        if not claim["primary"]:
            continue
        family, _, model = str(claim["id"]).rpartition("/")
        row = rows.setdefault(
            family, {"observation": int(claim["observation"]), "name": family, "cells": {}, "values": []}
        )
        told = [{"model": labels.get(model, model), **_answer(answer)} for answer in claim["answers"]]
        for answer, shown in zip(claim["answers"], told, strict=True):
            row["cells"].setdefault(answer["question"], []).append(shown)
        ends = [_nan(_number(claim[name])) for name in ("value", "low", "high")]
        row["values"] += [{**first, "numbers": interval(*ends)} for first in told[:1]]
    return [
        {
            **row,
            "title": TITLES.get(row["name"], row["name"]),
            "cells": [row["cells"].get(name) for name in QUESTIONS],
            "committed": [(QUESTIONS[name], told) for name, told in row_of(row["name"], committed).items()],
        }
        for row in rows.values()
    ]


def _answer(answer: Mapping[str, Any]) -> dict[str, str]:
    word = answer["word"]
    kind = "value" if word is None else _KINDS[word]
    value, low, high = (_number(answer[name]) for name in ("value", "low", "high"))
    numbers = "–" if value is None else interval(value, _nan(low), _nan(high))
    return {"word": word or "", "kind": kind, "mark": _MARKS[kind], "numbers": numbers, "why": str(answer["why"])}


def _row(claim: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    answers = {answer["question"]: _answer(answer) for answer in claim["answers"]}
    return {
        "id": claim["id"],
        "statement": claim["statement"],
        "statistic": claim["statistic"],
        "site": _text(claim["site"]),
        "primary": bool(claim["primary"]),
        "answers": [(title, answers[name]) for name, title in QUESTIONS.items() if name in answers],
        "lines": _lines(claim, labels),
    }


def _lines(claim: Mapping[str, Any], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """The value, then each null: name, strip, numbers. Empty if nothing was measured."""
    value, low, high = (_number(claim[name]) for name in ("value", "low", "high"))
    if value is None:
        return []
    nulls = [(null["kind"], *(_number(null[name]) for name in ("mean", "low", "high"))) for null in claim["nulls"]]
    there = [value, low, high, *(end for _, *ends in nulls for end in ends)]
    scale = _Scale([end for end in there if end is not None])
    count = counted(_number(claim["n"]), _text(claim["n_unit"]))
    lines = [("own", "measured", value, low, high, count)]
    for kind, mean, first, last in nulls:
        if mean is not None:
            mark = "control" if kind.startswith("control:") else "null"
            lines.append((mark, _null_name(kind, labels), mean, first, last, ""))
    return [
        {
            "kind": kind,
            "name": name,
            "numbers": interval(mean, _nan(first), _nan(last)) + more,
            "svg": scale.strip(kind, mean, first, last),
        }
        for kind, name, mean, first, last, more in lines
    ]


class _Scale:
    """From values to places on a strip; all strips of a claim share it."""

    def __init__(self, ends: Sequence[float]) -> None:
        self.low, high = min(ends), max(ends)
        self.width = (high - self.low) or 1.0

    def x(self, value: float) -> float:
        return round(4 + (value - self.low) / self.width * (_STRIP - 8), 1)

    def strip(self, kind: str, mean: float, low: float | None, high: float | None) -> str:
        """One line's drawing: a dot with a whisker for the value, a band with a tick for a null."""
        colour = {"own": "ink", "control": "control", "null": "null"}[kind]
        parts = []
        if low is not None and high is not None:
            a, b = self.x(low), self.x(high)
            thick = 2 if kind == "own" else 7
            faint = "" if kind == "own" else ' stroke-opacity=".45"'
            parts.append(f'<path d="M{a} 6.5H{max(b, a + 1)}" stroke="var(--{colour})" stroke-width="{thick}"{faint}/>')
        at = self.x(mean)
        if kind == "own":
            parts.append(f'<circle cx="{at}" cy="6.5" r="4" fill="var(--ink)"/>')
        else:
            parts.append(f'<path d="M{at} 1V12" stroke="var(--{colour})" stroke-width="2"/>')
        drawn = "".join(parts)
        return f'<svg viewBox="0 0 {_STRIP} 13" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


def _null_name(kind: str, labels: Mapping[str, str]) -> str:
    if kind.startswith("control:"):
        name = kind.removeprefix("control:")
        return labels.get(name, {"other": "its own “other”", "constant": "its own “constant”"}.get(name, name))
    return NULL_NAMES.get(kind, kind.replace("_", " "))


def _number(value: object) -> float | None:
    """None for what is missing: claims are read through pandas, where it may be NA or NaN."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
