"""The stage of dose-response of one tuned model (`observations.dose_response`).

Attacks on prompts are answered here; what the stage of attacks on models kept of each prompt is taken from there.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.observations.dose_response.measure import DoseResponse, Doses, write_doses
from deltaw.observations.lens import Lens
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.attack import PER_PROMPT
from deltaw.study.stages.lens import FORBIDDEN, SyntheticModel, base_side
from deltaw.study.stages.shared import SeedConfig, last_model
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.world import World


@dataclass(frozen=True)
class DosingConfig:
    """The stage of dose-response of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    attacks: tuple[PromptAttack, ...]
    """On prompts."""
    doses: tuple[str, ...]
    """Of soft prompts, weakest first; none: it is not attacked so."""
    observation: DoseResponse


def measure_doses(context: StageContext) -> None:
    """Slopes and curves of success on position and on gain; position by the dose of soft prompts."""
    config: DosingConfig = context.config
    shared, device = config.shared, config.tuned.config.device
    tuned, meta = last_model(context.inputs["tuned"])
    sizes = replace(shared.sizes, contrast=min(shared.sizes.contrast, shared.sizes.attacked))
    # Not as the last checkpoint: Observation 5's own intervals and the secondary contrast are the analysis stage's.
    before = base_side(context.inputs["base"], shared.world, sizes, shared.seed, device, config.attacks)
    lens = Lens(before, SyntheticModel(tuned.to(device), World(shared.world)), last=False)
    fields = tuned_fields(config.tuned, shared.seed)
    sheet = Sheet(stage="analysis", **fields, step=int(meta["step"]), role="last_prompt", set=FORBIDDEN)
    kept = _kept(context.inputs["attacks"] / PER_PROMPT) if "attacks" in context.inputs else []
    write_doses(lens, kept, config.doses, sheet)
    attacks = [part for part in kept if "/random" not in part.attack and "/unrelated" not in part.attack]
    config.observation.measure_with(lens, sheet, attacks)
    context.report(1, 1)
    sheet.write(context.out)


def _kept(path: Path) -> list[Doses]:
    return [Doses.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
