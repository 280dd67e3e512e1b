"""`smoke`: every stage in seconds, to test that everything runs; its numbers mean nothing."""

from dataclasses import replace

from deltaw.attacks.models import (
    Prefilling,
    Relearning,
    RelearningConfig,
    SoftPrompts,
    TokenSearch,
    TokenSearchConfig,
    UniversalSoftPrompt,
)
from deltaw.recipes.common import tunings_of
from deltaw.recipes.config import ModelAttacks, Recipe
from deltaw.recipes.intervention_sweeps import SMOKE
from deltaw.recipes.learning_rates import optimiser, strengths
from deltaw.recipes.observed import subspaces
from deltaw.recipes.quick import left_out_of, quick
from deltaw.recipes.sizes import Sizes


def smoke(device: str = "cpu", seed: int = 0) -> Recipe:
    """Every stage on a toy scale, in seconds. Its models know nothing, and its numbers mean nothing."""
    whole = quick(device, seed)
    pretraining = replace(whole.pretraining, layers=2, heads=2, width=32, batch=32, optimiser=optimiser(3e-3, 24))
    keep = ("ssft-medium", "dpo-medium", "unlearn-medium", "ssft-small", "other-ssft-medium")
    tunings = tuple(
        tuned for tuned in tunings_of(16, device, whole.pretraining.compute_dtype, strengths(8)) if tuned.name in keep
    )
    return replace(
        whole,
        name="smoke",
        pretraining=pretraining,
        tunings=tunings,
        left_out=left_out_of(tunings),
        checkpoints=(0, 4, 8),
        base_checkpoints=(0, 24),
        sizes=Sizes(final=24, checkpoint=8, attacked=16, contrast=24, draws=20, bootstrap=50, ceiling=100, shown=1),
        model_attacks=ModelAttacks(
            models=("ssft-medium",),
            controls=("other-ssft-medium",),
            prompts=10,
            attacks=(
                SoftPrompts(doses=("soft_weak", "soft_2"), unrelated="soft_weak"),
                UniversalSoftPrompt(dose="soft_weak"),
                TokenSearch(TokenSearchConfig(tokens=1, steps=2, top_k=2, evaluated=2)),
                Prefilling(counts=(1, 2)),
                Relearning(RelearningConfig(batch=4, measured=(0, 1, 2)), taught=8),
            ),
        ),
        subspaces=subspaces(directions=4, probed=64, permutations=10),
        interventions=SMOKE,
    )
