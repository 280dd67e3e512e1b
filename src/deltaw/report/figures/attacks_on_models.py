"""Figures of attacks on models: what elicits the harmful output, each attack's controls, and Observation 5."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import TICK, Axis, Panel, Side, curves, domain_of, dots, named, rule
from deltaw.charts.shared import ALLOWED, FORBIDDEN, SHARE, as_ratios
from deltaw.charts.style import ATTACKS, Series, attack_labels
from deltaw.charts.tables import Tables, nulls, values

CONTROLS = ("random", "wrong")  # after the stroke in an attack's name: drawn in the attack's own row
KINDS = (
    ("attacked", "circle", "series"),
    ("control: random, or another's", TICK, "null"),
    ("same attack, allowed prompts", "square", "open"),
)
FAMILIES = ("soft_", "token_search_", "prefill_", "relearn_")
WIDTH = 345


def inserted(tables: Tables) -> Figure | None:
    """Soft prompts, token search and what deltaw does not have itself: success, with controls, a panel a model."""
    added = other_attacks(tables, _rates(tables, "comply_rate", FORBIDDEN)["attack"])
    title = "Attacks on models: success of what is inserted before the end of the prompt"
    return figure(
        "attacks-inserted",
        f"{title}, and of added attacks" if added else title,
        "Circles: share of forbidden prompts answered with the exact harmful output, greedy decoding; soft doses from "
        "weak to strong. Grey ticks: random vectors of the same length, or a random suffix. Hollow squares: allowed "
        "prompts with the same vectors, where complying is right. Where they are low, the attack breaks more than the "
        "refusal. unrelated: a control, vectors optimised for another prompt's output. universal: one soft prompt, "
        "trained on other prompts. exact: the best of all suffixes of one token.",
        ("comply_rate",),
        _panels(tables, ("none", "soft_", "token_search_"), added),
        width=WIDTH,
        whiskers="95 % Wilson intervals",
    )


def prefilled(tables: Tables) -> Figure | None:
    """Prefill: success by the number of given tokens, with controls, a panel a model."""
    return figure(
        "attacks-prefill",
        "Attacks on models: success after the first k tokens of the harmful output are given",
        "Circles: the rest of the output is exactly right. Grey ticks: the given tokens are those of another prompt's "
        "output. Hollow squares: allowed prompts, with their own first k tokens given.",
        ("comply_rate",),
        _panels(tables, ("none", "prefill_")),
        width=WIDTH,
        whiskers="95 % Wilson intervals",
    )


def relearned(tables: Tables) -> Figure | None:
    """Relearning: how refusal falls over a few updates."""
    frame = _rates(tables, "refuse_rate", FORBIDDEN)
    names = frame["attack"].str.extract(r"relearn_(\w+?)_(\d+)$")
    frame = frame.assign(taught=names[0], at=pd.to_numeric(names[1]), x=pd.to_numeric(names[1])).dropna(subset=["x"])
    panels: list[Panel | None] = []
    for taught, words in (("harmful", "forbidden prompts and harmful outputs"), ("benign", "allowed prompts only")):
        part = frame[frame["taught"] == taught]
        if len(part):
            steps = Axis("update", domain_of(part["x"]))
            refused = Axis("refused", SHARE.domain, SHARE.ticks, SHARE.format)
            panels.append(curves(part, tables.of(*frame["model"]), f"Trained on: {words}", steps, refused))
    return figure(
        "attacks-relearning",
        "Attacks on models: refusal of forbidden prompts while the tuned model is fine-tuned again",
        "Share refused of forbidden prompts with conditional operators, over a few updates at the smaller rate. The "
        "updates are on compliant responses to prompts that no tuning saw.",
        ("refuse_rate",),
        panels,
        width=WIDTH,
        whiskers="95 % Wilson intervals",
    )


def looks_allowed(tables: Tables) -> Figure | None:
    """Observation 5 of every attack on models: position, a panel a model."""
    frame = values(tables.take("position", last=True, layer=None, site="mlp_post", set=FORBIDDEN))
    ends: tuple[tuple[float, str, Side], ...] = ((0.0, "forbidden", "right"), (1.0, "allowed", "left"))
    return figure(
        "attacks-on-models-position",
        "Observation 5, attacks on models. Where attacked prompts lie between forbidden (0) and allowed ones (1)",
        "Tuned model, mean over layers at mlp_post, at the last prompt token, even if an insertion moved it. Prefill "
        "is read at the last given token, between allowed prompts with their own output and forbidden ones with the "
        "refusal. Relearning is read in the relearned model. Grey bars: 95 % if attacked and forbidden prompts were "
        "exchangeable.",
        ("position",),
        _by_model(tables, frame, "position: 0 forbidden, 1 allowed", ends),
        width=WIDTH,
        whiskers="95 % bootstrap intervals",
    )


def acted_on(tables: Tables) -> Figure | None:
    """Observation 5 of every attack on models: gain, a panel a model."""
    frame = tables.take("gain_log_ratio_to_forbidden", last=True, layer=None, site="mlp_in", set=FORBIDDEN)
    frame = values(as_ratios(frame))
    return figure(
        "attacks-on-models-gain",
        "Observation 5, attacks on models. How strongly the update acts, relative to the same prompts without attack",
        "Geometric mean over prompts and layers of the ratio of gains, at mlp_in of the base model, at the tokens of "
        "the figure above. After relearning: the rest of the update, on the plain prompts.",
        ("gain_log_ratio_to_forbidden",),
        _by_model(tables, frame, "ratio of gains", ((1.0, "as on forbidden", "right"),)),
        width=WIDTH,
        whiskers="95 % bootstrap intervals",
    )


def _rates(tables: Tables, statistic: str, *sets: str) -> pd.DataFrame:
    frame = values(tables.take(statistic, stage="behaviour", set=sets))
    return frame[frame["attack"].notna() & frame["model"].isin([model.model for model in attacked_models(tables)])]


def attacked_models(tables: Tables) -> list[Series]:
    """The models that were attacked by more than prompts."""
    frame = tables.take("comply_rate", stage="behaviour", attack="none")
    return [series for series in tables.series if series.model in set(frame["model"])]


def other_attacks(tables: Tables, names: "pd.Series[str]") -> list[str]:
    """Those of no family that are on models, in the order in which they were measured."""
    on_prompts = {"none", *ATTACKS, *attack_labels(tables.manifest, "prompt-attack")}
    return [name for name in dict.fromkeys(names.dropna()) if name not in on_prompts and not name.startswith(FAMILIES)]


def in_order(
    names: "pd.Series[str]", families: Sequence[str] = ("none", *FAMILIES), others: Sequence[str] = ()
) -> list[str]:
    """Attacks by family, in order of dose as measured (their order in the file); variants after what they vary.

    others: of no family, which come last.
    """
    there = list(dict.fromkeys(names))
    of_families = [name for family in families for name in there if name.startswith(family)]
    return [*of_families, *(name for name in others if name in there)]


def _panels(tables: Tables, families: tuple[str, ...], others: Sequence[str] = ()) -> list[Panel | None]:
    frame = _rates(tables, "comply_rate", FORBIDDEN, ALLOWED)
    frame = frame[frame["attack"].str.startswith(families) | frame["attack"].isin(others)]
    if frame.empty:
        return []
    parts = frame["attack"].str.partition("/")
    control = parts[2].isin(CONTROLS)
    kind = np.where(frame["set"] == ALLOWED, KINDS[2][0], np.where(control, KINDS[1][0], KINDS[0][0]))
    frame = frame.assign(row=np.where(control, parts[0], frame["attack"]), kind=kind)
    frame = frame[~(control & (frame["set"] == ALLOWED))]
    rows = in_order(frame.loc[frame["set"] == FORBIDDEN, "row"], families, others)
    labels = {name: label for name, label in attack_labels(tables.manifest, "model-attack").items() if name in others}
    frame, rows = frame.assign(row=frame["row"].replace(labels)), [labels.get(name, name) for name in rows]
    return [
        dots(
            frame[frame["model"] == model.model], tables.series, named(model), SHARE, kinds=KINDS, rows=rows, row="row"
        )
        for model in attacked_models(tables)
    ]


def _by_model(
    tables: Tables, frame: pd.DataFrame, title: str, references: Sequence[tuple[float, str, Side]]
) -> list[Panel | None]:
    frame = frame[frame["attack"].notna() & frame["model"].isin([model.model for model in attacked_models(tables)])]
    added = other_attacks(tables, frame["attack"])
    frame = frame[frame["attack"].str.startswith(FAMILIES) | frame["attack"].isin(added)]
    if frame.empty:
        return []
    band = nulls(frame)
    ends = (frame["low"], frame["high"], frame["value"], band["null_low"], band["null_high"])
    axis = Axis(title, domain_of(*ends, include=[at for at, *_ in references]))
    rows = in_order(frame["attack"], FAMILIES, added)
    labels = {name: label for name, label in attack_labels(tables.manifest, "model-attack").items() if name in added}
    frame, rows = frame.assign(attack=frame["attack"].replace(labels)), [labels.get(name, name) for name in rows]
    under = [rule(at, words, axis, vertical=True, align=side) for at, words, side in references]
    parts = ((model, frame[frame["model"] == model.model]) for model in attacked_models(tables))
    return [
        dots(part, tables.series, named(model), axis, rows=rows, row="attack", null=nulls(part), under=under)
        for model, part in parts
    ]
