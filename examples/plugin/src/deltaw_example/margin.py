"""A protocol: a preference without a reference model."""

from dataclasses import dataclass

import torch.nn.functional as F

from deltaw.models import LanguageModel
from deltaw.protocols import Loss, Protocol, TuningBatch, responses_of


@dataclass(frozen=True)
class Margin(Protocol):
    """Learn the preferred response, and make it likelier than the other by a margin."""

    name = "margin"
    label = "Margin"

    margin: float = 2.0
    """By how many nats per token."""
    weight: float = 0.5
    """Of what is missing to the margin, beside the likelihood."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Likelihood, and a hinge on each row."""
        preferred, other = responses_of(model, batch.pair)
        missing = F.relu(self.margin - (other.row_nll() - preferred.row_nll())).mean()
        nll = preferred.nll()
        return Loss.of(nll + self.weight * missing, nll_preferred=nll, margin_missing=missing)
