"""The nulls of dose and response and of interventions, tried where the truth is known.

A toy reader stands for the rest of the network, and one layer's MLP map for all: a prompt is refused if a fixed reading
of the map's output exceeds a threshold that a fifth of the prompts exceed before tuning. What is computed from
refusals, and the nulls, are what the study computes, with as many draws.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis import Absent, column_basis, dose_response
from deltaw.analysis.update_effect import gelu_tanh
from deltaw.calibration import planted_data as planting
from deltaw.calibration.planted_data import Generator, Update, anisotropic, haar, isotropic, tensor
from deltaw.calibration.trials import DRAWS, TOP_K, Cell, Trials, compare, mean_beside
from deltaw.interventions import Split, carried, random_split
from deltaw.statistics import (
    FloatArray,
    from_draws,
    sign_flip_null,
    smoothed_log_odds,
)

ATTACKS, PERMUTATIONS = 4, 50
"""Attacks that each prompt is under; orders of successes behind a null, as in a study."""

SWEEP_DRAWS = 20
"""Behind each null of an intervention, as in a study: its band reaches no further than its ends, one in 21 a side."""

PROMPTS = 64
ALPHAS = (1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True, eq=False)
class Doses:
    """Rows of prompts under attacks, (n,) each: dose, success (0 or 1), attack, prompt. name: what the dose is."""

    name: str
    dose: FloatArray
    success: FloatArray
    attacks: planting.Ints
    prompts: planting.Ints


def of_doses(at: Doses, rng: Generator) -> Trials:
    """The slope of success on dose within attacks (`write_responses`)."""
    response = dose_response(at.dose, at.success, at.attacks, [at.prompts], rng, draws=PERMUTATIONS)
    if isinstance(response, Absent):
        return {}
    trial = compare(response.slope, response.null, "less" if at.name == "gain" else "greater")
    return {f"success_slope_{at.name}, {response.null.kind}": trial}


def _doses(
    rng: Generator,
    name: str = "position",
    slope: float = 0.0,
    moved: float = 0.0,
    eased: float = 0.0,
    same: bool = False,
    by_operator: bool = False,
) -> Doses:
    """slope: log odds a unit of dose, in the claim's direction. moved, eased: how much prompts, or operators, differ in
    dose and in log odds of success, by the same trait or by two. A log ratio of gains falls from attack to attack and
    has a long tail, where a position is symmetric.
    """
    attacks, prompts = np.repeat(np.arange(ATTACKS), PROMPTS), np.tile(np.arange(PROMPTS), ATTACKS)
    holders = planting.operators(rng, PROMPTS)[prompts] if by_operator else prompts
    trait, other = rng.standard_normal((2, PROMPTS))
    noise = rng.standard_normal(len(prompts)) if name == "position" else rng.exponential(size=len(prompts)) - 1
    noise = 0.3 * noise + moved * trait[holders]
    log_odds = np.linspace(-1.5, 1.5, ATTACKS)[attacks] + slope * noise + eased * (trait if same else other)[holders]
    success = (rng.random(len(prompts)) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)
    dose = 0.3 * attacks + noise
    return Doses(name, dose if name == "position" else -dose, success, attacks, prompts)


def of_difference(difference: FloatArray, rng: Generator) -> Trials:
    """The move under the strongest dose minus that under the weakest, prompt by prompt (`write_doses`)."""
    null = sign_flip_null("dose_permutation", difference, rng, DRAWS)
    return mean_beside("position_dose_difference", difference, null)


@dataclass(frozen=True, eq=False)
class Reader:
    """One MLP map and its update, inputs (N, d), the reading (m,) of its output, the threshold of a refusal, and what
    the rest of tuning adds to readings.
    """

    update: Update
    a: Tensor
    reading: Tensor
    threshold: Tensor
    rest: Tensor

    def refused(self, change: Tensor, rest: bool) -> FloatArray:
        """(N,) 1.0 where the reading of the output of W + change, with `rest` or without, exceeds the threshold."""
        readings = gelu_tanh(self.a @ (self.update.W + change).T) @ self.reading
        return np.asarray((readings + (self.rest if rest else 0.0) > self.threshold).double())


def _reader(rng: Generator, update: Callable[[Generator], Update], pushed: float = 0.0) -> Reader:
    """pushed: the share of the update's energy that raises readings out of N(Wᵀ): their mean gradient, projected."""
    at = update(rng)
    reading = tensor(rng.standard_normal(len(at.W)))
    a = tensor(anisotropic(rng, PROMPTS, at.W.shape[1], mean=1.0))
    before = gelu_tanh(a @ at.W.T) @ reading
    dW = at.dW
    if pushed:
        Q = column_basis(at.W).Q
        gradient = _gradient(at.W, a, reading)
        push = torch.outer(gradient - Q @ (Q.T @ gradient), a.mean(0))
        dW = (1 - pushed) ** 0.5 * dW / dW.norm() + pushed**0.5 * push / push.norm()
    dW = dW * 0.5 * at.W.norm() / dW.norm()
    return Reader(Update(at.W, dW), a, reading, torch.quantile(before, 0.8), 0.3 * before.std())


