"""What a study would cost, before it is run: of each stage its updates, tokens, operations, memory and time.

Counts follow from the recipe alone. Time follows from counts and a `Pace`, measured by `pacing.py` in a few real steps.
Nothing is written. Stages are those of the engine's own graph, told apart by their configuration; one that this page
does not know is listed without an estimate, and the total says so.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltaw.attacks.models.attack import ModelAttack, cost_of
from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.models import ModelConfig
from deltaw.pipeline.stage import Stage
from deltaw.protocols.forks import fork
from deltaw.recipes.config import Recipe
from deltaw.recipes.grid_worlds import LENGTHS
from deltaw.recipes.sizes import Sizes
from deltaw.study.graph import stages
from deltaw.study.stages.analysis import AddedConfig, AnalysisConfig, SubspacesConfig
from deltaw.study.stages.attack import AttackingConfig
from deltaw.study.stages.dose_response import DosingConfig
from deltaw.study.stages.evaluate import BehaviourConfig
from deltaw.study.stages.finetune import ReferenceConfig, TuneConfig
from deltaw.study.stages.grid_cell import JUNCTIONS, CellConfig
from deltaw.study.stages.intervene import InterveningConfig
from deltaw.study.stages.left_out import SOURCES, LeftOutConfig
from deltaw.study.stages.lens import PROBED, attacks_on_primary
from deltaw.study.stages.overlap import AligningConfig, SeedsConfig
from deltaw.study.stages.pretrain import BaseConfig
from deltaw.study.stages.samples import SamplesConfig
from deltaw.study.stages.shared import BASE_SETS, SeedConfig, set_sizes
from deltaw.training.finetuning import TuningData, tuning_pairs
from deltaw.training.pretraining import model_config
from deltaw.world import World

DECODED_AT_ONCE = 1000
PROCESS_BYTES = 0.55e9  # Python with torch, SciPy and a world's tables


@dataclass(frozen=True)
class Pace:
    """Seconds on this device. update: of one update of a whole batch, by protocol ("pretrain" is one). reference: of
    one prompt's two responses. decode: of one prompt's answer, its drawing included. ceiling: of one window. analysis:
    of a whole model, by part (see `pacing.analysis_pace`). notes: how each was measured.
    """

    update: Mapping[str, float]
    reference: float
    decode: float
    ceiling: float
    analysis: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """What a stage does. kind: names it on the page. protocol: whose update it repeats. rows: of a batch. length:
    tokens of a row. trained, read: tokens (padding counts) that go through the model with and without a gradient.
    references, decoded, windows: prompts and windows of that kind (where nothing is answered, a prompt whose
    activations are read counts as decoded). analyses: checkpoints analysed. share: of the
    recipe's own observations that are made there.
    """

    kind: str
    protocol: str | None = None
    updates: int = 0
    rows: int = 0
    length: int = 0
    trained: int = 0
    read: int = 0
    references: int = 0
    decoded: int = 0
    windows: int = 0
    analyses: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class StageCost:
    """One stage of a plan. operations: floating-point, by the rule of six (6N a trained token, 2N a read one), and
    with attention. memory: bytes of its process, or of the device it trains on. seconds: None if it is not known.
    """

    name: str
    work: Work | None
    threads: int
    operations: float
    operations_with_attention: float
    memory: float
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """A whole study. chain: seconds of the longest chain of stages. wall: seconds on `workers` workers."""

    recipe: Recipe
    model: ModelConfig
    parameters: int
    stages: tuple[StageCost, ...]
    workers: int
    engine: str
    seconds: float
    chain: float
    wall: float
    notes: tuple[str, ...] = field(default=())

    @property
    def unknown(self) -> list[str]:
        """Names of the stages without an estimate."""
        return [stage.name for stage in self.stages if stage.seconds is None]

    @property
    def operations(self) -> float:
        """Of all stages, with attention."""
        return sum(stage.operations_with_attention for stage in self.stages)


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a `Transformer`, from its shape."""
    width, hidden = config.width, config.mlp_ratio * config.width
    norms = 2 if config.block == "pre_ln" or config.dead_norm else 1
    block = 4 * width * width + 4 * width + 2 * width * hidden + hidden + width + 2 * norms * width
    tables = (config.context if config.positions == "learned" else 0) + 2 * config.vocabulary_size
    return tables * width + config.layers * block + 2 * width


