"""Figures of `off-principal`: energy of ΔW on the principal directions of W, their rotation, changed entries."""

from collections.abc import Sequence

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis
from deltaw.charts.shared import layer_panel
from deltaw.charts.tables import Tables


def off_principal(tables: Tables) -> Sequence[Figure]:
    """Two figures: directions, and entries."""
    energy, degrees = Axis("share of ‖ΔW‖²", format=".3~g"), Axis("degrees")
    directions = figure(
        "off-principal",
        "Does the update follow the principal directions of W, and turn them? (first MLP matrix)",
        "Left: output directions of W; right: its input directions. Grey band: 95 % of updates with the same singular "
        "values in random directions. Below the band: off the principal directions. Brown: controls.",
        ("principal_energy", "principal_rotation"),
        [
            layer_panel(tables, "principal_energy", "Energy of ΔW, outputs", energy, set="left"),
            layer_panel(tables, "principal_energy", "Energy of ΔW, inputs", energy, set="right"),
            layer_panel(tables, "principal_energy", "Energy of ΔW, both", energy, set="both"),
            layer_panel(tables, "principal_rotation", "Rotation, outputs", degrees, set="left"),
            layer_panel(tables, "principal_rotation", "Rotation, inputs", degrees, set="right"),
        ],
    )
    formats = sorted(set(tables.layered("changed_share", last=True)["set"]))
    share = Axis("share of entries", (-0.02, 1.02), (0, 0.25, 0.5, 0.75, 1), "%")
    entries = figure(
        "changed-entries",
        "Is the update sparse, or does rounding hide it? Entries whose stored numbers changed (first MLP matrix)",
        "Grey band: from the entries that rounding alone changes to those that a dense update of the same size would "
        "change once it is stored. Only a line below the band's upper end is sparser than storing explains.",
        ("changed_share",),
        [layer_panel(tables, "changed_share", f"Stored as {name}", share, set=name) for name in formats],
    )
    return [drawn for drawn in (directions, entries) if drawn is not None]
