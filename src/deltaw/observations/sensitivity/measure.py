"""Observation 4: how strongly the first token of the answer reacts to the prompt, in the tuned and in the base model.

Both models are differentiated at their own embeddings of the same prompts, those of the primary contrast. Lines are
`sensitivity_KIND` of the tuned model, `sensitivity_KIND_base`, and `sensitivity_log_ratio_KIND` with its `_difference`;
KIND is one of `UNITS`, or

    finite           the largest change of log-probabilities found for a step of finite length, over that length; the
                     step is `RADIUS` of a token's embedding, as long in both models. Does what the derivative says hold
                     for a step that one could take?
    block_spectral   the spectral norm for steps at one block of positions; `role` names the block

With large vocabularies the whole Jacobian is too large (`Effort.whole_jacobian`): then KIND is `spectral` alone, by
power iteration.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from deltaw.analysis import (
    Sensitivity,
    finite_lipschitz,
    joined,
    power_iteration,
    sensitivity,
    sensitivity_change,
)
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens, ObservedModel
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.observations.prompts import Clusters, PromptSet
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, bootstrap_means, percentile_interval

FINITE = 3  # one pair in so many has steps of finite length searched, at about the cost of its Jacobian
RADIUS = 0.1  # their length, in mean lengths of the base model's token embeddings
ITERATIONS, TOLERANCE = 12, 1e-3  # of the power method
PER_STEP = "nats per unit of embedding"
UNITS = {
    "spectral": PER_STEP,
    "frobenius": PER_STEP,
    "fisher": "nats per squared unit of embedding",
    "relative": "ratio",
    "max_logit": "logit per unit of embedding",
    "max_logit_published": "logit per unit of embedding",
}
ByVerdict = dict[str, FloatArray]


@dataclass(frozen=True)
class PromptSensitivity(Observation):
    """Observation 4: how strongly the first token of the answer reacts to the prompt, before and after tuning."""

    name = "sensitivity"
    label = "sensitivity"
    every_checkpoint = False
    statistics = (
        *(
            statistic
            for kind, unit in (*UNITS.items(), ("finite", PER_STEP), ("block_spectral", PER_STEP))
            for statistic in (
                *with_base(Statistic(f"sensitivity_{kind}", unit, "Geometric mean over prompts.")),
                Statistic(f"sensitivity_log_ratio_{kind}", "log ratio", "Tuned over base."),
                Statistic(
                    f"sensitivity_log_ratio_{kind}_difference", "log ratio", "On forbidden prompts minus allowed ones."
                ),
            )
        ),
        *with_base(Statistic("sensitivity_block_share", "share", "A block's share of the Jacobian's squares.")),
    )

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Sensitivities of both models, their log ratio by verdict, and how the two differ."""
        count, prompts = lens.effort.jacobians, sensitive_prompts(lens)
        if len(prompts["allowed"]) < 2:
            lens.absent["sensitivity"] = f"{len(prompts['allowed'])} pairs; a change needs at least 2"
            return
        view = sheet.with_(set=lens.primary)
        if not lens.effort.whole_jacobian:
            key = ("spectral", count)
            of_base = lens.before.once(key, lambda: spectral_norms(lens, lens.before.model, prompts))
            of_tuned = lens.once(key, lambda: spectral_norms(lens, lens.tuned, prompts))
            _write(lens, view, "spectral", PER_STEP, of_base, of_tuned, 0)
            lens.absent["sensitivity of other kinds"] = (
                "the Jacobian over the whole vocabulary is too large; spectral only"
            )
            return
        base = lens.before.once(("sensitivity", count), lambda: jacobians(lens.before.model, prompts))
        tuned = jacobians(lens.tuned, prompts)
        for number, (kind, unit) in enumerate(UNITS.items()):
            before, after = ({v: getattr(part, kind) for v, part in model.items()} for model in (base, tuned))
            _write(lens, view, kind, unit, before, after, number)
        few = {verdict: prompt_set[slice(0, max(2, count // FINITE))] for verdict, prompt_set in prompts.items()}

        def finite(model: ObservedModel) -> ByVerdict:
            return finite_steps(
                model, few, RADIUS * lens.before.model.embedding_norm, lambda: lens.generator(Draw.FINITE_STEPS)
            )

        finite_base = lens.before.once(("finite", count), lambda: finite(lens.before.model))
        _write(lens, view, "finite", PER_STEP, finite_base, finite(lens.tuned), len(UNITS))
        _write_blocks(lens, view, base, tuned)


def sensitive_prompts(lens: Lens) -> dict[str, PromptSet]:
    """The first pairs of the primary contrast, as many as the effort has."""
    contrast = lens.before.contrasts[lens.primary].first(lens.effort.jacobians)
    return {"allowed": contrast.allowed, "forbidden": contrast.forbidden}


def jacobians(model: ObservedModel, prompts: dict[str, PromptSet]) -> dict[str, Sensitivity]:
    """All kinds of sensitivity of each set of prompts."""
    return {
        verdict: joined(
            [sensitivity(part.readout, part.embeddings, part.blocks, part.last) for part in model.embedded(prompt_set)]
        )
        for verdict, prompt_set in prompts.items()
    }


def spectral_norms(lens: Lens, model: ObservedModel, prompts: dict[str, PromptSet]) -> ByVerdict:
    """(N,) spectral norms of each set of prompts, by power iteration."""
    return {
        verdict: np.concatenate(
            [
                power_iteration(
                    part.readout,
                    part.embeddings,
                    torch.stack(list(part.blocks.values())).any(0),
                    lens.generator(Draw.POWER_ITERATION),
                    iterations=ITERATIONS,
                    tolerance=TOLERANCE,
                ).value
                for part in model.embedded(prompt_set)
            ]
        )
        for verdict, prompt_set in prompts.items()
    }


def finite_steps(
    model: ObservedModel,
    prompts: dict[str, PromptSet],
    radius: float,
    draw: Callable[[], np.random.Generator],
) -> ByVerdict:
    """(N,) `finite` of each set of prompts, by gradient ascent: a lower bound. radius: the step's length. draw: a new
    generator for each set.
    """
    bounds = {}
    for verdict, prompt_set in prompts.items():
        generator, parts = draw(), []
        for part in model.embedded(prompt_set):
            mask = torch.stack(list(part.blocks.values())).any(0)
            bound = finite_lipschitz(
                part.readout, part.embeddings, mask, generator, radius=radius, directions=8, steps=10
            )
            parts.append(bound.ascent)
        bounds[verdict] = np.concatenate(parts)
    return bounds


def _write(lens: Lens, sheet: Sheet, kind: str, unit: str, base: ByVerdict, tuned: ByVerdict, number: int) -> None:
    name = lens.primary
    before, after = ((of_model["allowed"], of_model["forbidden"]) for of_model in (base, tuned))
    generator = lens.generator(Draw.SENSITIVITY_SWAPS, number)
    change = lens.present(
        sensitivity_change(
            before, after, generator, clusters=_clusters(lens, len(base["allowed"])), draws=lens.bootstrap
        ),
        f"sensitivity_log_ratio_{kind}",
    )
    for verdict in ("allowed", "forbidden"):
        view = sheet.with_(set=f"{name}/{verdict}", n=len(base[verdict]), n_unit="prompt")
        for suffix, of_model in (("", tuned), ("_base", base)):
            _geometric_mean(lens, view, f"sensitivity_{kind}{suffix}", of_model[verdict], unit)
        if change is not None:
            ratio = getattr(change, verdict)
            view.add(f"sensitivity_log_ratio_{kind}", ratio.value, ratio.interval, [ratio.null], unit="log ratio")
    if change is not None:
        view, parts = sheet.with_(n=len(base["allowed"]), n_unit="pair"), change.difference
        name = f"sensitivity_log_ratio_{kind}_difference"
        view.add(name, parts.value, parts.interval, [parts.null], unit="log ratio")


def _geometric_mean(lens: Lens, sheet: Sheet, statistic: str, values: FloatArray, unit: str) -> None:
    if values.min() <= 0:
        return
    logs = np.log(values)
    clusters = _clusters(lens, len(values))
    ids = None if clusters is None else [clusters]
    means = bootstrap_means([logs], lens.generator(Draw.SENSITIVITY_INTERVAL), ids, lens.bootstrap)
    sheet.add(statistic, float(np.exp(logs.mean())), percentile_interval(np.exp(means[:, 0])), unit=unit)


def _clusters(lens: Lens, count: int) -> Clusters:
    """(count,) of the first pairs of the primary contrast."""
    clusters = lens.clusters(lens.primary)
    return None if clusters is None else clusters[:count]


def _write_blocks(lens: Lens, sheet: Sheet, base: dict[str, Sensitivity], tuned: dict[str, Sensitivity]) -> None:
    """Each block of positions, named by `role`: its share of the Jacobian's squares, and its own spectral norm."""
    for verdict in base:
        for suffix, of_model in (("", tuned[verdict]), ("_base", base[verdict])):
            n = len(of_model.frobenius)
            view = sheet.with_(set=f"{lens.primary}/{verdict}", n=n, n_unit="prompt", unit="share")
            for block, values in of_model.block_frobenius.items():
                share = values**2 / of_model.frobenius**2
                clusters = _clusters(lens, n)
                ids = None if clusters is None else [clusters]
                means = bootstrap_means([share], lens.generator(Draw.SENSITIVITY_BLOCKS), ids, lens.bootstrap)
                name = f"sensitivity_block_share{suffix}"
                view.add(name, float(share.mean()), percentile_interval(means[:, 0]), role=block)
    for number, block in enumerate(base["forbidden"].block_spectral, start=len(UNITS) + 1):
        before, after = ({v: part.block_spectral[block] for v, part in model.items()} for model in (base, tuned))
        _write(lens, sheet.with_(role=block), "block_spectral", PER_STEP, before, after, number)
