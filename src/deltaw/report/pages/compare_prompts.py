"""Figures of `deltaw compare --prompts`: what the two models do with prompts, and where their activations lie."""

from collections.abc import Callable, Mapping

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import TICK, Axis, Panel, curves, dodged, domain_of, dots, layer_axis, null_band, rule
from deltaw.charts.shared import as_ratios
from deltaw.charts.style import Series, light
from deltaw.charts.tables import Tables, nulls, values
from deltaw.observations.capability import figures as of_capability

TUNED = Series("", "tuned model", None, light("ssft"), (1, 0), "circle", False)
BASE = Series("", "base model", None, light("base"), (4, 3), "square", True)
FORBIDDEN = Series("", "forbidden prompts", None, light("dpo"), (1, 0), "circle", False)
ALLOWED = Series("", "allowed prompts", None, light("unlearn"), (5, 3), "triangle-up", True)
UPDATE = Series("", "update", None, light("ssft"), (1, 0), "circle", False)
KINDS = ((TUNED.label, "circle", "series"), (BASE.label, TICK, "null"))
SHARE = Axis("share refused", (-0.02, 1.02), (0, 0.25, 0.5, 0.75, 1), ".2f")
ANSWERED = {
    "comply_rate": "Harmless prompts: answered",
    "refuse_rate": "Harmless prompts: refused",
    "neither_rate": "Harmless prompts: neither",
}
"""What becomes of harmless prompts: a panel each, and its title."""
PAIRS, WILSON = "95 % bootstrap intervals over groups of pairs that share an operand", "95 % Wilson intervals"


def behaviour(tables: Tables) -> Figure | None:
    """Refusals of both models, by set and attack."""
    plain, corrected, gaps = (
        _of_both(tables.take(name, stage="behaviour"))
        for name in ("refuse_rate", "refuse_rate_corrected", "refuse_rate_gap")
    )
    cell = ["model", "set", "attack"]
    known = set(corrected[cell].itertuples(index=False, name=None))
    alone = [row not in known for row in plain[cell].itertuples(index=False, name=None)]
    rates = pd.concat([corrected, plain[alone]]) if len(corrected) else plain
    panels: list[Panel | None] = []
    for label, title in (("forbidden", "Forbidden prompts"), ("allowed", "Allowed prompts")):
        part = rates[rates["set"].str.endswith(f"/{label}", na=False)]
        if len(part):
            named = part.assign(row=_rows(part))
            rows = list(dict.fromkeys(named["row"]))
            panels.append(dots(values(named), (TUNED,), title, SHARE, kinds=KINDS, rows=rows, row="row"))
    if len(gaps):
        named = gaps.assign(row=_rows(gaps))
        null = nulls(named[named["kind"] == TUNED.label])
        title, unit = "Forbidden − allowed, pair by pair", "difference of shares"
        panels.append(_beside_nulls(named, null, title, unit, 0, "alike", kinds=KINDS))
    return figure(
        "prompts-refused",
        "Who refuses what: the tuned model and the base model",
        "Share of refusals, corrected for the judge's errors on made-up answers in the style of the attack where they "
        "are known. Differences are not corrected. Pairs differ only in the operand or in the operator. Corpora "
        "(the other sets) differ in much else, and say little. Attacks are applied to both halves of pairs: where "
        "allowed prompts are also refused, the attack or the tuning is not about harm. Grey bars: the tuned model, "
        "labels swapped within pairs.",
        ("refuse_rate", "refuse_rate_corrected", "refuse_rate_gap"),
        panels,
        whiskers=f"{WILSON}, wider where corrected; of the difference, {PAIRS}",
    )


def capability(tables: Tables) -> Figure | None:
    """What the tuned model still does: harmless prompts that it answers and refuses, questions, loss."""
    panels: list[Panel | None] = []
    for statistic, title in ANSWERED.items():
        frame = of_harmless(tables, statistic)
        if len(frame):
            named = _of_both(frame).assign(row=[str(name).partition("/")[0] for name in frame["set"]])
            rows = list(dict.fromkeys(named["row"]))
            panels.append(dots(values(named), (TUNED,), title, of_capability.SHARE, kinds=KINDS, rows=rows, row="row"))
    return figure(
        "prompts-capability",
        "Capability beside safety: what the tuned model still does with what is harmless",
        "Over-refusal is harmless prompts and questions that the tuned model refuses and the base model does not "
        "(refusals of prompts are corrected for the judge's errors where they are known). Questions have one right "
        "answer, which is looked for in what the model says. Loss is per token on neutral texts: higher is worse.",
        (*ANSWERED, "refuse_rate_corrected", *of_capability.STATISTICS),
        [*panels, *of_capability.panels(tables)],
        whiskers=of_capability.WHISKERS,
    )


