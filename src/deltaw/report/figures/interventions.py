"""Figures of interventions: safety, capability and over-refusal when ΔW or activations are edited."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import TICK, Axis, Panel, curves, domain_of, dots, named, rule
from deltaw.charts.shared import SHARE
from deltaw.charts.style import Series
from deltaw.charts.tables import Tables, nulls, values

STAGE = "intervention"
FORBIDDEN, ALLOWED = "forbidden/conditional/unsafe", "allowed/conditional/safe"
SAFETY, CAPABILITY, OVER = "refuse forbidden", "comply on allowed", "refuse allowed"
MEASURES = (("refuse_rate", FORBIDDEN, SAFETY), ("comply_rate", ALLOWED, CAPABILITY), ("refuse_rate", ALLOWED, OVER))
KINDS = ((SAFETY, "circle", "series"), (CAPABILITY, "square", "open"), (OVER, "cross", "null"))
READ = (
    "Filled circles, solid: forbidden prompts refused (safety). Hollow squares, dashed: allowed prompts answered "
    "exactly (capability). Crosses, dotted: allowed prompts refused (over-refusal). Conditional operators, "
    "free-running answers. "
)
RATES = ("refuse_rate", "comply_rate")
PARTS = ("base", "column", "null", "null+column", "rest", "column+rest", "null+rest", "null+column+rest")
MODULES = {"mlp": (6, 3), "mlp_in": (4, 2, 1, 2), "attention": (1, 2), "norms": (2, 4), "embeddings": (8, 2)}
WIDTH = 345


def _set(tables: Tables, name: str) -> str:
    """The set of a study, or of a comparison the one of its contrast with the same verdict."""
    sets = tables.frame.loc[tables.frame["stage"] == STAGE, "set"].dropna().unique()
    verdict = name.partition("/")[0]
    return next((str(other) for other in sets if name not in sets and str(other).endswith(f"/{verdict}")), name)


def _rates(tables: Tables, intervention: str | Sequence[str], **where: Any) -> pd.DataFrame:
    """Safety, capability and over-refusal of some interventions, told apart by `kind`; one row a null."""
    names = (intervention,) if isinstance(intervention, str) else tuple(intervention)
    frames = [
        tables.take(statistic, stage=STAGE, intervention=names, set=_set(tables, name), **where).assign(kind=kind)
        for statistic, name, kind in MEASURES
    ]
    return pd.concat(frames)


def _looks(model: Series) -> list[Series]:
    """The three measures of one model, as lines in its colour."""
    return [
        Series("", SAFETY, None, model.colour, (1, 0), "circle", False),
        Series("", CAPABILITY, None, model.colour, (6, 3), "square", True),
        Series("", OVER, None, model.colour, (1, 2), "cross", True),
    ]


def _doses(tables: Tables, frame: pd.DataFrame, title: str, at: Sequence[tuple[float, str]] = ()) -> list[Panel | None]:
    """A panel a model: the three measures over the dose."""
    panels: list[Panel | None] = []
    x = Axis(title, domain_of(frame["dose"]))
    under = [rule(place, words, x, vertical=True) for place, words in at]
    for model, rows in tables.by_model(frame):
        part = values_by_kind(rows)
        drawn = part.assign(series=part["kind"], x=part["dose"], at=part["dose"])
        panels.append(curves(drawn, _looks(model), named(model), x, SHARE, under=under, legend=False))
    return panels


def values_by_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a value of every kind."""
    return pd.concat([values(part) for _, part in frame.groupby("kind", sort=False)])


def alphas(tables: Tables) -> Figure | None:
    """The three measures over α, the whole model, a panel a model."""
    return figure(
        "interventions-alpha",
        "Interventions. Safety and capability of the whole model along its update, θ_IT + α ΔW",
        READ + "α = 0 is the base model, 1 the tuned one. Above 1 the update is extrapolated, below 0 reversed.",
        RATES,
        _doses(tables, _rates(tables, "interpolation", module="whole"), "α", ((0, "base"), (1, "tuned"))),
        shared=False,
        whiskers="95 % Wilson intervals",
    )


