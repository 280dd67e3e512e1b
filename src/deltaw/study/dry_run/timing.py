"""How fast this device is at a recipe's work: a few real training steps, decoded batches and one small analysis.

The steps are those of the study itself (`pretrain`, `tune`, `answers_to` ..) on its own model, world and optimiser.
Where a whole batch would take too long, fewer rows of it are taken, and the time is scaled by rows; the notes say so.
On one thread of a CPU, time is the processor's: what else runs on the machine does not count. A card gets whole
batches, since its time does not go with their rows, and a few updates first, after which they are recorded.
"""

import time
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from deltaw.attacks.prompts.attack import attacked
from deltaw.attacks.prompts.co_text import CoText
from deltaw.attacks.prompts.misgen_text import MisgenText
from deltaw.models import Transformer
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.null_space.measure import NullSpaceEnergy
from deltaw.observations.prompts import Effort
from deltaw.observations.sensitivity.measure import PromptSensitivity
from deltaw.pipeline.worker import torch_threads
from deltaw.protocols.pair import ReferenceLogProbs
from deltaw.recipes.config import Recipe
from deltaw.recipes.observed import OBSERVED
from deltaw.results.recorder import Sheet
from deltaw.study.dry_run.plan import DECODED_AT_ONCE, Pace
from deltaw.study.stages.answers import answers_to
from deltaw.study.stages.lens import SyntheticModel, synthetic_side
from deltaw.training.cuda_step import PLAIN_RUNS
from deltaw.training.finetuning import TuningConfig, tune, tuning_reference
from deltaw.training.pretraining import CHUNK, model_config, new_model, pretrain
from deltaw.world import Ceiling, World

STEPS = 3  # timed updates, after one that is not
PROBE_ROWS = 16
ANALYSED_LAYERS = 2
CEILING_WINDOWS = 64
TIMED_JACOBIANS = 4  # pairs

Clock = Callable[[], float]
OnCheckpoint = Callable[[int, Transformer], None]
Training = Callable[[int, int, Collection[int], OnCheckpoint], None]
"""(rows, steps, checkpoints, on_checkpoint): trains for so many updates of so many rows."""


def _clock(device: str) -> Clock:
    return time.perf_counter if _on_card(device) else time.process_time


def _on_card(device: str) -> bool:
    return torch.device(device).type != "cpu"


@dataclass(frozen=True)
class Timed:
    """Seconds of an update of a whole batch, and the rows it was measured on."""

    seconds: float
    rows: int