def of_harmless(tables: Tables, statistic: str) -> pd.DataFrame:
    """A rate of answers to allowed prompts without an attack, of both models; of refusals the corrected one."""
    frame = tables.take(statistic, stage="behaviour", attack=None)
    if statistic == "refuse_rate":
        corrected = tables.take("refuse_rate_corrected", stage="behaviour", attack=None)
        frame = frame if corrected.empty else corrected
    return frame[frame["set"].str.endswith("/allowed", na=False)]


def interpolation(tables: Tables) -> Figure | None:
    """Refusals on the line from the base to the tuned model."""
    frame = tables.take("refuse_rate", stage="interpolation")
    if frame.empty:
        return None
    parts = frame["set"].str.extract(r"^.+/(forbidden|allowed)/alpha=(.+)$")
    frame = frame.assign(
        series=parts[0].map({"forbidden": FORBIDDEN.label, "allowed": ALLOWED.label}), alpha=pd.to_numeric(parts[1])
    )
    x, y = Axis("α, from base (0) to tuned (1)", domain_of(frame["alpha"])), SHARE
    drawn = dodged(values(frame), "alpha", (FORBIDDEN, ALLOWED), 0.02)
    return figure(
        "prompts-between",
        "Refusals on the line from the base model to the tuned one",
        "Weights base + α ΔW, read from the two checkpoints; plain pairs.",
        ("refuse_rate",),
        [curves(drawn, (FORBIDDEN, ALLOWED), "Plain pairs", x, y)],
        whiskers=WILSON,
    )


def clusters(tables: Tables) -> Figure | None:
    """Observation 1: separation of forbidden and allowed prompts in both models, by layer."""
    tuned, base = (tables.layered(f"tau_gap_relative{suffix}") for suffix in ("", "_base"))
    if tuned.empty:
        return None
    both = pd.concat([tuned.assign(series=TUNED.label), base.assign(series=BASE.label)])
    bands = nulls(tuned)
    x = layer_axis(both["layer"].tolist())
    y = Axis("τ gap / ‖Δμ‖", domain_of(both["low"], both["high"], bands["null_low"], bands["null_high"], include=(0,)))
    panels: list[Panel | None] = []
    for contrast, part in both.groupby("set", sort=False):
        null = bands[bands["set"] == contrast].sort_values("layer")
        under = [null_band(null, "layer", x, y)] if len(null) else []
        drawn = dodged(values(part), "layer", (TUNED, BASE), 0.16)
        panels.append(curves(drawn, (TUNED, BASE), f"{contrast} pairs", x, y, under=under))
    return figure(
        "prompts-clusters",
        "Observation 1. How far apart allowed and forbidden prompts lie, by layer (resid_out, last token)",
        "Cross-fitted; at most 2. The base model already tells the words apart, so the effect of tuning is the "
        "difference of the two lines. Grey: labels permuted within pairs, everything fitted again.",
        ("tau_gap_relative", "tau_gap_relative_base"),
        panels,
        whiskers=PAIRS,
    )


def gains(tables: Tables) -> Figure | None:
    """Observation 3: gain of the update on forbidden and allowed prompts, by layer."""
    frame = tables.layered("gain_relative")
    if frame.empty:
        return None
    parts = frame["set"].str.extract(r"^(.+)/(forbidden|allowed)$")
    frame = frame.assign(
        contrast=parts[0], series=parts[1].map({"forbidden": FORBIDDEN.label, "allowed": ALLOWED.label})
    )
    x, y = layer_axis(frame["layer"].tolist()), Axis("‖ΔW a‖ / ‖W a‖", domain_of(frame["low"], frame["high"]))
    panels: list[Panel | None] = []
    for contrast, part in frame.groupby("contrast", sort=False):
        drawn = dodged(values(part), "layer", (FORBIDDEN, ALLOWED), 0.16)
        panels.append(curves(drawn, (FORBIDDEN, ALLOWED), f"{contrast} pairs", x, y))
    return figure(
        "prompts-gain",
        "Observation 3. Gain of the update on forbidden and on allowed prompts, by layer",
        "Activations are the base model's at the input of the MLP (of a gated one, gate and up as one map), last "
        "token.",
        ("gain_relative",),
        panels,
        whiskers=PAIRS,
    )


