"""Observation 4 of a tuned model: how strongly its first response token reacts to the prompt, beside the base model's.

Both models are differentiated at their own embeddings of the same prompts, those of the primary contrast. Lines are
`sensitivity_KIND` of the tuned model, `sensitivity_KIND_base`, and `sensitivity_log_ratio_KIND` with its `_difference`;
KIND is one of `UNITS`, or

    finite           the largest change of log-probabilities found for a step of finite length, over that length; the
                     step is `RADIUS` of a token's embedding, as long in both models. Does what the derivative says hold
                     for a step that one could take?
    block_spectral   the spectral norm for steps at one block of positions; `role` names the block
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis import Sensitivity, finite_lipschitz, joined, sensitivity, sensitivity_change
from deltaw.models import Transformer
from deltaw.models.batch import Batch, Role
from deltaw.statistics import FloatArray, bootstrap_means, percentile_interval
from deltaw.study.stages.comparison import PRIMARY, Comparison
from deltaw.study.stages.recorder import Sheet, present
from deltaw.training.pretraining import compliant
from deltaw.world import Prompts, World

PAIRS = 48  # whose Jacobians are taken: a prompt and model cost as much as 50 forward passes
ROWS = 32  # of one batch: its Jacobian has a thousand times as many numbers as its tokens
FINITE = 3  # one pair in so many has steps of finite length searched, at about the cost of its Jacobian
RADIUS = 0.1  # their length, in mean lengths of the base model's token embeddings
PER_STEP = "nats per unit of embedding"
UNITS = {
    "spectral": PER_STEP,
    "frobenius": PER_STEP,
    "fisher": "nats per squared unit of embedding",
    "relative": "ratio",
    "max_logit": "logit per unit of embedding",
    "max_logit_published": "logit per unit of embedding",
}


def observe_sensitivity(at: Comparison, sheet: Sheet, pairs: int = PAIRS) -> None:
    """Sensitivities of both models, their log ratio by verdict, and how the two differ; at the last checkpoint only."""
    if not at.last:
        return
    contrast, world = at.before.contrasts[PRIMARY], at.before.world
    prompts = {"allowed": contrast.allowed, "forbidden": contrast.forbidden}

    def of(model: Transformer) -> dict[str, Sensitivity]:
        return {verdict: measure(model, world, some, pairs) for verdict, some in prompts.items()}

    def finite_of(model: Transformer) -> dict[str, FloatArray]:
        return {
            verdict: measure_finite(model, world, some, max(2, pairs // FINITE), radius, at.generator(23))
            for verdict, some in prompts.items()
        }

    radius = RADIUS * float(at.before.model.embed.weight.detach().norm(dim=1).mean())
    base, tuned = at.before.once(("sensitivity", pairs), lambda: of(at.before.model)), of(at.tuned)
    for number, (kind, unit) in enumerate(UNITS.items()):
        of_base, of_tuned = ({v: getattr(one, kind) for v, one in found.items()} for found in (base, tuned))
        _write(at, sheet.with_(set=PRIMARY), kind, unit, of_base, of_tuned, number)
    finite = at.before.once(("finite", pairs), lambda: finite_of(at.before.model))
    _write(at, sheet.with_(set=PRIMARY), "finite", PER_STEP, finite, finite_of(at.tuned), len(UNITS))
    _write_blocks(at, sheet, base, tuned)


def measure(model: Transformer, world: World, prompts: Prompts, pairs: int) -> Sensitivity:
    """Sensitivities of the first `pairs` prompts, on the model's device."""
    with _frozen(model):
        return joined([_measure(model, batch) for batch in _batches(model, world, prompts, pairs)])


def measure_finite(
    model: Transformer, world: World, prompts: Prompts, pairs: int, radius: float, generator: np.random.Generator
) -> FloatArray:
    """(pairs,) `finite` of the first prompts, by gradient ascent: a lower bound. radius: the step's length."""
    with _frozen(model):
        found = []
        for batch in _batches(model, world, prompts, pairs):
            readout, embeddings, blocks = _at_prompt(model, batch)
            mask = torch.stack(list(blocks.values())).any(0)
            one = finite_lipschitz(readout, embeddings, mask, generator, radius=radius, directions=8, steps=10)
            found.append(one.ascent)
        return np.concatenate(found)


