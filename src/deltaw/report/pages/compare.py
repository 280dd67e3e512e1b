"""The report of `deltaw compare`: every statistic by kind of matrix over layers, and what is not there.

A kind is a matrix's name without its layer, such as mlp.up_proj; each has a panel, and all panels of a figure share
their axes. Reads the comparison's measurements and manifest, nothing else.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, curves, domain_of, layer_axis, null_band, null_whiskers
from deltaw.charts.style import NULL_NAMES, Series, light, share
from deltaw.charts.tables import Tables, nulls, values
from deltaw.report.pages import compare_prompts as prompted
from deltaw.report.sections import SECTIONS as ALL_SECTIONS
from deltaw.results import Results

UPDATE = Series("", "update", None, light("ssft"), (1, 0), "circle", False)
FLOOR = Series("", "rounding floor", None, light("null"), (4, 3), "stroke", False)
STABLE = Series("", "stable rank", None, light("ssft"), (1, 0), "circle", False)
PARTICIPATION = Series("", "participation ratio", None, light("dpo"), (1, 0), "square", False)
RANDOM = (
    Series("", "random update, stable rank", None, light("ssft"), (1, 3), "stroke", True),
    Series("", "random update, participation ratio", None, light("dpo"), (1, 3), "stroke", True),
)
SHADES = ("ssft", "unlearn", "dpo", "dpo_plain", "control")
FEW = 12  # layers up to which each null has its own whisker


class Pair:
    """A comparison's measurements, each with the kind of its matrix. kinds: in the order of the model's names."""

    def __init__(self, results: Results) -> None:
        self.tables = Tables(results)
        self.manifest = results.manifest
        frame = self.tables.frame
        frame = frame[frame["layer"].notna() & frame["module"].notna() & (frame["stage"] == "compare")]
        self.kinds = sorted(
            {_kind(module, layer) for module, layer in zip(frame["module"], frame["layer"], strict=True)}
        )

    @property
    def asked(self) -> bool:
        """Whether the models were given prompts."""
        return bool(self.manifest.get("prompts"))

    @property
    def made(self) -> list[Mapping[str, Any]]:
        """The interventions, as the manifest records them."""
        return list((self.manifest.get("prompts") or {}).get("interventions") or ())

    def take(self, statistic: str) -> pd.DataFrame:
        """The rows of a statistic in layers, with `kind`, and `at` and `x`, the layer."""
        frame = self.tables.layered(statistic)
        kinds = [_kind(module, layer) for module, layer in zip(frame["module"], frame["layer"], strict=True)]
        if any(".experts." in kind for kind in kinds):
            frame, kinds = _mean_over_experts(frame.assign(kind=kinds))
        return frame.assign(kind=pd.Series(kinds, frame.index, dtype="object"), x=frame["layer"], at=frame["layer"])

    def by_kind(self, *frames: pd.DataFrame) -> Iterator[tuple[str, list[pd.DataFrame]]]:
        """Each kind that the first frame has, with its rows of every frame."""
        for kind in self.kinds:
            parts = [frame[frame["kind"] == kind] for frame in frames]
            if len(parts[0]):
                yield kind, parts


def _kind(module: str, layer: float) -> str:
    return re.sub(r"(?<=\bexperts\.)\d+\.", "", module.partition(f".{int(layer)}.")[2] or module)


def _mean_over_experts(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row a kind of matrix, layer, set and null."""
    keys = [frame["kind"], frame["layer"], frame["set"].fillna(""), frame["null_kind"].fillna("")]
    groups = frame.groupby(keys, sort=False)
    numbers = [name for name in ("value", "low", "high", "null_mean", "null_low", "null_high") if name in frame]
    mean, first = groups[numbers].mean(), groups.head(1).copy()
    for name in numbers:
        first[name] = mean[name].to_numpy()
    return first, [str(kind) for kind in first["kind"]]


_Make = Callable[[Pair], Figure | None]
SECTIONS: Mapping[str, tuple[tuple[str, _Make], ...]]


