"""Figures of observations 3 and 5: on which prompts ΔW acts, what it does to outputs, and what attacks change."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    TICK,
    Axis,
    Panel,
    Side,
    bars,
    curves,
    dodged,
    domain_of,
    dots,
    layer_axis,
    named,
    null_whiskers,
    points,
    rule,
)
from deltaw.charts.style import ATTACKS, BASE, Series, light
from deltaw.charts.tables import Tables, interval, nulls, values
from deltaw.report.figures.behaviour import SHARE, families
from deltaw.report.figures.clusters_and_null_space import PRIMARY

FORBIDDEN = "forbidden/conditional/unsafe"
PARTS = {
    "null": "null-space part",
    "column": "column-space part",
    "rest": "rest of the MLP",
    "inherited": "inherited from earlier layers",
}


def shown_apart(tables: Tables) -> list[Series]:
    """The models that get a panel of their own: tunings at the larger rate, plain DPO, controls."""
    return [
        one for one in tables.series if one.model != "base" and (one.main or one.control or one.strength == "plain")
    ]


def gains(tables: Tables) -> Figure | None:
    """Gain on forbidden and on allowed prompts, by layer, a panel a model."""
    frame = values(tables.layered("gain_relative", last=True))
    frame = frame[frame["set"].isin([f"{PRIMARY}/allowed", f"{PRIMARY}/forbidden"])]
    panels: list[Panel | None] = []
    if len(frame):
        y = Axis("gain, ratio of norms", domain_of(frame["low"], frame["high"], frame["value"], include=(0,)))
        x = layer_axis(frame["layer"].tolist())
        for one in shown_apart(tables):
            part = frame[frame["model"] == one.model]
            if part.empty:
                continue
            looks = [
                Series("", "forbidden", None, one.colour, (1, 0), "circle", False),
                Series("", "allowed, same operators", None, one.colour, (5, 3), "triangle-up", True),
            ]
            names = [looks[name.endswith("/allowed")].label for name in part["set"]]
            drawn = dodged(part.assign(series=names), "layer", looks, 0.05)
            panels.append(curves(drawn, looks, named(one), x, y, legend=False))
    return figure(
        "gain",
        "Observation 3. Gain ‖ΔW a + Δb‖ / ‖W a + b‖ of the update on forbidden and on allowed prompts, by layer",
        "Filled circles, solid: forbidden; hollow triangles, dashed: allowed prompts with the same operators. "
        "Activations are the base model's at mlp_in, last prompt token. "
        "Brown panels are the controls: a gap that they show as well is no finding about safety.",
        ("gain_relative",),
        panels,
        shared=False,
        whiskers="95 % bootstrap intervals of the mean",
    )


def gain_ratios(tables: Tables) -> Figure | None:
    """Mean over layers of the log ratio of gains, every model."""
    panels: list[Panel | None] = []
    both = [tables.take(f"gain_log_ratio{suffix}", last=True, set=PRIMARY, layer=None) for suffix in ("", "_in_situ")]
    whole = pd.concat(both)
    if len(whole):
        axis = Axis(
            "log ratio of gains, forbidden to allowed",
            domain_of(whole["low"], whole["high"], whole["value"], include=(0,)),
        )
        titles = ("On the base model's activations", "On the tuned model's own activations")
        for frame, title in zip(both, titles, strict=True):
            if len(frame):
                under = [rule(0, "equal", axis, vertical=True)]
                panels.append(dots(values(frame), tables.series, title, axis, under=under))
    rows = tables.take("row_energy_difference", last=True, set=PRIMARY, layer=None)
    if len(rows):
        band = nulls(rows)
        axis = Axis(
            "difference of shares of energy",
            domain_of(rows["low"], rows["high"], band["null_low"], band["null_high"], include=(0,)),
        )
        drawn = band[band["null_kind"] == "m_matched"]
        panels.append(
            dots(
                values(rows),
                tables.series,
                "Energy on the top directions of ΔW",
                axis,
                null=drawn,
                under=[rule(0, "equal", axis, vertical=True)],
            )
        )
    return figure(
        "acts-on-forbidden",
        "Observation 3. The update on forbidden against allowed prompts, mean over layers: what the claims read",
        "Left, middle: log of the ratio of gains; 0 is equal, 0.1 is 10 % more on forbidden. Right: how much more "
        "of forbidden activations lies on the 8 strongest input directions of ΔW; grey bars are 95 % of random "
        "subspaces matched to the activations' own second moment. Compare with the controls.",
        ("gain_log_ratio", "gain_log_ratio_in_situ", "row_energy_difference"),
        panels,
        width=355,
        whiskers="95 % bootstrap intervals over pairs",
    )


def row_energy(tables: Tables) -> Figure | None:
    """The difference of row energies by layer, with both matched nulls, a panel a model."""
    frame = tables.layered("row_energy_difference", last=True, set=PRIMARY)
    found = nulls(frame)
    kinds = sorted(found["null"].unique())
    panels: list[Panel | None] = []
    if len(frame):
        y = Axis(
            "forbidden − allowed, share of energy",
            domain_of(frame["low"], frame["high"], found["null_low"], found["null_high"], include=(0,)),
        )
        x = layer_axis(frame["layer"].tolist())
        for one in shown_apart(tables):
            part = values(frame[frame["model"] == one.model])
            if part.empty:
                continue
            null = found[found["model"] == one.model]
            under = [null_whiskers(null, kinds, x, y, offset=0.13)] if len(null) else []
            drawn = dodged(part, "layer", [one], 0)
            panels.append(curves(drawn, [one], named(one), x, y, under=[rule(0, "", y), *under], legend=False))
    return figure(
        "row-energy",
        "Observation 3. How much more of forbidden activations lies on the 8 strongest input directions of ΔW, by "
        "layer",
        "Grey: 95 % of random 8-dimensional subspaces drawn from the pooled second moment of the activations, as it is "
        "and centred. The dotted line is no difference. Brown panels: controls.",
        ("row_energy_difference",),
        panels,
        shared=False,
        whiskers="95 % bootstrap intervals over pairs",
    )


def effects(tables: Tables) -> Figure | None:
    """The change of the MLP's output on forbidden prompts, divided among its sources."""
    frames = [
        tables.layered(f"effect_share_{part}", last=True, set=f"{PRIMARY}/forbidden").assign(kind=words)
        for part, words in PARTS.items()
    ]
    frame = pd.concat(frames)
    kinds = {words: light(f"part-{part}") for part, words in PARTS.items()}
    panels: list[Panel | None] = []
    if len(frame):
        found = nulls(frame)
        y = Axis(
            "share of the squared change",
            domain_of(frame["low"], frame["high"], found["null_low"], found["null_high"], include=(0,)),
        )
        for one in shown_apart(tables):
            part = values(frame[frame["model"] == one.model])
            if len(part):
                null = found[found["model"] == one.model]
                panels.append(bars(part, null, kinds, one, y))
    return figure(
        "function",
        "What changes the MLP's output on forbidden prompts: shares by source and layer (they add up to 1)",
        "Shapley shares; a negative one works against the change. Grey strokes with bands: the same shares when the "
        "signs of the update's rows are random. The null space is three times as large as the column space, so its "
        "share has to beat the grey, not zero. Brown panels: controls.",
        [f"effect_share_{part}" for part in PARTS],
        panels,
        whiskers="95 % bootstrap intervals over prompts",
    )


