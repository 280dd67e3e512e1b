"""The conditions under which each test is tried: nulls that are true by construction, nulls that it does not assume,
and planted effects. A cell of the calibration is one family of tests under one of them.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from deltaw.analysis import Mlp
from deltaw.calibration import planted_data as planting
from deltaw.calibration import trials
from deltaw.calibration.causal_trials import cause_cells
from deltaw.calibration.planted_data import Generator, Update, anisotropic, haar, isotropic, operators, swapped, tensor
from deltaw.calibration.seed_trials import seed_cells
from deltaw.calibration.trials import Cell
from deltaw.statistics import FloatArray

N, WIDTH = 48, 24
"""Pairs of prompts, and the width of their activations where a matrix does not set it."""


def cells() -> tuple[Cell, ...]:
    """All of them, by family."""
    makers = (
        _weights,
        _function,
        _clusters,
        _depth,
        _ranks,
        _gain,
        _rows,
        _attacks,
        _sensitivity,
        cause_cells,
        seed_cells,
    )
    return tuple(cell for make in makers for cell in make())


def _weights() -> Iterable[Cell]:
    def cell(condition: str, build: Callable[[Generator], Update], *true: str, **more: Any) -> Cell:
        return Cell("null space of weights", condition, build, trials.of_weights, frozenset(true), **more)

    every = ("rotation", "row_permutation", "row_sign_flip")
    tied = planting.leverage_tied
    yield cell("rotated update", planting.rotated, *every)
    yield cell("spectrum-matched update", planting.spectrum_matched, *every)
    yield cell("rows permuted", planting.permuted, "row_permutation", "row_sign_flip")
    yield cell("row signs flipped, update inside C(W)", planting.sign_flipped, "row_sign_flip")
    yield cell("rows longer with leverage", partial(tied, power=1.0), "row_sign_flip")
    yield cell("rows shorter with leverage", partial(tied, power=-1.0), "row_sign_flip")
    yield cell("5 % of the energy is decay along W", planting.decaying_along)
    yield cell("gradient of random errors, anisotropic inputs", planting.random_gradient)
    yield cell("all rows pushed the same way", planting.coherent)
    for more in (0.01, 0.02, 0.04, 0.08):
        build = partial(planting.enriched, more=more)
        yield cell(f"ρ_N raised by {more}", build, effect=more, unit="share of energy")


def _function() -> Iterable[Cell]:
    out, inputs = 64, 16

    def build(rng: Generator, update: Callable[..., Update]) -> trials.Mlps:
        at = update(rng, out=out, inputs=inputs)
        W, P = at.W, tensor(rng.standard_normal((inputs, out)) / np.sqrt(out))
        step = at.dW * 0.2 * W.norm() / at.dW.norm()
        a = tensor(anisotropic(rng, 24, inputs, mean=1.0))
        return trials.Mlps(Mlp(W, None, P, None), Mlp(W + step, None, P, None), a)

    def cell(condition: str, update: Callable[..., Update], *true: str, **more: Any) -> Cell:
        make = partial(build, update=update)
        return Cell("function of the MLP", condition, make, trials.of_function, frozenset(true), **more)

    tied = planting.leverage_tied
    yield cell("rotated update", planting.rotated, "row_sign_flip")
    yield cell("row signs flipped, update inside C(W)", planting.sign_flipped, "row_sign_flip")
    yield cell("rows shorter with leverage", partial(tied, power=-1.0), "row_sign_flip")
    yield cell("5 % of the energy is decay along W", planting.decaying_along)
    yield cell("gradient of random errors, anisotropic inputs", planting.random_gradient)
    for more in (0.08, 0.16):
        update = partial(planting.enriched, more=more)
        yield cell(f"ρ_N raised by {more}", update, effect=more, unit="share of energy of ΔW")


def _two_models(
    rng: Generator, before: float, after: float, text: Callable[[Generator, int, int], FloatArray] = isotropic
) -> list[tuple[FloatArray, FloatArray]]:
    """[base, tuned] of (allowed, forbidden) (N, WIDTH): pairs share their text, clusters lie `before` and `after`
    standard deviations apart, half of the noise is common to both models, and the tuned one is turned.
    """
    shared, direction = text(rng, N, WIDTH), haar(rng, WIDTH, 1)[:, 0]
    noise = [isotropic(rng, N, WIDTH) for _ in range(2)]
    anew = [0.7 * one + 0.51**0.5 * isotropic(rng, N, WIDTH) for one in noise]
    turn = haar(rng, WIDTH, WIDTH)
    base = [shared + side * before / 2 * direction + one for side, one in zip((1, -1), noise, strict=True)]
    tuned = [(shared + side * after / 2 * direction + one) @ turn for side, one in zip((1, -1), anew, strict=True)]
    return [(base[0], base[1]), (tuned[0], tuned[1])]


def _clusters() -> Iterable[Cell]:
    def as_clusters(models: list[tuple[FloatArray, FloatArray]]) -> trials.Clusters:
        base, tuned = ((tensor(allowed), tensor(forbidden)) for allowed, forbidden in models)
        return trials.Clusters(base, tuned)

    def permuted(rng: Generator, text: Callable[[Generator, int, int], FloatArray]) -> trials.Clusters:
        return as_clusters(swapped(rng, *_two_models(rng, 2, 4, text)))

    def moved(rng: Generator, after: float) -> trials.Clusters:
        return as_clusters(_two_models(rng, 2, after))

    def by_operator(rng: Generator) -> trials.Clusters:
        base, (allowed, forbidden) = _two_models(rng, 0, 0)
        push = planting.pushes(rng, N, WIDTH, 1.0)
        return as_clusters([base, (allowed + push, forbidden - push)])

    def by_own_operator(rng: Generator) -> trials.Clusters:
        base, (allowed, forbidden) = _two_models(rng, 0, 0)
        pushes = [planting.pushes(rng, N, WIDTH, 2**0.5) for _ in range(2)]  # as far apart as above
        return as_clusters([base, (allowed + pushes[0], forbidden + pushes[1])])

    def cell(condition: str, build: Callable[[Generator], Any], *true: str, **more: Any) -> Cell:
        return Cell("clusters", condition, build, trials.of_clusters, frozenset(true), **more)

    yield cell("labels permuted", partial(permuted, text=isotropic), "label_permutation")
    yield cell("labels permuted, anisotropic activations", partial(permuted, text=anisotropic), "label_permutation")
    yield cell("clusters as far apart as before", partial(moved, after=2))
    yield cell("operators as clusters, each pushed at random", by_operator)
    yield cell("operators as clusters, others on each side", by_own_operator)
    for more in (0.5, 1.0, 2.0):
        yield cell(
            f"clusters {more} further apart", partial(moved, after=2 + more), effect=more, unit="sd of the noise"
        )


LAYERS = 2
Models = list[tuple[FloatArray, FloatArray]]
"""[base, tuned] of (allowed, forbidden), (N, WIDTH) each."""


def _layers(rng: Generator, models: Models, noise: float = 0.6, count: int = LAYERS) -> list[Models]:
    """Layers that see the same models, each with noise of its own."""
    return [
        [(a + noise * isotropic(rng, *a.shape), f + noise * isotropic(rng, *f.shape)) for a, f in models]
        for _ in range(count)
    ]


def _relabelled(rng: Generator, layers: list[Models]) -> list[Models]:
    """Labels swapped within the same pairs in all layers and both models."""
    pairs = iter(swapped(rng, *(pair for models in layers for pair in models)))
    return [[next(pairs) for _ in models] for models in layers]


def _layered(
    family: str,
    measure: Callable[[Any, Generator], trials.Trials],
    condition: str,
    build: Callable[[Generator], list[Models]],
    *true: str,
    **more: Any,
) -> Cell:
    """A cell of tests that are made over layers."""

    def made(rng: Generator) -> list[trials.Clusters]:
        found = build(rng)
        return [trials.Clusters(*((tensor(a), tensor(f)) for a, f in models)) for models in found]

    return Cell(family, condition, made, measure, frozenset(true), **more)


def _depth() -> Iterable[Cell]:
    def growing(rng: Generator, more: float) -> list[Models]:
        """Clusters move further apart by 2, and in the later half by `more` than that."""
        early, late = (_two_models(rng, 2, 4 + extra) for extra in (0.0, more))
        half = LAYERS // 2
        return [*_layers(rng, early, count=half), *_layers(rng, late, count=half)]

    def relabelled(rng: Generator) -> list[Models]:
        return _relabelled(rng, growing(rng, 2.0))

    def by_operator(rng: Generator) -> list[Models]:
        """Each operator pushes its prompts as far in every layer, in each in a direction of its own."""
        layers = []
        for base, (allowed, forbidden) in growing(rng, 0.0):
            push = planting.pushes(rng, N, WIDTH, 1.0)
            layers.append([base, (allowed + push, forbidden - push)])
        return layers

    cell = partial(_layered, "clusters by depth", trials.of_depth)
    yield cell("labels permuted", relabelled, "label_permutation")
    yield cell("clusters move as far in all layers", partial(growing, more=0.0))
    yield cell("operators as clusters, each pushed at random", by_operator)
    for more in (1.0, 2.0, 4.0):
        build = partial(growing, more=more)
        yield cell(f"clusters {more} further apart in later layers", build, effect=more, unit="sd of the noise")


def _ranks() -> Iterable[Cell]:
    def further(rng: Generator) -> list[Models]:
        return _layers(rng, _two_models(rng, 2, 4, anisotropic))

    def relabelled(rng: Generator) -> list[Models]:
        return _relabelled(rng, further(rng))

    def exchanged(rng: Generator) -> list[Models]:
        """What the base and the tuned model make of forbidden prompts, swapped at the same rows in all layers."""
        layers = further(rng)
        pairs = swapped(rng, *((base[1], tuned[1]) for base, tuned in layers))
        return [[(base[0], b), (tuned[0], t)] for (base, tuned), (b, t) in zip(layers, pairs, strict=True)]

    def by_operator(rng: Generator) -> list[Models]:
        """Each operator pushes its prompts, another way in each model and for each verdict."""
        which = operators(rng, N)

        def push() -> FloatArray:
            return np.asarray(isotropic(rng, planting.OPERATORS, WIDTH)[which])

        return _layers(rng, [(a + push(), f + push()) for a, f in _two_models(rng, 2, 2)])

    def fewer(rng: Generator, gone: int) -> list[Models]:
        """Tuning takes some directions of forbidden prompts away."""
        base, (allowed, forbidden) = _two_models(rng, 2, 2)
        kept = haar(rng, WIDTH, WIDTH - gone)
        return _layers(rng, [base, (allowed, forbidden @ kept @ kept.T)], noise=0.0)

    cell = partial(_layered, "ranks")
    yield cell(trials.of_rank_ratio, "labels permuted", relabelled, "label_permutation")
    yield cell(trials.of_rank_change, "models swapped", exchanged, "model_swap")
    yield cell(trials.of_ranks, "clusters further apart, as many directions", further)
    yield cell(trials.of_ranks, "operators as clusters, each pushed at random", by_operator)
    for gone in (1, 2, 4):
        condition = f"directions gone, {gone} of {WIDTH}"
        yield cell(
            trials.of_ranks, condition, partial(fewer, gone=gone), effect=float(gone), unit=f"of {WIDTH} directions"
        )  # fmt: skip


def _prompts(
    rng: Generator, apart: float, text: Callable[[Generator, int, int], FloatArray] = isotropic
) -> tuple[FloatArray, FloatArray]:
    """(allowed, forbidden) inputs (N, IN) that share their text; class means `apart` along a random direction."""
    shared, direction = text(rng, N, planting.IN), haar(rng, planting.IN, 1)[:, 0]
    noise = [isotropic(rng, N, planting.IN) for _ in range(2)]
    return shared + apart / 2 * direction + noise[0], shared - apart / 2 * direction + noise[1]


def _learnt_from(rng: Generator, *activations: FloatArray) -> Update:
    """An update from errors without meaning on these inputs: Σ δ aᵀ, δ independent with a common mean."""
    errors = isotropic(rng, sum(map(len, activations)), planting.OUT) + isotropic(rng, 1, planting.OUT)
    return Update(tensor(planting.weights(rng)), tensor(errors.T @ np.concatenate(activations)))


def _inputs(allowed: FloatArray, forbidden: FloatArray, update: Update) -> trials.Inputs:
    return trials.Inputs(tensor(allowed), tensor(forbidden), update)


def _unrelated(rng: Generator, text: Callable[[Generator, int, int], FloatArray] = isotropic) -> trials.Inputs:
    return _inputs(*_prompts(rng, 4, text), planting.rotated(rng))


def _from_both(rng: Generator) -> trials.Inputs:
    pair = _prompts(rng, 4, anisotropic)
    return _inputs(*pair, _learnt_from(rng, *pair))


def _from_forbidden(rng: Generator) -> trials.Inputs:
    allowed, forbidden = _prompts(rng, 4, anisotropic)
    return _inputs(allowed, forbidden, _learnt_from(rng, forbidden))


def _by_operator(rng: Generator) -> trials.Inputs:
    """Each operator pushes its prompts, the two sides of a pair in opposite directions."""
    allowed, forbidden = _prompts(rng, 0)
    push = planting.pushes(rng, N, planting.IN, np.sqrt(planting.IN) / 2)
    return _inputs(allowed + push, forbidden - push, planting.rotated(rng))


def _by_own_operator(rng: Generator) -> trials.Inputs:
    """Each operator pushes its prompts; the two sides of a pair have other operators."""
    allowed, forbidden = _prompts(rng, 0)
    pushes = [planting.pushes(rng, N, planting.IN, np.sqrt(planting.IN) / 2) for _ in range(2)]
    return _inputs(allowed + pushes[0], forbidden + pushes[1], planting.rotated(rng))


def _gain() -> Iterable[Cell]:
    def exchanged(rng: Generator, text: Callable[[Generator, int, int], FloatArray]) -> trials.Inputs:
        (pair,) = swapped(rng, _prompts(rng, 4, text))
        return _inputs(*pair, planting.rotated(rng))

    def louder(rng: Generator, more: float) -> trials.Inputs:
        """ΔW acts more on one direction, in which forbidden prompts are larger."""
        allowed, forbidden = _prompts(rng, 0)
        at, direction = planting.rotated(rng), haar(rng, planting.IN, 1)[:, 0]
        dW = at.dW / at.dW.norm() + 2 * tensor(haar(rng, planting.OUT, 1) * direction)
        scale = 1 + more
        forbidden = forbidden + (scale - 1) * np.outer(forbidden @ direction, direction)
        return _inputs(allowed, forbidden, Update(at.W, dW))

    def cell(condition: str, build: Callable[[Generator], Any], *true: str, **more: Any) -> Cell:
        return Cell("gain", condition, build, trials.of_gain, frozenset(true), **more)

    yield cell("labels permuted", partial(exchanged, text=isotropic), "label_permutation")
    yield cell("labels permuted, anisotropic activations", partial(exchanged, text=anisotropic), "label_permutation")
    yield cell("rotated update, classes apart", _unrelated)
    yield cell("operators as clusters, each pushed at random", _by_operator)
    yield cell("operators as clusters, others on each side", _by_own_operator)
    yield cell("update learnt from random errors on both classes", _from_both)
    yield cell("update learnt from random errors on forbidden prompts", _from_forbidden)
    for more in (0.2, 0.4, 0.8):
        yield cell(
            f"forbidden prompts {more} larger along ΔW's direction",
            partial(louder, more=more), effect=more, unit="share of their size there",
        )  # fmt: skip


def _reading(rng: Generator, allowed: FloatArray, forbidden: FloatArray, directions: FloatArray) -> trials.Inputs:
    """An update of which these (k, IN) are the input directions."""
    dW = haar(rng, planting.OUT, len(directions)) @ directions
    return _inputs(allowed, forbidden, Update(tensor(planting.weights(rng)), tensor(dW)))


def _rows() -> Iterable[Cell]:
    def spanned(rng: Generator, centred: bool) -> trials.Inputs:
        """ΔW's input directions are k draws from N(0, M), the null itself."""
        allowed, forbidden = _prompts(rng, 4, anisotropic)
        middle = (allowed.mean(0) + forbidden.mean(0)) / 2 if centred else 0.0
        rows = np.concatenate([allowed - middle, forbidden - middle])
        return _reading(rng, allowed, forbidden, isotropic(rng, trials.TOP_K, len(rows)) @ rows)

    def mixed(rng: Generator, share: float) -> trials.Inputs:
        """The same, with the class difference mixed into every direction that is drawn."""
        allowed, forbidden = _prompts(rng, 4, anisotropic)
        rows = np.concatenate([allowed, forbidden])
        apart = isotropic(rng, trials.TOP_K, len(forbidden)) @ forbidden
        drawn = isotropic(rng, trials.TOP_K, len(rows)) @ rows / 2**0.5
        return _reading(rng, allowed, forbidden, (1 - share) * drawn + share * apart)

    def layered(rng: Generator, shared: bool) -> list[trials.Inputs]:
        """Four layers that see the same prompts; each has directions drawn from N(0, M). shared: by the same weights of
        prompts in all, as the layers of an update are made from the same prompts.
        """
        allowed, forbidden = _prompts(rng, 4, anisotropic)
        weights = isotropic(rng, trials.TOP_K, 2 * N)
        layers = []
        for _ in range(4):
            pair = [one + 0.6 * isotropic(rng, N, planting.IN) for one in (allowed, forbidden)]
            drawn = (weights if shared else isotropic(rng, trials.TOP_K, 2 * N)) @ np.concatenate(pair)
            layers.append(_reading(rng, pair[0], pair[1], drawn))
        return layers

    def cell(condition: str, build: Callable[[Generator], Any], *true: str, **more: Any) -> Cell:
        return Cell("row space", condition, build, trials.of_rows, frozenset(true), **more)

    yield cell("directions drawn from N(0, M)", partial(spanned, centred=False), "m_matched")
    yield cell("directions drawn from N(0, M), M centred", partial(spanned, centred=True), "m_matched_centred")
    yield cell("rotated update, classes apart", _unrelated)
    yield cell("rotated update, anisotropic activations", partial(_unrelated, text=anisotropic))
    yield cell("operators as clusters, each pushed at random", _by_operator)
    yield cell("operators as clusters, others on each side", _by_own_operator)
    yield cell("update learnt from random errors on both classes", _from_both)
    yield cell("update learnt from random errors on forbidden prompts", _from_forbidden)
    over_layers = partial(Cell, "row space", measure=trials.of_rows_over_layers)
    apart = partial(layered, shared=False)
    yield over_layers("four like layers, directions of their own", build=apart)
    alike = partial(layered, shared=True)
    yield over_layers("four like layers, directions by the same prompts", build=alike, true=frozenset({"m_matched"}))
    for share in (0.25, 0.5, 1.0):
        yield cell(
            f"a share of {share} of each direction from forbidden prompts",
            partial(mixed, share=share), effect=share, unit="share of forbidden prompts",
        )  # fmt: skip