def measure(recipe: Recipe, seed: int, budget: float = 1.0) -> Pace:
    """The pace of a recipe on its device. budget: seconds that one timed step may take.

    Pre-training is timed on as many threads as the engine gives it, but on a busy machine two threads wait for each
    other: the time on one counts if it is shorter. All else is timed on one.
    """
    world = World(recipe.world)
    update: dict[str, float] = {}
    notes: list[str] = []

    def add(name: str, batch: int, timed: Timed) -> None:
        update[name] = timed.seconds
        scaled = "" if timed.rows == batch else f", measured on {timed.rows} rows and scaled to {batch}"
        notes.append(f"{name}: {timed.seconds:.3g} s an update of {batch} prompts{scaled}")

    batch, training = recipe.pretraining.batch, _pretraining(recipe, world, seed)
    device = recipe.pretraining.device
    timed = []
    if recipe.base_threads > 1:
        with torch_threads(recipe.base_threads):
            timed.append(time_updates(training, batch, budget, time.perf_counter, device))
    with torch_threads(1):
        timed.append(time_updates(training, batch, budget, _clock(device), device))
        add("pretrain", batch, min(timed, key=lambda trial: trial.seconds))
        base = new_model(world, recipe.pretraining, seed)
        reference = 0.0
        for config in {tuned.config.protocol.name: tuned.config for tuned in recipe.tunings}.values():
            clock = _clock(config.device)
            tuning = _Tuning(world, base, config, seed, clock)
            add(config.protocol.name, config.batch, time_updates(tuning, config.batch, budget, clock, config.device))
            reference = tuning.reference_pace or reference
        decode, rows = _decode_pace(world, base.to(device), seed, budget, _clock(device))
        notes.append(f"decoding: {decode:.3g} s a prompt, in batches of {rows}")
        ceilings: list[Ceiling] = []
        ceiling = _per_item(lambda count: ceilings.append(world.ceiling(count // 2, seed=seed)), (4, CEILING_WINDOWS))
        analysis = analysis_pace(recipe, world, seed)
    notes.append(
        f"analysis: {analysis['checkpoint']:.3g} s a checkpoint, {analysis['last']:.3g} s the last, measured on "
        f"{ANALYSED_LAYERS} of {recipe.pretraining.layers} layers and an eighth of the pairs, and scaled"
    )
    best = ceilings[-1]
    notes.append(
        f"Bayes ceiling: {best.accuracy:.3f} of branches told by the text at best, from {best.n} windows, of which "
        f"{best.redrawn_share:.2f} were redrawn; world: {ceiling:.3g} s a window"
    )
    return Pace(update, reference, decode, ceiling, analysis, tuple(notes))


def time_updates(train: Training, batch: int, budget: float, clock: Clock, device: str = "cpu") -> Timed:
    """Seconds of an update of `batch` rows by a clock, drawing them included: the fastest of `STEPS` of as many rows as
    fit the budget.
    """
    if _on_card(device):
        step, drawing = _stamps(train, batch, PLAIN_RUNS + 2 + STEPS, clock)
        return Timed(max(step, drawing / CHUNK), batch)  # the next chunk is drawn meanwhile
    probe, rows = min(batch, PROBE_ROWS), batch
    step, drawing = _stamps(train, probe, STEPS, clock)
    if step * batch / probe > budget:
        rows = min(batch, max(probe, int(probe * budget / step)))
    if rows > probe:
        step, drawing = _stamps(train, rows, 1 + STEPS, clock)
    return Timed((step + drawing / CHUNK) * batch / rows, rows)


def _stamps(train: Training, rows: int, steps: int, clock: Clock) -> tuple[float, float]:
    """(seconds of an update, seconds of drawing one chunk of batches). The chunk is drawn before the first update."""
    stamps: list[float] = []
    train(rows, steps, range(steps + 1), lambda step, model: stamps.append(clock()))
    first, *durations = [after - before for before, after in pairwise(stamps)]
    step = min(durations)  # what else runs on the machine can only slow a step down
    return step, max(0.0, first - step)


def _pretraining(recipe: Recipe, world: World, seed: int) -> Training:
    def train(rows: int, steps: int, checkpoints: Collection[int], on_checkpoint: OnCheckpoint) -> None:
        config = recipe.pretraining
        short = replace(config, batch=rows, optimiser=replace(config.optimiser, steps=steps))
        pretrain(world, short, seed, checkpoints=checkpoints, on_checkpoint=on_checkpoint)

    return train


@dataclass
class _Tuning:
    """A `Training` by one protocol, which also times the reference's log-probabilities where they are needed."""

    world: World
    base: Transformer
    config: TuningConfig
    seed: int
    clock: Clock
    reference_pace: float | None = None

    def __call__(self, rows: int, steps: int, checkpoints: Collection[int], on_checkpoint: OnCheckpoint) -> None:
        config = replace(self.config, batch=rows, optimiser=replace(self.config.optimiser, steps=steps))
        reference: ReferenceLogProbs | None = None
        model = deepcopy(self.base).to(config.device)
        if config.protocol.needs_reference:
            started = self.clock()
            reference = tuning_reference(self.world, model, rows * steps, config, self.seed)
            reference.preferred.tolist()  # an accelerator has not finished before it is asked
            self.reference_pace = (self.clock() - started) / (rows * steps)
        tune(self.world, model, config, self.seed, reference, checkpoints=checkpoints, on_checkpoint=on_checkpoint)


def _per_item(run: Callable[[int], object], counts: tuple[int, int], clock: Clock = time.process_time) -> float:
    """Seconds an item takes beyond a first, small call, which pays for tables that are made once."""
    run(counts[0])
    return _seconds(run, counts[1], clock) / counts[1]


def _seconds(run: Callable[[int], object], count: int, clock: Clock) -> float:
    started = clock()
    run(count)
    return clock() - started


def _decode_pace(world: World, model: Transformer, seed: int, budget: float, clock: Clock) -> tuple[float, int]:
    """(seconds of drawing and answering a prompt, prompts in the timed batch); a third of them are attacked."""

    def answer(rows: int) -> None:
        prompts = world.sample("forbidden/conditional/unsafe", range(rows), seed=seed)
        for attack in (CoText(), MisgenText()):
            attacked(world, attack, prompts[slice(0, -(-rows // 6))], seed=seed)
        answers_to(model, world, prompts)

    # A step of decoding costs something whatever the rows: two sizes tell the two apart.
    few = 32
    small = _per_item(answer, (4, few), clock)
    rows = max(8 * few, min(DECODED_AT_ONCE, int(3 * budget / small)))
    per_prompt = max((_seconds(answer, rows, clock) - small * few) / (rows - few), 0.0)
    return per_prompt + max(small - per_prompt, 0.0) * few / DECODED_AT_ONCE, rows


def analysis_pace(recipe: Recipe, world: World, seed: int) -> dict[str, float]:
    """Seconds of an analysis of the whole model, from one of two layers of its width and a part of the pairs.

    once: what a tuned model's analysis does once. checkpoint: one of its checkpoints. last: the last one, with nulls.
    Scaled by layers and, but for what reads weights alone, by pairs.
    """
    layers = recipe.pretraining.layers / ANALYSED_LAYERS
    sizes = replace(recipe.sizes, contrast=max(8, recipe.sizes.contrast // 8))
    pairs = recipe.sizes.contrast / sizes.contrast
    shape = replace(model_config(world, recipe.pretraining), layers=ANALYSED_LAYERS)
    generator = torch.Generator().manual_seed(seed)
    base, tuned = (Transformer(shape, generator).to(recipe.pretraining.device) for _ in range(2))
    started = time.process_time()
    before = synthetic_side(base, world, sizes, seed, recipe.prompt_attacks)
    observed = SyntheticModel(tuned, world)
    side_seconds = (time.process_time() - started) * pairs
    # The first comparison also reads the base model's side, which later ones reuse.
    first, second, last = (
        (weights + of_pairs * pairs) * layers
        for weights, of_pairs in (_observe(before, observed, last) for last in (False, False, True))
    )
    return {"once": side_seconds + max(0.0, first - second), "checkpoint": second, "last": last}


def _observe(before: BaseSide, tuned: SyntheticModel, last: bool) -> tuple[float, float]:
    """Seconds of one checkpoint's observations: of what does not grow with the contrast's pairs, and of the rest.

    The former are what reads weights alone, and Jacobians, timed on a few of their own number of pairs.
    """
    started = time.process_time()
    lens, sheet = Lens(before, tuned, last), Sheet(stage="analysis", model="tuned", step=1)
    for name in lens.names:
        lens.after(name)
    middle = time.process_time()
    NullSpaceEnergy().measure(lens, sheet)
    weights = time.process_time() - middle
    if last:
        few = BaseSide(before.model, before.prompts, replace(before.effort, jacobians=TIMED_JACOBIANS), before.seed)
        PromptSensitivity().measure(Lens(few, tuned, last), sheet)
    jacobians = time.process_time() - middle - weights
    for observation in OBSERVED:
        if not isinstance(observation, NullSpaceEnergy | PromptSensitivity):
            observation.measure(lens, sheet)
    of_pairs = time.process_time() - started - weights - jacobians
    return weights + jacobians * Effort().jacobians / TIMED_JACOBIANS, of_pairs
