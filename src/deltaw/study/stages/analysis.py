"""The stages that look at one tuned model through a lens: observations at its checkpoints, nulls at the last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.models import Transformer, load
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.observation import Observation, observe
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.lens import SyntheticModel, base_sides
from deltaw.study.stages.shared import SeedConfig, last_model
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.world import World


@dataclass(frozen=True)
class AnalysisConfig:
    """The stage of the recipe's observations of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    observations: tuple[Observation, ...]
    attacks: tuple[PromptAttack, ...]
    """On prompts."""


@dataclass(frozen=True)
class SubspacesConfig:
    """The stage that counts the directions of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    observations: tuple[Observation, ...]
    probed: int
    """Prompts behind a probe."""


@dataclass(frozen=True)
class AddedConfig:
    """The stage of one more observation of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    observation: Observation
    attacks: tuple[PromptAttack, ...]
    """On prompts."""
    probed: int
    """Prompts behind a probe."""
    others: tuple[str, ...] = ()
    """Other tunings of the same base that it is measured beside; each is an input called `with NAME`."""


def analyse(context: StageContext) -> None:
    """The paper's observations, the function and the spectrum of ΔW, at each checkpoint; nulls at the last."""
    config: AnalysisConfig = context.config
    device = config.tuned.config.device
    sides = base_sides(context.inputs["base"], config.shared, device, config.attacks)
    _observe(context, config.shared, config.tuned, config.checkpoints, sides, config.observations)


def measure_subspaces(context: StageContext) -> None:
    """Ranks at each checkpoint; the direction of refusal and the probe at the last."""
    config: SubspacesConfig = context.config
    sides = base_sides(context.inputs["base"], config.shared, config.tuned.config.device, probed=config.probed)
    _observe(context, config.shared, config.tuned, config.checkpoints, sides, config.observations)


def measure_added(context: StageContext) -> None:
    """One observation that is not the recipe's own."""
    config: AddedConfig = context.config
    device = config.tuned.config.device
    sides = base_sides(context.inputs["base"], config.shared, device, config.attacks, config.probed)
    models = {name: last_model(context.inputs[f"with {name}"])[0].to(device) for name in config.others}
    _observe(context, config.shared, config.tuned, config.checkpoints, sides, (config.observation,), models)


def _observe(
    context: StageContext,
    shared: SeedConfig,
    tuned: Tuned,
    checkpoints: Sequence[int],
    sides: tuple[BaseSide, BaseSide],
    observations: Sequence[Observation],
    ends: Mapping[str, Transformer] | None = None,
) -> None:
    """The observations of every checkpoint after the first. sides: for the last checkpoint, and for earlier ones.

    ends: of other tunings of the same base, by name.
    """
    world = World(shared.world)
    beside = {name: SyntheticModel(end, world) for name, end in (ends or {}).items()}
    sheet = Sheet(stage="analysis", **tuned_fields(tuned, shared.seed), role="last_prompt")
    steps = [step for step in checkpoints if step > 0]
    for number, step in enumerate(steps):
        last = step == steps[-1]
        observed = [observation for observation in observations if last or observation.every_checkpoint]
        if observed:
            model, _ = load(step_directory(context.inputs["tuned"], step))
            observed_model = SyntheticModel(model.to(tuned.config.device), world)
            lens = Lens(sides[0] if last else sides[1], observed_model, last, others=beside)
            for observation in observed:
                observe(observation, lens, sheet.with_(step=step))
        context.report(number + 1, len(steps), f"step {step}")
    sheet.write(context.out)
