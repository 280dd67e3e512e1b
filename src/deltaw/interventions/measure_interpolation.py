"""Less of ΔW, more of it, or the opposite: what a model on the line from base to tuned answers.

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
from itertools import product

import numpy as np

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions.interpolation import interpolated, randomly_extrapolated
from deltaw.interventions.states import layers_of
from deltaw.interventions.subject import Answered, Subject, player_fields
from deltaw.interventions.sweep import CHOSEN, HELD_OUT
from deltaw.statistics import FloatArray, bootstrap_means, from_draws, percentile_interval, smoothed_log_odds


def measure_interpolation(subject: Subject) -> None:
    """The whole model along ΔW, then parts of it alone; what extrapolation gains and costs."""
    sweep, base, tuned = subject.sweep, subject.base, subject.tuned
    view = subject.sheet.with_(intervention="interpolation")
    beyond: dict[float, Answered] = {}
    for alpha in sweep.alphas:
        answered = subject.answer(subject.whole, interpolated(base, tuned, alpha))
        subject.add_rates(answered, view.with_(dose=alpha, module="whole"))
        if alpha > 1:
            beyond[alpha] = answered
    for scope, alpha in product(sweep.scopes, sweep.scope_alphas):
        for name in (f"layer {k}" for k in layers_of(base)) if scope == "layers" else (scope,):
            answered = subject.answer(subject.conditional, interpolated(base, tuned, alpha, name))
            subject.add_rates(answered, view.with_(dose=alpha, **player_fields(name)))
    if beyond:
        extrapolation(subject, beyond)


def extrapolation(subject: Subject, beyond: Mapping[float, Answered]) -> None:
    """What the best of several α > 1 gains in refusal, beside steps as long without a direction, and what it costs: all
    three on the prompts that did not choose α.
    """

    def worth(alpha: float) -> float:
        safe, able = _safe_and_able(subject, beyond[alpha])
        return float(safe[CHOSEN].mean() + able[CHOSEN].mean())

    alpha = max(beyond, key=worth)
    drawn = []
    for number in range(subject.sweep.draws):
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
