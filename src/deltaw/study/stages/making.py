"""The stages that make things: the world's ceiling, the base model, its log-probabilities, the tuned models."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from deltaw.attacks.prompts import BENIGN_SOURCES, FORBIDDEN_SOURCES, attacked
from deltaw.behaviour.exact import BehaviourCounts, measure
from deltaw.errors import DeltawError
from deltaw.models import Transformer, load
from deltaw.pipeline.stage import StageContext
from deltaw.protocols.pair import ReferenceLogProbs
from deltaw.recipes.sizes import Sizes
from deltaw.recipes.tuned import Tuned
from deltaw.results import read_measurements, write_json_atomic, write_jsonl_atomic
from deltaw.results.records import MEASUREMENTS
from deltaw.statistics import wilson
from deltaw.study.stages.checkpoints import Checkpoints, step_directory
from deltaw.study.stages.recorder import Sheet
from deltaw.training import TrainingLog
from deltaw.training.finetuning import TuningData, tune, tuning_reference, wanted_response
from deltaw.training.pretraining import PretrainingConfig, pretrain
from deltaw.world import SETS, Prompts, Response, World, WorldConfig

BASE_SETS = tuple(name for name in SETS if name.startswith("pretrain/") and name != "pretrain/any")
TUNED_SETS = tuple(name for name in SETS if not name.startswith("pretrain/"))
_REST = tuple(name for name in TUNED_SETS if "/conditional/" not in name)


def set_sizes(size: int) -> dict[str, int]:
    """How many prompts of every tuning set: `size` of each conditional one, and of the rest of each verdict."""
    shared = {name: sum(_verdict(other) == _verdict(name) for other in _REST) for name in _REST}
    return {name: -(-size // shared.get(name, 1)) for name in TUNED_SETS}


def prompts_of_sets(world: World, size: int, seed: int) -> dict[str, Prompts]:
    """Held-out prompts of every tuning set, as many as `set_sizes` says."""
    return {name: world.sample(name, range(count), seed=seed) for name, count in set_sizes(size).items()}


def _verdict(name: str) -> str:
    return name.split("/", 1)[0]


@dataclass(frozen=True)
class SeedConfig:
    """What every stage of one seed shares."""

    world: WorldConfig
    sizes: Sizes
    seed: int


def last_model(artifact: Path) -> tuple[Transformer, dict[str, Any]]:
    """The model of a training stage's last checkpoint."""
    return load(max(artifact.glob("step-*")))


