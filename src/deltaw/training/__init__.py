"""Training: one loop, the objectives it minimises, and the schedule it follows."""

from deltaw.training.loop import OptimiserConfig, StepRecord, TrainingLog, learning_rate, train
from deltaw.training.objectives import (
    OBJECTIVES,
    DpoOptions,
    DpoPublishedOptions,
    Loss,
    NpoOptions,
    Objective,
    Pair,
    ReferenceLogProbs,
    SsftOptions,
    UnlearnOptions,
    UnlearnPublishedOptions,
    borrow_masks,
    next_token,
    objective,
    reference_log_probs,
)

__all__ = [
    "OBJECTIVES",
    "DpoOptions",
    "DpoPublishedOptions",
    "Loss",
    "NpoOptions",
    "Objective",
    "OptimiserConfig",
    "Pair",
    "ReferenceLogProbs",
    "SsftOptions",
    "StepRecord",
    "TrainingLog",
    "UnlearnOptions",
    "UnlearnPublishedOptions",
    "borrow_masks",
    "learning_rate",
    "next_token",
    "objective",
    "reference_log_probs",
    "train",
]
