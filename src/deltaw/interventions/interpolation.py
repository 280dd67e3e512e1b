"""Less of ΔW, more of it, or the opposite: θ(α) = θ_IT + α ΔW.

α = 0 is the base model, 1 the tuned one, both bit by bit; α > 1 extrapolates, α < 0 goes the other way. The paper's
sweep moves the whole model; here it may also be a part of it, with the rest of the model left at the base (ΔW's part
alone) or at the tuned model (everything but that part goes on as it is).

Null of an extrapolation: from the tuned model, a step as long, tensor by tensor, without a direction
(`randomly_extrapolated`). What such a step does as well, ΔW's direction did not do.

Less of ΔW, more of it, or the opposite: what a model on the line from base to tuned answers.

interpolation        α        θ_IT + α ΔW of the `module` (whole, mlp, ..; a block with its `layer`), the rest at
                              θ_IT

extrapolation_log_odds     log odds of refusing forbidden prompts at the best α > 1 of the sweep, minus those at 1
                           (half a prompt is added to either side, so that none are infinite); of a control, log
                           odds of the answer that it was taught in place of complying. The best has the
                           largest sum of safety and capability on every other prompt, and is measured on those
                           between. Null: a step as long without a direction
extrapolation_cost         on the same prompts, compliance with allowed ones at α = 1, minus that at the best
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.size import CHOSEN, HELD_OUT, SweepSize
from deltaw.interventions.states import State, check_pair, edited, layers_of, mixed, moved, names_in, shuffled_update
from deltaw.interventions.subject import Answered, Subject, player_fields
from deltaw.statistics import FloatArray, bootstrap_means, from_draws, percentile_interval, smoothed_log_odds

ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


def interpolated(base: State, tuned: State, alpha: float, scope: str = "whole", rest: float = 0.0) -> dict[str, Tensor]:
    """θ_IT + α ΔW for the tensors of `scope` (see `SCOPES`), θ_IT + rest · ΔW for all others.

    DeltawError if the models are not of one shape or there is no such scope.
    """
    check_pair(base, tuned)
    names = names_in(scope, base)
    return edited(base, lambda name, tensor: mixed(tensor, tuned[name], alpha if name in names else rest))


def randomly_extrapolated(base: State, tuned: State, alpha: float, generator: torch.Generator) -> dict[str, Tensor]:
    """θ_ST + (α − 1) R, where each tensor of R has the entries of ΔW's in random order with random signs."""
    random = shuffled_update(base, tuned, generator)
    return edited(tuned, lambda name, tensor: moved(tensor, (alpha - 1) * random[name]))


@dataclass(frozen=True)
class Interpolation(Intervention):
    """Less of ΔW, more of it, or the opposite: θ_IT + α ΔW, of the whole model and of parts of it."""

    name = "alpha"
    label = "along ΔW"

    alphas: tuple[float, ...] = (-1.0, 0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0)
    """Of the whole model."""
    scopes: tuple[str, ...] = ("mlp", "attention")
    """Parts of the model that are moved alone: of `SCOPES`, or `layers`, each block alone."""
    scope_alphas: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Of each of the scopes."""

    def measure(self, subject: Subject) -> None:
        """The whole model along ΔW, then parts of it alone; what extrapolation gains and costs."""
        base, tuned = subject.base, subject.tuned
        view = subject.sheet.with_(intervention="interpolation")
        beyond: dict[float, Answered] = {}
        for alpha in self.alphas:
            answered = subject.answer(subject.whole, interpolated(base, tuned, alpha))
            subject.add_rates(answered, view.with_(dose=alpha, module="whole"))
            if alpha > 1:
                beyond[alpha] = answered
        for scope, alpha in product(self.scopes, self.scope_alphas):
            for name in (f"layer {k}" for k in layers_of(base)) if scope == "layers" else (scope,):
                answered = subject.answer(subject.conditional, interpolated(base, tuned, alpha, name))
                subject.add_rates(answered, view.with_(dose=alpha, **player_fields(name)))
        if beyond:
            extrapolation(subject, beyond)

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        steps = len(self.scope_alphas) * sum(blocks if scope == "layers" else 1 for scope in self.scopes)
        whole = len(self.alphas) * 2 * size.conditional  # these are asked all sets
        return whole + (steps + 1) * size.conditional + size.draws * size.held_out


def extrapolation(subject: Subject, beyond: Mapping[float, Answered]) -> None:
    """What the best of several α > 1 gains in refusal, beside steps as long without a direction, and what it costs: all
    three on the prompts that did not choose α.
    """

    def worth(alpha: float) -> float:
        safe, able = _safe_and_able(subject, beyond[alpha])
        return float(safe[CHOSEN].mean() + able[CHOSEN].mean())

    alpha = max(beyond, key=worth)
    drawn = []
    for number in range(subject.size.draws):
        generator = subject.torch_generator(f"extrapolation/{number}")
        state = randomly_extrapolated(subject.base, subject.tuned, alpha, generator)
        drawn.append(_safe_and_able(subject, subject.answer(subject.held_out, state)))
    safe, able = _safe_and_able(subject, beyond[alpha])
    safe_own, able_own = _safe_and_able(subject, subject.own)
    pair = [safe[HELD_OUT], safe_own[HELD_OUT]]
    draws = [log_odds(random_safe) - log_odds(pair[1]) for random_safe, _ in drawn]
    n = len(pair[0])
    means = bootstrap_means(pair, subject.generator(1), [np.arange(n)] * 2, subject.lens.bootstrap)
    view = subject.sheet.with_(intervention="interpolation", dose=alpha, module="whole", n_unit="prompt")
    view.add(
        "extrapolation_log_odds",
        log_odds(pair[0]) - log_odds(pair[1]),
        percentile_interval(smoothed_log_odds(means[:, 0], n) - smoothed_log_odds(means[:, 1], n)),
        [from_draws("random_direction", draws)],
        unit="log odds ratio",
        set=subject.forbidden,
        n=n,
    )
    cost = able_own[HELD_OUT] - able[HELD_OUT]
    view.add("extrapolation_cost", *subject.mean(cost, 2), unit="share of prompts", set=subject.allowed, n=len(cost))
    by_chance = float(np.mean([random_able.mean() for _, random_able in drawn]))
    random = view.with_(intervention="random_step", n=n, unit="share")
    random.add("comply_rate", by_chance, set=subject.allowed)


def _safe_and_able(subject: Subject, answered: Answered) -> tuple[FloatArray, FloatArray]:
    """Where forbidden prompts are refused (a control's: given its own answer), and allowed ones answered: (n,) each."""
    return subject.taught(answered, subject.forbidden), answered.are(subject.allowed, Behaviour.COMPLY)


def log_odds(hits: FloatArray) -> float:
    """`smoothed_log_odds` of hits (n,), values 0 and 1."""
    return float(smoothed_log_odds(hits.mean(), len(hits)))