def budget(tables: Tables) -> Figure | None:
    """Share of the squared update by module beside its share of the parameters."""
    frame = values(tables.take("update_share", last=True))
    shares = values(tables.take("parameter_share", last=True))
    panels: list[Panel | None] = []
    if len(frame):
        rows = list(frame.drop_duplicates("module")["module"])
        axis = Axis("share", (0, domain_of(frame["value"], shares["value"])[1]), format="%")
        for one in shown_apart(tables):
            both = pd.concat(
                [frame[frame["model"] == one.model].assign(kind="of the squared update"),
                 shares[shares["model"] == one.model].assign(kind="of the parameters")]
            )  # fmt: skip
            if both.empty:
                continue
            kinds = (("of the squared update", "circle", "series"), ("of the parameters", TICK, "null"))
            panels.append(dots(both, tables.series, named(one), axis, kinds=kinds, rows=rows, row="module"))
    return figure(
        "module-budget",
        "Where the update is: share of ‖Δθ‖² by kind of module, beside its share of the parameters",
        "Grey strokes: what an update that moves all parameters alike would have. One value a seed, so no interval.",
        ("update_share", "parameter_share"),
        panels,
        width=345,
    )


def positions(tables: Tables) -> Figure | None:
    """Where attacked prompts lie between forbidden and allowed ones, by attack and model."""
    frame = tables.take("position", last=True, layer=None, site="mlp_post")
    return figure(
        "attack-positions",
        "Observation 5. Where attacked prompts lie between forbidden (0) and allowed ones (1)",
        "Mean over layers at mlp_post of the tuned model, last prompt token, along the cross-fitted difference of "
        "means. Grey bars: 95 % if attacked and forbidden prompts were exchangeable. "
        "Every attacked prompt counts, whether or not the attack worked.",
        ("position",),
        _by_attack(
            tables, frame, "position: 0 forbidden, 1 allowed", ((0.0, "forbidden", "right"), (1.0, "allowed", "left"))
        ),
        width=355,
        whiskers="95 % bootstrap intervals",
    )