def sizes(pair: Pair) -> Figure | None:
    """‖ΔW‖/‖W‖ and the rounding floor."""
    frame, floor = values(pair.take("update_relative_norm")), values(pair.take("rounding_floor"))
    frame = frame[frame["value"] > 0]
    both = pd.concat([frame.assign(series=UPDATE.label), floor.assign(series=FLOOR.label)])
    if frame.empty:
        return None
    x = layer_axis(both["x"].tolist())
    y = Axis("share of ‖W‖", domain_of(both["value"], log=True), format=".1e", log=True)
    panels = [curves(part, (UPDATE, FLOOR), kind, x, y) for kind, (part,) in pair.by_kind(both)]
    return figure(
        "pair-size",
        "Size of the update, ‖ΔW‖/‖W‖, by layer",
        "Dashed: the rounding floor, the largest size that rounding to the stored formats gives an update of zero. An "
        "update below it cannot be told from rounding and is not "
        "interpreted; up to five floors the share of rounding is in the table of every matrix, and null-space energies "
        "are corrected for it. Layers without a mark did not change.",
        ("update_relative_norm", "rounding_floor"),
        panels,
    )


def null_energy(pair: Pair, side: str) -> Figure | None:
    """ρ_N with its nulls. side: left (tall matrices) or right (wide ones)."""
    statistic = f"null_energy_{side}"
    frame = pair.take(statistic)
    if frame.empty:
        return None
    bands = nulls(frame)
    kinds = [name for name in dict.fromkeys(NULL_NAMES.values()) if name in set(bands["null"])]
    bands = bands[bands["null"].isin(kinds)]  # one of a later version has no mark; the table has its numbers
    x = layer_axis(frame["x"].tolist())
    y = Axis("share of energy", domain_of(frame["value"], bands["null_low"], bands["null_high"]))
    few = frame["layer"].nunique() <= FEW
    panels = []
    for kind, (part, null) in pair.by_kind(values(frame), bands):
        drawn = part.assign(series=UPDATE.label, low=float("nan"), high=float("nan"))
        if few:
            drawn = drawn.assign(x=drawn["x"] - 0.12)
            panels.append(curves(drawn, (UPDATE,), kind, x, y, under=[null_whiskers(null, kinds, x, y)]))
        else:
            panels.append(_over_many(drawn, null, kinds, kind, x, y))
    grey = (
        "95 % bands of each null"
        if few
        else "the 95 % band of random signs; broken lines: the means of the other nulls"
    )
    rows, words = (
        ("rows", "outputs that no input could produce") if side == "left" else ("columns", "inputs that W ignored")
    )
    return figure(
        f"pair-null-energy-{side}",
        f"Energy of the update in the {side} null space of the base weights",
        f"The share of ‖ΔW‖² on {words}. Grey: {grey}. Flipping the signs of {rows} keeps the size of each and is the "
        "strictest null. A rotation gives chance, 1 − rank/side. There is no interval: one pair has one value a "
        "matrix.",
        (statistic,),
        panels,
    )


def _over_many(drawn: pd.DataFrame, null: pd.DataFrame, kinds: Sequence[str], title: str, x: Axis, y: Axis) -> Panel:
    """Of many layers: the band of sign flips, and the other nulls' means as lines."""
    flips = null[null["null_kind"].str.endswith("_sign_flip")].sort_values("layer")
    others = [name for name in kinds if not name.endswith("signs flipped")]
    lines = [
        Series("", name, None, light("null"), (2, 2 + 2 * place), "stroke", True) for place, name in enumerate(others)
    ]
    means = null[null["null"].isin(others)].assign(
        series=lambda rows: rows["null"], value=lambda rows: rows["null_mean"]
    )
    both = pd.concat([drawn, means.assign(low=float("nan"), high=float("nan"), shown=means["null_shown"])])
    return curves(both, (UPDATE, *lines), title, x, y, under=[null_band(flips, "layer", x, y)])