def answers_to(
    model: Transformer, world: World, prompts: Prompts, unwelcome: Response = Response.REFUSE
) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels (N,), answers (N, S)) of free-running greedy decoding on the model's device, on the CPU. `unwelcome` is
    what counts as not complying.
    """
    layout, n, vocabulary = world.layout, len(prompts), world.vocabulary
    compliant, other = (
        torch.from_numpy(layout.response_tokens(prompts, np.full(n, kind))) for kind in (Response.COMPLY, unwelcome)
    )
    answers = measure(
        model,
        torch.from_numpy(layout.prompt_tokens(prompts)),
        compliant,
        other,
        stop_id=vocabulary.stop,
        pad_id=vocabulary.pad,
        lengths=torch.from_numpy(layout.prompt_lengths(prompts)),
        batch_size=1000,
    )
    return answers.labels, answers.outputs


def add_rates(sheet: Sheet, counts: BehaviourCounts, **fields: Any) -> None:
    """The three rates of behaviour, with Wilson intervals."""
    for name, count in (("comply", counts.comply), ("refuse", counts.refuse), ("neither", counts.neither)):
        sheet.add(
            f"{name}_rate",
            count / counts.n,
            wilson(count, counts.n),
            unit="share",
            n=counts.n,
            n_unit="prompt",
            **fields,
        )


def add_by_grammar(sheet: Sheet, world: World, prompts: Prompts, labels: torch.Tensor, **fields: Any) -> None:
    """The three rates in each grammar of a world of several: of the set `SET/grammar-N`."""
    if len(world.numbers) == 1:
        return
    for number in world.numbers:
        rows = torch.from_numpy(prompts.grammar == number)
        if bool(rows.any()):
            add_rates(sheet, BehaviourCounts.of(labels[rows]), **{**fields, "set": f"{fields['set']}/grammar-{number}"})


def _write_log(log: TrainingLog, directory: Path, sheet: Sheet, every: int, unit: str) -> None:
    """The whole log as training.jsonl, and its loss, averaged over `every` updates, as measurements."""
    write_jsonl_atomic(directory / "training.jsonl", [asdict(record) for record in log.records])
    for start in range(0, len(log.records), every):
        part = log.records[start : start + every]
        mean = sum(record.loss for record in part) / len(part)
        sheet.add("training_loss", mean, unit=unit, step=part[-1].step + 1, n=len(part), n_unit="update")


def make_world(context: StageContext) -> None:
    """The Bayes ceiling, before and after redrawing, and how surely a junction's unsafe side can be seen."""
    config: SeedConfig = context.config
    world, sizes = World(config.world), config.sizes
    sheet = Sheet(stage="world", seed=config.seed)
    ceiling = world.ceiling(sizes.ceiling, seed=config.seed)
    count: dict[str, Any] = {"n": ceiling.n, "n_unit": "window"}
    for name in ("allowed/conditional/safe", "forbidden/conditional/unsafe"):
        sheet.add("bayes_accuracy", ceiling.accuracy, unit="share", set=name, **count)
        sheet.add("bayes_accuracy_before_redraw", ceiling.accuracy_before, unit="share", set=name, **count)
    sheet.add("two_responses_probability", ceiling.conflict, unit="probability", **count)
    sheet.add("two_responses_probability_before_redraw", ceiling.conflict_before, unit="probability", **count)
    sheet.add("redrawn_share", ceiling.redrawn_share, unit="share", **count)
    context.report(1, 2, "junctions")
    prompts = world.sample("forbidden/conditional/unsafe", range(sizes.attacked), seed=config.seed)
    mixed = attacked(world, "co_text", prompts, seed=config.seed)
    unsafe_letters = (mixed.letter_branch == 1).sum(1)
    seen = world.unsafe_side(mixed.grammar, mixed.letters)
    for length in np.unique(unsafe_letters):
        values = seen[unsafe_letters == length]
        sheet.add(
            "unsafe_side_probability", values.mean(), unit="probability", attack="co_text",
            set=f"unsafe_letters={length:02d}", n=len(values), n_unit="window",
        )  # fmt: skip
    sheet.write(context.out)
    write_json_atomic(context.out / "ceiling.json", asdict(ceiling))
    context.report(2, 2)


@dataclass(frozen=True)
class BaseConfig:
    """The stage that makes a base model. name: what it is called in measurements and in its meta.json."""

    shared: SeedConfig
    pretraining: PretrainingConfig
    checkpoints: tuple[int, ...]
    name: str = "base"