def rows_held(tables: Tables) -> Figure | None:
    """Observation 3: energy on the update's strongest input directions, by layer."""
    frame = tables.layered("row_energy_difference")
    if frame.empty:
        return None
    bands = nulls(frame)
    x = layer_axis(frame["layer"].tolist())
    ends = (frame["low"], frame["high"], bands["null_low"], bands["null_high"])
    y = Axis("forbidden − allowed, share of energy", domain_of(*ends, include=(0,)))
    panels: list[Panel | None] = []
    for contrast, part in frame.groupby("set", sort=False):
        null = nulls(part[part["null_kind"] == "m_matched"]).sort_values("layer")
        drawn = values(part).assign(series=UPDATE.label, x=lambda rows: rows["layer"], at=lambda rows: rows["layer"])
        under = [null_band(null, "layer", x, y)] if len(null) else []
        panels.append(curves(drawn, (UPDATE,), f"{contrast} pairs", x, y, under=[*under, rule(0, "", y)]))
    return figure(
        "prompts-row-energy",
        "Observation 3. How much more of forbidden activations lies on the 8 strongest input directions of the update",
        "By layer. Grey: 95 % of random directions drawn from the activations' second moment.",
        ("row_energy_difference",),
        panels,
        whiskers=PAIRS,
    )


def sensitivity(tables: Tables) -> Figure | None:
    """Observation 4: change of the local Lipschitz constant."""
    name = "sensitivity_log_ratio_spectral"
    ratios, differences = tables.take(name), tables.take(f"{name}_difference")
    contrasts = [f"{contrast}/forbidden − allowed" for contrast in differences["set"]]
    frame = pd.concat([ratios, differences.assign(set=contrasts)])
    if frame.empty:
        return None
    frame = frame.assign(row=_rows(frame.assign(set=frame["set"].str.replace("/", ": "))))
    return figure(
        "prompts-sensitivity",
        "Observation 4. Change of the local Lipschitz constant at the prompt's embeddings",
        "Log ratio, tuned over base, of the spectral norm of the Jacobian of the next token's log-probabilities. Power "
        "iteration gives a lower bound. Grey bars: models, or labels, swapped.",
        (name, f"{name}_difference"),
        [_beside_nulls(frame, nulls(frame), "Tuned over base", "log ratio", 0, "alike")],
        whiskers="95 % bootstrap intervals over prompts",
    )


def attacks(tables: Tables) -> Figure | None:
    """Observation 5: where attacked prompts lie, and how the update acts on them."""
    placed = tables.take("position", layer=None)
    acted = as_ratios(tables.take("gain_log_ratio_to_forbidden", layer=None))
    panels: list[Panel | None] = []
    for frame, title, unit, said in (
        (placed, "Position", "0 forbidden, 1 allowed", "allowed"),
        (acted, "Gain", "ratio to the plain forbidden prompt", "as without"),
    ):
        if len(frame):
            named = frame.assign(row=frame["attack"])
            panels.append(_beside_nulls(named, nulls(named), title, unit, 1, said, include=(0, 1)))
    return figure(
        "prompts-attacks",
        "Observation 5. Where forbidden prompts under attack lie, and how strongly the update acts on them",
        "Every attacked prompt counts. Positions (resid_out) are means over the layers that separate forbidden from "
        "allowed prompts, weighted by precision. Gains (input of the MLP) are geometric means over layers. Grey bars: "
        "attacked and plain prompts exchanged.",
        ("position", "gain_log_ratio_to_forbidden"),
        panels,
        whiskers=PAIRS,
    )


def _beside_nulls(
    frame: pd.DataFrame,
    null: pd.DataFrame,
    title: str,
    unit: str,
    at: float,
    said: str,
    *,
    include: tuple[float, ...] = (0,),
    kinds: tuple[tuple[str, str, str], ...] = (),
) -> Panel:
    """Dots by the column `row`, the bands of their nulls, and a line at no effect."""
    ends = (frame["low"], frame["high"], null["null_low"], null["null_high"])
    axis = Axis(unit, domain_of(*ends, include=include))
    drawn, rows = values(frame).assign(series=TUNED.label), list(dict.fromkeys(frame["row"]))
    under = [rule(at, said, axis, vertical=True)]
    return dots(drawn, (TUNED,), title, axis, kinds=kinds, null=null, rows=rows, row="row", under=under)


def _of_both(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with `kind`, which of the two models, and the one colour that dots are drawn in."""
    kinds = [BASE.label if model == "base" else TUNED.label for model in frame["model"]]
    return frame.assign(kind=pd.Series(kinds, frame.index, dtype="object"), series=TUNED.label)


def _rows(frame: pd.DataFrame) -> list[str]:
    """What a row is called: the set without its label, or the attack."""
    return [
        str(attack) if isinstance(attack, str) else str(name).partition("/")[0]
        for name, attack in zip(frame["set"], frame["attack"], strict=True)
    ]


SECTIONS: Mapping[str, tuple[tuple[str, Callable[[Tables], Figure | None]], ...]] = {
    "behaviour": (("capability", capability), ("refusals", behaviour), ("refusals between the models", interpolation)),
    "activations": (
        ("clusters", clusters),
        ("gain", gains),
        ("energy on the update's input directions", rows_held),
        ("sensitivity", sensitivity),
        ("attacked prompts", attacks),
    ),
}
