"""Supervised safety fine-tuning."""

from dataclasses import dataclass

from deltaw.models import LanguageModel, Transformer, mean_nll, packed_mean
from deltaw.models.batch import Batch
from deltaw.protocols.loss import Loss
from deltaw.protocols.pair import before_loss
from deltaw.protocols.protocol import Protocol, TuningBatch


@dataclass(frozen=True)
class Ssft(Protocol):
    """Supervised safety fine-tuning: learn the preferred response.

    Token mean of the NLL of w. The dispreferred responses are not read.
    """

    name = "ssft"
    label = "SSFT"
    responses = 1
    unit = "nats per token"

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """The token mean."""
        preferred, sizes = batch.pair.preferred, batch.pair.sizes
        value = packed_mean(model, preferred)
        if value is None:
            since = 0
            if isinstance(model, Transformer):
                since = before_loss(preferred) if sizes is None else sizes.since[0]
            tokens, weights, roles = preferred.tokens, preferred.weights, preferred.roles
            logits = model(tokens, since=since) if isinstance(model, Transformer) else model(tokens)
            value = mean_nll(logits, Batch(tokens[:, since:], weights[:, since:], roles[:, since:]))
        return Loss.of(value, nll_preferred=value)
