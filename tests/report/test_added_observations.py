"""What the page shows of observations that were added to a run."""

import pandas as pd
import pytest

from deltaw.charts.tables import Tables
from deltaw.report.added import added
from deltaw.results import Measurement

RECORD = {
    "name": "mine",
    "label": "My own",
    "sentence": "How long the update is.",
    "figures": "",
    "statistics": [{"name": "update_norm", "unit": "norm", "sentence": "Its length."}],
}


class Of(Tables):
    """Tables of one line."""

    def __init__(self) -> None:
        line = Measurement(stage="analysis", model="tuned", statistic="update_norm", value=1.25, layer=2, step=8)
        self.frame = pd.DataFrame([vars(line)]).astype({"layer": float})
        self._last = self.frame.groupby("model")["step"].max()
        self._labels = {}


def test_an_observation_without_figures_is_a_table() -> None:
    (one,) = added({"observations": [RECORD]}, Of())
    assert (one.label, one.figures, one.missing) == ("My own", (), "")
    assert one.table is not None
    assert one.table.rows == (("tuned", "update_norm", "Its length.", "norm", "layer 2", "1.25"),)


@pytest.mark.parametrize("place", ["no_such_module_at_all:figures", "deltaw.report.added:nothing", "json:dumps"])
def test_figures_that_cannot_be_drawn_are_named_and_the_page_goes_on(place: str) -> None:
    (one,) = added({"observations": [{**RECORD, "figures": place}]}, Of())
    assert place in one.missing
    assert one.table is not None


def test_a_run_without_added_observations_has_no_such_section() -> None:
    assert added({}, Of()) == ()
