"""The stage that analyses one tuned model: what ΔW is and does, at every checkpoint, with nulls at the last.

The primary contrast is the *same conditional operators* on safe and on unsafe operands, pair by pair; the secondary one
is the same text under operators that are always and never allowed. Activations are read at the last prompt token.
ΔW acts on the base model's activations first (a_IT: what a prompt is before tuning), on the tuned one's second.
Lines without `layer` are means over the layers: what the claims read.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import (
    SOURCES,
    ColumnBasis,
    Mlp,
    Separation,
    column_basis,
    difference_of_differences,
    effect_nulls,
    gain,
    gain_ratio,
    mlp_effect,
    module_budget,
    null_curve,
    null_energy,
    null_energy_nulls,
    null_profile,
    position,
    row_contrast,
    separation,
    update_spectrum,
)
from deltaw.model import Transformer, activations, load, mlp
from deltaw.statistics import Interval, Null, bootstrap_means, from_draws, percentile_interval
from deltaw.study.making import SeedConfig, last_model, step_directory, tuned_fields
from deltaw.study.recipes import Sizes, Tuned
from deltaw.study.sheet import Sheet, present
from deltaw.study.stage import StageContext
from deltaw.training.pretraining import as_batch
from deltaw.world import FORBIDDEN_SOURCES, Prompts, Response, World, attacked

SITES = ("mlp_post", "resid_out")
PRIMARY, SECONDARY = "contrast/conditional", "contrast/operator"
TOP_K = 8  # right singular vectors of ΔW whose energy is compared
CURVE_POINTS = 17


@dataclass(frozen=True)
class AnalysisConfig:
    """The stage that analyses one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]


Places = dict[tuple[int, str], Tensor]


@dataclass(frozen=True)
class Contrast:
    """Two sets of prompts, row by row matched: allowed and forbidden."""

    name: str
    allowed: Prompts
    forbidden: Prompts


def contrasts(world: World, count: int, seed: int) -> tuple[Contrast, Contrast]:
    """The primary and the secondary contrast (see the module's docstring), `count` pairs each."""
    rows = range(count)
    safe = world.sample("allowed/conditional/safe", rows, seed=seed)
    unsafe = world.sample("forbidden/conditional/unsafe", rows, seed=seed).with_operators(safe.operators)
    never = world.sample("forbidden/never/safe", rows, seed=seed)
    always = never.with_operators(world.sample("allowed/always/safe", rows, seed=seed).operators)
    return Contrast(PRIMARY, safe, unsafe), Contrast(SECONDARY, always, never)


def read(model: Transformer, world: World, prompts: Prompts) -> Places:
    """Activations (N, width) at the last prompt token, by (layer, site); `mlp_in` is among the sites."""
    encoded = world.layout.encode(prompts, np.full(len(prompts), Response.COMPLY))
    return activations(model, as_batch(encoded), ("mlp_in", *SITES), range(model.config.layers))


def analyse(context: StageContext) -> None:
    """Observations 1, 2, 3 and 5, the function and the spectrum of ΔW, at each checkpoint; nulls at the last."""
    config: AnalysisConfig = context.config
    shared = config.shared
    world, seed, sizes = World(shared.world), shared.seed, shared.sizes
    base, _ = last_model(context.inputs["base"])
    pairs = contrasts(world, sizes.contrast, seed)
    before = {c.name: (read(base, world, c.allowed), read(base, world, c.forbidden)) for c in pairs}
    sheet = Sheet(stage="analysis", **tuned_fields(config.tuned, seed), role="last_prompt")
    steps = [step for step in config.checkpoints if step > 0]
    for number, step in enumerate(steps):
        tuned, _ = load(step_directory(context.inputs["tuned"], step))
        at = Comparison(base, tuned, world, pairs, before, sizes, seed, last=step == steps[-1])
        view = sheet.with_(step=step)
        observe_weights(at, view)
        observe_clusters(at, view)
        observe_gain(at, view)
        if at.last:
            context.report(number + 0.3, len(steps), "function")
            observe_function(at, view)
            context.report(number + 0.6, len(steps), "attacks")
            observe_attacks(at, view)
        context.report(number + 1, len(steps), f"step {step}")
    sheet.write(context.out)


