"""The smallest study that has a stage of every kind: what the faults are tried on. Its numbers mean nothing."""

from dataclasses import replace
from functools import cache

from deltaw.attacks.models import Prefilling, SoftPrompts, UniversalSoftPrompt
from deltaw.interventions import Interpolation, RankCut, SubspaceParts, Sweep
from deltaw.pipeline.stage import Stage
from deltaw.recipes import RECIPES
from deltaw.recipes.config import ModelAttacks, Recipe
from deltaw.recipes.observed import subspaces
from deltaw.recipes.sizes import Sizes
from deltaw.recipes.smoke import smoke
from deltaw.study.graph import stages

NAME = "miniature"
KINDS = (
    "world", "base", "reference", "tune", "behaviour", "analysis", "attacks", "subspaces", "doses", "interventions",
    "samples",
)  # fmt: skip
SWEEP = Sweep(
    prompts=4,
    few=4,
    draws=2,
    interventions=(
        Interpolation(alphas=(1.0,), scopes=(), scope_alphas=()),
        SubspaceParts(),
        RankCut(ranks=(1,), removed=(1,)),
    ),
)


def miniature(device: str = "cpu", seed: int = 0) -> Recipe:
    """`smoke` with two tunings and fewer prompts."""
    whole = smoke(device, seed)
    attacks = {attack.name: attack for attack in whole.model_attacks.attacks}
    optimiser = replace(whole.pretraining.optimiser, steps=12, decay_end=12)
    return replace(
        whole,
        name=NAME,
        pretraining=replace(whole.pretraining, width=16, batch=8, optimiser=optimiser),
        base_checkpoints=(0, 12),
        tunings=tuple(tuned for tuned in whole.tunings if tuned.name in ("ssft-medium", "dpo-medium")),
        left_out=None,
        checkpoints=(0, 8),
        sizes=Sizes(final=8, checkpoint=4, attacked=8, contrast=16, draws=20, bootstrap=8, ceiling=50, shown=1),
        model_attacks=ModelAttacks(
            models=("ssft-medium",),
            prompts=10,
            attacks=(
                SoftPrompts(doses=("soft_weak",), unrelated="soft_weak"),
                UniversalSoftPrompt(dose="soft_weak"),
                attacks["token_search"],
                Prefilling(counts=(1,)),
                attacks["relearning"],
            ),
        ),
        subspaces=subspaces(2, permutations=4, probed=16, ranked=("ssft-medium",), dosed=("ssft-medium",)),
        interventions=(("ssft-medium", SWEEP),),
    )


def register() -> None:
    """Lets `deltaw study --recipe miniature` know it, in this process."""
    RECIPES[NAME] = miniature


@cache
def stage_names() -> dict[str, list[str]]:
    """The names of the stages of each kind."""
    names: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for stage in graph():
        special = [kind for kind in ("subspaces", "doses") if stage.name.startswith(f"analysis-{kind}-")]
        kind = special[0] if special else stage.name.partition("-")[0]
        names[kind].append(stage.name)
    return names


def graph() -> list[Stage]:
    """Its stages."""
    return stages(miniature())
