"""The figure of `top_neurons`. It reads tables only."""

from collections.abc import Sequence

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, curves, domain_of, layer_axis, null_band
from deltaw.charts.tables import Tables, nulls, values


def top_neurons(tables: Tables) -> Sequence[Figure]:
    """One panel: a line a model, over the band of the null."""
    told = tables.layered("top_neuron_share", last=True)
    frame, null = values(told), nulls(told).drop_duplicates("layer")
    frame = frame.assign(x=frame["layer"], at=frame["layer"])
    x = layer_axis(frame["layer"].tolist())
    y = Axis("share of ‖ΔW‖²", domain_of(frame["value"], null["null_low"], null["null_high"]))
    under = [null_band(null, "layer", x, y)] if len(null) else []
    panel = curves(frame, tables.of(*frame["model"]), "largest rows", x, y, under=under)
    marks = "One line a model; grey, random matrices."
    drawn = figure("top-neurons", "Share of the update in few neurons", marks, ("top_neuron_share",), [panel])
    return [drawn] if drawn else []