def as_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of log ratios as ratios, intervals and nulls too."""
    columns = ["value", "low", "high", "null_mean", "null_low", "null_high"]
    frame = frame.assign(**{name: np.exp(frame[name]) for name in columns})
    shown = [interval(*ends) for ends in zip(frame["value"], frame["low"], frame["high"], strict=True)]
    return frame.assign(shown=pd.Series(shown, frame.index, dtype="object"))


def attack_gains(tables: Tables) -> Figure | None:
    """How strongly ΔW acts on attacked prompts, relative to those they were made from, by attack and model."""
    frame = tables.take("gain_log_ratio_to_forbidden", last=True, layer=None, site="mlp_in")
    frame = as_ratios(frame)
    return figure(
        "attack-gains",
        "Observation 5. How strongly the update acts on attacked prompts, relative to the forbidden ones they were "
        "made from",
        "Geometric mean over prompts and layers of the ratio of gains, at mlp_in of the base model, last prompt "
        "token. Below 1 the update acts less under the attack. Compare with the controls.",
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
    for attack in ATTACKS:
        for source in sorted(frame.loc[frame["attack"] == attack, "set"].unique()):
            part = frame[(frame["attack"] == attack) & (frame["set"] == source)]
            which = "conditional" if "conditional" in source else "never-allowed"
            under = [rule(at, name, axis, vertical=True, align=side) for at, name, side in references]
            title = f"{attack}: {which} operators"
            panels.append(dots(values(part), tables.series, title, axis, null=nulls(part), under=under))
    return panels


def against_success(tables: Tables) -> Figure | None:
    """Position and gain of attacked prompts against the attack's success."""
    success = values(tables.take("comply_rate", stage="behaviour", set=FORBIDDEN))
    success = success[success["attack"].notna()][["model", "attack", "value", "shown"]]
    panels: list[Panel | None] = []
    shapes = dict(
        zip(ATTACKS, ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "stroke"), strict=True)
    )
    for statistic, site, title, unit, scale in (
        ("position", "mlp_post", "Success against position", "position (0 forbidden, 1 allowed)", lambda v: v),
        ("gain_log_ratio_to_forbidden", "mlp_in", "Success against gain", "gain relative to forbidden", np.exp),
    ):
        frame = values(tables.take(statistic, last=True, layer=None, site=site, set=FORBIDDEN))
        if frame.empty or success.empty:
            continue
        both = frame.merge(success, on=["model", "attack"], suffixes=("", "_success"))
        both = both.assign(at=scale(both["value"]), value=both["value_success"], shown=both["shown_success"])
        x = Axis(unit, domain_of(both["at"]))
        panels.append(points(both, tables.series, shapes, title, x, SHARE))
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
    """`co_text` by the length of the unsafe side: success beside what could be known."""
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
        ("Base and controls", (BASE, *(one for one in tables.series if one.control))),
    ]:
        part = success[success["model"].isin([one.model for one in members])]
        if part.empty:
            continue
        part = dodged(part, "at", tables.series, 0.25)
        panels.append(
            curves(pd.concat([part, known.assign(x=known["at"])]) if len(known) else part, looks, family, x, SHARE)
        )
    return figure(
        "co-text-by-length",
        "co_text: success by the length of the unsafe side, beside what a perfect reader could know",
        "Forbidden prompts whose text straddles a safe and an unsafe part, in steps of three letters. Ink strokes: "
        "the exact probability that the window has an unsafe side; where it is high, a model that answers has been "
        "fooled, not left in the dark.",
        ("comply_rate", "unsafe_side_probability"),
        panels,
        whiskers="95 % Wilson intervals",
    )
