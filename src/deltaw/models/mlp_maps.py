"""The MLP of a layer of a loaded model, of ours or of Hugging Face's, as two matrices and what lies between them.

A gated MLP is one too: its two input maps lie one above the other in `w_in`, and the activation multiplies one half by
the other. Weights are read as they are, never folded or rewritten.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models.architectures import MlpWeights, check_layers, family_of, layer_count, mlp
from deltaw.models.state_parts import first_modules
from deltaw.models.transformer import Transformer

ACTIVATIONS = ("act_fn", "activation_fn", "act")
"""Where a module of transformers keeps its activation function."""

Activation = Callable[[Tensor], Tensor]


def mlp_of(model: nn.Module, layer: int) -> MlpWeights:
    """The MLP of a layer, in the dtype and on the device of the model, without gradients.

    DeltawError if the family is unknown, its MLP is of another kind (a mixture of experts), or there is no such layer.
    """
    if isinstance(model, Transformer):
        return mlp(model, layer)
    check_layers([layer], layer_count(model))
    family = family_of(name for name, _ in model.named_parameters())
    if family.experts:
        raise DeltawError(
            "its MLPs are mixtures of experts, and no two maps; the experts are compared by their weights"
        )
    maps = [model.get_submodule(name) for name in first_modules(family, layer)]
    holder = model.get_submodule(family.in_proj.format(layer=layer).rpartition(".")[0])
    activation = next((getattr(holder, name) for name in ACTIVATIONS if hasattr(holder, name)), None)
    out = model.get_submodule(family.out_proj.format(layer=layer))
    if activation is None or not all(_is_linear(module) for module in (*maps, out)):
        raise DeltawError(f"the MLP of layer {layer} is not made of linear maps and one activation")
    parts = [_linear(module, family.transposed) for module in maps]
    w_in, b_in = torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])
    w_out, b_out = _linear(out, family.transposed)
    return MlpWeights(w_in, b_in, w_out, b_out, gated_by(activation) if family.gated else activation)


def gated_by(activation: Activation) -> Activation:
    """Of (..., 2m) the activation of the first half, times the second: (..., m)."""

    def gated(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return activation(gate) * up

    return gated


def _is_linear(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor) and getattr(module, "weight").ndim == 2  # noqa: B009


def _linear(module: nn.Module, transposed: bool) -> tuple[Tensor, Tensor]:
    """(weight (out, in), bias (out,)) of a linear map. transposed: it is stored (in, out)."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    if transposed:
        weight = weight.T
    bias = getattr(module, "bias", None)
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()
