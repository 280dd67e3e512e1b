"""`paper`: the paper's world, model and optimisation; `paper-shared` and `paper-compat`, its variants."""

from dataclasses import replace

from deltaw.recipes.common import CONTROLS, PROTOCOLS, PUBLISHED_PROTOCOLS, training_dtype, tunings_of
from deltaw.recipes.config import Recipe
from deltaw.recipes.observed import OBSERVED
from deltaw.recipes.sizes import Sizes
from deltaw.training.optimisers import OptimiserConfig
from deltaw.training.pretraining import PretrainingConfig
from deltaw.world import PUBLISHED_COMPAT, WorldConfig, published_schedule, published_world

PAPER_MEDIUM, PAPER_SMALL = 1e-4, 1e-5  # of the published code


def compat_world(shared_operators: bool) -> WorldConfig:
    """The published data (see `Compat`).

    No window is redrawn, no prompt is held out, and pre-training lacks the level-5 rules of unsafe text.
    """
    world = published_world(shared_operators, unsafe_level_5="unknown")
    return replace(world, redraw_below=0.0, held_out=0.0, compat=PUBLISHED_COMPAT)


def paper_optimiser(rate: float, compat: bool) -> OptimiserConfig:
    """The published tuning: 10,000 updates, warm-up from 0, gradients clipped at 1. compat: its weight decay too."""
    return OptimiserConfig(
        peak_lr=rate,
        min_lr=1e-6,
        steps=10_000,
        warmup=2_000,
        decay_end=8_000,
        weight_decay=1e-4 if compat else 0.0,
        clip_norm=1.0,
        from_zero=True,
    )


def paper(device: str = "cpu", seed: int = 0, compat: bool = False) -> Recipe:
    """The paper's world, model (6 layers, 6 heads, d = 192) and optimisation, on our objectives, with all controls.

    compat: also the published data, batches, objectives, masks, weight decay in tuning and dead norms.

    The published code clips no gradient in pre-training, because it clips before the gradient exists.
    """
    dtype, steps, batch = training_dtype(device), 100_000, 512
    pretraining = PretrainingConfig(
        layers=6,
        heads=6,
        width=192,
        batch=batch,
        views=published_schedule(steps * batch, flat=steps * batch // 10),
        optimiser=OptimiserConfig(
            peak_lr=1e-3,
            min_lr=1e-5,
            steps=steps,
            warmup=20_000,
            decay_end=80_000,
            weight_decay=1e-4,
            clip_norm=None,
            from_zero=True,
        ),
        device=device,
        compute_dtype=dtype,
        block="published",
        positions="sinusoidal",
        dead_norm=compat,
    )
    optimisers = {
        "medium": paper_optimiser(PAPER_MEDIUM, compat),
        "small": paper_optimiser(PAPER_SMALL, compat),
    }
    protocols = PUBLISHED_PROTOCOLS if compat else PROTOCOLS
    return Recipe(
        name="paper-compat" if compat else "paper",
        world=compat_world(shared_operators=False) if compat else published_world(),
        base_world=compat_world(shared_operators=True) if compat else None,
        pretraining=pretraining,
        tunings=tunings_of(batch, device, dtype, optimisers, protocols, CONTROLS, compat),
        checkpoints=(0, 100, 300, 1_000, 2_000, 3_000, 4_000, 6_000, 8_000, 10_000),
        base_checkpoints=tuple(range(0, 100_001, 10_000)),
        sizes=Sizes(checkpoint=500),
        seeds=(seed,),
        observations=OBSERVED,
    )


def paper_shared(device: str = "cpu", seed: int = 0) -> Recipe:
    """`paper` in which only level 3 reveals the branch.

    25 to 35 letters show it poorly. So no window is redrawn, and the Bayes ceiling, which the dry run prints, lies
    well below 1.
    """
    world = replace(published_world(unsafe_level_5="shared"), redraw_below=0.0)
    return replace(paper(device, seed), name="paper-shared", world=world)


def paper_compat(device: str = "cpu", seed: int = 0) -> Recipe:
    """`paper`, with the published code's behaviour wherever ours differs."""
    return paper(device, seed, compat=True)