def _attacks() -> Iterable[Cell]:
    def build(rng: Generator, shift: FloatArray, spread: float, swap: bool = False) -> trials.Attacked:
        """shift: (N,) how far an attacked prompt is moved, as a share of the way to allowed and as −log gain."""
        allowed, forbidden = _prompts(rng, 4)
        step = forbidden.mean(0) - allowed.mean(0)
        attacked = forbidden - np.outer(shift, step) + spread * isotropic(rng, N, planting.IN)
        of_forbidden = rng.lognormal(0, 0.3, size=N)
        of_attacked = of_forbidden * np.exp(-shift + spread * 0.3 * rng.standard_normal(N))
        gains = (of_attacked, of_forbidden)
        if swap:
            (attacked, forbidden), gains = swapped(rng, (attacked, forbidden), gains)
        return trials.Attacked(tensor(attacked), tensor(forbidden), tensor(allowed), gains)

    def exchanged(rng: Generator) -> trials.Attacked:
        return build(rng, np.full(N, 0.5), 0.5, swap=True)

    def in_layers(rng: Generator, shift: float, swap: bool) -> list[trials.Attacked]:
        """Four layers with three quarters of their variance in common."""
        allowed, forbidden = _prompts(rng, 4)
        attacked = forbidden - shift * (forbidden.mean(0) - allowed.mean(0)) + 0.5 * isotropic(rng, N, planting.IN)
        layers = [
            [one + 0.6 * isotropic(rng, N, planting.IN) for one in (attacked, forbidden, allowed)] for _ in range(4)
        ]
        pairs = [(x, f) for x, f, _ in layers]
        gains = (np.ones(N), np.ones(N))
        return [
            trials.Attacked(tensor(x), tensor(f), tensor(a), gains)
            for (x, f), (*_, a) in zip(swapped(rng, *pairs) if swap else pairs, layers, strict=True)
        ]

    def noisier(rng: Generator) -> trials.Attacked:
        return build(rng, np.zeros(N), 1.0)

    def by_operator(rng: Generator) -> trials.Attacked:
        return build(rng, 0.3 * rng.standard_normal(planting.OPERATORS)[operators(rng, N)], 0.5)

    def moved(rng: Generator, shift: float) -> trials.Attacked:
        return build(rng, np.full(N, shift), 1.0)

    def cell(condition: str, made: Callable[[Generator], Any], *true: str, **more: Any) -> Cell:
        return Cell("attacks", condition, made, trials.of_attacks, frozenset(true), **more)

    yield cell("attacked and source swapped", exchanged, "exchangeable_with_source")
    over_layers = partial(Cell, "attacks", measure=trials.of_layers)
    alike = partial(in_layers, shift=0.5, swap=True)
    yield over_layers("four like layers, swapped in all", build=alike, true=frozenset({"exchangeable_with_source"}))
    yield cell("attacked prompts vary more than their sources", noisier)
    yield cell("operators as clusters, each moved at random", by_operator)
    for shift in (0.05, 0.1, 0.2):
        yield cell(f"moved by {shift}", partial(moved, shift=shift), effect=shift, unit="share of the way; −log gain")
    farther = partial(in_layers, shift=0.1, swap=False)
    yield over_layers("moved by 0.1 in four layers", build=farther, effect=0.1, unit="share of the way")


