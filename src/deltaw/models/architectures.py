"""Where the parts of a block are found, per family of architectures, and an MLP's weights in one form for
all of them.

A family is an entry of `FAMILIES`: the names of its modules and how it stores its matrices. Analyses see
`MlpWeights` only; taps find their sites through the same names. Weights are read as they are, never folded
or rewritten.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.errors import DeltawError


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU (Hendrycks and Gimpel 2016), elementwise."""
    return F.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class Family:
    """Module names of a family of architectures; `{layer}` stands for the layer's number.

    transposed: whether matrices are stored (in, out), as by GPT-2 on Hugging Face, and not (out, in). activation: None
    where the MLP is gated, or its activation is only known to its configuration: it then has sites, and no
    `MlpWeights`. Of a gated MLP's two input maps, `in_proj` is the one before the activation (or both, if fused) and
    `up_proj` the other.
    """

    block: str
    in_proj: str
    out_proj: str
    activation: Callable[[Tensor], Tensor] | None
    transposed: bool = False
    up_proj: str | None = None


def _on_the_hub(
    block: str, in_proj: str, out_proj: str, up_proj: str | None = None, transposed: bool = False
) -> Family:
    up_proj = None if up_proj is None else f"{block}.{up_proj}"
    return Family(block, f"{block}.{in_proj}", f"{block}.{out_proj}", None, transposed, up_proj)


FAMILIES: Mapping[str, Family] = {
    "deltaw": Family(
        block="blocks.{layer}",
        in_proj="blocks.{layer}.mlp.in_proj",
        out_proj="blocks.{layer}.mlp.out_proj",
        activation=gelu_tanh,
    ),
    "llama": _on_the_hub("model.layers.{layer}", "mlp.gate_proj", "mlp.down_proj", up_proj="mlp.up_proj"),
    "phi3": _on_the_hub("model.layers.{layer}", "mlp.gate_up_proj", "mlp.down_proj"),
    "phi": _on_the_hub("model.layers.{layer}", "mlp.fc1", "mlp.fc2"),
    "gpt2": _on_the_hub("transformer.h.{layer}", "mlp.c_fc", "mlp.c_proj", transposed=True),
    "gpt_neox": _on_the_hub("gpt_neox.layers.{layer}", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": _on_the_hub("model.decoder.layers.{layer}", "fc1", "fc2"),
}


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


def family_of(names: Iterable[str]) -> Family:
    """The family whose MLP input matrix is among these parameter names. DeltawError, listing families, if
    none is.
    """
    names = list(names)
    for family in FAMILIES.values():
        if _layers_of(family, names):
            return family
    raise DeltawError(f"this model belongs to none of the known families: {', '.join(FAMILIES)}")


def layer_count(model: nn.Module | Mapping[str, Tensor]) -> int:
    """Number of layers of a model or of a state dict."""
    names = _state(model).keys()
    return len(_layers_of(family_of(names), names))


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
    check_layers([layer], len(_layers_of(family, state)))
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
    return model.state_dict() if isinstance(model, nn.Module) else model


def _layers_of(family: Family, names: Iterable[str]) -> set[int]:
    pattern = re.compile(re.escape(f"{family.in_proj}.weight").replace(re.escape("{layer}"), r"(\d+)"))
    return {int(match[1]) for name in names if (match := pattern.fullmatch(name))}
