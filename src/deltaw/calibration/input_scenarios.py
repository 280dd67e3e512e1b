"""Conditions of the tests of what reaches an update: gain, row energy, attacked prompts, sensitivity."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from deltaw.calibration import planted_data as planting
from deltaw.calibration import trials
from deltaw.calibration.planted_data import (
    Generator,
    N,
    Update,
    anisotropic,
    haar,
    isotropic,
    operators,
    swapped,
    tensor,
)
from deltaw.calibration.trials import Cell
from deltaw.statistics import FloatArray


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


def gain_cells() -> Iterable[Cell]:
    """On which prompts an update acts."""

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
        condition, build = f"forbidden prompts {more} larger along ΔW's direction", partial(louder, more=more)
        yield cell(condition, build, effect=more, unit="share of their size there")


def _reading(rng: Generator, allowed: FloatArray, forbidden: FloatArray, directions: FloatArray) -> trials.Inputs:
    """An update of which these (k, IN) are the input directions."""
    dW = haar(rng, planting.OUT, len(directions)) @ directions
    return _inputs(allowed, forbidden, Update(tensor(planting.weights(rng)), tensor(dW)))


def row_cells() -> Iterable[Cell]:
    """Which prompts the rows of an update read."""

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
            pair = [x + 0.6 * isotropic(rng, N, planting.IN) for x in (allowed, forbidden)]
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
        condition, build = f"a share of {share} of each direction from forbidden prompts", partial(mixed, share=share)
        yield cell(condition, build, effect=share, unit="share of forbidden prompts")


def attack_cells() -> Iterable[Cell]:
    """Where attacked prompts lie."""

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
        layers = [[x + 0.6 * isotropic(rng, N, planting.IN) for x in (attacked, forbidden, allowed)] for _ in range(4)]
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


def sensitivity_cells() -> Iterable[Cell]:
    """How far a small change of a prompt moves the answer."""

    def made(rng: Generator, change: Callable[[Generator], FloatArray], swap: bool) -> trials.Sensitivities:
        base = [rng.lognormal(4.8, 0.4, size=N) for _ in range(2)]
        tuned = [x * np.exp(change(rng)) for x in base]
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
            x * np.exp(side * fall + 0.5 * rng.standard_normal(N)) for side, x in zip((1, -1), base, strict=True)
        )
        return trials.Sensitivities(base, (allowed, forbidden))

    name = f"falls by {fall} on forbidden, rises by as much on allowed"
    return Cell("sensitivity", name, build, trials.of_sensitivity, effect=fall, unit="log ratio, sd 0.5")