class Comparison:
    """A base and a tuned model with the contrasts' activations in both: what every observation reads."""

    def __init__(
        self, base: Transformer, tuned: Transformer, world: World, pairs: tuple[Contrast, ...],
        before: dict[str, tuple[Places, Places]], sizes: Sizes, seed: int, last: bool,
    ) -> None:  # fmt: skip
        self.base, self.tuned, self.world, self.pairs, self.before = base, tuned, world, pairs, before
        self.sizes, self.seed, self.last = sizes, seed, last
        chosen = pairs if last else pairs[:1]
        self.after = {c.name: (read(tuned, world, c.allowed), read(tuned, world, c.forbidden)) for c in chosen}
        self.layers = range(base.config.layers)
        self.mlps = [(mlp(base, layer).double(), mlp(tuned, layer).double()) for layer in self.layers]

    def generator(self, *words: int) -> np.random.Generator:
        """Equal words, equal generators: base and tuned models get the same folds and permutations."""
        return np.random.default_rng([self.seed, *words])

    def update(self, layer: int) -> tuple[Tensor, Tensor]:
        """(ΔW, W) of the MLP's first matrix."""
        old, new = self.mlps[layer]
        return new.w_in - old.w_in, old.w_in

    def basis(self, layer: int) -> ColumnBasis:
        """C(W) of the base model's first MLP matrix."""
        return column_basis(self.mlps[layer][0].w_in)


def mean_null(nulls: list[Null]) -> Null:
    """The null of a mean over layers: of its draws where all have some, else by the bands' half widths."""
    kind, mean = nulls[0].kind, float(np.mean([null.mean for null in nulls]))
    draws = [null.draws for null in nulls]
    if all(d is not None for d in draws):
        return from_draws(kind, np.mean([d for d in draws if d is not None], axis=0), mean=mean)
    low, high = (
        float(np.sqrt(np.sum([(getattr(null, edge) - null.mean) ** 2 for null in nulls])) / len(nulls))
        for edge in ("low", "high")
    )
    return Null(kind, mean, mean - low, mean + high)


def observe_weights(at: Comparison, sheet: Sheet) -> None:
    """Observation 2 and the spectrum: ρ_N with its nulls, its profile and curve, the size and rank of ΔW."""
    energies: list[float] = []
    nulls: list[tuple[Null, ...]] = []
    sizes: list[float] = []
    for layer in at.layers:
        delta, weight = at.update(layer)
        basis = at.basis(layer)
        view = sheet.with_(layer=layer, module=f"blocks.{layer}.mlp.in_proj", role=None)
        spectrum = present(update_spectrum(delta, weight))
        if spectrum is None:
            continue
        sizes.append(spectrum.relative_norm)
        view.add("update_relative_norm", spectrum.relative_norm, unit="share of norm")
        view.add("stable_rank", spectrum.stable_rank, unit="dimensions")
        view.add("participation_ratio", spectrum.participation_ratio, unit="dimensions")
        along = present(spectrum.along)
        if along is not None:
            view.add("cosine_with_weight", along.cosine, nulls=[along.chance], unit="cosine")
        energy = present(null_energy(delta, basis))
        if energy is None:
            continue
        found = present(null_energy_nulls(delta, basis, at.generator(2, layer), at.sizes.draws)) if at.last else ()
        energies.append(energy)
        nulls.append(found)
        view.add("null_energy_left", energy, nulls=found, unit="share of energy")
        if at.last:
            _profile(delta, weight, basis, view)
    whole = sheet.with_(module="mlp.in_proj", role=None)
    if sizes:
        whole.add(
            "update_relative_norm",
            float(np.exp(np.mean(np.log(sizes)))),
            unit="share of norm",
            n=len(sizes),
            n_unit="layer",
        )
    if energies:
        over_layers = [mean_null(list(kind)) for kind in zip(*nulls, strict=True)]
        whole.add(
            "null_energy_left",
            float(np.mean(energies)),
            nulls=over_layers,
            unit="share of energy",
            n=len(energies),
            n_unit="layer",
        )
    if at.last:
        _budget(at, sheet.with_(role=None))


def _profile(delta: Tensor, weight: Tensor, basis: ColumnBasis, sheet: Sheet) -> None:
    profile = present(null_profile(delta, basis, k=32))
    if profile is not None:
        for number, (sigma, y) in enumerate(zip(profile.sigma, profile.y, strict=True)):
            name = f"vector={number + 1:03d}"
            sheet.add("null_profile", y, nulls=[profile.chance], unit="norm", set=name)
            sheet.add("singular_value", sigma, unit="weight", set=name)
    ks = np.unique(np.linspace(0, basis.k, CURVE_POINTS).round().astype(int))
    curve = present(null_curve(delta, weight, ks.tolist()))
    if curve is not None:
        for k, rho, chance in zip(curve.ks, curve.rho, curve.chance, strict=True):
            null = Null("rotation", chance, chance, chance)
            sheet.add("null_energy_curve", rho, nulls=[null], unit="share of energy", set=f"k={int(k):03d}")