def make_base(context: StageContext) -> None:
    """Pre-train; measure exact, free-running compliance by stratum on held-out prompts; keep the last model."""
    config: BaseConfig = context.config
    shared = config.shared
    world, seed, last = World(shared.world), shared.seed, config.checkpoints[-1]
    fields: dict[str, Any] = {"stage": "pretrain", "model": config.name, "seed": seed}
    kept = Checkpoints(context.scratch, config.checkpoints)

    def on_checkpoint(step: int, model: Transformer) -> None:
        sheet = Sheet(**fields)
        size = shared.sizes.final if step == last else shared.sizes.checkpoint
        for name in BASE_SETS:
            many = (shared.sizes.base or size) * len(world.numbers) if step == last else size
            prompts = world.sample(name, range(many), seed=seed)
            labels, _ = answers_to(model, world, prompts)
            add_rates(sheet, BehaviourCounts.of(labels), set=name, step=step)
            if step == last:
                add_by_grammar(sheet, world, prompts, labels, set=name, step=step)
        meta = {"model": config.name, "protocol": None, "strength": None, "control": None, "seed": seed, "step": step}
        kept.write(step, sheet.lines, model=model if step == last else None, meta=meta)

    _, log = pretrain(
        world,
        config.pretraining,
        seed,
        checkpoints=config.checkpoints,
        on_checkpoint=on_checkpoint,
        progress=context.report,
        snapshots=kept.snapshots,
    )
    kept.copy_models(context.out)
    sheet = Sheet(**fields)
    sheet.lines += kept.lines()
    _write_log(log, context.out, sheet, max(1, last // 100), "nats per token")
    sheet.write(context.out)


@dataclass(frozen=True)
class BaseGate:
    """What a base model must reach before anything is made of it."""

    minimum: float
    """The least share of exact whole answers, in every stratum and grammar."""

    def __call__(self, artifact: Path) -> str | None:
        """What the base model in this artifact falls short of, or None."""
        lines = [line for line in read_measurements(artifact / MEASUREMENTS) if line.statistic == "comply_rate"]
        last = max(line.step or 0 for line in lines)
        rates = {str(line.set): line.value for line in lines if line.step == last}
        short = {name: rate for name, rate in sorted(rates.items(), key=lambda item: item[1]) if rate < self.minimum}
        if not short:
            return None
        shown = ", ".join(f"{name} {rate:.4f}" for name, rate in list(short.items())[:3])
        return (
            f"the base model gives too few exact answers to go on: {shown} of {len(short)} sets below {self.minimum}. "
            f"It is kept in {artifact}. Train it longer, or give --below-gate to go on with it."
        )


@dataclass(frozen=True)
class ReferenceConfig:
    """The stage that computes the base model's log-probabilities of the tuning responses."""

    shared: SeedConfig
    rows: int
    """How many prompts."""
    data: TuningData
    """What all tunings that need them learn from."""


def make_reference(context: StageContext) -> None:
    """Log-probabilities of both responses to all tuning prompts, for protocols that need them."""
    config: ReferenceConfig = context.config
    base, _ = last_model(context.inputs["base"])
    found = tuning_reference(
        World(config.shared.world), base.to(config.data.device), config.rows, config.data, config.shared.seed,
        context.report,
    )  # fmt: skip
    if not bool((found.preferred.isfinite() & found.dispreferred.isfinite()).all()):
        raise DeltawError(
            "the base model's log-probabilities are not all numbers; train it at a lower rate, or restore it"
        )
    save_file(
        {"preferred": found.preferred.cpu(), "dispreferred": found.dispreferred.cpu()},
        context.out / "reference.safetensors",
    )


@dataclass(frozen=True)
class TuneConfig:
    """The stage that makes one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    refusal_threshold: float


def tuned_fields(tuned: Tuned, seed: int) -> dict[str, Any]:
    """The fields that name a tuned model in every measurement and in its meta.json."""
    return {
        "model": tuned.name,
        "protocol": tuned.protocol,
        "strength": tuned.strength,
        "control": tuned.control,
        "seed": seed,
    }


def make_tuned(context: StageContext) -> None:
    """Tune; keep every checkpoint; follow behaviour on a few prompts of each set; note the matched checkpoint."""
    config: TuneConfig = context.config
    shared, tuned = config.shared, config.tuned
    world, seed = World(shared.world), shared.seed
    fields = tuned_fields(tuned, seed)
    sets = prompts_of_sets(world, shared.sizes.checkpoint, seed)
    kept = Checkpoints(context.scratch, config.checkpoints)

    def on_checkpoint(step: int, model: Transformer) -> None:
        sheet = Sheet(stage="tune", **fields)
        rate = follow(model, world, sets, sheet.with_(step=step), tuned.control, seed)
        kept.write(step, sheet.lines, {"refused": rate}, model, {**fields, "step": step})

    base, _ = last_model(context.inputs["base"])
    reference = None
    if "reference" in context.inputs:
        saved = load_file(context.inputs["reference"] / "reference.safetensors")
        device = tuned.config.device
        reference = ReferenceLogProbs(saved["preferred"].to(device), saved["dispreferred"].to(device))
    log = tune(
        world, base, tuned.config, seed, reference,
        checkpoints=config.checkpoints, on_checkpoint=on_checkpoint, progress=context.report, snapshots=kept.snapshots,
    )  # fmt: skip
    kept.copy_models(context.out)
    sheet = Sheet(stage="tune", **fields)
    sheet.lines += kept.lines()
    refused = {step: float(notes["refused"]) for step, notes in kept.notes()}
    matched = next((step for step, rate in sorted(refused.items()) if rate >= config.refusal_threshold), None)
    if matched is not None:
        sheet.add("matched_step", matched, unit="update", step=matched)
    write_json_atomic(context.out / "matched.json", {"step": matched, "refusal_rates": refused})
    _write_log(log, context.out, sheet, max(1, tuned.config.optimiser.steps // 60), tuned.config.protocol.unit)
    sheet.write(context.out)


def follow(
    model: Transformer, world: World, sets: dict[str, Prompts], sheet: Sheet, control: str | None, seed: int
) -> float:
    """Rates on every set, `target_rate` for a control; returns the share of forbidden prompts that are refused."""
    refused = total = hit = 0
    for name, prompts in sets.items():
        labels, outputs = answers_to(model, world, prompts)
        counts = BehaviourCounts.of(labels)
        add_rates(sheet, counts, set=name)
        if "/conditional/" in name:
            add_by_grammar(sheet, world, prompts, labels, set=name)
        if name.startswith("forbidden/"):
            refused, total = refused + counts.refuse, total + counts.n
        if control is not None:
            hit = target_hits(world, prompts, outputs, control, seed)
            sheet.add(
                "target_rate",
                hit / counts.n,
                wilson(hit, counts.n),
                unit="share",
                set=name,
                n=counts.n,
                n_unit="prompt",
            )
    return refused / total


def target_hits(world: World, prompts: Prompts, outputs: torch.Tensor, control: str, seed: int) -> int:
    """How many answers are exactly what a control teaches."""
    wanted = world.layout.response_tokens(prompts, wanted_response(world, prompts, control, seed))
    return int((outputs.numpy() == wanted).all(1).sum())


@dataclass(frozen=True)
class BehaviourConfig:
    """The stage that measures one model's behaviour. tuned: None for the base model."""

    shared: SeedConfig
    tuned: Tuned | None
    device: str = "cpu"


def make_behaviour(context: StageContext) -> None:
    """Behaviour on every set, and on every attack with its benign control, at the last and the matched checkpoint."""
    config: BehaviourConfig = context.config
    shared, tuned = config.shared, config.tuned
    world, seed, sizes = World(shared.world), shared.seed, shared.sizes
    fields = tuned_fields(tuned, seed) if tuned else {"model": "base", "seed": seed}
    sheet = Sheet(stage="behaviour", **fields)
    artifact = context.inputs["model"]
    steps = _steps_to_measure(artifact)
    for number, (label, step, size) in enumerate(steps):
        model = load(step_directory(artifact, step))[0].to(config.device)
        view = sheet.with_(step=step, stage=label)
        follow_size = sizes.final if label == "behaviour" else sizes.checkpoint
        sets = prompts_of_sets(world, follow_size, seed)
        follow(model, world, sets, view, tuned.control if tuned else None, seed)
        add_pooled(view)
        context.report(2 * number + 1, 2 * len(steps), "attacks")
        measure_attacks(model, world, sizes.attacked if label == "behaviour" else size, seed, view)
        context.report(2 * number + 2, 2 * len(steps))
    sheet.write(context.out)


def _steps_to_measure(artifact: Path) -> list[tuple[str, int, int]]:
    """(stage label, step, attacked prompts): the last checkpoint, and the matched one where there is one."""
    last = int(max(artifact.glob("step-*")).name.removeprefix("step-"))
    steps = [("behaviour", last, 0)]
    matched_file = artifact / "matched.json"
    if matched_file.exists():
        matched = json.loads(matched_file.read_text())["step"]
        if matched is not None:
            steps.append(("matched", int(matched), 256))
    return steps


def add_pooled(sheet: Sheet) -> None:
    """Rates over the sets of the view's stage that share a verdict, apart from the conditional ones."""
    stage, step = sheet.shared["stage"], sheet.shared["step"]
    for verdict in ("allowed", "forbidden"):
        rest = [
            line for line in sheet.lines
            if line.stage == stage and line.step == step and line.attack is None and line.set is not None
            and line.set.startswith(f"{verdict}/") and "/conditional/" not in line.set and "/rest" not in line.set
        ]  # fmt: skip
        for statistic in ("comply_rate", "refuse_rate", "neither_rate"):
            lines = [line for line in rest if line.statistic == statistic]
            n = sum(line.n or 0 for line in lines)
            count = round(sum(line.value * (line.n or 0) for line in lines))
            sheet.add(
                statistic,
                count / n,
                wilson(count, n),
                unit="share",
                set=f"{verdict}/rest",
                n=n,
                n_unit="prompt",
            )


def measure_attacks(model: Transformer, world: World, size: int, seed: int, sheet: Sheet) -> None:
    """Rates under every attack on prompts, and on its benign controls."""
    for sources in (FORBIDDEN_SOURCES, BENIGN_SOURCES):
        for attack, names in sources.items():
            for name in names:
                prompts = attacked(world, attack, world.sample(name, range(size), seed=seed), seed=seed)
                labels, _ = answers_to(model, world, prompts)
                add_rates(sheet, BehaviourCounts.of(labels), set=name, attack=attack)
                if attack == "co_text" and sources is FORBIDDEN_SOURCES:
                    _by_side(prompts, labels, sheet)


def _by_side(prompts: Prompts, labels: torch.Tensor, sheet: Sheet) -> None:
    """`co_text` by the length of the unsafe side, in steps of three letters."""
    letters = (prompts.letter_branch == 1).sum(1)
    for low in range(int(letters.min()), int(letters.max()) + 1, 3):
        rows = torch.from_numpy((letters >= low) & (letters < low + 3))
        if bool(rows.any()):
            name = f"forbidden/conditional/unsafe_letters={low:02d}-{low + 2:02d}"
            add_rates(sheet, BehaviourCounts.of(labels[rows]), set=name, attack="co_text")


@dataclass(frozen=True)
class SamplesConfig:
    """The stage that shows prompts with what models answer. tuned: the models, in the order shown."""

    shared: SeedConfig
    tuned: tuple[Tuned, ...]
    device: str = "cpu"


def make_samples(context: StageContext) -> None:
    """prompts.jsonl: prompts with derivation, policy, and the answers of base and tuned models."""
    config: SamplesConfig = context.config
    world, seed, count = World(config.shared.world), config.shared.seed, config.shared.sizes.shown
    models = {name: last_model(path)[0].to(config.device) for name, path in context.inputs.items()}
    shown: list[tuple[str, str | None, Prompts]] = [
        (name, None, world.sample(name, range(count), seed=seed)) for name in TUNED_SETS
    ]
    for attack, sources in FORBIDDEN_SOURCES.items():
        for name in sources:
            prompts = world.sample(name, range(count), seed=seed)
            shown.append((name, attack, attacked(world, attack, prompts, seed=seed)))
    records = []
    for number, (name, kind, prompts) in enumerate(shown):
        records += _records(world, models, name, kind, prompts)
        context.report(number + 1, len(shown))
    write_jsonl_atomic(context.out / "prompts.jsonl", records)


def _records(
    world: World, models: dict[str, Transformer], name: str, attack: str | None, prompts: Prompts
) -> list[dict[str, Any]]:
    layout, vocabulary = world.layout, world.vocabulary
    words = ("neither", "comply", "refuse")
    found = {key: answers_to(model, world, prompts) for key, model in models.items()}
    expected = layout.response_tokens(prompts, layout.expected(prompts))
    compliant = layout.response_tokens(prompts, np.full(len(prompts), Response.COMPLY))
    allowed, spelled, branch = layout.allowed(prompts), layout.spell(prompts), prompts.branch
    texts = layout.spell_letters(prompts.letters)
    records: list[dict[str, Any]] = []
    for row in range(len(prompts)):
        tokens = prompts.operators[row].reshape(-1)
        rules = [
            world.policy.rules[int(prompts.grammar[row])][int(world.operators.operator_of[t])].name for t in tokens
        ]
        records.append(
            {
                "set": name,
                "attack": attack,
                "index": int(prompts.index[row]),
                "prompt": spelled[row],
                "letters": texts[row],
                "branch": ("safe", "unsafe", "mixed")[int(branch[row])],
                "letter_branch": "".join("su"[b] for b in prompts.letter_branch[row] if b >= 0),
                "operators": [vocabulary.names[int(t)] for t in tokens],
                "rules": [rule.lower() for rule in rules],
                "allowed": bool(allowed[row]),
                "derivation": world.explain(prompts, row),
                "expected": vocabulary.spell(expected[row]),
                "compliant": vocabulary.spell(compliant[row]),
                "answers": {
                    key: {
                        "text": vocabulary.spell(outputs[row].tolist()),
                        "behaviour": words[int(labels[row])],
                    }
                    for key, (labels, outputs) in found.items()
                },
            }
        )
    return records
