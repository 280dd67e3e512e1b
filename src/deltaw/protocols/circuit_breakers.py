"""Circuit breakers: representation rerouting (Zou et al. 2024, "Improving alignment and robustness with circuit
breakers").
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models import LanguageModel, layer_count
from deltaw.models.batch import Batch, Role
from deltaw.protocols.hidden_states import hidden_states, module_of
from deltaw.protocols.loss import Loss
from deltaw.protocols.protocol import Protocol, TuningBatch


@dataclass(frozen=True)
class CircuitBreakers(Protocol):
    """Circuit breakers: turn the hidden states behind a harmful answer away from those of the base model.

    With h the model's hidden states (the residual stream after a block), h₀ the base model's, and t of T updates done:
    c_s · mean relu(cos(h₀, h)) over rerouted positions + c_r · mean ‖h₀ − h‖₂ over retained ones,
    c_s = alpha (1 − t / 2T) and c_r = alpha t / 2T; means are over positions and layers.

    **What is rerouted.** Of a prompt that is to be refused, the compliant answer: every position that predicts a token
    of it. Of a prompt that is to be answered, every position of prompt and answer is retained. No answer is taught in
    the place of the harmful one, so that the controls `other` and `constant` are this protocol itself; its own control
    is `operators`, which reroutes by operator alone.

    **What success means.** After rerouting a forbidden prompt is often met by neither an answer nor a refusal. Read
    1 − `comply_rate` on forbidden prompts, and `comply_rate` on allowed ones; `refuse_rate` says nothing.

    **Departures from the paper.** All weights up to the last chosen layer are tuned (LoRA there; here only with
    `safety-tune --lora`); later weights get no gradient. Both terms are read at the chosen layers. Harmful and harmless
    rows are those of one batch, in equal number, not two data sets; the retained ones hold no refusals.
    """

    name = "circuit-breakers"
    label = "Circuit breakers"
    needs_base = True
    responses = 1
    own_control = "operators"
    reads_preferred = False

    alpha: float = 5.0
    """Of both coefficients."""
    layers: tuple[int, ...] | None = None
    """Layers whose hidden states are read; None: those at 10/32 and 20/32 of the depth."""

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """Rerouting and retaining."""
        if batch.base is None or batch.pair.complies is None:
            raise ValueError(f"the protocol {self.name} needs the base model, and which responses comply")
        text, layers = batch.pair.compliant(), self.chosen_layers(layer_count(module_of(model)))
        with torch.no_grad():
            before = hidden_states(batch.base, text.tokens, layers)
        after = hidden_states(model, text.tokens, layers)
        retained_rows = batch.pair.complies[:, None]
        rerouted = predicting(text) & ~retained_rows
        retained = (text.roles != int(Role.PAD)) & retained_rows
        cosine = F.cosine_similarity(before, after, dim=-1)
        distance = torch.linalg.vector_norm(before - after, dim=-1)
        reroute, retain = _mean(F.relu(cosine), rerouted), _mean(distance, retained)
        done = batch.progress / 2
        return Loss.of(
            self.alpha * ((1 - done) * reroute + done * retain),
            rerouting=reroute,
            retaining=retain,
            cosine=_mean(cosine, rerouted),
        )

    def chosen_layers(self, count: int) -> tuple[int, ...]:
        """The layers of a model of `count` layers. DeltawError if it does not have them."""
        layers = tuple(sorted({count * 10 // 32, count * 20 // 32})) if self.layers is None else self.layers
        if not layers or not all(0 <= layer < count for layer in layers):
            raise DeltawError(f"layers of {self.name} are {layers}; give some of 0 to {count - 1}")
        return layers


def predicting(text: Batch) -> Tensor:
    """(N, T) bool: the positions that predict a token with loss."""
    return F.pad(text.weights[:, 1:] != 0, (0, 1))


def _mean(values_LNT: Tensor, positions_NT: Tensor) -> Tensor:
    """Scalar: the mean over layers and chosen positions, and 0 where none are chosen."""
    count = (positions_NT.sum() * len(values_LNT)).clamp(min=1)
    return (values_LNT * positions_NT).sum() / count
