"""Weights as the thing that is edited: a model's parameters by name, in and out.

Every edit of weights takes the base model's state θ_IT and the tuned one's θ_ST (ΔW = θ_ST − θ_IT, tensor by tensor)
and gives a state; `with_state` makes a model of it. Sums run in float64 and are rounded once, so that an edit that
should give a model back gives it back bit by bit. Nothing is edited in place.
"""

import copy
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models import Transformer

State = Mapping[str, Tensor]
"""Parameters by name, on the CPU."""

SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "whole": r"",
        "mlp": r"\.mlp\.",
        "mlp_in": r"\.mlp\.in_proj\.",
        "attention": r"\.attn\.",
        "norms": r"(^|\.)norm",
        "embeddings": r"^(embed|position|unembed)\.",
    }
)
"""Parts of a `Transformer` by a pattern of parameter names; `layer K`, a block with all in it, is one as well."""


def state_of(model: Transformer) -> dict[str, Tensor]:
    """A copy of the model's parameters by name, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def with_state(model: Transformer, state: State) -> Transformer:
    """Another model of the same shape, on the same device, that holds `state`; `model` stays as it is."""
    made = copy.deepcopy(model)
    made.load_state_dict(dict(state))
    return made


def check_pair(base: State, tuned: State) -> None:
    """DeltawError if two states are not of one shape."""
    odd = sorted(base.keys() ^ tuned.keys())
    odd += [name for name in base.keys() & tuned.keys() if base[name].shape != tuned[name].shape]
    if odd:
        raise DeltawError(f"the two models differ in {odd[0]} ({len(odd)} tensors in all); give two of one shape")


def layers_of(state: State) -> range:
    """The blocks' numbers."""
    found = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))]
    return range(max(found, default=-1) + 1)


def names_in(scope: str, state: State) -> frozenset[str]:
    """Names of the tensors of a scope: one of `SCOPES`, or `layer K`. DeltawError, listing them, if it is neither."""
    pattern = SCOPES.get(scope)
    layer = re.fullmatch(r"layer (\d+)", scope)
    if layer and int(layer[1]) in layers_of(state):
        pattern = rf"^blocks\.{int(layer[1])}\."
    if pattern is None:
        layers = ", ".join(f"layer {number}" for number in layers_of(state))
        raise DeltawError(f"there is no scope {scope!r}; there are {', '.join(SCOPES)}, {layers}")
    return frozenset(name for name in state if re.search(pattern, name))


def mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """(1 − share) · first + share · second, in first's dtype: exactly `first` at 0 and `second` at 1."""
    return ((1 - share) * first.double() + share * second.double()).to(first.dtype)


def moved(tensor: Tensor, by: Tensor) -> Tensor:
    """tensor + by, added in float64, in tensor's dtype."""
    return (tensor.double() + by.double()).to(tensor.dtype)


def chosen(base: State, tuned: State, names: Collection[str]) -> dict[str, Tensor]:
    """The tensors called `names` from the tuned state, all others from the base."""
    check_pair(base, tuned)
    return {name: (tuned if name in names else base)[name].clone() for name in base}


def edited(base: State, change: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """`change(name, tensor)` of every tensor."""
    return {name: change(name, tensor) for name, tensor in base.items()}


def shuffled_update(base: State, tuned: State, generator: torch.Generator) -> dict[str, Tensor]:
    """An update without a direction: each tensor's entries of ΔW in random order with random signs, float64.

    Every tensor keeps its norm and the sizes of its entries; what any of them did is gone.
    """
    check_pair(base, tuned)
    found = {}
    for name, tensor in base.items():
        delta = (tuned[name].double() - tensor.double()).flatten()
        order = torch.randperm(len(delta), generator=generator)
        signs = torch.randint(0, 2, delta.shape, generator=generator) * 2.0 - 1.0
        found[name] = (delta[order] * signs).view(tensor.shape)
    return found
