"""Negative preference optimisation."""

from dataclasses import dataclass

import torch.nn.functional as F

from deltaw.models import LanguageModel
from deltaw.protocols.loss import Loss
from deltaw.protocols.protocol import Protocol, TuningBatch
from deltaw.protocols.responses import gains, responses_of


@dataclass(frozen=True)
class Npo(Protocol):
    """Negative preference optimisation (NPO): make the dispreferred response less likely than the base model does.

    (2/β) (1/N) Σ log(1 + exp(β (log π − log ρ)(l))) + sft_weight · token mean of the NLL of w: Zhang et al. (2024),
    with a likelihood term on what should be said instead.
    """

    name = "npo"
    label = "NPO"
    needs_reference = True

    beta: float = 0.1
    """Towards 0 the loss becomes plain ascent."""
    sft_weight: float = 1.0
    """Weight of the likelihood of the preferred response."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Forgetting and likelihood."""
        preferred, dispreferred = responses_of(model, batch.pair)
        _, gain_l = gains(preferred, dispreferred, batch.reference, self.name)
        forgetting, nll = 2 / self.beta * F.softplus(self.beta * gain_l).mean(), preferred.nll()
        return Loss.of(
            forgetting + self.sft_weight * nll,
            forgetting=forgetting,
            nll_preferred=nll,
            nll_dispreferred=dispreferred.nll(),
            gain_dispreferred=gain_l.mean(),
        )
