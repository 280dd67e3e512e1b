"""Protocols: how a model is tuned to be safe, one file each. `protocol` says how to write one."""

from deltaw.protocols.loss import Loss
from deltaw.protocols.pair import Pair, ReferenceLogProbs, borrow_masks
from deltaw.protocols.protocol import Protocol, TuningBatch, loss_of
from deltaw.protocols.responses import gains, reference_log_probs, responses_of

__all__ = [
    "Loss",
    "Pair",
    "Protocol",
    "ReferenceLogProbs",
    "TuningBatch",
    "borrow_masks",
    "gains",
    "loss_of",
    "reference_log_probs",
    "responses_of",
]
