"""The contrastive loss of the published code."""

from dataclasses import dataclass

import torch.nn.functional as F

from deltaw.models import LanguageModel
from deltaw.protocols.loss import Loss
from deltaw.protocols.protocol import Protocol, TuningBatch
from deltaw.protocols.responses import gains, responses_of


@dataclass(frozen=True)
class DpoPublished(Protocol):
    """DPO as in the published code: two coefficients, and sums divided by a constant length.

    −(1/N) Σ log σ(z), z = [preferred_weight (log π − log ρ)(w) − dispreferred_weight (log π − log ρ)(l)] /
    length. Its gradient is, row by row, 0.1 · (1 − σ(z)) times that of `UnlearnPublished`.
    """

    name = "dpo-published"
    label = "DPO, as published"
    needs_reference = True

    preferred_weight: float = 0.1
    """Coefficient of the preferred response."""
    dispreferred_weight: float = 0.01
    """Coefficient of the dispreferred response."""
    length: int = 159
    """What both sums are divided by, whatever the length of a response."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Preference."""
        preferred, dispreferred = responses_of(model, batch.pair)
        gain_w, gain_l = gains(preferred, dispreferred, batch.reference, self.name)
        margin = (self.preferred_weight * gain_w - self.dispreferred_weight * gain_l) / self.length
        value = -F.logsigmoid(margin).mean()
        return Loss.of(
            value,
            preference=value,
            nll_preferred=preferred.nll(),
            nll_dispreferred=dispreferred.nll(),
            margin=margin.mean(),
        )