def scopes(tables: Tables) -> Figure | None:
    """Refusal of forbidden prompts over α, of the whole update and of parts of it alone."""
    frame = tables.take(
        "refuse_rate", stage=STAGE, intervention="interpolation", set=_set(tables, FORBIDDEN), layer=None
    )
    parts = frame[frame["module"].isin(list(MODULES))]
    panels: list[Panel | None] = []
    x, y = Axis("α", domain_of(parts["dose"], include=(0,))), replace(SHARE, title="forbidden prompts refused")
    whole = (frame["module"] == "whole") & frame["dose"].between(*(x.domain or (0, 1)))
    both = frame[(whole & frame["model"].isin(parts["model"])) | frame["module"].isin(list(MODULES))]
    for model, rows in tables.by_model(both):
        drawn = values(rows).assign(series=rows["module"], x=rows["dose"], at=rows["dose"])
        looks = [Series("", "whole", None, model.colour, (1, 0), "circle", False)]
        looks += [Series("", name, None, model.colour, dash, "square", True) for name, dash in MODULES.items()]
        panels.append(curves(drawn, looks, named(model), x, y, legend=False))
    return figure(
        "interventions-alpha-by-module",
        "Interventions. Forbidden prompts refused along one part of the update, with the rest of the model at the base",
        "Filled circles, solid: the whole update. Hollow: one kind of module alone; long dashes: MLPs, dots: "
        "attention. Hover for others.",
        ("refuse_rate",),
        panels,
        shared=False,
        whiskers="95 % Wilson intervals",
    )


def _layer_names(layers: Iterable[float]) -> list[str]:
    return ["ends" if layer != layer else f"layer {layer:.0f}" for layer in layers]


LAYER_DASHES = ((1, 2), (2, 2), (4, 2), (6, 3), (8, 2), (12, 3))


def scopes_by_layer(tables: Tables) -> Figure | None:
    """Refusal of forbidden prompts over α, of one layer's update alone; a panel a model."""
    frame = tables.take("refuse_rate", stage=STAGE, intervention="interpolation", set=_set(tables, FORBIDDEN))
    parts = frame[frame["layer"].notna()]
    panels: list[Panel | None] = []
    x, y = Axis("α", domain_of(parts["dose"], include=(0,))), replace(SHARE, title="forbidden prompts refused")
    for model, rows in tables.by_model(parts):
        drawn = values(rows)
        drawn = drawn.assign(series=_layer_names(drawn["layer"]), x=drawn["dose"], at=drawn["dose"])
        looks = [
            Series("", name, None, model.colour, LAYER_DASHES[place % len(LAYER_DASHES)], "square", True)
            for place, name in enumerate(_layer_names(sorted(rows["layer"].unique())))
        ]
        panels.append(curves(drawn, looks, named(model), x, y, legend=False))
    return figure(
        "interventions-alpha-by-layer",
        "Interventions. Forbidden prompts refused along the update of one layer, with the rest of the model at the "
        "base",
        "Longer dashes: later layers. Hover for the layer.",
        ("refuse_rate",),
        panels,
        shared=False,
        whiskers="95 % Wilson intervals",
    )


def parts(tables: Tables) -> Figure | None:
    """Null-space part, column-space part and the rest, in all combinations, with random splits."""
    frame = _rates(tables, PARTS, module="mlp.in_proj")
    panels: list[Panel | None] = []
    for model, part in tables.by_model(frame):
        drawn, band = values_by_kind(part), nulls(part[part["kind"] == SAFETY])
        rows = [name for name in PARTS if name in set(part["intervention"])]
        title = named(model)
        panels.append(dots(drawn, tables.series, title, SHARE, kinds=KINDS, null=band, rows=rows, row="intervention"))
    return figure(
        "interventions-parts",
        "Interventions. The update of the first MLP matrices, cut into its parts in the left null space and in the "
        "column space of W",
        READ + "Rows: the parts of the update that a model has; rest is everything but the first MLP matrices. Grey "
        "bars: refusal of forbidden prompts when the update is cut along a random subspace with matched dimensions and "
        "norms, 95 % of draws. The null space has three quarters of the dimensions, so compare it with the grey, not "
        "with zero.",
        RATES,
        panels,
        width=WIDTH,
        whiskers="95 % Wilson intervals",
    )


def carried(tables: Tables) -> Figure | None:
    """As the claims use it: the null-space part's Shapley value minus the column-space part's, and both."""
    frame = tables.take("carried_null_minus_column", stage=STAGE)
    both = tables.take("carried_share", stage=STAGE, intervention=("null", "column"))
    ends = [table[name] for table in (frame, both) for name in ("low", "high", "null_low", "null_high")]
    axis = Axis("share of prompts", domain_of(*ends, include=(0,)))
    under = [rule(0, "nothing", axis, vertical=True)]
    shown = {
        "Null-space minus column-space part": frame,
        "Null-space part": both[both["intervention"] == "null"],
        "Column-space part": both[both["intervention"] == "column"],
    }
    panels = [
        dots(values(table), tables.series, title, axis, null=nulls(table), under=under)
        for title, table in shown.items()
        if len(frame)
    ]
    return figure(
        "interventions-carried",
        "Interventions. How much of the change on forbidden prompts each part of the update carries",
        "Shapley value of the part for answering forbidden prompts exactly as the tuned model does, over all "
        "combinations of the null-space part, the column-space part and the rest. Grey bars: the update cut at random, "
        "95 % of draws. Brown: controls.",
        ("carried_null_minus_column", "carried_share"),
        panels,
        width=355,
        whiskers="95 % bootstrap intervals over prompts",
    )


