"""`standard`: six seeds that no other run has used, with all controls; its answers decide."""

from dataclasses import replace

from deltaw.recipes.common import CONTROLS, controlled, tuned_again, tunings_of
from deltaw.recipes.config import Recipe
from deltaw.recipes.intervention_sweeps import STANDARD
from deltaw.recipes.observed import subspaces
from deltaw.recipes.quick import quick, strengths
from deltaw.recipes.sizes import Sizes
from deltaw.training.controls.other import Other
from deltaw.training.pretraining import PretrainingConfig

STANDARD_SEEDS = 6
STANDARD_BASE = 3000  # updates of each base model, by AdamW
STANDARD_TUNING = 400  # updates of each tuning


def standard(device: str = "cpu", seed: int = 0) -> Recipe:
    """`quick` in six seeds that no earlier run has used, with every control of every claim; its answers decide.

    seed: which six; 0 means 101 to 106.

    The unit of inference is the seed. So a single seed has fewer prompts and checkpoints than `quick`. Base models are
    trained by AdamW.
    """
    whole = quick(device)
    optimiser = replace(PretrainingConfig().optimiser, steps=STANDARD_BASE, decay_end=STANDARD_BASE)
    steps, config = STANDARD_TUNING, whole.tunings[0].config
    all_controls = tunings_of(config.batch, device, config.compute_dtype, strengths(steps), controls=CONTROLS)
    tunings = tuple(tuned for tuned in all_controls if not tuned.curve_only)
    first = next(tuned for tuned in tunings if tuned.name == "ssft-medium")
    others = tuple(
        controlled(tuned, Other()) for tuned in tunings if tuned.control is None and tuned.name != first.name
    )
    protocols = tuple(tuned.name for tuned in tunings if tuned.strength == "medium" and tuned.control is None)
    own = tuple(f"other-{name}" for name in protocols)
    ranked = (*protocols, *own, *(f"{control}-{first.name}" for control in ("operators", "constant")))
    return replace(
        whole,
        name="standard",
        pretraining=replace(whole.pretraining, optimiser=optimiser),
        tunings=(*tunings, *others, tuned_again(first)),
        checkpoints=(0, 40, steps),
        base_checkpoints=(0, STANDARD_BASE),
        sizes=Sizes(final=500, checkpoint=128, attacked=200, contrast=256, ceiling=1000, shown=1),
        model_attacks=replace(whole.model_attacks, controls=own, prompts=32),
        seeds=tuple(range(101 + STANDARD_SEEDS * seed, 101 + STANDARD_SEEDS * (seed + 1))),
        exploratory=False,
        subspaces=subspaces(ranked=ranked, dosed=(*protocols, *own)),
        interventions=STANDARD,
    )
