"""The stage that makes a base model, and the gate that it may have to pass."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltaw.behaviour.exact import BehaviourCounts
from deltaw.models import Transformer
from deltaw.pipeline.stage import StageContext
from deltaw.results import read_measurements
from deltaw.results.recorder import Sheet
from deltaw.results.records import MEASUREMENTS
from deltaw.study.stages.answers import add_by_grammar, add_rates, answers_to_each
from deltaw.study.stages.checkpoints import Checkpoints
from deltaw.study.stages.shared import BASE_SETS, SeedConfig, write_log
from deltaw.training.pretraining import PretrainingConfig, pretrain
from deltaw.world import World


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
        many = (shared.sizes.base or size) * len(world.numbers) if step == last else size
        sets = [world.sample(name, range(many), seed=seed) for name in BASE_SETS]
        answered = answers_to_each(model, world, sets)
        for name, prompts, (labels, _) in zip(BASE_SETS, sets, answered, strict=True):
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
    write_log(log, context.out, sheet, max(1, last // 100), "nats per token")
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
