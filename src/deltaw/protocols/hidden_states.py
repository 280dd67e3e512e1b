"""Hidden states with their gradients, for protocols that are about what a model computes on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deltaw.models import LanguageModel, tap


def hidden_states(model: LanguageModel, tokens: Tensor, layers: Sequence[int]) -> Tensor:
    """(L, N, T, D) float32: the residual stream after each of the chosen blocks. tokens: (N, T)."""
    with tap(module_of(model), ("resid_out",), layers, detach=False) as recorded:
        model(tokens)
    return torch.stack([recorded[layer, "resid_out"] for layer in layers]).float()


def module_of(model: LanguageModel) -> nn.Module:
    """The module that has the blocks: the model, or what it says that it wraps (`tapped`)."""
    module = getattr(model, "tapped", model)
    if not isinstance(module, nn.Module):
        raise TypeError(f"a {type(model).__name__} has no hidden states")
    return module