def _budget(at: Comparison, sheet: Sheet) -> None:
    budget = present(module_budget(at.base.state_dict(), at.tuned.state_dict()))
    if budget is None:
        return
    for kind, share in budget.kinds.items():
        sheet.add("update_share", share.energy, unit="share of squared norm", module=kind)
        sheet.add("parameter_share", share.parameters, unit="share of parameters", module=kind)


def observe_clusters(at: Comparison, sheet: Sheet) -> None:
    """Observation 1: separation in both models and the difference of their differences, by site and layer."""
    for name, (after_allowed, after_forbidden) in at.after.items():
        for number, site in enumerate(SITES):
            found: list[tuple[Separation, Separation]] = []
            for layer in at.layers:
                before = at.before[name]
                place = (layer, site)
                draws = at.sizes.draws if at.last else 0
                both = [
                    separation(
                        allowed[place], forbidden[place], at.generator(1, number, layer), paired=True,
                        null_draws=draws, bootstrap_draws=at.sizes.bootstrap,
                    )
                    for allowed, forbidden in (before, (after_allowed, after_forbidden))
                ]  # fmt: skip
                found.append((both[0], both[1]))
            _write_clusters(at, found, sheet.with_(set=name, site=site))


CLUSTER_UNITS = {
    "d_prime": "standard deviations",
    "auroc": "probability",
    "tau_gap": "activation units",
    "tau_gap_relative": "share of distance",
}


def _write_clusters(at: Comparison, found: list[tuple[Separation, Separation]], sheet: Sheet) -> None:
    count = {"n": len(found[0][1].allowed), "n_unit": "pair"}
    for layer, (before, after) in enumerate(found):
        changes = difference_of_differences(before, after, at.generator(11, layer), draws=at.sizes.bootstrap)
        for statistic, unit in CLUSTER_UNITS.items():
            view = sheet.with_(layer=layer, unit=unit, **count)
            for suffix, model in (("", after), ("_base", before)):
                nulls = [model.nulls[statistic]] if statistic in model.nulls else []
                view.add(statistic + suffix, model.values[statistic], model.intervals[statistic], nulls)
            change = changes[statistic]
            view.add(f"{statistic}_change", change.value, change.interval, [change.null] if change.null else [])
    _cluster_claims(at, found, sheet.with_(unit="share of distance", **count))


def _cluster_claims(at: Comparison, found: list[tuple[Separation, Separation]], sheet: Sheet) -> None:
    """Means over layers of the change of the relative gap, and how much more of it there is in the later half."""
    per_layer = [
        (after.allowed[:, 2] - before.allowed[:, 2], after.forbidden[:, 2] - before.forbidden[:, 2])
        for before, after in found
    ]
    gaps = np.array([allowed - forbidden for allowed, forbidden in per_layer])  # (layers, pairs)
    half = len(gaps) // 2
    name = "tau_gap_relative"
    kinds = {
        f"{name}_change": gaps.mean(0),
        f"{name}_change_depth": gaps[half:].mean(0) - gaps[:half].mean(0),
    }
    draws = [
        (after.nulls[name].draws, before.nulls[name].draws) if after.nulls else (None, None) for before, after in found
    ]
    for statistic, pairs in kinds.items():
        means = bootstrap_means([pairs], at.generator(12), draws=at.sizes.bootstrap)
        nulls = []
        if all(a is not None and b is not None for a, b in draws) and draws:
            shifts = np.array([a - b for a, b in draws if a is not None and b is not None])
            permuted = shifts.mean(0) if statistic.endswith("change") else shifts[half:].mean(0) - shifts[:half].mean(0)
            nulls = [from_draws("label_permutation", permuted)]
        sheet.add(statistic, float(pairs.mean()), percentile_interval(means[:, 0]), nulls)


