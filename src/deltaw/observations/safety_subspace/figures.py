"""Figures of `safety-subspace`: energy kept by layer, and beside every other update."""

from collections.abc import Sequence

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, domain_of, dots
from deltaw.charts.shared import layer_panel
from deltaw.charts.tables import Tables, nulls, values

UNITS = {"energy_kept": "share of ‖ΔW‖²", "mode_overlap": "squared cosine"}


def safety_subspace(tables: Tables) -> Sequence[Figure]:
    """Two figures: the update by itself, and beside the other updates of its base."""
    share = Axis(UNITS["energy_kept"], format=".3~g")
    own = figure(
        "energy-kept",
        "How much of the update do 8 directions keep: its own strongest, and the strongest of W? (first MLP matrix)",
        "Grey band: of its own, a random matrix of this shape; of W's, 95 % of updates with the same singular values "
        "in random directions. Brown: controls.",
        ("energy_kept",),
        [
            layer_panel(tables, "energy_kept", "Its own directions", share, set="outputs/own"),
            layer_panel(tables, "energy_kept", "Outputs of W", share, set="outputs/W"),
            layer_panel(tables, "energy_kept", "Inputs of W", share, set="inputs/W"),
        ],
    )
    panels = [_others(tables, statistic, side) for statistic in UNITS for side in ("outputs", "inputs")]
    beside = figure(
        "energy-kept-by-others",
        "Do updates of one base share a subspace? Energy kept on another update's directions, and overlap of modes",
        "A row: the update, and the one whose directions are taken; mean over layers. Grey: 95 % of random directions. "
        "Compare a safety tuning on another one with the same on a control: equal values are not about safety.",
        ("energy_kept", "mode_overlap"),
        panels,
        columns=2,
        width=420,
    )
    return [drawn for drawn in (own, beside) if drawn is not None]


def _others(tables: Tables, statistic: str, side: str) -> Panel | None:
    prefix = f"{side}/with="
    frame = tables.take(statistic, last=True, layer=None)
    frame = frame[frame["set"].str.startswith(prefix, na=False)]
    if frame.empty:
        return None
    labels = {series.model: series.label for series in tables.series}
    names = frame["set"].str.removeprefix(prefix)
    frame = frame.assign(row=frame["series"] + " on " + names.map(labels).fillna(names))
    band = nulls(frame)
    axis = Axis(UNITS[statistic], domain_of(frame["value"], band["null_low"], band["null_high"]))
    rows = list(dict.fromkeys(frame["row"]))
    title = f"{statistic.replace('_', ' ').capitalize()}, {side}"
    return dots(values(frame), tables.series, title, axis, null=band, rows=rows, row="row")
