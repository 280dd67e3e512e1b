"""`standard`: the run that decides, in the paper's own world, in eight seeds that no other run has used."""

from dataclasses import replace

from deltaw.attacks.models import SoftPrompts
from deltaw.errors import DeltawError
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.recipes.config import Recipe, Subspaces
from deltaw.recipes.intervention_sweeps import STANDARD
from deltaw.recipes.paper_laptop import paper_laptop
from deltaw.recipes.sizes import Sizes

SEEDS = tuple(range(221, 229))
"""Eight: no more are added, whatever they say. What is unclear says how many would decide."""


def standard(device: str = "cpu", seed: int = 0) -> Recipe:
    """`paper-laptop` in eight seeds that no earlier run has used; its answers decide.

    Each protocol has its own `other` and its own `constant`, tuned for as many updates at the same rate. Seeds of the
    primary table come first, so it lacks what `small` has: the smaller rate, the second tuning of a base, the placebo
    and the mirrored policy. Of attacks on models it has two doses of soft prompts.

    seed: 0 for all eight, or one of them, alone. Eight runs of one seed each, pooled, are the same study.
    """
    if seed and seed not in SEEDS:
        raise DeltawError(f"seed is {seed}; standard has {SEEDS[0]} to {SEEDS[-1]}: give one of these, or 0 for all")
    whole = paper_laptop(device)
    protocols = whole.model_attacks.models
    own = tuple(f"other-{name}" for name in protocols)
    steps = whole.steps
    return replace(
        whole,
        name="standard",
        checkpoints=(0, steps // 10, steps // 5, 2 * steps // 5, 3 * steps // 5, 4 * steps // 5, steps),
        sizes=Sizes(final=400, base=2000, checkpoint=96, attacked=200, contrast=256, ceiling=1000, shown=1),
        model_attacks=replace(
            whole.model_attacks, controls=own, attacks=(SoftPrompts(doses=("soft_weak", "soft_strong")),)
        ),
        subspaces=Subspaces(dose_response=DoseResponse(), dosed=(*protocols, *own)),
        interventions=STANDARD,
        seeds=SEEDS if seed == 0 else (seed,),
        exploratory=False,
    )
