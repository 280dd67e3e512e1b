"""The claims as the page shows them: verdict, value, and each null and control on one scale."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deltaw.charts.style import NULL_NAMES, number
from deltaw.charts.tables import counted, interval

MARKS = {"holds": "✔", "fails": "✘", "undecided": "?"}
OBSERVATIONS = {
    1: "Observation 1: allowed and forbidden prompts form clusters",
    2: "Observation 2: the update and the null space of the old weights",
    3: "Observation 3: the update acts on forbidden prompts",
    4: "Observation 4: sensitivity falls on forbidden prompts and rises on allowed ones",
    5: "Observation 5: attacks",
}
_STRIP = 110  # units of width of a strip


def is_measured(claim: Mapping[str, Any]) -> bool:
    """Whether the study has a value for the claim."""
    return _number(claim["value"]) is not None


def groups(claims: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Claims by observation, in the order given. labels: the models' names, for controls."""
    found: dict[int, list[dict[str, Any]]] = {}
    for claim in claims:
        found.setdefault(int(claim["observation"]), []).append(_row(claim, labels))
    return [{"title": OBSERVATIONS.get(key, f"Observation {key}"), "claims": found[key]} for key in sorted(found)]


def _row(claim: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": claim["id"],
        "verdict": claim["verdict"],
        "mark": MARKS[claim["verdict"]],
        "statement": claim["statement"],
        "statistic": claim["statistic"],
        "site": _text(claim["site"]),
        "why": _words(claim["why"], labels),
        "lines": _lines(claim, labels),
    }


def _lines(claim: Mapping[str, Any], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """The value, then each null: name, strip, numbers. Empty if nothing was measured."""
    value, low, high = (_number(claim[name]) for name in ("value", "low", "high"))
    if value is None:
        return []
    bar = _number(claim["smallest_effect"])
    nulls = [(null["kind"], *(_number(null[name]) for name in ("mean", "low", "high"))) for null in claim["nulls"]]
    there = [value, low, high, bar, *(end for _, *ends in nulls for end in ends)]
    scale = _Scale([end for end in there if end is not None])
    count = counted(_number(claim["n"]), _text(claim["n_unit"]))
    lines = [("own", "measured", value, low, high, count)]
    for kind, mean, first, last in nulls:
        if mean is not None:
            lines.append(
                ("control" if kind.startswith("control:") else "null", _null_name(kind, labels), mean, first, last, "")
            )
    found = [
        {"kind": kind, "name": name, "numbers": interval(mean, _nan(first), _nan(last)) + more,
         "svg": scale.strip(kind, mean, first, last, bar)}
        for kind, name, mean, first, last, more in lines
    ]  # fmt: skip
    if bar is not None:
        found.append(
            {
                "kind": "null",
                "name": "smallest effect",
                "numbers": number(bar),
                "svg": scale.strip("bar", bar, None, None, bar),
            }
        )
    return found


class _Scale:
    """From values to places on a strip; all strips of a claim share it."""

    def __init__(self, ends: Sequence[float]) -> None:
        self.low, high = min(ends), max(ends)
        self.width = (high - self.low) or 1.0

    def x(self, value: float) -> float:
        return round(4 + (value - self.low) / self.width * (_STRIP - 8), 1)

    def strip(self, kind: str, mean: float, low: float | None, high: float | None, bar: float | None) -> str:
        """One line's drawing: a dot with a whisker for the value, a band with a tick for a null."""
        colour = {"own": "ink", "control": "control", "null": "null", "bar": "muted"}[kind]
        parts = []
        if bar is not None:
            at = self.x(bar)
            parts.append(f'<path d="M{at} -1V14" stroke="var(--muted)" stroke-dasharray="1 2"/>')
        if low is not None and high is not None:
            a, b = self.x(low), self.x(high)
            thick = 2 if kind == "own" else 7
            faint = "" if kind == "own" else ' stroke-opacity=".45"'
            parts.append(f'<path d="M{a} 6.5H{max(b, a + 1)}" stroke="var(--{colour})" stroke-width="{thick}"{faint}/>')
        at = self.x(mean)
        if kind == "own":
            parts.append(f'<circle cx="{at}" cy="6.5" r="4" fill="var(--ink)"/>')
        elif kind != "bar":
            parts.append(f'<path d="M{at} 1V12" stroke="var(--{colour})" stroke-width="2"/>')
        drawn = "".join(parts)
        return f'<svg viewBox="0 0 {_STRIP} 13" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


def _null_name(kind: str, labels: Mapping[str, str]) -> str:
    if kind.startswith("control:"):
        name = kind.removeprefix("control:")
        return labels.get(name, f"control: {name}")
    return NULL_NAMES.get(kind, kind.replace("_", " "))


def _words(why: str, labels: Mapping[str, str]) -> str:
    """A reason with the names that the rest of the page uses."""
    for model, label in labels.items():
        why = why.replace(f"control:{model}", label)
    for kind, name in sorted(NULL_NAMES.items(), key=lambda item: -len(item[0])):
        why = why.replace(f"the null {kind}", f"the null “{name}”")
    return re.sub(r"control:(?=\S)", "control: ", why.replace("the null control:", "the control:"))


def _number(value: object) -> float | None:
    """None for what is missing: claims are read through pandas, where it may be NA or NaN."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
