"""`paper-laptop`: the paper's world and model on a laptop, by faster training."""

from dataclasses import replace

from deltaw.attacks.models import Prefilling, Relearning, SoftPrompts, TokenSearch, UniversalSoftPrompt
from deltaw.recipes.common import PROTOCOLS, PUBLISHED_PROTOCOLS, controlled, tunings_of
from deltaw.recipes.config import Recipe
from deltaw.recipes.paper import paper
from deltaw.recipes.sizes import Sizes
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.other import Other
from deltaw.training.optimisers import OptimiserConfig
from deltaw.world import ViewSchedule

LAPTOP_BASE, LAPTOP_TUNING = 3000, 800  # updates
LAPTOP_RATE = 5e-4  # of tunings
LAPTOP_GATE = 0.99


def paper_laptop(device: str = "cpu", seed: int = 0, published_objectives: bool = False) -> Recipe:
    """The world and model of `paper`, trained faster: batches of 64, the base model by Muon.

    The base model sees every prompt whole. It must answer 0.99 of them exactly in every stratum and grammar before it
    is tuned. Tunings are by AdamW, as published, each with an `other` and a `constant` of its own protocol.

    published_objectives: the published code's forms of DPO and unlearning in place of ours.

    The base model's schedule, and rate and length of the tunings, come from trials on seeds that decide nothing
    (docs/log.md): in 600 updates SSFT and unlearning follow the policy on more than 0.95 of prompts with conditional
    operators in every grammar, and DPO on 0.93; in 1,000 all three on 0.99.
    """
    whole = paper(device, seed)
    adam = OptimiserConfig(
        peak_lr=LAPTOP_RATE,
        min_lr=LAPTOP_RATE / 100,
        steps=LAPTOP_TUNING,
        warmup=50,
        decay_end=LAPTOP_TUNING,
        decay="linear",
    )
    pretraining = replace(
        whole.pretraining,
        batch=64,
        views=ViewSchedule(),
        optimiser=OptimiserConfig(
            peak_lr=3e-3,
            min_lr=3e-5,
            steps=LAPTOP_BASE,
            warmup=200,
            decay_end=LAPTOP_BASE,
            method="muon",
            decay="linear",
        ),
    )
    protocols = PUBLISHED_PROTOCOLS if published_objectives else PROTOCOLS
    dtype = whole.pretraining.compute_dtype
    tuned = [t for t in tunings_of(64, device, dtype, {"medium": adam}, protocols, ()) if not t.curve_only]
    tunings = tuple(
        tuning if control is None else controlled(tuning, control)
        for tuning in tuned
        for control in (None, Other(), Constant())
    )
    return replace(
        whole,
        name="paper-laptop",
        pretraining=pretraining,
        base_gate=LAPTOP_GATE,
        tunings=tunings,
        checkpoints=(0, LAPTOP_TUNING // 10, LAPTOP_TUNING // 4, LAPTOP_TUNING // 2, LAPTOP_TUNING),
        base_checkpoints=(0, LAPTOP_BASE // 2, LAPTOP_BASE),
        sizes=Sizes(final=400, base=2000, checkpoint=100, attacked=100, contrast=256, ceiling=1000, shown=1),
        model_attacks=replace(
            whole.model_attacks,
            controls=tuple(f"other-{t.name}" for t in tuned),
            attacks=(
                SoftPrompts(doses=("soft_weak", "soft_strong"), unrelated="soft_weak"),
                UniversalSoftPrompt(dose="soft_weak"),
                TokenSearch(),
                Prefilling(),
                Relearning(),
            ),
        ),
    )
