"""Figures of `request-token`: what is told apart where the request ends, and where complied prompts lie."""

from collections.abc import Sequence

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, domain_of, dots
from deltaw.charts.shared import layer_panel
from deltaw.charts.tables import Tables, nulls, values

PLACES = {"request": "at the request's last token", "answer": "before the answer"}


def request_token(tables: Tables) -> Sequence[Figure]:
    """Two figures: separations, and positions."""
    frame = tables.layered("request_auroc", last=True)
    y = Axis("AUROC", domain_of(frame["low"], frame["high"], frame["null_low"], frame["null_high"], include=(0.5, 1)))
    change = tables.layered("request_tau_gap_relative_change", last=True)
    moved = Axis("change of the gap", domain_of(change["low"], change["high"], include=(0,)))
    separations = figure(
        "request-separation",
        "Are forbidden prompts told from allowed ones at the last token of the request?",
        "Residual stream after each block. Left: held-out AUROC in the tuned models. Right: change of the paper's gap, "
        "tuned minus base. Grey band: labels permuted. Brown: controls.",
        ("request_auroc", "request_tau_gap_relative_change"),
        [
            layer_panel(tables, "request_auroc", "AUROC", y),
            layer_panel(tables, "request_tau_gap_relative_change", "Change of the gap, tuned − base", moved),
        ],
        whiskers="95 % bootstrap intervals over pairs",
    )
    complied = figure(
        "request-complied",
        "Where do forbidden prompts lie that the tuned model complied with under an attack?",
        "0: forbidden prompts, 1: allowed ones, mean over layers by precision, each place with its own scale. The "
        "difference is taken prompt by prompt; grey band: the two places swapped. Brown: controls.",
        ("complied_position", "complied_position_difference"),
        _positions(tables),
        whiskers="95 % bootstrap intervals over prompts",
    )
    return [drawn for drawn in (separations, complied) if drawn is not None]


def _positions(tables: Tables) -> list[Panel]:
    frame, differences = (
        tables.take(statistic, last=True) for statistic in ("complied_position", "complied_position_difference")
    )
    panels = []
    for attack in dict.fromkeys(frame["attack"]):
        of_attack = frame[frame["attack"] == attack]
        axis = Axis("position", domain_of(of_attack["low"], of_attack["high"], include=(0, 1)))
        for place, said in PLACES.items():
            part = of_attack[of_attack["set"].str.endswith(f"/at={place}")]
            panels.append(dots(values(part), tables.series, f"{attack}, {said}", axis))
        part = differences[differences["attack"] == attack]
        axis = Axis(
            "difference", domain_of(part["low"], part["high"], part["null_low"], part["null_high"], include=(0,))
        )
        panels.append(dots(values(part), tables.series, f"{attack}, difference", axis, null=nulls(part)))
    return panels
