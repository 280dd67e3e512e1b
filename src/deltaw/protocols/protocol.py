"""What a protocol is: a loss, with its options as the fields of a frozen dataclass. To add one, add a file.

    @dataclass(frozen=True)
    class Ssft(Protocol):
        \"\"\"Supervised safety fine-tuning: learn the preferred response.\"\"\"

        name = "ssft"
        label = "SSFT"
        responses = 1

        def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
            ...

The first line of the docstring is the sentence that lists and `--help` show. The object is the configuration:
a recipe holds `Dpo(beta=0.1)`, and the artifacts of a tuning are named by its class's file and its options.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from deltaw.component import Component, plugin_named
from deltaw.errors import DeltawError
from deltaw.models import LanguageModel
from deltaw.protocols.loss import Loss
from deltaw.protocols.pair import Pair, ReferenceLogProbs


@dataclass(frozen=True)
class TuningBatch:
    """What one update of a tuning learns from."""

    pair: Pair
    """Preferred and dispreferred responses to N prompts."""
    reference: ReferenceLogProbs | None = None
    """The base model's log-probabilities of both, if the protocol `needs_reference`."""
    base: LanguageModel | None = None
    """The base model itself, frozen, if the protocol `needs_base`."""
    progress: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Scalar: the share of all updates that are done."""


class Protocol(Component):
    """How a model is tuned. Subclasses are frozen dataclasses whose fields are the protocol's options."""

    needs_reference: ClassVar[bool] = False
    """Whether it reads the base model's log-probabilities."""
    needs_base: ClassVar[bool] = False
    """Whether it reads the base model itself, for instance its hidden states."""
    responses: ClassVar[int] = 2
    """How many of a pair's two responses pass through the model."""
    own_control: ClassVar[str] = "other"
    """The control that tells what is due to safety from what any tuning by this protocol does."""
    reads_preferred: ClassVar[bool] = True
    """Whether it learns what is said in place of compliance. If not, a control that only says something else is no
    control of it."""
    unit: ClassVar[str] = "objective"
    """The unit of its loss."""

    @abstractmethod
    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        """The loss of the model on a batch."""


def loss_of(protocol: Protocol, model: LanguageModel, batch: TuningBatch) -> Loss:
    """A protocol's loss. DeltawError if it is none that can be minimised, or if a protocol that is not deltaw's own
    raises an error.
    """
    with plugin_named(protocol, "protocol"):
        loss: object = protocol.loss(model, batch)
    if not isinstance(loss, Loss) or loss.value.ndim:
        raise DeltawError(f"the protocol {protocol.name} gave {loss!r:.200}; expected a Loss with a scalar value")
    if not loss.value.requires_grad:
        raise DeltawError(f"the loss of the protocol {protocol.name} does not depend on the model's parameters")
    return loss
