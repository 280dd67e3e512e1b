"""Figures of Observation 5: where attacked prompts lie, and how ΔW acts on them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    Axis,
    Panel,
    Side,
    curves,
    dodged,
    domain_of,
    dots,
    points,
    rule,
)
from deltaw.charts.shared import FORBIDDEN, SHARE, as_ratios, families
from deltaw.charts.style import BASE, Series, attack_shapes, light, operators_of, shown_attacks
from deltaw.charts.tables import Tables, nulls, values


def positions(tables: Tables) -> Figure | None:
    """Where attacked prompts lie between forbidden and allowed ones, by attack and model."""
    frame = tables.take("position", last=True, layer=None, site="mlp_post")
    return figure(
        "attack-positions",
        "Observation 5. Where attacked prompts lie between forbidden (0) and allowed ones (1)",
        "Tuned model, mean over layers at mlp_post, last prompt token, along the cross-fitted difference of means. "
        "Every attacked prompt counts, whether or not the attack worked. Grey bars: 95 % if attacked and forbidden "
        "prompts were exchangeable.",
        ("position",),
        _by_attack(
            tables, frame, "position: 0 forbidden, 1 allowed", ((0.0, "forbidden", "right"), (1.0, "allowed", "left"))
        ),
        width=355,
        whiskers="95 % bootstrap intervals",
    )


def attack_gains(tables: Tables) -> Figure | None:
    """How strongly ΔW acts on attacked prompts, relative to those they were made from, by attack and model."""
    frame = tables.take("gain_log_ratio_to_forbidden", last=True, layer=None, site="mlp_in")
    frame = as_ratios(frame)
    return figure(
        "attack-gains",
        "Observation 5. How strongly the update acts on attacked prompts, relative to the forbidden ones they were "
        "made from",
        "Below 1, the update acts less under the attack. Geometric mean over prompts and layers of the ratio of "
        "gains, at mlp_in of the base model, last prompt token. Compare with the controls.",
        ("gain_log_ratio_to_forbidden",),
        _by_attack(tables, frame, "ratio of gains", ((1.0, "as on forbidden", "right"),)),
        width=355,
        whiskers="95 % bootstrap intervals",
    )


def _by_attack(
    tables: Tables, frame: pd.DataFrame, axis_title: str, references: Sequence[tuple[float, str, Side]]
) -> list[Panel | None]:
    """A panel an attack and kind of operator, a row a model."""
    frame = frame[frame["set"].str.startswith("forbidden/", na=False)]
    if frame.empty:
        return []
    band = nulls(frame)
    ends = (frame["low"], frame["high"], frame["value"], band["null_low"], band["null_high"])
    axis = Axis(axis_title, domain_of(*ends, include=[at for at, *_ in references]))
    panels: list[Panel | None] = []
    for attack, called in shown_attacks(tables.manifest).items():
        for source in sorted(frame.loc[frame["attack"] == attack, "set"].unique()):
            part = frame[(frame["attack"] == attack) & (frame["set"] == source)]
            under = [rule(at, name, axis, vertical=True, align=side) for at, name, side in references]
            title = f"{called}: {operators_of(source)}"
            panels.append(dots(values(part), tables.series, title, axis, null=nulls(part), under=under))
    return panels


def against_success(tables: Tables) -> Figure | None:
    """Position and gain of attacked prompts against the attack's success."""
    success = values(tables.take("comply_rate", stage="behaviour", set=FORBIDDEN))
    success = success[success["attack"].notna()][["model", "attack", "value", "shown"]]
    panels: list[Panel | None] = []
    labels = shown_attacks(tables.manifest)
    for statistic, site, title, unit, scale in (
        ("position", "mlp_post", "Success against position", "position (0 forbidden, 1 allowed)", lambda v: v),
        ("gain_log_ratio_to_forbidden", "mlp_in", "Success against gain", "gain relative to forbidden", np.exp),
    ):
        frame = values(tables.take(statistic, last=True, layer=None, site=site, set=FORBIDDEN))
        if frame.empty or success.empty:
            continue
        merged = frame.merge(success, on=["model", "attack"], suffixes=("", "_success"))
        merged = merged.assign(at=scale(merged["value"]), value=merged["value_success"], shown=merged["shown_success"])
        x = Axis(unit, domain_of(merged["at"]))
        shapes = {labels.get(name, name): shape for name, shape in attack_shapes(merged["attack"]).items()}
        merged = merged.assign(attack=[labels.get(name, name) for name in merged["attack"]])
        panels.append(points(merged, tables.series, shapes, title, x, SHARE))
    return figure(
        "attack-success-against-position",
        "Observation 5. Do attacks succeed where their prompts look allowed, or where the update acts less on them?",
        "One mark a model and attack, on conditional operators. Colour: protocol (hollow: smaller rate, brown: "
        "controls); shape: attack. Success: exact harmful output.",
        ("position", "gain_log_ratio_to_forbidden", "comply_rate"),
        panels,
        columns=2,
        width=345,
    )


def unsafe_side(tables: Tables) -> Figure | None:
    """`co_text` by the length of the unsafe side: success, and what could be known."""
    pattern = r"unsafe_letters=(\d+)(?:-(\d+))?"
    success = values(tables.take("comply_rate", stage="behaviour", attack="co_text"))
    success = success[success["set"].str.contains("unsafe_letters", na=False)]
    known = values(tables.take("unsafe_side_probability"))
    panels: list[Panel | None] = []
    if success.empty:
        return None
    ends = success["set"].str.extract(pattern).astype(float)
    success = success.assign(at=ends.mean(axis=1))
    bayes = Series("", "Bayes: an unsafe side", None, light("ink"), (1, 2), "stroke", False)
    if len(known):
        known = known.assign(at=known["set"].str.extract(pattern)[0].astype(float), series=bayes.label)
    x = Axis("letters on the unsafe side", domain_of(success["at"], known["at"] if len(known) else success["at"]))
    looks = [*tables.of(*success["model"]), bayes]
    for family, members in [
        *families(tables),
        ("Base and controls", (BASE, *(series for series in tables.series if series.control))),
    ]:
        part = success[success["model"].isin([series.model for series in members])]
        if part.empty:
            continue
        part = dodged(part, "at", tables.series, 0.25)
        panels.append(
            curves(pd.concat([part, known.assign(x=known["at"])]) if len(known) else part, looks, family, x, SHARE)
        )
    return figure(
        "co-text-by-length",
        "co_text: success by the length of the unsafe side, and what a perfect reader could know",
        "Forbidden prompts whose text has a safe and an unsafe part, in steps of three letters. Uncoloured ticks: the "
        "exact probability that the window has an unsafe side. Where it is high, the model could have known that the "
        "text is unsafe.",
        ("comply_rate", "unsafe_side_probability"),
        panels,
        whiskers="95 % Wilson intervals",
    )
