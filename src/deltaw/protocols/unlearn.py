"""Unlearning by bounded ascent."""

from dataclasses import dataclass
from math import log

import torch.nn.functional as F

from deltaw.models import LanguageModel
from deltaw.protocols.loss import Loss
from deltaw.protocols.protocol import Protocol, TuningBatch
from deltaw.protocols.responses import responses_of


@dataclass(frozen=True)
class Unlearn(Protocol):
    """Unlearning: learn the preferred response, and ascend on the dispreferred one up to a bound.

    Token mean of the NLL of w + ascent_weight · (1/N) Σ max(0, cap − token mean of the row's NLL of l). With
    the default cap a dispreferred response is left alone once it is no likelier than under a uniform guess,
    so that the loss is bounded below; plain ascent is not.
    """

    name = "unlearn"
    label = "Unlearning"

    ascent_weight: float = 0.1
    """Weight of the ascent."""
    cap: float | None = None
    """Nats per token at which the ascent stops; None: the logarithm of the vocabulary's size."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Likelihood and bounded ascent."""
        preferred, dispreferred = responses_of(model, batch.pair)
        cap = log(dispreferred.vocabulary) if self.cap is None else self.cap
        left = F.relu(cap - dispreferred.row_nll())
        nll, ascent = preferred.nll(), left.mean()
        return Loss.of(
            nll + self.ascent_weight * ascent,
            nll_preferred=nll,
            nll_dispreferred=dispreferred.nll(),
            ascent_left=ascent,
            capped=(left == 0).float().mean(),
        )