def observe_gain(at: Comparison, sheet: Sheet) -> None:
    """Observation 3: how strongly ΔW acts on allowed and forbidden prompts, and where its input directions point."""
    for name, after in at.after.items():
        logs: dict[str, list[np.ndarray]] = {"": [], "_in_situ": []}
        rows: list[np.ndarray] = []
        row_nulls: list[tuple[Null, ...]] = []
        for layer in at.layers:
            delta, _ = at.update(layer)
            if not bool((delta != 0).any()):
                continue
            view = sheet.with_(set=name, site="mlp_in", layer=layer)
            for suffix, (allowed, forbidden) in (("", at.before[name]), ("_in_situ", after)):
                logs[suffix].append(_gains(at, layer, allowed, forbidden, suffix, view))
            if at.last:
                place = (layer, "mlp_in")
                allowed, forbidden = at.before[name]
                contrast = row_contrast(
                    forbidden[place],
                    allowed[place],
                    delta,
                    TOP_K,
                    at.generator(3, layer),
                    draws=at.sizes.draws,
                )
                rows.append(contrast.forbidden - contrast.allowed)
                row_nulls.append(contrast.nulls)
                view.add(
                    "row_energy_difference", contrast.value, contrast.interval, contrast.nulls,
                    unit="share of energy", n=len(contrast.allowed), n_unit="pair",
                )  # fmt: skip
        view = sheet.with_(set=name, site="mlp_in", n=at.sizes.contrast, n_unit="pair")
        for suffix, values in logs.items():
            if values:
                _mean_line(at, view, f"gain_log_ratio{suffix}", np.mean(values, axis=0), [], "log ratio")
        if rows:
            over_layers = [mean_null(list(kind)) for kind in zip(*row_nulls, strict=True)]
            _mean_line(at, view, "row_energy_difference", np.mean(rows, axis=0), over_layers, "share of energy")


def _mean_line(at: Comparison, sheet: Sheet, statistic: str, values: np.ndarray, nulls: list[Null], unit: str) -> None:
    means = bootstrap_means([values], at.generator(13), draws=at.sizes.bootstrap)
    sheet.add(statistic, float(values.mean()), percentile_interval(means[:, 0]), nulls, unit=unit)


def _gains(at: Comparison, layer: int, allowed: Places, forbidden: Places, suffix: str, sheet: Sheet) -> np.ndarray:
    """Writes the mean gains of a layer; returns each pair's log ratio of forbidden to allowed, (N,)."""
    old, new = at.mlps[layer]
    found = {}
    for verdict, places in (("allowed", allowed), ("forbidden", forbidden)):
        a = places[(layer, "mlp_in")].double()
        found[verdict] = gain(a, new.w_in - old.w_in, new.b_in - old.b_in, old.w_in, old.b_in)
        for kind in ("relative", "absolute"):
            values = getattr(found[verdict], kind)
            means = bootstrap_means([values], at.generator(14), draws=at.sizes.bootstrap)
            view = sheet.with_(set=f"{sheet.shared['set']}/{verdict}", n=len(values), n_unit="prompt", unit="ratio")
            view.add(f"gain_{kind}{suffix}", float(values.mean()), percentile_interval(means[:, 0]))
    return np.asarray(np.log(found["forbidden"].relative) - np.log(found["allowed"].relative))


def observe_function(at: Comparison, sheet: Sheet) -> None:
    """How the MLPs' outputs change on forbidden prompts, divided among the parts of ΔW and what earlier layers did."""
    for name, after in at.after.items():
        for verdict, old, new in (
            ("allowed", at.before[name][0], after[0]),
            ("forbidden", at.before[name][1], after[1]),
        ):
            differences, nulls = [], []
            for layer in at.layers:
                base, tuned = (Mlp(w.w_in, w.b_in, w.w_out, w.b_out) for w in at.mlps[layer])
                a_base, a_tuned = (places[(layer, "mlp_in")].double() for places in (old, new))
                effect = mlp_effect(base, tuned, a_base, a_tuned)
                primary = name == PRIMARY and verdict == "forbidden"
                found = (
                    effect_nulls(base, tuned, a_base, a_tuned, at.generator(6, layer), min(20, at.sizes.draws))
                    if primary
                    else ()
                )
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", layer=layer, n=len(a_base), n_unit="prompt")
                for number, source in enumerate(SOURCES):
                    interval = _share_interval(at, effect.parts, effect.total, number)
                    view.add(
                        f"effect_share_{source}", effect.pooled_share[number], interval,
                        found[number : number + 1], unit="share of squared change",
                    )  # fmt: skip
                view.add("effect_relative_size", float(effect.total_relative.mean()), unit="share of norm")
                if primary:
                    differences.append(_null_minus_column(at, effect.parts, effect.total))
                    nulls.append(_difference(found[0], found[1]))
            if differences:
                draws = np.mean([d for _, d in differences], axis=0)
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", n=at.sizes.contrast, n_unit="prompt")
                view.add(
                    "effect_null_minus_column", float(np.mean([v for v, _ in differences])), percentile_interval(draws),
                    [mean_null(nulls)], unit="share of squared change",
                )  # fmt: skip


