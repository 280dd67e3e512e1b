"""Learning rates of tunings, and their schedules. A recipe may give a protocol rates of its own."""

from deltaw.training.optimisers import OptimiserConfig

MEDIUM, SMALL = 1e-3, 1e-4
"""Learning rates of the tunings, η_M and η_S = η_M / 10: the same for all protocols."""


def optimiser(rate: float, steps: int) -> OptimiserConfig:
    """AdamW with a cosine schedule: warm-up for a twelfth of the updates, decay to a hundredth of the peak."""
    return OptimiserConfig(
        peak_lr=rate,
        min_lr=rate / 100,
        steps=steps,
        warmup=max(1, steps // 12),
        decay_end=steps,
        weight_decay=0.0,
    )


def strengths(steps: int) -> dict[str, OptimiserConfig]:
    """The two strengths of a tuning: the same number of updates at η_M and at η_S."""
    return {"medium": optimiser(MEDIUM, steps), "small": optimiser(SMALL, steps)}
