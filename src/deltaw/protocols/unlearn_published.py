"""The unlearning loss of the published code."""

from dataclasses import dataclass

from deltaw.models import LanguageModel
from deltaw.protocols.loss import Loss
from deltaw.protocols.protocol import Protocol, TuningBatch
from deltaw.protocols.responses import responses_of


@dataclass(frozen=True)
class UnlearnPublished(Protocol):
    """Unlearning as in the published code: plain ascent on the dispreferred response, unbounded below.

    (1/N) Σ [dispreferred_weight · log π(l) − preferred_weight · log π(w)] / length.
    """

    name = "unlearn-published"
    label = "Unlearning, as published"

    preferred_weight: float = 1.0
    """Coefficient of the preferred response."""
    dispreferred_weight: float = 0.1
    """Coefficient of the dispreferred response."""
    length: int = 159
    """What both sums are divided by, whatever the length of a response."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Likelihood and plain ascent."""
        preferred, dispreferred = responses_of(model, batch.pair)
        rows = self.dispreferred_weight * dispreferred.log_probs - self.preferred_weight * preferred.log_probs
        value = rows.mean() / self.length
        return Loss.of(value, nll_preferred=preferred.nll(), nll_dispreferred=dispreferred.nll())
