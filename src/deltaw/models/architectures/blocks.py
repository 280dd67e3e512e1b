"""The parts of a loaded model's blocks, and an MLP's weights in one form for every family.

Analyses see `MlpWeights` only; taps find their sites through the family's paths.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models.architectures.known import family_of
from deltaw.models.architectures.tensor_names import without_wrapper


@dataclass(frozen=True)
class MlpWeights:
    """x ↦ w_out · activation(w_in · x + b_in) + b_out, with w_in (m, d), b_in (m,), w_out (d, m), b_out
    (d,).
    """

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor
    activation: Callable[[Tensor], Tensor]

    def cpu(self) -> "MlpWeights":
        """The same weights on the CPU."""
        weights = self.w_in.cpu(), self.b_in.cpu(), self.w_out.cpu(), self.b_out.cpu()
        return MlpWeights(*weights, activation=self.activation)

    def double(self) -> "MlpWeights":
        """The same weights in float64."""
        weights = self.w_in.double(), self.b_in.double(), self.w_out.double(), self.b_out.double()
        return MlpWeights(*weights, activation=self.activation)

    def __call__(self, x: Tensor) -> Tensor:
        """The MLP's output (..., d) for its input x (..., d), in their common dtype."""
        return F.linear(self.activation(F.linear(x, self.w_in, self.b_in)), self.w_out, self.b_out)


def layer_count(model: nn.Module | Mapping[str, Tensor]) -> int:
    """Number of layers of a model or of a state dict."""
    names = _state(model).keys()
    return len(family_of(names).layers_of(names))


def mlp(model: nn.Module | Mapping[str, Tensor], layer: int) -> MlpWeights:
    """The MLP weights of a layer, without gradients and sharing memory with the model or state dict they
    come from.

    DeltawError if the family is unknown, its activation is, or there is no such layer.
    """
    state = _state(model)
    family = family_of(state)
    if family.activation is None:
        raise DeltawError(
            "this model's MLP is gated, or its activation is chosen by its configuration; read its matrices by name"
        )
    check_layers([layer], len(family.layers_of(state)))
    module_in, module_out = family.in_proj.format(layer=layer), family.out_proj.format(layer=layer)
    w_in, w_out = (state[f"{module}.weight"].detach() for module in (module_in, module_out))
    if family.transposed:
        w_in, w_out = w_in.T, w_out.T
    b_in, b_out = (
        state[f"{module}.bias"].detach() if f"{module}.bias" in state else weight.new_zeros(len(weight))
        for module, weight in ((module_in, w_in), (module_out, w_out))
    )
    return MlpWeights(w_in, b_in, w_out, b_out, family.activation)


def check_layers(layers: Iterable[int], count: int) -> None:
    """DeltawError, saying which layers there are, if one of `layers` is not in 0 .. count − 1."""
    unknown = [layer for layer in layers if not 0 <= layer < count]
    if unknown:
        raise DeltawError(f"the model has no layer {unknown[0]}; its layers are 0 to {count - 1}")


def _state(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(model, nn.Module):
        return model
    return {without_wrapper(name): tensor for name, tensor in model.state_dict().items()}
