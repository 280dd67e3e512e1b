"""The figure of the calibration: every rate beside its nominal level."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from deltaw.report.drawing import Figure, figure
from deltaw.report.looks import Series, light
from deltaw.report.panels import Axis, Panel, dots, rule

TRUE = Series("true", "null true by construction", None, light("ssft"), (1, 0), "circle", False)
NOT_ASSUMED = Series("not assumed", "null that the test does not assume", None, light("dpo"), (1, 0), "circle", True)
LOOKS = (TRUE, NOT_ASSUMED)
LEAST = 5e-4  # of a logarithmic axis: one find in 2,000 draws


def calibration_figure(rates: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A panel a family of tests. rates: the records of rates.json; those of planted effects are left out."""
    nothing = [rate for rate in rates if rate["effect"] is None]
    families = list(dict.fromkeys(str(rate["family"]) for rate in nothing))
    return figure(
        "calibration",
        "How often the tests find what is not there",
        "Rates of findings on the claim's side, with 99 % Wilson intervals, on a logarithmic axis; a rate of 0 stands "
        "at its left end. Filled: the null is true by construction, and the dotted line is the nominal level. Open: a "
        "null that the test does not assume; a high rate is then no fault of the test, but nothing that it rules out.",
        (),
        [_panel(family, [rate for rate in nothing if rate["family"] == family]) for family in families],
        columns=2,
        width=640,
    )


def _panel(family: str, rates: Sequence[Mapping[str, Any]]) -> Panel:
    frame = pd.DataFrame(
        {
            "series": (TRUE if rate["by_construction"] else NOT_ASSUMED).label,
            "kind": (TRUE if rate["by_construction"] else NOT_ASSUMED).label,
            "row": f"{_short(rate['test'])}: {rate['condition']}",
            "shown": f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]",
            **{name: max(LEAST, float(rate[of])) for name, of in (("value", "rate"), ("low", "low"), ("high", "high"))},
        }
        for rate in rates
    )
    axis = Axis("rate", (LEAST, 1.0), (0.001, 0.01, 0.1, 1.0), log=True)
    levels = sorted({float(rate["level"]) for rate in rates})
    kinds = ((TRUE.label, "circle", "series"), (NOT_ASSUMED.label, "circle", "open"))
    return dots(
        frame, LOOKS, family, axis, kinds=kinds, rows=list(frame["row"]), row="row", width=250,
        under=[rule(level, "", axis, vertical=True) for level in levels],
    )  # fmt: skip


def _short(test: str) -> str:
    """The null's kind; of the tests over seeds, the part of the rule."""
    return test.rpartition(", ")[2].replace("_", " ")
