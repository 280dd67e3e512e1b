"""Safety fine-tuning in a world by a protocol, and its controls: the same prompts, steps and rate, other answers."""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from deltaw.errors import DeltawError
from deltaw.models import Transformer
from deltaw.protocols.loss import Loss
from deltaw.protocols.pair import Pair, ReferenceLogProbs, borrow_masks
from deltaw.protocols.protocol import Protocol, TuningBatch, loss_of
from deltaw.protocols.responses import reference_log_probs
from deltaw.training.controls.control import Control, Ints, responses_taught
from deltaw.training.loop import TrainingLog, train
from deltaw.training.optimisers import OptimiserConfig
from deltaw.training.prefetch import Prefetch
from deltaw.training.pretraining import as_batch, dtype_of
from deltaw.training.snapshots import Snapshots
from deltaw.world import Encoded, Key, Prompts, Response, World, as_published, finished

CHUNK = 16  # batches that are sampled at once


@dataclass(frozen=True)
class TuningData:
    """What a fine-tuning learns from, whatever the protocol: prompts, the responses to them, and their masks."""

    control: Control | None = None
    """What is taught in place of safety; None: safety."""
    batch: int = 64
    """Prompts of an update."""
    device: str = "cpu"
    """Where the model is."""
    compute_dtype: str = "bfloat16"
    """Of the matrix products, "float32" or "bfloat16"."""
    first_row: int = 0
    """Of the split's tuning prompts, the one to begin with: other rows make the same tuning on other prompts."""
    allowed_batches: float | None = None
    """As in the published code: the share of batches whose prompts are all allowed, while those of the others are all
    forbidden, drawn as in the published data. None: each batch has both, by the mixture "tune"."""
    borrow_masks: bool = False
    """As in the published code: see `protocols.borrow_masks`."""


@dataclass(frozen=True)
class TuningConfig(TuningData):
    """One fine-tuning. All protocols of one strength share the optimiser and the data.

    DeltawError for a control that teaches the same as no control.
    """

    protocol: Protocol = field(kw_only=True)
    """The loss, with its options."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(peak_lr=1e-3, min_lr=1e-5, steps=800, warmup=40, decay_end=800)
    )
    """Weight decay is 0: it would add a component along W, all of it inside C(W)."""

    def __post_init__(self) -> None:
        check_control(self.protocol, self.control, self.protocol.own_control)

    @property
    def data(self) -> TuningData:
        """What it learns from."""
        return TuningData(**{part.name: getattr(self, part.name) for part in fields(TuningData)})


def check_control(protocol: Protocol, control: Control | None, better: str) -> None:
    """DeltawError, naming a better one, if under this protocol the control teaches the same as no control."""
    if control is not None and control.changes_answer_only and not protocol.reads_preferred:
        raise DeltawError(
            f"under {protocol.name} the control {control.name} teaches the same as no control; use {better}"
        )


def wanted_response(world: World, prompts: Prompts, control: Control | None, seed: int) -> Ints:
    """(N,) the `Response` that a tuning teaches: the policy's own, or the control's."""
    if control is None:
        return world.layout.expected(prompts)
    return responses_taught(control, world, prompts, seed)


def unwanted_response(wanted: Ints) -> Ints:
    """(N,) the dispreferred `Response`: a refusal where the prompt is to be answered, else the compliant answer."""
    return np.where(wanted == Response.COMPLY, Response.REFUSE, Response.COMPLY)


def tuning_prompts(world: World, rows: range, config: TuningData, seed: int) -> Prompts:
    """Tuning prompts `rows` of the split "train"."""
    if config.allowed_batches is None:
        return world.sample("tune", rows, "train", seed)
    numbers = np.asarray(rows)
    coin = Key(seed, "train/published/batch").uniform(numbers // config.batch, 0)[:, 0]
    chosen = [np.flatnonzero(coin < config.allowed_batches), np.flatnonzero(coin >= config.allowed_batches)]
    parts = [
        world.sample(name, numbers[places], "train", seed)
        for name, places in zip(("published/allowed", "published/forbidden"), chosen, strict=True)
        if len(places)
    ]
    return Prompts.concatenate(parts)[np.argsort(np.concatenate(chosen))]


def tuning_pairs(world: World, rows: range, config: TuningData, seed: int) -> Pair:
    """Preferred and dispreferred responses to tuning prompts `rows` of the split "train"."""
    prompts = tuning_prompts(world, rows, config, seed)
    wanted = wanted_response(world, prompts, config.control, seed)
    halves = (as_batch(trained(world, prompts, kind)) for kind in (wanted, unwanted_response(wanted)))
    pair = Pair(*halves, complies=torch.from_numpy(wanted == Response.COMPLY))
    return borrow_masks(pair) if config.borrow_masks else pair


def trained(world: World, prompts: Prompts, response: Ints) -> Encoded:
    """The sequences that tuning learns from: those of the layout, or what the world's `compat` makes of them."""
    compat, vocabulary = world.config.compat, world.vocabulary
    encoded = world.layout.encode(prompts, response)
    encoded = as_published(encoded, response == Response.REFUSE, world.config.pairs, vocabulary, compat)
    return finished(encoded, np.ones(len(prompts), dtype=np.bool_), vocabulary, compat)