def ranks(pair: Pair) -> Figure | None:
    """Stable rank and participation ratio, with random updates."""
    parts = []
    statistics = ("stable_rank", "participation_ratio")
    for look, random, statistic in zip((STABLE, PARTICIPATION), RANDOM, statistics, strict=True):
        frame = pair.take(statistic)
        bands = nulls(frame)
        drawn = bands.assign(series=random.label, value=bands["null_mean"], shown=bands["null_shown"])
        parts += [values(frame).assign(series=look.label), drawn]
    both = pd.concat(parts)
    if both.empty:
        return None
    x, y = layer_axis(both["x"].tolist()), Axis("dimensions", domain_of(both["value"], log=True), format="~s", log=True)
    looks = (STABLE, PARTICIPATION, *RANDOM)
    return figure(
        "pair-ranks",
        "How many directions the update has, by layer",
        "Stable rank ‖ΔW‖²/σ₁² and participation ratio (Σσ²)²/Σσ⁴, at most the smaller side. Dotted: a random update "
        "of the same shape (of a LoRA adapter: with random factors).",
        statistics,
        [curves(part, looks, kind, x, y) for kind, (part,) in pair.by_kind(both)],
    )


def residuals(pair: Pair) -> Figure | None:
    """The energy beyond the first k singular directions of ΔW, in a few layers."""
    return _in_layers(
        pair,
        "residual_energy",
        ("k, directions left out", "share of energy"),
        "pair-residual-energy",
        "Energy of the update beyond its k strongest directions",
        "A few layers. A low-rank update falls steeply. Dashed grey: a random update of the same shape, for the first "
        "of these layers.",
    )


def curve(pair: Pair, statistic: str, side: str) -> Figure | None:
    """The share of energy outside W's k strongest directions, by k."""
    return _in_layers(
        pair,
        statistic,
        (f"k, {side} directions counted", "share outside them"),
        f"pair-curve-{side}",
        f"Energy of the update outside the k strongest {side} directions of the base weights",
        "A few layers. Dashed grey: chance, 1 − k/side. Below it, the update prefers strong directions of W. Square "
        "matrices of full rank have no null space, so this curve takes its place.",
    )


def profile(pair: Pair, statistic: str, side: str) -> Figure | None:
    """How far ΔW's strongest directions lie in the null space of W."""
    which = "output" if side == "left" else "input"
    return _in_layers(
        pair,
        statistic,
        ("singular vector, strongest first", "norm in the null space"),
        f"pair-profile-{side}",
        f"How much of each {which} direction of the update lies in the {side} null space of the base weights",
        "A few layers. Dashed grey: random directions, for the first of these layers.",
    )


def _in_layers(pair: Pair, statistic: str, axes: tuple[str, str], name: str, title: str, caption: str) -> Figure | None:
    """A statistic over a number, of which `set` says WHAT=NUMBER, a line a layer. axes: titles of x and y."""
    frame = pair.take(statistic)
    if frame.empty:
        return None
    chosen = _spread(sorted(frame["layer"].unique()))
    looks = [
        Series("", f"layer {layer:.0f}", None, light(SHADES[place]), (1, 0), "circle", False)
        for place, layer in enumerate(chosen)
    ]
    frame = frame[frame["layer"].isin(chosen)]
    ks = frame["set"].str.partition("=")[2].astype(float)
    frame = frame.assign(x=ks, at=ks, series=[f"layer {layer:.0f}" for layer in frame["layer"]])
    x, y = map(Axis, axes, (domain_of(ks), domain_of(frame["value"], frame["null_mean"])))
    panels = []
    for kind, (part, null) in pair.by_kind(values(frame), nulls(frame)):
        first = null[null["layer"] == null["layer"].min()].sort_values("x")
        panels.append(curves(part, looks, kind, x, y, under=[null_band(first, "x", x, y)] if len(first) > 1 else []))
    return figure(name, title, caption, (statistic,), panels)


