"""Direct preference optimisation."""

from dataclasses import dataclass

import torch.nn.functional as F

from deltaw.models import LanguageModel
from deltaw.protocols.loss import Loss
from deltaw.protocols.protocol import Protocol, TuningBatch
from deltaw.protocols.responses import gains, responses_of


@dataclass(frozen=True)
class Dpo(Protocol):
    """Direct preference optimisation (DPO): prefer one response to the other, measured against the base model.

    −(1/N) Σ log σ(β [(log π − log ρ)(w) − (log π − log ρ)(l)]) + sft_weight · token mean of the NLL of w: equation 7
    of Rafailov et al. (2023), with an optional likelihood term.
    """

    name = "dpo"
    label = "DPO"
    needs_reference = True

    beta: float = 0.1
    """Tie to the reference."""
    sft_weight: float = 0.0
    """Weight of the likelihood of the preferred response; above 0 the protocol is known as DPO+NLL."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Preference and likelihood."""
        preferred, dispreferred = responses_of(model, batch.pair)
        gain_w, gain_l = gains(preferred, dispreferred, batch.reference, self.name)
        margin = self.beta * (gain_w - gain_l)
        preference, nll = -F.logsigmoid(margin).mean(), preferred.nll()
        return Loss.of(
            preference + self.sft_weight * nll,
            preference=preference,
            nll_preferred=nll,
            nll_dispreferred=dispreferred.nll(),
            margin=margin.mean(),
            accuracy=(margin > 0).float().mean(),
        )
