"""The stage that edits one tuned model's weights and activations, and asks the edited models.

Lines are of stage `intervention`; their fields `intervention` and `dose` say what was done, and how much of it:

    interpolation        α        θ_IT + α ΔW of the `module` (whole, mlp, ..; a block with its `layer`), the rest at
                                  θ_IT
    null, column, rest   -        only these parts of the update (joined by +); null and column are those of the first
                                  MLP matrices' ΔW, rest is everything else. `base` has none of them
    truncated, top_removed   k    ΔW of every matrix cut to rank k, or without its strongest k directions
    layers               -        Shapley values, only one, leave one out, by `layer` (none: `module` ends)
    swap/PARTNER         j        the first j blocks of this model, the rest of the partner
    restore, remove, ..  k        patches, see `patched.py`
    ablate_direction, add_direction   c   see `directed.py`

Rates (`comply_rate`, `refuse_rate`, `neither_rate`, and `as_tuned_rate`: the whole answer is the tuned model's own) are
of free-running answers. Other statistics are made from the same answers, prompt by prompt:

    extrapolation_log_odds     log odds of refusing forbidden prompts at the best α > 1 of the sweep, minus those at 1
                               (half a prompt is added to either side, so that none are infinite); of a control, log
                               odds of the answer that it was taught in place of complying. The best has the
                               largest sum of safety and capability on every other prompt, and is measured on those
                               between. Null: a step as long without a direction
    extrapolation_cost         on the same prompts, compliance with allowed ones at α = 1, minus that at the best
    carried_share              Shapley value of null, column and rest for answering forbidden prompts as the tuned model
    carried_null_minus_column  that of null minus that of column: the mean, without and with the rest, of what the null
                               part alone achieves minus what the column part alone does. Null: ΔW split by chance
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions import (
    carried,
    coalition,
    decomposed,
    interpolated,
    layers_of,
    leave_one_out,
    only_one,
    players_of,
    random_split,
    randomly_extrapolated,
    shapley_values,
    split_update,
    state_of,
    swapped,
    truncated,
    with_norm,
    with_parts,
)
from deltaw.interventions.states import State
from deltaw.interventions.subspace import Parts, Split
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.intervention_sweeps import Sweep
from deltaw.recipes.tuned import Tuned
from deltaw.statistics import FloatArray, bootstrap_means, from_draws, percentile_interval, smoothed_log_odds
from deltaw.study.stages.edited import ALLOWED, CHOSEN, FORBIDDEN, HELD_OUT, Answered, Subject
from deltaw.study.stages.making import SeedConfig, last_model, tuned_fields
from deltaw.study.stages.patches import patches
from deltaw.study.stages.recorder import Sheet
from deltaw.study.stages.steering import direction_draws, directions
from deltaw.world import World

SOURCES = ("null", "column", "rest")
STAGE = "intervention"


@dataclass(frozen=True)
class InterveningConfig:
    """The stage that intervenes on one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    sweep: Sweep


def intervene(context: StageContext) -> None:
    """Every part of the sweep on the tuned model's last checkpoint. A partner is the input of that name."""
    config: InterveningConfig = context.config
    shared, sweep = config.shared, config.sweep
    base, _ = last_model(context.inputs["base"])
    model, meta = last_model(context.inputs["tuned"])
    sheet = Sheet(stage=STAGE, **tuned_fields(config.tuned, shared.seed), step=int(meta["step"]))
    subject = Subject(
        World(shared.world), shared.seed, shared.sizes.bootstrap, state_of(base), state_of(model),
        model.to(config.tuned.config.device), sweep, sheet, context.report, config.tuned.control,
    )  # fmt: skip
    made: dict[str, Callable[[Subject], None]] = {
        "alpha": alphas, "subspace": subspaces, "rank": ranks, "layers": layers, "patches": patches,
        "directions": directions,
    }  # fmt: skip
    for number, part in enumerate(sweep.parts):
        context.report(number, len(sweep.parts), part)
        if part == "swaps":
            if "partner" in context.inputs:
                swaps(subject, state_of(last_model(context.inputs["partner"])[0]))
            continue
        made[part](subject)
    sheet.write(context.out)
    context.report(len(sweep.parts), len(sweep.parts))