def _spread(layers: Sequence[float], most: int = len(SHADES)) -> list[float]:
    """At most five layers, first and last among them."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(place * (len(layers) - 1) / (most - 1))] for place in range(most)]


def cosines(pair: Pair) -> Figure | None:
    """The cosine of ΔW with W."""
    frame = pair.take("cosine_with_weight")
    if frame.empty:
        return None
    bands, x = nulls(frame), layer_axis(frame["x"].tolist())
    y = Axis("cosine", domain_of(frame["value"], bands["null_low"], bands["null_high"]))
    panels = [
        curves(part.assign(series=UPDATE.label), (UPDATE,), kind, x, y, under=[null_band(null, "layer", x, y)])
        for kind, (part, null) in pair.by_kind(values(frame), bands)
    ]
    return figure(
        "pair-cosine",
        "Cosine of the update with W, by layer",
        "Weight decay alone gives −1. Grey: 95 % of random matrices of the same size.",
        ("cosine_with_weight",),
        panels,
    )


SECTIONS = {
    "size": (("size of the update", sizes),),
    "null-space": (
        ("energy in the left null space", partial(null_energy, side="left")),
        ("energy in the right null space", partial(null_energy, side="right")),
        ("directions and the left null space", partial(profile, statistic="null_profile", side="left")),
        ("directions and the right null space", partial(profile, statistic="null_profile_right", side="right")),
        ("energy outside strong left directions", partial(curve, statistic="null_energy_curve", side="left")),
        ("energy outside strong right directions", partial(curve, statistic="null_energy_curve_right", side="right")),
    ),
    "spectrum": (
        ("rank of the update", ranks),
        ("energy beyond its strongest directions", residuals),
        ("cosine with W", cosines),
    ),
}


def contents(pair: Pair) -> list[tuple[str, str]]:
    """The sections of the page, (id, title)."""
    asked = [("behaviour", "Behaviour"), ("activations", "Activations")] if pair.asked else []
    asked += [("interventions", "Interventions")] if pair.made else []
    weights = [("size", "Size"), ("null-space", "Null space"), ("spectrum", "Spectrum")]
    rest = [("absent", "What is not here"), ("matrices", "Every matrix"), ("words", "How to read")]
    return [("claims", "Claims"), *asked, *weights, *rest]


def drawn(pair: Pair) -> tuple[dict[str, list[Figure]], dict[str, list[str]]]:
    """The figures of each section, and what could not be drawn."""
    made = {name: [(what, make(pair)) for what, make in makers] for name, makers in SECTIONS.items()}
    for name, asked in prompted.SECTIONS.items() if pair.asked else ():
        made[name] = [(what, of_tables(pair.tables)) for what, of_tables in asked]
    if pair.made:
        figures = ((what, make(pair.tables)) for what, make in ALL_SECTIONS["interventions"])
        made["interventions"] = [(what, figure) for what, figure in figures if figure is not None]
    return (
        {name: [drawing for _, drawing in figures if drawing is not None] for name, figures in made.items()},
        {name: [what for what, drawing in figures if drawing is None] for name, figures in made.items()},
    )


def head(pair: Pair) -> dict[str, Any]:
    """The top of the page, above the figures."""
    manifest = pair.manifest
    base, tuned = manifest["names"]
    kind = "LoRA adapter" if manifest.get("adapter") else "checkpoint"
    same = values(pair.take("identical_share"))["value"]
    control = (manifest.get("prompts") or {}).get("control")
    facts = [
        ("base", base),
        (f"tuned {kind}", tuned),
        ("architecture", manifest.get("model_type") or "unknown"),
        ("matrices", str(manifest["matrices"])),
        ("skipped", str(len(manifest["skipped"]))),
        ("identical entries", f"{share(float(same.mean()))} %" if len(same) else ""),
        ("control", str(control or "none") if pair.asked else ""),
        ("finished", str(manifest["finished"]).replace("T", " ").replace("+00:00", " UTC")),
    ]
    return {
        "title": f"{tuned} and {base}",
        "facts": [(name, value) for name, value in facts if value],
        "version": manifest["comparison"]["version"],
        "asked": pair.asked,
        "control": control,
    }
