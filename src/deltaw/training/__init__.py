"""Training: one loop, the objectives it minimises, and the schedule it follows."""

from deltaw.training.loop import StepRecord, TrainingLog, train
from deltaw.training.loss import Loss
from deltaw.training.objectives import (
    OBJECTIVES,
    DpoOptions,
    DpoPublishedOptions,
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
from deltaw.training.optimisers import OptimiserConfig, learning_rate, optimisers
from deltaw.training.snapshots import Snapshots

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
    "Snapshots",
    "SsftOptions",
    "StepRecord",
    "TrainingLog",
    "UnlearnOptions",
    "UnlearnPublishedOptions",
    "borrow_masks",
    "learning_rate",
    "next_token",
    "objective",
    "optimisers",
    "reference_log_probs",
    "train",
]