def operations(config: ModelConfig, trained: int, read: int, length: int) -> tuple[float, float]:
    """Floating-point operations by the rule of six (Kaplan et al. 2020), without and with attention over `length`
    tokens, each of which counts as looking at all others.
    """
    weights = 2.0 * parameter_count(config)
    attention = 4.0 * config.layers * length * config.width
    passes = 3 * trained + read
    return passes * weights, passes * (weights + attention)


def training_bytes(config: ModelConfig, rows: int, length: int, compute_bytes: int) -> float:
    """Memory of training: weights, gradients and AdamW's two moments, and what backpropagation keeps of each position.

    A block keeps the input of its norms, queries, keys, values and what attention read in float32, and the inputs of
    its four maps and of GELU in the format of the products.
    """
    norms = 2 if config.block == "pre_ln" else 1
    width, hidden = config.width, config.mlp_ratio * config.width
    position = 4 * (norms + 4) * width + compute_bytes * (3 * width + 2 * hidden)
    logits = 3 * 4 * config.vocabulary_size
    return 16.0 * parameter_count(config) + rows * length * float((config.layers + 1) * position + logits)


def decoding_bytes(config: ModelConfig, rows: int, prompt: int, length: int) -> float:
    """Memory of decoding `rows` prompts at once: keys and values of `length` positions, one block on the prompts."""
    cache = 2 * config.layers * length * config.width
    block = prompt * ((2 * config.mlp_ratio + 8) * config.width + config.vocabulary_size)
    return 4.0 * (parameter_count(config) + rows * (cache + block))


def pair_length(world: World, config: TuningData, seed: int) -> int:
    """Tokens of a row that holds both responses to a prompt, as training reads them: of the first batch."""
    pair = tuning_pairs(world, range(config.batch), config, seed)
    return int(fork(pair.preferred, pair.dispreferred).tokens.shape[1])