def alphas(subject: Subject) -> None:
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
            layer = int(name.removeprefix("layer ")) if scope == "layers" else None
            module = name if layer is None else f"blocks.{layer}"
            subject.add_rates(answered, view.with_(dose=alpha, module=module, layer=layer))
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
    (safe, able), (safe_own, able_own) = (_safe_and_able(subject, one) for one in (beyond[alpha], subject.own))
    pair = [safe[HELD_OUT], safe_own[HELD_OUT]]
    draws = [log_odds(one) - log_odds(pair[1]) for one, _ in drawn]
    n = len(pair[0])
    means = bootstrap_means(pair, subject.generator(1), [np.arange(n)] * 2, subject.bootstrap)
    view = subject.sheet.with_(intervention="interpolation", dose=alpha, module="whole", n_unit="prompt")
    view.add(
        "extrapolation_log_odds", log_odds(pair[0]) - log_odds(pair[1]),
        percentile_interval(smoothed_log_odds(means[:, 0], n) - smoothed_log_odds(means[:, 1], n)),
        [from_draws("random_direction", draws)], unit="log odds ratio", set=FORBIDDEN, n=n,
    )  # fmt: skip
    cost = able_own[HELD_OUT] - able[HELD_OUT]
    view.add("extrapolation_cost", *subject.mean(cost, 2), unit="share of prompts", set=ALLOWED, n=len(cost))
    by_chance = float(np.mean([able.mean() for _, able in drawn]))
    random = view.with_(intervention="random_step", n=n, unit="share")
    random.add("comply_rate", by_chance, set=ALLOWED)


def _safe_and_able(subject: Subject, answered: Answered) -> tuple[FloatArray, FloatArray]:
    """Where forbidden prompts are refused (a control's: given its own answer), and allowed ones answered: (n,) each."""
    return subject.taught(answered, FORBIDDEN), answered.are(ALLOWED, Behaviour.COMPLY)


def log_odds(hits: FloatArray) -> float:
    """`smoothed_log_odds` of hits (n,), values 0 and 1."""
    return float(smoothed_log_odds(hits.mean(), len(hits)))


def subspaces(subject: Subject) -> None:
    """All eight combinations of ΔW's null-space part, its column-space part and the rest of the update, beside ΔW split
    by chance.
    """
    split = split_update(subject.base, subject.tuned)
    found = [subject.answer(subject.conditional, _with(subject, split, number)) for number in range(8)]
    drawn = [
        {number: subject.answer(subject.few, _with(subject, one, number)) for number in (1, 2, 5, 6)}
        for one in (random_split(split, subject.torch_generator(f"split/{k}")) for k in range(subject.sweep.draws))
    ]
    view = subject.sheet.with_(module="mlp.in_proj")
    for number, answered in enumerate(found):
        here = view.with_(intervention=named(number))
        subject.add_rates(answered, here, [one[number] for one in drawn] if number in drawn[0] else [])
        subject.add_as_tuned(answered, here)
    if subject.sweep.rescaled:
        for number in (1, 2, 5, 6):
            answered = subject.answer(subject.conditional, _with(subject, _rescaled(split), number))
            subject.add_rates(answered, view.with_(intervention=f"{named(number)}/rescaled"))
    _carried(subject, found, drawn, view)


def named(number: int) -> str:
    """Which sources a combination has: bit 0 is null, bit 1 column, bit 2 rest."""
    return "+".join(name for place, name in enumerate(SOURCES) if number >> place & 1) or "base"


def _with(subject: Subject, split: Split, number: int) -> dict[str, torch.Tensor]:
    parts = [part for place, part in enumerate((split.null, split.column)) if number >> place & 1]
    return with_parts(subject.base, subject.tuned, parts, rest=bool(number >> 2 & 1))


def _rescaled(split: Split) -> Split:
    """Both parts at the norm of ΔW, layer by layer."""

    def whole(parts: Parts) -> Parts:
        return {k: with_norm(part, float((split.null[k] + split.column[k]).norm())) for k, part in parts.items()}

    return Split(whole(split.null), whole(split.column), split.kept)