def _along(parts: Tensor, total: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) inner products of each part with the total change, and (N,) its squared norm."""
    return (parts * total[:, None]).sum(2).numpy(), total.square().sum(1).numpy()


def _share_interval(at: Comparison, parts: Tensor, total: Tensor, number: int) -> Interval:
    along, size = _along(parts, total)
    means = bootstrap_means([along[:, number], size], at.generator(15), [np.arange(len(size))] * 2, at.sizes.bootstrap)
    return percentile_interval(means[:, 0] / means[:, 1])


def _null_minus_column(at: Comparison, parts: Tensor, total: Tensor) -> tuple[float, np.ndarray]:
    along, size = _along(parts, total)
    difference = along[:, 0] - along[:, 1]
    means = bootstrap_means([difference, size], at.generator(15), [np.arange(len(size))] * 2, at.sizes.bootstrap)
    return float(difference.sum() / size.sum()), means[:, 0] / means[:, 1]


def _difference(a: Null, b: Null) -> Null:
    if a.draws is None or b.draws is None:
        return Null(a.kind, a.mean - b.mean, a.low - b.high, a.high - b.low)
    return from_draws(a.kind, a.draws - b.draws)


def observe_attacks(at: Comparison, sheet: Sheet) -> None:
    """Observation 5: where attacked prompts lie between forbidden (0) and allowed (1), and how ΔW acts on them."""
    reference = {"forbidden/conditional/unsafe": at.pairs[0], "forbidden/never/safe": at.pairs[1]}
    for attack, sources in FORBIDDEN_SOURCES.items():
        for source in sources:
            contrast = reference[source]
            prompts = attacked(at.world, attack, contrast.forbidden, seed=at.seed)
            of_base, of_tuned = read(at.base, at.world, prompts), read(at.tuned, at.world, prompts)
            view = sheet.with_(set=source, attack=attack, n=len(prompts), n_unit="prompt")
            _positions(at, contrast.name, of_base, of_tuned, view)
            _gain_ratios(at, contrast.name, of_base, view)


def _positions(at: Comparison, name: str, of_base: Places, of_tuned: Places, sheet: Sheet) -> None:
    rows = np.arange(at.sizes.contrast)
    for suffix, attacked_at, (allowed, forbidden) in (
        ("", of_tuned, at.after[name]),
        ("_base", of_base, at.before[name]),
    ):
        for number, site in enumerate(SITES):
            placed: list[np.ndarray] = []
            nulls: list[Null] = []
            for layer in at.layers:
                place = (layer, site)
                found = present(
                    position(
                        attacked_at[place], forbidden[place], allowed[place], at.generator(5, number, layer),
                        source=rows, draws=at.sizes.bootstrap,
                    )
                )  # fmt: skip
                if found is None:
                    continue
                placed.append(found.positions)
                nulls.append(found.null)
                sheet.add(
                    f"position{suffix}", found.mean, found.interval, [found.null], site=site, layer=layer,
                    unit="share of the way to allowed",
                )  # fmt: skip
            if placed:
                view = sheet.with_(site=site)
                _mean_line(
                    at,
                    view,
                    f"position{suffix}",
                    np.mean(placed, axis=0),
                    [mean_null(nulls)],
                    "share of the way to allowed",
                )


def _gain_ratios(at: Comparison, name: str, of_base: Places, sheet: Sheet) -> None:
    logs: list[np.ndarray] = []
    forbidden = at.before[name][1]
    for layer in at.layers:
        old, new = at.mlps[layer]
        delta, shift = new.w_in - old.w_in, new.b_in - old.b_in
        if not bool((delta != 0).any()):
            continue
        place = (layer, "mlp_in")
        on_attacked, on_forbidden = (
            gain(places[place].double(), delta, shift, old.w_in, old.b_in).relative for places in (of_base, forbidden)
        )
        ratio = gain_ratio(
            on_attacked,
            on_forbidden,
            at.generator(7, layer),
            source=np.arange(len(on_forbidden)),
            draws=at.sizes.bootstrap,
        )
        sheet.add(
            "gain_ratio_to_forbidden",
            ratio.value,
            ratio.interval,
            [ratio.null],
            site="mlp_in",
            layer=layer,
            unit="ratio",
        )
        logs.append(np.log(on_attacked) - np.log(on_forbidden))
    if logs:
        _mean_line(
            at,
            sheet.with_(site="mlp_in"),
            "gain_log_ratio_to_forbidden",
            np.mean(logs, axis=0),
            [],
            "log ratio",
        )