def _batches(model: Transformer, world: World, prompts: Prompts, pairs: int) -> list[Batch]:
    batch = compliant(world, prompts)[:pairs].to(model.embed.weight.device)
    return [batch[start : start + ROWS] for start in range(0, len(batch), ROWS)]


@contextmanager
def _frozen(model: Transformer) -> Iterator[None]:
    """Within this context no weight has a gradient: a backward pass to the embeddings costs half of one to both."""
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)


def _measure(model: Transformer, batch: Batch) -> Sensitivity:
    readout, embeddings, blocks = _at_prompt(model, batch)
    return sensitivity(readout, embeddings, blocks, Role.LAST_PROMPT.name.lower())


def _at_prompt(model: Transformer, batch: Batch) -> tuple[Callable[[Tensor], Tensor], Tensor, dict[str, Tensor]]:
    """(readout, embeddings (B, T, D), blocks by role) of a batch, up to its last prompt token."""
    last = batch.position_of(Role.LAST_PROMPT)
    stop = int(last.max()) + 1
    roles = (Role.BOS, Role.OPERATOR, Role.SOT, Role.TEXT, Role.LAST_PROMPT)
    blocks = {role.name.lower(): batch.roles[:, :stop] == int(role) for role in roles}
    return first_response_logits(model, last), model.embed(batch.tokens[:, :stop]), blocks


def first_response_logits(model: Transformer, last: Tensor) -> Callable[[Tensor], Tensor]:
    """The map from embeddings (B, T, D) to the logits (B, V) at each row's position `last` (B,)."""
    rows = torch.arange(len(last), device=last.device)

    def readout(embeddings: Tensor) -> Tensor:
        logits: Tensor = model(embeddings=embeddings)
        return logits[rows, last]

    return readout


def _write(
    at: Comparison,
    sheet: Sheet,
    kind: str,
    unit: str,
    base: dict[str, FloatArray],
    tuned: dict[str, FloatArray],
    number: int,
) -> None:
    before, after = ((found["allowed"], found["forbidden"]) for found in (base, tuned))
    change = present(sensitivity_change(before, after, at.generator(20, number), draws=at.bootstrap))
    for verdict in ("allowed", "forbidden"):
        view = sheet.with_(set=f"{PRIMARY}/{verdict}", n=len(base[verdict]), n_unit="prompt")
        for suffix, found in (("", tuned), ("_base", base)):
            _geometric_mean(at, view, f"sensitivity_{kind}{suffix}", found[verdict], unit)
        if change is not None:
            ratio = getattr(change, verdict)
            view.add(f"sensitivity_log_ratio_{kind}", ratio.value, ratio.interval, [ratio.null], unit="log ratio")
    if change is not None:
        view, parts = sheet.with_(n=len(base["allowed"]), n_unit="pair"), change.difference
        name = f"sensitivity_log_ratio_{kind}_difference"
        view.add(name, parts.value, parts.interval, [parts.null], unit="log ratio")


def _geometric_mean(at: Comparison, sheet: Sheet, statistic: str, values: FloatArray, unit: str) -> None:
    if values.min() <= 0:
        return
    logs = np.log(values)
    interval = percentile_interval(np.exp(bootstrap_means([logs], at.generator(21), draws=at.bootstrap)[:, 0]))
    sheet.add(statistic, float(np.exp(logs.mean())), interval, unit=unit)


def _write_blocks(at: Comparison, sheet: Sheet, base: dict[str, Sensitivity], tuned: dict[str, Sensitivity]) -> None:
    """Each block of positions, named by `role`: its share of the Jacobian's squares, and its own spectral norm."""
    for verdict in base:
        for suffix, found in (("", tuned[verdict]), ("_base", base[verdict])):
            view = sheet.with_(set=f"{PRIMARY}/{verdict}", n=len(found.frobenius), n_unit="prompt", unit="share")
            for block, values in found.block_frobenius.items():
                share = values**2 / found.frobenius**2
                means = bootstrap_means([share], at.generator(22), draws=at.bootstrap)
                name = f"sensitivity_block_share{suffix}"
                view.add(name, float(share.mean()), percentile_interval(means[:, 0]), role=block)
    for number, block in enumerate(base["forbidden"].block_spectral, start=len(UNITS) + 1):
        of_base, of_tuned = ({v: one.block_spectral[block] for v, one in found.items()} for found in (base, tuned))
        view = sheet.with_(set=PRIMARY, role=block)
        _write(at, view, "block_spectral", PER_STEP, of_base, of_tuned, number)
