"""Parts of a state (parameters by name), whatever the architecture: its blocks, kinds of modules, first MLP maps.

A family of `architectures` says where the parts of a block are. What lies in no block is the `ends`; parameters fall
into four kinds, by name alone: `norms`, `mlp`, `attention` (all else in a block) and `embeddings` (all else outside).
Matrices are seen as (out, in), also where they are stored the other way round, and the two input maps of a gated MLP
as one matrix, gate above up.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from deltaw.models.architectures import Architecture, check_layers, family_of

Kind = Literal["norms", "mlp", "attention", "embeddings"]

_NORM = re.compile(r"(^|_)ln(_|$)|norm")


def blocks_of(names: Iterable[str]) -> range:
    """The blocks' numbers, from the names of all parameters. DeltawError if the family is unknown."""
    names = list(names)
    pattern = re.compile(_pattern(family_of(names).block) + r"\.")
    numbers = [int(match[1]) for name in names if (match := pattern.match(name))]
    return range(max(numbers, default=-1) + 1)


def block_of(family: Architecture, name: str) -> int | None:
    """The number of the block that a parameter is in; None: it is one of the ends."""
    match = re.match(_pattern(family.block) + r"\.", name)
    return None if match is None else int(match[1])


def kind_of(family: Architecture, name: str) -> Kind:
    """What a parameter belongs to."""
    layer = block_of(family, name)
    if any(_NORM.search(segment) for segment in name.split(".")):
        return "norms"
    if layer is None:
        return "embeddings"
    block, first, last = (part.format(layer=layer) for part in (family.block, family.in_proj, family.out_proj))
    holder = first.rpartition(".")[0]
    mlp = (f"{first}.", f"{last}.") if holder == block else (f"{holder}.",)
    return "mlp" if name.startswith(mlp) else "attention"


def first_modules(family: Architecture, layer: int) -> tuple[str, ...]:
    """Names of the modules that are the MLP's first map: one, or gate and up."""
    return tuple(f"{family.block}.{linear.path}".format(layer=layer) for linear in family.mlp_in)


def first_map(state: Mapping[str, Tensor], layer: int) -> Tensor:
    """(m, d) the matrix of a layer's first MLP map; it may share memory with the state.

    DeltawError if the family is unknown or there is no such layer.
    """
    family = family_of(state)
    check_layers([layer], len(blocks_of(state)))
    parts = [upright(family, name, state[name]) for name in _weights(family, layer)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def first_map_parts(state: Mapping[str, Tensor], layer: int, matrix: Tensor) -> dict[str, Tensor]:
    """A matrix (m, d) of the shape of `first_map`, cut and laid out as the state stores it, by the tensors' names."""
    family, parts, start = family_of(state), {}, 0
    for name in _weights(family, layer):
        rows = len(upright(family, name, state[name]))
        parts[name] = upright(family, name, matrix[start : start + rows])
        start += rows
    return parts


def upright(family: Architecture, name: str, tensor: Tensor) -> Tensor:
    """A matrix of a block as (out, in), or back; anything else as it is."""
    turned = family.transposed and tensor.ndim == 2 and block_of(family, name) is not None
    return tensor.T if turned else tensor


def first_map_modules(model: nn.Module, layer: int) -> list[nn.Module]:
    """The modules whose outputs are, in this order, the rows of the first MLP map. Unknown family: DeltawError."""
    family = family_of(name for name, _ in model.named_parameters())
    return [model.get_submodule(name) for name in first_modules(family, layer)]


def _weights(family: Architecture, layer: int) -> list[str]:
    return [f"{name}.weight" for name in first_modules(family, layer)]


def _pattern(block: str) -> str:
    return re.escape(block).replace(re.escape("{layer}"), r"(\d+)")