def work_of(stage: Stage, length: int, answer: int, pair: int, blocks: int) -> Work | None:
    """What a stage does, from its configuration. length: tokens of a row; pair: of one with both responses. answer:
    tokens read to decode one answer. blocks: of the model.
    """
    config: Any = stage.config
    match config:
        case SeedConfig():
            return Work("world", windows=2 * config.sizes.ceiling)
        case BaseConfig():
            early, sizes = len(config.checkpoints) - 1, config.shared.sizes
            last = (sizes.base or sizes.final) * len(config.shared.world.grammars)
            decoded = len(BASE_SETS) * (early * sizes.checkpoint + last)
            updates, rows = config.pretraining.optimiser.steps, config.pretraining.batch
            trained = updates * rows * length
            return Work("pre-training", "pretrain", updates, rows, length, trained, decoded * answer, decoded=decoded)
        case ReferenceConfig():
            return Work("reference", read=config.rows * pair, references=config.rows)
        case TuneConfig():
            tuning = config.tuned.config
            tokens = pair if tuning.protocol.responses == 2 else length
            rows, updates = tuning.batch, tuning.optimiser.steps
            decoded = len(config.checkpoints) * sum(set_sizes(config.shared.sizes.checkpoint).values())
            trained = updates * rows * tokens
            read = decoded * answer + (trained if tuning.protocol.needs_base else 0)
            return Work("tuning", tuning.protocol.name, updates, rows, tokens, trained, read, decoded=decoded)
        case BehaviourConfig():
            decoded = behaviour_prompts(config.shared.sizes, config.attacks, matched=config.tuned is not None)
            kind = "behaviour" if config.tuned else "behaviour of the base"
            return Work(kind, read=decoded * answer, decoded=decoded)
        case LeftOutConfig():
            decoded = sum(set_sizes(config.shared.sizes.final).values())
            decoded += 3 * len(SOURCES) * config.shared.sizes.attacked
            return Work("behaviour on left-out operators", read=decoded * answer, decoded=decoded)
        case CellConfig():
            sizes = config.shared.sizes
            decoded = 2 * behaviour_prompts(sizes, config.attacks, matched=False)
            windows = (2 * len(LENGTHS) + 1) * sizes.attacked
            if config.cell.axis == "margin":
                windows = JUNCTIONS * sizes.attacked
                decoded = 2 * (sum(set_sizes(sizes.final).values()) + 2 * windows)
            return Work("a cell of the grid", read=decoded * answer, decoded=decoded, windows=windows)
        case AnalysisConfig():
            sizes, last = config.shared.sizes, len([step for step in config.checkpoints if step])
            prompts = (last + 1) * (2 * sizes.contrast)
            return Work("analysis", read=prompts * length, analyses=last)
        case AddedConfig():
            sizes, observation = config.shared.sizes, config.observation
            last = len([step for step in config.checkpoints if step]) if observation.every_checkpoint else 1
            prompts = (last + 1) * (2 * sizes.contrast)
            kind = f"observation {observation.name}"
            return Work(kind, read=prompts * length, analyses=last, share=observation.cost)
        case SubspacesConfig():
            sizes, last = config.shared.sizes, len([step for step in config.checkpoints if step])
            prompts = (last + 1) * 2 * sizes.contrast + 3 * len(PROBED) * config.probed
            return Work("ranks and probes", read=prompts * length, decoded=prompts)
        case DosingConfig():
            attacks = attacks_on_primary(config.attacks)
            decoded = (1 + len(attacks)) * min(config.shared.sizes.contrast, config.shared.sizes.attacked)
            return Work("dose-response", read=decoded * answer, decoded=decoded)
        case AligningConfig() | SeedsConfig():
            seeds = config.shared if isinstance(config, SeedsConfig) else (config.shared,)
            prompts = sum(4 * seed.sizes.contrast for seed in seeds)
            return Work("angles", read=prompts * length, decoded=prompts)
        case SamplesConfig():
            sets = len(set_sizes(1)) + sum(len(attack.forbidden_sources) for attack in config.attacks)
            decoded = sets * config.shared.sizes.shown * (len(config.tuned) + 1)
            return Work("samples", read=decoded * answer, decoded=decoded)
        case InterveningConfig():
            decoded = config.sweep.answered(blocks, len(attacks_on_primary(config.attacks)))
            return Work("interventions", read=decoded * answer, decoded=decoded)
        case AttackingConfig():
            tuning = config.tuned.config
            differentiated, decoded = attacking_prompts(config.attacks, config.prompts)
            tokens = pair if tuning.protocol.responses == 2 else length
            trained, of_update = differentiated * length, tuning.batch * tokens
            control = "" if config.tuned.control is None else f", {config.tuned.control}"
            kind, updates = f"attacks on {tuning.protocol.name}{control}", -(-trained // of_update)
            return Work(
                kind, tuning.protocol.name, updates, tuning.batch, tokens, trained, decoded * answer, decoded=decoded
            )
    return None


def attacking_prompts(attacks: Sequence[ModelAttack], prompts: int) -> tuple[int, int]:
    """Prompts of which attacks on one model take a gradient, each as dear as one of a training batch, and prompts
    that are answered: by the model before any attack, and under each.
    """
    costs = [cost_of(attack, prompts) for attack in attacks]
    differentiated = sum(cost.differentiated for cost in costs)
    return round(differentiated), 2 * prompts + sum(cost.answered for cost in costs)


def behaviour_prompts(sizes: Sizes, attacks: Sequence[PromptAttack], matched: bool) -> int:
    """Prompts answered when behaviour is measured at the last checkpoint, and if `matched` at the matched one too."""
    sets = sum(len(attack.forbidden_sources) + len(attack.benign_sources) for attack in attacks)
    last = sum(set_sizes(sizes.final).values()) + sets * sizes.attacked
    return last + (sum(set_sizes(sizes.checkpoint).values()) if matched else 0)


def seconds_of(work: Work, pace: Pace) -> float:
    """How long a stage takes at that pace."""
    update = pace.update[work.protocol] if work.protocol else 0.0
    analysis = 0.0
    if work.analyses:
        part = pace.analysis
        analysis = part["once"] + (work.analyses - 1) * part["checkpoint"] + part["last"]
    return (
        work.updates * update
        + work.references * pace.reference
        + work.decoded * pace.decode
        + work.windows * pace.ceiling
        + work.share * analysis
    )


def make_plan(recipe: Recipe, pace: Pace, workers: int, engine: str = "dask") -> Plan:
    """The plan of a recipe on `workers` workers, one thread each; `inline` runs one stage at a time."""
    world = World(recipe.world)
    shape, layout = model_config(world, recipe.pretraining), world.layout
    answer = layout.prompt_length + layout.response_length - 1
    compute_bytes = 2 if recipe.pretraining.compute_dtype == "bfloat16" else 4
    pair = pair_length(world, recipe.tunings[0].config, recipe.seeds[0])
    graph, costs = stages(recipe), []
    for stage in graph:
        work = work_of(stage, world.sequence_length, answer, pair, shape.layers)
        if work is None:
            costs.append(StageCost(stage.name, None, stage.threads, 0.0, 0.0, 0.0, None))
            continue
        plain, whole = operations(shape, work.trained, work.read, work.length or world.sequence_length)
        memory = max(
            training_bytes(shape, work.rows, work.length, compute_bytes) if work.updates else 0.0,
            decoding_bytes(shape, min(work.decoded, DECODED_AT_ONCE), layout.prompt_length, answer),
        )
        seconds = seconds_of(work, pace)
        costs.append(StageCost(stage.name, work, stage.threads, plain, whole, PROCESS_BYTES + memory, seconds))
    known = {cost.name: cost.seconds or 0.0 for cost in costs}
    threads = 1 if engine == "inline" else workers
    return Plan(
        recipe=recipe,
        model=shape,
        parameters=parameter_count(shape),
        stages=tuple(costs),
        workers=threads,
        engine=engine,
        seconds=sum(known.values()),
        chain=max(_chains(graph, known).values()),
        wall=makespan(graph, known, threads),
        notes=pace.notes,
    )


def makespan(graph: Sequence[Stage], seconds: Mapping[str, float], threads: int) -> float:
    """Seconds from the first stage to the last, as the engine starts them: the head of the heaviest chain first, and
    none passes one that waits for room.
    """
    priority = _chains(graph, {stage.name: stage.weight for stage in graph})
    waiting, done = {stage.name: stage for stage in graph}, set[str]()
    running: list[tuple[float, str, int]] = []
    now = 0.0
    while waiting or running:
        ready = [stage for stage in waiting.values() if done.issuperset(stage.inputs.values())]
        for stage in sorted(ready, key=lambda stage: -priority[stage.name]):
            if running and sum(width for *_, width in running) + stage.threads > threads:
                break
            heapq.heappush(running, (now + seconds[stage.name], stage.name, stage.threads))
            del waiting[stage.name]
        now, name, _ = heapq.heappop(running)
        done.add(name)
    return now


def _chains(graph: Sequence[Stage], lengths: Mapping[str, float]) -> dict[str, float]:
    """The length of the longest chain that each stage heads. Stages stand after what they take."""
    readers: dict[str, list[str]] = {stage.name: [] for stage in graph}
    for stage in graph:
        for source in set(stage.inputs.values()):
            readers[source].append(stage.name)
    longest: dict[str, float] = {}

    def chain(name: str) -> float:
        if name not in longest:
            longest[name] = lengths[name] + max((chain(reader) for reader in readers[name]), default=0.0)
        return longest[name]

    return {stage.name: chain(stage.name) for stage in graph}