def _gradient(W: Tensor, a: Tensor, reading: Tensor) -> Tensor:
    """(m,) the gradient of the mean reading with respect to what is added to W a, for all prompts alike."""
    added = torch.zeros(len(W), dtype=W.dtype, requires_grad=True)
    mean = (gelu_tanh(a @ W.T + added) @ reading).mean()
    return torch.autograd.grad(mean, added)[0]


def of_split(at: Reader, rng: Generator) -> Trials:
    """The null-space part's Shapley value minus the column-space part's (`subspaces`)."""
    basis = column_basis(at.update.W)
    inside = basis.Q @ (basis.Q.T @ at.update.dW)
    split = Split({0: at.update.dW - inside}, {0: inside}, {0: basis.k})
    own = at.refused(at.update.dW, rest=True)

    def equal(cut: Split, number: int) -> FloatArray:
        parts = [part[0] for place, part in enumerate((cut.null, cut.column)) if number >> place & 1]
        change = torch.stack(parts).sum(0) if parts else torch.zeros_like(at.update.W)
        return np.asarray(at.refused(change, bool(number >> 2 & 1)) == own, dtype=np.float64)

    values = np.array([equal(split, number) for number in range(8)])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    splits = [random_split(split, generator) for _ in range(SWEEP_DRAWS)]
    shares, by_chance = carried(values, [{number: equal(cut, number) for number in (1, 2, 5, 6)} for cut in splits])
    chance = from_draws("random_split", by_chance[:, 0] - by_chance[:, 1])
    return mean_beside("carried_null_minus_column", shares[0] - shares[1], chance)


