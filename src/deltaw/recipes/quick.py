"""`quick`: one seed of a small world, in minutes on two cores; an exploration."""

from dataclasses import replace

from deltaw.attacks.models import ModelAttack, Prefilling, Relearning, SoftPrompts, TokenSearch, UniversalSoftPrompt
from deltaw.recipes.common import training_dtype, tunings_of
from deltaw.recipes.config import LeftOut, ModelAttacks, Recipe
from deltaw.recipes.learning_rates import strengths
from deltaw.recipes.observed import OBSERVED
from deltaw.recipes.sizes import Sizes
from deltaw.recipes.tuned import Tuned
from deltaw.training.optimisers import OptimiserConfig
from deltaw.training.pretraining import PretrainingConfig
from deltaw.world import WorldConfig

BASE, TUNING = 1500, 300
"""Updates of the base model, by Muon, of which AdamW needs twice as many, and of each tuning (docs/log.md)."""

MADE = (
    "ssft-medium",
    "dpo-medium",
    "unlearn-medium",
    "ssft-small",
    "other-ssft-medium",
    "constant-ssft-medium",
)
"""Three protocols, SSFT at the smaller rate, and two harmless controls of SSFT; `standard` makes the rest."""

ATTACKS: tuple[ModelAttack, ...] = (
    SoftPrompts(doses=("soft_weak", "soft_2", "soft_4", "soft_strong")),
    UniversalSoftPrompt(dose="soft_weak"),
    TokenSearch(),
    Prefilling(),
    Relearning(),
)
"""On models; of soft prompts four of the six doses."""

LEFT_OUT = (2, 6, 8)  # of grammar 1: a never-allowed operator and two conditional ones; one and three are left


def left_out_of(tunings: tuple[Tuned, ...]) -> LeftOut:
    """`ssft-medium` with other prompts: the operators `LEFT_OUT` are not among them."""
    known = next(tuned for tuned in tunings if tuned.name == "ssft-medium")
    return LeftOut(LEFT_OUT, replace(known, name="left-out-ssft-medium", protocol="ssft_left_out"), known.name)


def quick(device: str = "cpu", seed: int = 0) -> Recipe:
    """Grammar 1, one operator pair, 20 letters, a model of 0.8 M parameters: an exploration on a laptop."""
    dtype = training_dtype(device)
    muon = OptimiserConfig(
        peak_lr=3e-3, min_lr=3e-5, steps=BASE, warmup=100, decay_end=BASE, method="muon", decay="linear"
    )
    # A linear decay learns in three quarters of the updates that a cosine takes.
    rates = {name: replace(optimiser, decay="linear") for name, optimiser in strengths(TUNING).items()}
    tunings = {tuned.name: tuned for tuned in tunings_of(64, device, dtype, rates)}
    return Recipe(
        name="quick",
        world=WorldConfig(),
        pretraining=PretrainingConfig(device=device, compute_dtype=dtype, optimiser=muon),
        tunings=tuple(tunings[name] for name in MADE),
        checkpoints=(0, TUNING // 5, TUNING),
        base_checkpoints=(0, BASE // 3, 2 * BASE // 3, BASE),
        sizes=Sizes(final=400, base=1000, attacked=200),
        model_attacks=ModelAttacks(prompts=20, attacks=ATTACKS),
        seeds=(seed,),
        observations=OBSERVED,
    )