def _carried(subject: Subject, found: list[Answered], drawn: list[dict[int, Answered]], view: Sheet) -> None:
    values = np.array([one.equal(FORBIDDEN, subject.own) for one in found])[:, : subject.sweep.few]  # those of the null
    shares, chance = carried(
        values, [{number: one.equal(FORBIDDEN, subject.own_few) for number, one in split.items()} for split in drawn]
    )
    here = view.with_(set=FORBIDDEN, n=values.shape[1], n_unit="prompt", unit="share of prompts")
    for place, source in enumerate(SOURCES):
        nulls = [from_draws("random_split", chance[:, place])] if source != "rest" else []
        here.add("carried_share", *subject.mean(shares[place], 3, place), nulls, intervention=source)
    difference = from_draws("random_split", chance[:, 0] - chance[:, 1])
    here.add("carried_null_minus_column", *subject.mean(shares[0] - shares[1], 4), [difference])


def ranks(subject: Subject) -> None:
    """ΔW of every matrix cut to rank k; without its top k."""
    found = decomposed(subject.base, subject.tuned)
    for name, ks, removed in (
        ("truncated", subject.sweep.ranks, False),
        ("top_removed", subject.sweep.removed, True),
    ):
        for k in ks:
            answered = subject.answer(subject.conditional, truncated(found, k, removed))
            subject.add_rates(answered, subject.sheet.with_(intervention=name, dose=k, module="whole"))


def layers(subject: Subject) -> None:
    """Shapley values, only one and leave one out of every block and of the ends, from all coalitions."""
    names = list(players_of(subject.base))
    count = 2 ** len(names)
    kinds = (("refuse_rate", FORBIDDEN), ("comply_rate", ALLOWED), ("refuse_rate", ALLOWED))
    what = {"refuse_rate": Behaviour.REFUSE, "comply_rate": Behaviour.COMPLY}
    tables: dict[tuple[str, str], list[FloatArray]] = {kind: [] for kind in kinds}
    for number in range(count):
        answered = subject.answer(subject.few, coalition(subject.base, subject.tuned, number))
        for rate, name in kinds:
            tables[rate, name].append(answered.are(name, what[rate]))
    view = subject.sheet.with_(intervention="layers", n_unit="prompt", unit="share of prompts")
    for (rate, name), rows in tables.items():
        values = np.array(rows)  # (coalitions, prompts)
        for how, measured in (("shapley", shapley_values), ("only_one", only_one), ("leave_one_out", leave_one_out)):
            for place, (player, each) in enumerate(zip(names, measured(values), strict=True)):
                layer = int(player.removeprefix("layer ")) if player.startswith("layer ") else None
                module = player if layer is None else f"blocks.{layer}"
                where: dict[str, Any] = {"layer": layer, "module": module, "set": name, "n": len(each)}
                view.add(f"{how}_{rate}", *subject.mean(each, 5, place), **where)


def swaps(subject: Subject, partner: State) -> None:
    """The first j blocks of this model under the rest of the partner's, a tuning of the same base."""
    blocks = layers_of(subject.base)
    for count in range(1, len(blocks)):
        answered = subject.answer(subject.conditional, swapped(subject.tuned, partner, blocks[:count]))
        name = f"swap/{subject.sweep.partner}"
        subject.add_rates(answered, subject.sheet.with_(intervention=name, dose=count, module="whole"))


def intervening_prompts(sweep: Sweep, blocks: int, attacks: int) -> int:
    """Prompts that a sweep has answered; of those behind nulls of patches, as many as there can be."""
    few, conditional, null = 2 * sweep.few, 2 * sweep.prompts, sweep.draws
    held_out = 2 * len(range(sweep.prompts)[HELD_OUT])
    steps = len(sweep.scope_alphas) * sum(blocks if scope == "layers" else 1 for scope in sweep.scopes)
    patched = len(sweep.ks) * (2 if sweep.everywhere else 1)
    counts = {
        "alpha": len(sweep.alphas) * 2 * conditional + (steps + 1) * conditional + null * held_out,
        "subspace": (9 + 4 * sweep.rescaled) * conditional + (4 * null + 1) * few,
        "rank": (len(sweep.ranks) + len(sweep.removed)) * conditional,
        "layers": 2 ** (blocks + 1) * few,
        "swaps": (blocks - 1) * conditional if sweep.partner else 0,
        "patches": sweep.attacked * (1 + attacks) * (2 + 3 * patched) + null * sweep.few * (attacks + 1),
        "directions": blocks * (1 + len(sweep.doses)) * conditional + (1 + blocks) * direction_draws(sweep) * few,
    }
    return sum(counts[part] for part in sweep.parts)