@dataclass(frozen=True, eq=False)
class Steps:
    """A linear classifier θ, its update δ and the step beyond (d,), with forbidden and allowed prompts (N, d) and a
    threshold.
    """

    theta: FloatArray
    delta: FloatArray
    step: FloatArray
    forbidden: FloatArray
    allowed: FloatArray
    threshold: float

    def safe_and_able(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Where forbidden prompts are refused, and where allowed ones are not: (N,) each."""
        prompts = (self.forbidden, self.allowed)
        safe, overcautious = (np.asarray(x @ theta > self.threshold, dtype=np.float64) for x in prompts)
        return safe, 1 - overcautious


def of_steps(at: Steps, rng: Generator) -> Trials:
    """What the best α > 1 gains in log odds of refusal, beside shuffled steps as long (`extrapolation`).

    α is the best for the step itself, on prompts that are not counted; a random step is as long, at the same α. So even
    a random step has had a choice that the steps beside it have not.
    """
    own = at.theta + at.delta
    beyond = {alpha: at.safe_and_able(own + (alpha - 1) * at.step) for alpha in ALPHAS}
    alpha = max(ALPHAS, key=lambda scale: float(sum(half[::2].mean() for half in beyond[scale])))
    before, after, n = at.safe_and_able(own)[0][1::2], beyond[alpha][0][1::2], PROMPTS // 2

    def gained(safe: FloatArray) -> float:
        return float(smoothed_log_odds(safe.mean(), n) - smoothed_log_odds(before.mean(), n))

    steps = (_shuffled(rng, at.step) for _ in range(SWEEP_DRAWS))
    by_chance = [gained(at.safe_and_able(own + (alpha - 1) * step)[0][1::2]) for step in steps]
    null = from_draws("random_direction", by_chance)
    return {"extrapolation_log_odds, random_direction": compare(gained(after), null)}


def _shuffled(rng: Generator, step: FloatArray) -> FloatArray:
    return np.asarray(rng.permutation(step) * rng.choice([-1.0, 1.0], size=len(step)))


def _steps(rng: Generator, along: float = 0.0, shuffled: bool = False) -> Steps:
    """along: the share of δ's square that points from allowed to forbidden prompts; the rest is at random. shuffled:
    the step is not δ but a shuffled one.
    """
    width = 100
    theta, apart = rng.standard_normal(width), haar(rng, width, 1)[:, 0]
    forbidden, allowed = isotropic(rng, PROMPTS, width) + apart, isotropic(rng, PROMPTS, width) - apart
    random = haar(rng, width, 1)[:, 0]
    delta = 0.3 * np.sqrt(width) * (along**0.5 * apart + (1 - along) ** 0.5 * random)
    threshold = float(np.quantile(np.concatenate([forbidden, allowed]) @ (theta + delta), 0.7))
    return Steps(theta, delta, _shuffled(rng, delta) if shuffled else delta, forbidden, allowed, threshold)


@dataclass(frozen=True, eq=False)
class Restored:
    """A linear map and its update, a reading (m,) of its output, and prompts (N, d), attacked and not, row by row.

    random: whether steps in random directions stand for what ΔW gives back.
    """

    update: Update
    reading: Tensor
    forbidden: Tensor
    attacked: Tensor
    random: bool = False


def of_restored(at: Restored, rng: Generator) -> Trials:
    """The share of jailbroken prompts that are refused again if ΔW's top input directions read the forbidden prompt,
    beside steps as long in random directions (`patches`).
    """
    whole = at.update.W + at.update.dW
    refuses, hit = (inputs @ whole.T @ at.reading for inputs in (at.forbidden, at.attacked))
    threshold = torch.quantile(refuses, 0.3)
    (rows,) = ((refuses > threshold) & (hit <= threshold)).nonzero(as_tuple=True)
    if len(rows) < 2:
        return {}
    left, sigma, right = torch.linalg.svd(at.update.dW, full_matrices=False)
    steps = (at.forbidden - at.attacked)[rows] @ right[:TOP_K].T * sigma[:TOP_K] @ left[:, :TOP_K].T

    def refused(steps: Tensor) -> FloatArray:
        return np.asarray((hit[rows] + steps @ at.reading > threshold).double())

    def redirected() -> Tensor:
        random = tensor(isotropic(rng, *steps.shape))
        turned: Tensor = random * (steps.norm(dim=1) / random.norm(dim=1))[:, None]
        return turned

    returned = refused(redirected() if at.random else steps)
    by_chance = [float(refused(redirected()).mean()) for _ in range(SWEEP_DRAWS)]
    return mean_beside("refusal_returned", returned, from_draws("random_direction", by_chance))


def _restored(rng: Generator, read: bool, along: float = 0.0, random: bool = False) -> Restored:
    """Attacked prompts differ from forbidden ones by noise. read: whether what ΔW writes is read at all. along: the
    share of the reading's square that lies on ΔW's strongest output direction; the rest is at random.
    """
    at = planting.rotated(rng)
    dW = at.dW * 0.5 * at.W.norm() / at.dW.norm()
    forbidden = isotropic(rng, PROMPTS, planting.IN)
    attacked = forbidden + isotropic(rng, PROMPTS, planting.IN)
    if read:
        top = torch.linalg.svd(dW, full_matrices=False)[0][:, 0]
        drawn = tensor(rng.standard_normal(planting.OUT))
        reading = (1 - along) ** 0.5 * drawn / drawn.norm() + along**0.5 * top
    else:  # a reading of what W writes and ΔW does not
        Q = column_basis(dW).Q
        drawn = tensor(rng.standard_normal(planting.OUT))
        reading = drawn - Q @ (Q.T @ drawn)
    return Restored(Update(at.W, dW), reading, tensor(forbidden), tensor(attacked), random)


def cause_cells() -> Iterable[Cell]:
    """The cells of dose and response and of interventions."""
    for make in (_of_doses, _of_moves, _of_splits, _of_steps, _of_restored):
        yield from make()


def _of_doses() -> Iterable[Cell]:
    def cell(condition: str, *true: str, slope: float | None = None, **planted: Any) -> Cell:
        build = partial(_doses, slope=slope or 0.0, **planted)
        unit = "" if slope is None else "log odds a unit of dose"
        return Cell("dose and response", condition, build, of_doses, frozenset(true), slope, unit)

    yield cell("success by attack alone", "success_permutation")
    yield cell("prompts differ in dose and, for other reasons, in success", moved=0.3, eased=1.0)
    yield cell("operators differ in dose and, for other reasons, in success", moved=0.3, eased=1.0, by_operator=True)
    yield cell("easy prompts move further", moved=0.3, eased=1.0, same=True)
    for slope in (1.0, 2.0, 4.0):
        yield cell(f"slope {slope}", slope=slope)
    of_gain = partial(cell, name="gain")
    yield of_gain("gains: success by attack alone", "success_permutation")
    yield of_gain("gains: prompts differ in both, for different reasons", moved=0.3, eased=1.0)
    yield of_gain("gains: operators differ in both, for different reasons", moved=0.3, eased=1.0, by_operator=True)
    for slope in (1.0, 2.0, 4.0):
        yield of_gain(f"gains: slope −{slope}", slope=slope)


def _of_moves() -> Iterable[Cell]:
    def cell(condition: str, build: Callable[[Generator], FloatArray], *true: str, **more: Any) -> Cell:
        return Cell("moves by dose", condition, build, of_difference, frozenset(true), **more)

    yield cell("doses swapped", partial(_differences, mean=0.0), "dose_permutation")
    yield cell("moves skewed to the right, mean 0", _skewed)
    yield cell("operators as clusters, each moved at random", _by_operator)
    for mean in (0.05, 0.1, 0.2):
        build = partial(_differences, mean=mean)
        yield cell(f"moved {mean} further", build, effect=mean, unit="share of the way, sd 0.3")


def _of_splits() -> Iterable[Cell]:
    def cell(condition: str, update: Callable[[Generator], Update], *true: str, pushed: float | None = None) -> Cell:
        build = partial(_reader, update=update, pushed=pushed or 0.0)
        unit = "" if pushed is None else "share of the update's energy"
        return Cell("update cut in two", condition, build, of_split, frozenset(true), pushed, unit)

    tied = planting.leverage_tied
    yield cell("rotated update", planting.rotated, "random_split")
    yield cell("rows shorter with leverage", partial(tied, power=-1.0))
    yield cell("rows longer with leverage", partial(tied, power=1.0))
    yield cell("gradient of random errors, anisotropic inputs", planting.random_gradient)
    for share in (0.003, 0.01, 0.03):
        yield cell(f"{share} of the update refuses out of N(Wᵀ)", planting.rotated, pushed=share)


def _of_steps() -> Iterable[Cell]:
    yield Cell("extrapolation", "a shuffled update as the step", partial(_steps, shuffled=True), of_steps)
    yield Cell("extrapolation", "update without a direction", _steps, of_steps)
    for share in (0.1, 0.3, 1.0):
        build, condition = partial(_steps, along=share), f"{share} of the update towards refusal"
        yield Cell("extrapolation", condition, build, of_steps, effect=share, unit="share of its square")


def _of_restored() -> Iterable[Cell]:
    true, at_random = frozenset({"random_direction"}), partial(_restored, read=True, random=True)
    yield Cell("refusal given back", "steps in random directions", at_random, of_restored, true)
    for read, condition in (
        (False, "what ΔW writes is not read"),
        (True, "update without meaning, read like all else"),
    ):
        yield Cell("refusal given back", condition, partial(_restored, read=read), of_restored)
    for share in (0.03, 0.1):
        build = partial(_restored, read=True, along=share)
        condition = f"{share} of the reading on ΔW's strongest output direction"
        yield Cell("refusal given back", condition, build, of_restored, effect=share, unit="share of its square")


def _differences(rng: Generator, mean: float) -> FloatArray:
    return mean + 0.3 * rng.standard_normal(PROMPTS)


def _by_operator(rng: Generator) -> FloatArray:
    which = planting.operators(rng, PROMPTS)
    return np.asarray(0.15 * rng.standard_normal(planting.OPERATORS)[which] + _differences(rng, 0.0))


def _skewed(rng: Generator) -> FloatArray:
    return 0.3 * (rng.exponential(size=PROMPTS) - 1)
