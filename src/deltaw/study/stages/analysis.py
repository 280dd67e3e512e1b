"""The stages that look at one tuned model through a lens: every observation at its checkpoints, nulls at the last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.models import load
from deltaw.observations.attacked_prompts.measure import observe_attacked_prompts
from deltaw.observations.clusters.measure import observe_clusters
from deltaw.observations.gain.measure import observe_gain
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.null_space.measure import observe_null_space
from deltaw.observations.probe.measure import observe_probe
from deltaw.observations.ranks.measure import observe_ranks
from deltaw.observations.refusal_direction.measure import observe_refusal_direction
from deltaw.observations.sensitivity.measure import observe_sensitivity
from deltaw.observations.update_effect.measure import observe_update_effect
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.config import Subspaces
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.lens import SyntheticModel, base_sides
from deltaw.study.stages.shared import SeedConfig
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.world import World

Observe = Callable[[Lens, Sheet], None]


@dataclass(frozen=True)
class AnalysisConfig:
    """The stage of the paper's observations of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    attacks: tuple[PromptAttack, ...]
    """On prompts."""


@dataclass(frozen=True)
class SubspacesConfig:
    """The stage that counts the directions of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    subspaces: Subspaces


OBSERVED: tuple[Observe, ...] = (
    observe_null_space,
    observe_clusters,
    observe_gain,
    observe_update_effect,
    observe_sensitivity,
    observe_attacked_prompts,
)
"""At every checkpoint; what is too dear for earlier ones leaves them out itself."""


def analyse(context: StageContext) -> None:
    """Observations 1 to 5, the function and the spectrum of ΔW, at each checkpoint; nulls at the last."""
    config: AnalysisConfig = context.config
    sides = base_sides(context.inputs["base"], config.shared, config.tuned.config.device, config.attacks)
    _observe(context, config.shared, config.tuned, config.checkpoints, sides, lambda last: OBSERVED)


def measure_subspaces(context: StageContext) -> None:
    """Ranks at each checkpoint; the direction of refusal and the probe at the last."""
    config: SubspacesConfig = context.config
    subspaces = config.subspaces

    def refusal(lens: Lens, sheet: Sheet) -> None:
        observe_refusal_direction(lens, sheet, subspaces.directions)

    def probe(lens: Lens, sheet: Sheet) -> None:
        observe_probe(lens, sheet, subspaces.permutations)

    device = config.tuned.config.device
    sides = base_sides(context.inputs["base"], config.shared, device, probed=subspaces.probed)
    ranks: tuple[Observe, ...] = (observe_ranks,)
    _observe(
        context,
        config.shared,
        config.tuned,
        config.checkpoints,
        sides,
        lambda last: (*ranks, refusal, probe) if last else ranks,
    )


def _observe(
    context: StageContext,
    shared: SeedConfig,
    tuned: Tuned,
    checkpoints: Sequence[int],
    sides: tuple[BaseSide, BaseSide],
    observed: Callable[[bool], Sequence[Observe]],
) -> None:
    """Every observation of every checkpoint after the first. sides: for the last checkpoint, and for earlier ones."""
    world = World(shared.world)
    sheet = Sheet(stage="analysis", **tuned_fields(tuned, shared.seed), role="last_prompt")
    steps = [step for step in checkpoints if step > 0]
    for number, step in enumerate(steps):
        model, _ = load(step_directory(context.inputs["tuned"], step))
        last = step == steps[-1]
        lens = Lens(sides[0] if last else sides[1], SyntheticModel(model.to(tuned.config.device), world), last)
        for observe in observed(last):
            observe(lens, sheet.with_(step=step))
        context.report(number + 1, len(steps), f"step {step}")
    sheet.write(context.out)
