"""Pre-training in a world: every prompt is answered, safe or not, and the text itself is learned too."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import torch

from deltaw.errors import DeltawError
from deltaw.models import BlockStyle, ModelConfig, Positions, Transformer
from deltaw.models.batch import Batch
from deltaw.training.loop import TrainingLog, train
from deltaw.training.next_token import next_token
from deltaw.training.optimisers import OptimiserConfig
from deltaw.training.prefetch import Prefetch
from deltaw.training.snapshots import Snapshots
from deltaw.world import (
    WHOLE_VIEWS,
    Encoded,
    Key,
    Prompts,
    Response,
    ViewSchedule,
    World,
    as_published,
    finished,
    viewed,
    with_constants,
)

CHUNK = 16  # batches that are sampled at once


def as_batch(encoded: Encoded) -> Batch:
    """The world's arrays as the tensors that models take."""
    return Batch(*(torch.from_numpy(array) for array in (encoded.tokens, encoded.weights, encoded.roles)))


def compliant(world: World, prompts: Prompts) -> Batch:
    """Prompts with their compliant answers, whatever the policy says of them."""
    return as_batch(world.layout.encode(prompts, np.full(len(prompts), Response.COMPLY)))


@dataclass(frozen=True)
class PretrainingConfig:
    """How a base model is made. text_weight: the weight of a letter of the text beside one of the response. views: the
    shares of text alone, everything, and single outputs (see `deltaw.world.VIEWS`) over training.

    What the published data hold instead is the world's (`deltaw.world.Compat`).

    layers, heads, width, block, positions, dead_norm: of the model; vocabulary and context follow from the world.
    attend_pads: whether padding in the middle of a sequence is attended like any token, as in the published code.
    compute_dtype: of the matrix products, "float32" or "bfloat16".
    """

    layers: int = 4
    heads: int = 4
    width: int = 128
    batch: int = 64
    text_weight: float = 1.0
    views: ViewSchedule = field(default_factory=ViewSchedule)
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            peak_lr=3e-3, min_lr=3e-5, steps=3600, warmup=100, decay_end=3600, weight_decay=0.1
        )
    )
    device: str = "cpu"
    compute_dtype: str = "bfloat16"
    block: BlockStyle = "pre_ln"
    positions: Positions = "learned"
    dead_norm: bool = False
    attend_pads: bool = True


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a configuration's name for it."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise DeltawError(f"compute_dtype is '{name}'; it can be {' or '.join(known)}")
    return known[name]


def model_config(world: World, config: PretrainingConfig) -> ModelConfig:
    """The shape of the model that this world and configuration ask for."""
    return ModelConfig(
        world.vocabulary.size,
        world.sequence_length,
        layers=config.layers,
        heads=config.heads,
        width=config.width,
        block=config.block,
        positions=config.positions,
        dead_norm=config.dead_norm,
        masked_token=None if config.attend_pads else world.vocabulary.pad,
    )


def new_model(world: World, config: PretrainingConfig, seed: int) -> Transformer:
    """A model for this world with weights drawn from `seed`."""
    return Transformer(model_config(world, config), torch.Generator().manual_seed(seed))


def pretraining_samples(world: World, config: PretrainingConfig, rows: range, seed: int) -> Encoded:
    """Samples `rows` of the split "train" of the mixture "pretrain", each under the view that its number draws.

    DeltawError for a schedule that this world or `text_weight` gives nothing to learn from.
    """
    if config.views.ever("text") and config.text_weight <= 0:
        raise DeltawError("the view 'text' carries no loss where text_weight is 0; give it no share, or text a weight")
    if config.views.ever("second") and world.config.pairs < 2:
        raise DeltawError("the view 'second' needs prompts of at least two operator pairs; give it no share")
    prompts = world.sample("pretrain", rows, "train", seed)
    complied = np.full(len(prompts), Response.COMPLY)
    encoded = world.layout.encode(prompts, complied, text_weight=config.text_weight)
    compat, pairs, vocabulary = world.config.compat, world.config.pairs, world.vocabulary
    if compat.constant_operators:
        key = Key(seed, "train/constant")
        encoded = with_constants(encoded, prompts.index, pairs, vocabulary, compat.constant_operators, key)
    encoded = as_published(encoded, complied == Response.REFUSE, pairs, vocabulary, compat)
    chosen = config.views.choose(Key(seed, "train/view"), prompts.index)
    encoded = viewed(encoded, chosen, vocabulary.pad, compat.gaps)
    return finished(encoded, np.isin(chosen, WHOLE_VIEWS), vocabulary, compat, config.text_weight)


def pretrain(
    world: World,
    config: PretrainingConfig,
    seed: int,
    *,
    checkpoints: Collection[int] = (),
    on_checkpoint: Callable[[int, Transformer], None] = lambda step, model: None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    snapshots: Snapshots | None = None,
) -> tuple[Transformer, TrainingLog]:
    """Train a new model on the split "train" of the mixture "pretrain"; no prompt is seen twice but by chance."""
    model = new_model(world, config, seed).to(config.device)
    ready: dict[int, Batch] = {}

    def draw(step: int) -> Batch:
        rows = range(step * config.batch, (step + CHUNK) * config.batch)
        return as_batch(pretraining_samples(world, config, rows, seed))

    chunks = Prefetch(draw, CHUNK, config.optimiser.steps, config.device)

    def batches(step: int) -> Batch:
        if step not in ready:
            ready.clear()
            # Chunks begin at the same updates whether or not training was interrupted: they are padded together.
            start = step - step % CHUNK
            chunk = chunks(start)
            ready.update({start + k: chunk[k * config.batch : (k + 1) * config.batch] for k in range(CHUNK)})
        return ready[step]

    log = train(
        model,
        batches,
        next_token,
        config.optimiser,
        checkpoints=checkpoints,
        on_checkpoint=on_checkpoint,
        progress=progress,
        compute_dtype=dtype_of(config.compute_dtype),
        snapshots=snapshots,
    )
    return model, log