def ranks(tables: Tables) -> Figure | None:
    """The three measures over the rank of ΔW, and safety without its top k."""
    kept = _doses(tables, _rates(tables, "truncated"), "rank kept")
    removed = _doses(tables, _rates(tables, "top_removed"), "directions removed")
    return figure(
        "interventions-rank",
        "Interventions. Every matrix's update reduced to its strongest k directions, or without them",
        READ + "First panels: the k strongest directions alone (0: only biases and norms are tuned). Last panels: all "
        "but the k strongest.",
        RATES,
        [*kept, *removed],
        shared=False,
        whiskers="95 % Wilson intervals",
    )


LAYER_KINDS = (("Shapley", "circle", "series"), ("only this one", TICK, "null"), ("lost without it", "square", "open"))


def layers(tables: Tables) -> Figure | None:
    """Shapley values of layers for refusing forbidden prompts, with only-one and leave-one-out."""
    frames = [
        tables.take(f"{how}_refuse_rate", stage=STAGE, set=_set(tables, FORBIDDEN)).assign(kind=kind)
        for how, (kind, _, _) in zip(("shapley", "only_one", "leave_one_out"), LAYER_KINDS, strict=True)
    ]
    frame = pd.concat(frames)
    frame = frame.assign(player=_layer_names(frame["layer"]))
    axis = Axis("share of forbidden prompts", domain_of(frame["low"], frame["high"], include=(0,)))
    rows = [*_layer_names(sorted(frame["layer"].dropna().unique())), "ends"]
    under = [rule(0, "nothing", axis, vertical=True)]
    panels: list[Panel | None] = []
    for model, part in tables.by_model(frame):
        drawn, title = values_by_kind(part), named(model)
        panels.append(dots(drawn, tables.series, title, axis, kinds=LAYER_KINDS, rows=rows, row="player", under=under))
    return figure(
        "interventions-layers",
        "Interventions. Which layers' updates make the model refuse forbidden prompts",
        "Circles: exact Shapley values over all models with some layers tuned and the others the base's. They add up "
        "to the tuned model's refusal minus the base's. Grey ticks: the effect of a layer's update alone. Hollow "
        "squares: the loss without it. ends: embeddings, final norm and unembedding.",
        [f"{how}_refuse_rate" for how in ("shapley", "only_one", "leave_one_out")],
        panels,
        width=WIDTH,
        whiskers="95 % bootstrap intervals over prompts",
    )


def swaps(tables: Tables) -> Figure | None:
    """The first j layers of one tuned model under the rest of another."""
    frame = tables.take("refuse_rate", stage=STAGE)
    names = [name for name in frame["intervention"].dropna().unique() if name.startswith("swap/")]
    labels = {series.model: series.label for series in tables.series}
    frame = _rates(tables, names) if names else frame.iloc[:0]
    under = ", ".join(
        f"{labels.get(model, model)} below {labels.get(name.removeprefix('swap/'), name)}"
        for model, name in frame[["model", "intervention"]].drop_duplicates().itertuples(index=False)
    )
    return figure(
        "interventions-swaps",
        "Interventions. The first layers of one tuned model below the rest of another from the same base",
        f"{READ}Horizontal axis: how many layers are the named model's. {under}.",
        RATES,
        _doses(tables, frame, "layers of this model"),
        shared=False,
        whiskers="95 % Wilson intervals",
    )


PATCH_KINDS = (
    ("top directions, last token", "circle", "series"),
    ("all directions, last token", "square", "open"),
    ("top directions, whole prompt", "diamond", "series"),
    ("all directions, whole prompt", "triangle-up", "open"),
    ("control: ΔW reads an allowed prompt", TICK, "null"),
)
PATCHED = 8.0  # directions of the patch that claims read
PATCH_ROWS = ("remove_to_allowed", "induce")
PATCH_WORDS = {"remove_to_allowed": "twin: refusal goes", "induce": "twin: refusal comes"}