def tuning_reference(
    world: World,
    base: Transformer,
    rows: int,
    config: TuningData,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> ReferenceLogProbs:
    """The base model's log-probabilities of both responses to the first `rows` tuning prompts, in order.

    Every protocol that needs them sees the same prompts in the same order, so this is computed once and shared.
    """
    device = base.embed.weight.device
    parts = []
    for start in range(0, rows, 1024):
        stop = min(rows, start + 1024)
        numbers = range(config.first_row + start, config.first_row + stop)
        pair = tuning_pairs(world, numbers, config, seed).to(device)
        with base.computing_in(
            dtype_of(config.compute_dtype)
        ):  # the format of training, so that the margin starts at 0
            parts.append(reference_log_probs(base, pair))
        progress(stop, rows, "reference")
    return ReferenceLogProbs(
        torch.cat([part.preferred for part in parts]), torch.cat([part.dispreferred for part in parts])
    )


def tune(
    world: World,
    base: Transformer,
    config: TuningConfig,
    seed: int,
    reference: ReferenceLogProbs | None = None,
    *,
    checkpoints: Collection[int] = (),
    on_checkpoint: Callable[[int, Transformer], None] = lambda step, model: None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    snapshots: Snapshots | None = None,
) -> TrainingLog:
    """Fine-tune `base` in place. DeltawError for a control that is at fault, a protocol that needs `reference` (see
    `tuning_reference`, by the same data) and did not get one for all rows, or a loss that is not finite.
    """
    protocol, steps = config.protocol, config.optimiser.steps
    if protocol.needs_reference and (reference is None or len(reference.preferred) < steps * config.batch):
        raise DeltawError(
            f"{protocol.name} needs the base model's log-probabilities of all {steps * config.batch} tuning prompts"
        )
    base.to(config.device)
    frozen = copy.deepcopy(base).requires_grad_(False) if protocol.needs_base else None
    compute_dtype = dtype_of(config.compute_dtype)
    ready: dict[int, TuningBatch] = {}

    def draw(step: int) -> tuple[Pair, ...]:
        first = config.first_row + step * config.batch
        chunk = tuning_pairs(world, range(first, first + CHUNK * config.batch), config, seed)
        pairs = (chunk[k * config.batch : (k + 1) * config.batch] for k in range(CHUNK))
        return tuple(pair.measured() if on_card else pair for pair in pairs)

    on_card = base.embed.weight.is_cuda
    chunks = Prefetch(draw, CHUNK, steps, config.device)

    def batches(step: int) -> TuningBatch:
        if step not in ready:
            ready.clear()
            # Chunks begin at the same updates whether or not training was interrupted: they are padded together.
            start = step - step % CHUNK
            for number, pair in enumerate(chunks(start), start=start):
                known = None
                if protocol.needs_reference and reference is not None:
                    known = reference[slice(number * config.batch, (number + 1) * config.batch)]
                ready[number] = TuningBatch(pair, known, progress=torch.tensor(number / steps))
        return ready[step]

    def loss(model: Transformer, batch: TuningBatch) -> Loss:
        if frozen is None:
            return loss_of(protocol, model, batch)
        with frozen.computing_in(compute_dtype):  # the format of training, so that both start equal
            return loss_of(protocol, model, replace(batch, base=frozen))

    return train(
        base,
        batches,
        loss,
        config.optimiser,
        checkpoints=checkpoints,
        on_checkpoint=on_checkpoint,
        progress=progress,
        compute_dtype=compute_dtype,
        snapshots=snapshots,
        name=f"tuning by {protocol.name}",
    )
