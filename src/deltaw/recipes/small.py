"""`small`: the claims once more in the small world of `quick`, with the placebo, in four seeds of their own."""

from dataclasses import replace

from deltaw.recipes.common import controlled, tuned_again, tunings_of
from deltaw.recipes.config import Recipe
from deltaw.recipes.intervention_sweeps import SMALL
from deltaw.recipes.learning_rates import strengths
from deltaw.recipes.observed import subspaces
from deltaw.recipes.quick import quick
from deltaw.recipes.sizes import Sizes
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.operators import Operators
from deltaw.training.controls.other import Other
from deltaw.training.controls.placebo import Placebo
from deltaw.training.controls.placebo_other import PlaceboOther
from deltaw.training.pretraining import PretrainingConfig

FIRST_SEED, SEEDS = 201, 4
BASE = 3000  # updates of each base model, by AdamW
TUNING = 400  # updates of each tuning


def small(device: str = "cpu", seed: int = 0) -> Recipe:
    """`quick` in four seeds that no earlier run has used, with the controls of every claim: `standard`'s second world.

    seed: which four; 0 means 201 to 204.

    Each protocol has its own `other` and `constant`. SSFT has, too, the second tuning of its base, the mirrored policy
    (`operators`), and the placebo with its own `other`. The unit of inference is the seed. So a single seed has fewer
    prompts than `quick`. Base models are trained by AdamW.
    """
    whole = quick(device)
    optimiser = replace(PretrainingConfig().optimiser, steps=BASE, decay_end=BASE)
    config = whole.tunings[0].config
    by_rate = tunings_of(config.batch, device, config.compute_dtype, strengths(TUNING), controls=())
    refusing = tuple(tuned for tuned in by_rate if not tuned.curve_only)
    medium = tuple(tuned for tuned in refusing if tuned.strength == "medium")
    first = medium[0]
    harmless = (
        *(controlled(tuned, Other()) for tuned in refusing),
        *(controlled(tuned, Constant()) for tuned in medium),
        *(controlled(first, control) for control in (Operators(), Placebo(), PlaceboOther())),
    )
    protocols = tuple(tuned.name for tuned in medium)
    own = tuple(f"other-{name}" for name in protocols)
    constant = tuple(f"constant-{name}" for name in protocols)
    start = FIRST_SEED + SEEDS * seed
    return replace(
        whole,
        name="small",
        pretraining=replace(whole.pretraining, optimiser=optimiser),
        tunings=(*refusing, *harmless, tuned_again(first)),
        checkpoints=(0, 25, 50, 100, 200, TUNING),
        base_checkpoints=(0, BASE),
        sizes=Sizes(final=500, checkpoint=128, attacked=200, contrast=256, ceiling=1000, shown=1),
        model_attacks=replace(whole.model_attacks, controls=own, prompts=32),
        seeds=tuple(range(start, start + SEEDS)),
        exploratory=False,
        subspaces=subspaces(ranked=(*protocols, *own, *constant), dosed=(*protocols, *own)),
        interventions=SMALL,
    )
