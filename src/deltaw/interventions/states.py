"""Weights as the thing that is edited: a model's parameters by name, in and out.

Every edit of weights takes the base model's state θ_IT and the tuned one's θ_ST (ΔW = θ_ST − θ_IT, tensor by tensor)
and gives a state; `with_state` makes a model of it. Sums run in float64 and are rounded once, so that an edit that
should give a model back gives it back bit by bit. Nothing is edited in place.
"""

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models import Transformer
from deltaw.models.architectures import family_of
from deltaw.models.state_parts import block_of, blocks_of, first_modules, kind_of, upright

State = Mapping[str, Tensor]
"""Parameters by name, on the CPU."""

SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "whole": "all parameters",
        "mlp": "the MLPs of all blocks",
        "mlp_in": "their first maps, gate and up together where the MLP is gated",
        "attention": "the attention of all blocks",
        "norms": "all norms, the final one included",
        "embeddings": "embeddings of tokens and positions, and the unembedding",
    }
)
"""Parts of a model of any known architecture; `layer K`, a block with all in it, is one as well."""


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's parameters by name, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.named_parameters()}


def with_state(model: Transformer, state: State) -> Transformer:
    """Another model of the same shape, on the same device, that holds `state`; `model` stays as it is."""
    made = copy.deepcopy(model)
    made.load_state_dict(dict(state))
    return made


@contextmanager
def holding(model: nn.Module, state: State) -> Iterator[None]:
    """Within this context the model holds `state`; then its own parameters again, bit by bit, however it ends.

    For models too large to be copied: what they held waits on the CPU. DeltawError if the state is of another shape.
    """
    own = state_of(model)
    check_pair(own, state)
    try:
        _put(model, state)
        yield
    finally:
        _put(model, own)


@torch.no_grad()
def _put(model: nn.Module, state: State) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(state[name])


def check_pair(base: State, tuned: State) -> None:
    """DeltawError if two states are not of one shape."""
    odd = sorted(base.keys() ^ tuned.keys())
    odd += [name for name in base.keys() & tuned.keys() if base[name].shape != tuned[name].shape]
    if odd:
        raise DeltawError(f"the two models differ in {odd[0]} ({len(odd)} tensors in all); give two of one shape")


def layers_of(state: State) -> range:
    """The blocks' numbers."""
    return blocks_of(state)


def names_in(scope: str, state: State) -> frozenset[str]:
    """Names of the tensors of a scope: one of `SCOPES`, or `layer K`. DeltawError, listing them, if it is neither."""
    family, layers = family_of(state), layers_of(state)
    layer = re.fullmatch(r"layer (\d+)", scope)
    if layer and int(layer[1]) in layers:
        return frozenset(name for name in state if block_of(family, name) == int(layer[1]))
    if scope not in SCOPES:
        listed = ", ".join(f"layer {number}" for number in layers)
        raise DeltawError(f"there is no scope {scope!r}; there are {', '.join(SCOPES)}, {listed}")
    if scope == "whole":
        return frozenset(state)
    if scope == "mlp_in":
        modules = tuple(f"{name}." for layer in layers for name in first_modules(family, layer))
        return frozenset(name for name in state if name.startswith(modules))
    return frozenset(name for name in state if kind_of(family, name) == scope)


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
    family, update = family_of(base), {}
    for name, tensor in base.items():
        delta = upright(family, name, tuned[name].double() - tensor.double())
        if bool((delta != 0).any()):  # what tuning left alone takes no draws
            order = torch.randperm(delta.numel(), generator=generator)
            signs = torch.randint(0, 2, order.shape, generator=generator) * 2.0 - 1.0
            delta = (delta.flatten()[order] * signs).view(delta.shape)
        update[name] = upright(family, name, delta)
    return update
