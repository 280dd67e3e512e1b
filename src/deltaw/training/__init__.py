"""Training: one loop, the schedule it follows, and what it trains: a base model, or a tuned one by a protocol."""

from deltaw.training.loop import StepRecord, TrainingLog, train
from deltaw.training.next_token import next_token
from deltaw.training.optimisers import OptimiserConfig, learning_rate, optimisers
from deltaw.training.snapshots import Snapshots

__all__ = [
    "OptimiserConfig",
    "Snapshots",
    "StepRecord",
    "TrainingLog",
    "learning_rate",
    "next_token",
    "optimisers",
    "train",
]