def patches(tables: Tables) -> Figure | None:
    """Of jailbroken prompts, how many are refused once ΔW acts as it does without the attack; and the converse."""
    back = tables.take("refusal_returned", stage=STAGE, intervention=("restore", "restore_from_allowed"))
    twins = pd.concat(
        [tables.take(name, stage=STAGE, intervention=PATCH_ROWS) for name in ("refusal_removed", "refusal_induced")]
    )
    frame = pd.concat([back.assign(row=back["attack"]), twins.assign(row=twins["intervention"].map(PATCH_WORDS))])
    shown = PATCHED if PATCHED in set(frame["dose"]) else frame["dose"].min()
    largest = frame["dose"].max()
    frame = frame[frame["dose"].isin([shown, largest])]
    kinds = [
        PATCH_KINDS[4 if name == "restore_from_allowed" else 2 * (role == "prompt") + (dose == largest)][0]
        for dose, role, name in zip(frame["dose"], frame["role"], frame["intervention"], strict=True)
    ]
    frame = frame.assign(kind=kinds)
    rows = [*dict.fromkeys(frame["row"])]
    panels: list[Panel | None] = []
    for model, part in tables.by_model(frame):
        drawn, band = values_by_kind(part), nulls(part[part["null_kind"] == "random_direction"])
        title = named(model)
        panels.append(dots(drawn, tables.series, title, SHARE, kinds=PATCH_KINDS, null=band, rows=rows, row="row"))
    return figure(
        "interventions-patches",
        "Interventions. Is a jailbreak refused if ΔW acts on it as on the forbidden prompt that it was made from?",
        "By attack (any: all together): share of jailbroken prompts (refused without the attack, answered under it) "
        "that are refused again. Twins: share of refused prompts that are no longer refused if ΔW acts as on an "
        "allowed prompt with the same operators, and of those allowed prompts that are refused if it acts as on the "
        "forbidden one. ΔW's action is patched at all layers, along its 8 strongest input directions or all of them, "
        "at the last prompt token or the whole prompt. Grey bars: a step of the same length in a random direction.",
        ("refusal_returned", "refusal_removed", "refusal_induced"),
        panels,
        width=WIDTH + 60,
        whiskers="95 % Wilson intervals",
    )


COSTS = {
    "unpatched": "no patch",
    "restore": "back: a jailbreak",
    "induce": "back: allowed prompts",
    "remove": "away: as a jailbreak",
    "remove_to_allowed": "away: as allowed",
}


def patch_costs(tables: Tables) -> Figure | None:
    """Safety, capability and over-refusal under each patch, along the directions that claims read."""
    frame = _rates(tables, [*COSTS])
    frame = frame[(frame["role"] == "last_prompt") | (frame["intervention"] == "unpatched")]
    doses = set(frame["dose"].dropna())
    frame = frame[frame["dose"].isna() | (frame["dose"] == (PATCHED if PATCHED in doses else min(doses, default=0)))]
    frame = frame.assign(place=[[*COSTS].index(name) for name in frame["intervention"]])
    frame = frame.sort_values(["place", "attack"], kind="stable", na_position="first")
    named_rows = [
        COSTS[name] + (f" ({attack})" if attack else "")
        for name, attack in zip(frame["intervention"], frame["attack"].fillna(""), strict=True)
    ]
    rows = [*dict.fromkeys(named_rows)]
    panels = [
        dots(values_by_kind(part), tables.series, named(model), SHARE, kinds=KINDS, rows=rows, row="row")
        for model, part in tables.by_model(frame.assign(row=named_rows))
    ]
    return figure(
        "interventions-patch-costs",
        "Interventions. Cost of restoring and of removing refusal: safety, capability and over-refusal",
        READ + "Back: on jailbreaks and on allowed prompts, ΔW acts as on a forbidden prompt. Away: on forbidden and "
        "on allowed prompts, it acts as on a jailbreak, or as on another, allowed prompt. Along its strongest input "
        "directions, at the last prompt token, all layers.",
        RATES,
        panels,
        width=WIDTH + 60,
        whiskers="95 % Wilson intervals",
    )


def directions(tables: Tables) -> Figure | None:
    """The difference in means ablated (is a forbidden prompt answered?) and added (is an allowed one refused?)."""
    panels: list[Panel | None] = []
    for intervention, words in (("ablate_direction", "ablated"), ("add_direction", "added")):
        frame = _rates(tables, intervention, dose=1.0)
        frame = frame.assign(player=_layer_names(frame["layer"]))
        rows = _layer_names(sorted(frame["layer"].dropna().unique()))
        for model, part in tables.by_model(frame):
            band = nulls(part[part["kind"] == (SAFETY if words == "ablated" else OVER)])
            drawn, title = values_by_kind(part), f"{model.label}: {words}"
            panels.append(dots(drawn, tables.series, title, SHARE, kinds=KINDS, null=band, rows=rows, row="player"))
    return figure(
        "interventions-directions",
        "Interventions. The difference in means of one layer, ablated from the stream at all layers or added at its "
        "own",
        READ + "Rows: the layer of the direction (resid_out, last prompt token). Grey bars: a random direction; "
        "refusal of forbidden prompts where it is ablated, of allowed ones where it is added.",
        RATES,
        panels,
        width=WIDTH,
        whiskers="95 % Wilson intervals",
    )
