"""Figures of `update-directions`: detectors by layer, and the tokens that ΔW promotes."""

from collections.abc import Sequence

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, domain_of, dots, named
from deltaw.charts.shared import layer_panel
from deltaw.charts.style import Series
from deltaw.charts.tables import Tables, nulls, values

DETECTORS = {"vector=1": "Strongest direction", "best": "Best of the strongest", "difference_in_means": "Means"}


def update_directions(tables: Tables) -> Sequence[Figure]:
    """Two figures: what ΔW reads, and what it writes."""
    frame = tables.layered("detector_auroc", last=True)
    y = Axis("AUROC", domain_of(frame["low"], frame["high"], frame["null_low"], frame["null_high"], include=(0.5, 1)))
    plain = [str(name) for name in dict.fromkeys(frame[frame["attack"].isna()]["set"])]
    panels = [
        layer_panel(tables, "detector_auroc", f"{DETECTORS[detector]}: {contrast}", y, set=name, attack=None)
        for name in plain
        for contrast, _, detector in [name.rpartition("/")]
        if detector in DETECTORS
    ]
    panels += [
        layer_panel(tables, "detector_auroc", f"Best, under {attack}", y, set=name, attack=attack)
        for attack in dict.fromkeys(frame["attack"].dropna())
        for name in plain
        if name.endswith("/best")
    ]
    reads = figure(
        "update-detectors",
        "Do the directions that the update reads tell forbidden prompts from allowed ones? Held-out AUROC",
        "Activations before the first MLP matrix of the tuned model; signs and choices fitted on the other half of the "
        "pairs. Grey band: random directions, uniform or made of the activations, after the same choice. Means: the "
        "difference in means, fitted on the same half. Brown: controls.",
        ("detector_auroc",),
        panels,
        whiskers="95 % bootstrap intervals over pairs",
    )
    spelled = [_tokens(tables, series) for series in tables.series if series.model != "base"]
    writes = figure(
        "update-tokens",
        "Which tokens does the update promote? The strongest output direction of each layer through the unembedding",
        "The five tokens with the largest logits along the direction, with the sign that forbidden prompts give it. "
        "Grey: the largest logit along a random direction. Inside the grey, the tokens say nothing.",
        ("written_logit",),
        spelled,
        columns=2,
        width=430,
    )
    return [drawn for drawn in (reads, writes) if drawn is not None]


def _tokens(tables: Tables, series: Series) -> Panel | None:
    frame = tables.layered("written_logit", last=True, model=series.model)
    frame = frame[frame["set"].str.startswith("vector=1: ", na=False)]
    if frame.empty:
        return None
    words = frame["set"].str.removeprefix("vector=1: ")
    frame = frame.assign(row=[f"{layer:.0f}: {text}" for layer, text in zip(frame["layer"], words, strict=True)])
    band = nulls(frame)
    axis = Axis("largest logit", domain_of(frame["value"], band["null_low"], band["null_high"]))
    rows = list(dict.fromkeys(frame["row"]))
    return dots(values(frame), tables.series, named(series), axis, null=band, rows=rows, row="row")