def _sensitivity() -> Iterable[Cell]:
    def made(rng: Generator, change: Callable[[Generator], FloatArray], swap: bool) -> trials.Sensitivities:
        base = [rng.lognormal(4.8, 0.4, size=N) for _ in range(2)]
        tuned = [one * np.exp(change(rng)) for one in base]
        pairs = [(old, new) for old, new in zip(base, tuned, strict=True)]
        if swap:
            pairs = [swapped(rng, pair)[0] for pair in pairs]
        (old_a, new_a), (old_f, new_f) = pairs
        return trials.Sensitivities((old_a, old_f), (new_a, new_f))

    def cell(
        condition: str, change: Callable[[Generator], FloatArray], *true: str, swap: bool = False, **more: Any
    ) -> Cell:
        build = partial(made, change=change, swap=swap)
        return Cell("sensitivity", condition, build, trials.of_sensitivity, frozenset(true), **more)

    def clustered(rng: Generator) -> FloatArray:
        return 0.3 * rng.standard_normal(planting.OPERATORS)[operators(rng, N)] + 0.4 * rng.standard_normal(N)

    kinds = ("model_swap", "label_permutation")
    yield cell("models swapped", lambda rng: 1 + 0.5 * rng.standard_normal(N), *kinds, swap=True)
    yield cell("log ratios skewed to the right, mean 0", lambda rng: rng.exponential(size=N) - 1, "label_permutation")
    yield cell("log ratios skewed to the left, mean 0", lambda rng: 1 - rng.exponential(size=N), "label_permutation")
    yield cell("operators as clusters, each changed at random", clustered)
    for fall in (0.1, 0.2, 0.3):
        yield _falling(fall)


def _falling(fall: float) -> Cell:
    def build(rng: Generator) -> trials.Sensitivities:
        base = (rng.lognormal(4.8, 0.4, size=N), rng.lognormal(4.8, 0.4, size=N))
        allowed, forbidden = (
            one * np.exp(side * fall + 0.5 * rng.standard_normal(N)) for side, one in zip((1, -1), base, strict=True)
        )
        return trials.Sensitivities(base, (allowed, forbidden))

    name = f"falls by {fall} on forbidden, rises by as much on allowed"
    return Cell("sensitivity", name, build, trials.of_sensitivity, effect=fall, unit="log ratio, sd 0.5")
