"""The matrices of a checkpoint's files: which tensors are maps of MLPs and attention, by the family's patterns.

Everything after this file sees matrices (out, in) with a name: the tensor's without `.weight`, and `:part` for a part
of a fused one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models.architectures.architecture import Kind, Pattern
from deltaw.models.architectures.known import family_of_type, model_types

MOST_STARS = 4
"""In a pattern: more of them, and a long name can take hours not to match."""


@dataclass(frozen=True)
class Piece:
    """Rows of a stored tensor, seen as (out, in). rows: None for all."""

    tensor: str
    transposed: bool
    rows: slice | Tensor | None = None

    def view(self, stored: Tensor) -> Tensor:
        """The piece (out, in) of the stored tensor; a copy only where its rows are scattered."""
        matrix = stored.T if self.transposed else stored
        return matrix if self.rows is None else matrix[self.rows]

    def count(self, outputs: int) -> int:
        """How many of a tensor's outputs it has."""
        if self.rows is None:
            return outputs
        return len(range(outputs)[self.rows]) if isinstance(self.rows, slice) else len(self.rows)


@dataclass(frozen=True)
class Module:
    """One matrix to compare: pieces stacked on each other."""

    name: str
    kind: str
    layer: int | None
    pieces: tuple[Piece, ...]

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
        """(outputs, inputs), from the shapes of the stored tensors."""
        sides = [shapes[piece.tensor][::-1] if piece.transposed else shapes[piece.tensor] for piece in self.pieces]
        rows = [piece.count(side[0]) for piece, side in zip(self.pieces, sides, strict=True)]
        return sum(rows), sides[0][1]


def given_maps(patterns: Sequence[str]) -> tuple[Pattern, ...]:
    """Patterns from those of the command line: tensor names with `{layer}` and `*`; `:transposed` for (in, out)."""
    parsed = []
    for pattern in patterns:
        name, _, how = pattern.partition(":")
        if how not in ("", "transposed"):
            raise DeltawError(f"the pattern {pattern!r} ends in {how!r}; only ':transposed' may follow a name")
        if name.count("*") > MOST_STARS:
            raise DeltawError(f"the pattern {pattern!r} has more than {MOST_STARS} '*'; name the matrices more closely")
        kind: Kind = "attention" if re.search(r"attn|attention", name) else "mlp"
        tensor = name if name.endswith(".weight") else f"{name}.weight"
        parsed.append(Pattern(tensor, kind, how == "transposed"))
    return tuple(parsed)


def find_modules(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], model_type: str, patterns: Sequence[str] = ()
) -> list[Module]:
    """The matrices to compare, layer by layer. shapes: of all tensors. patterns: instead of the family's own.

    Gate and up of one MLP are also stacked as one map, `gate_up`. DeltawError, with the candidates, if there are none.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and all(shape)]
    family = family_of_type(model_type)
    if patterns:
        maps = given_maps(patterns)
        for pattern, wanted in zip(patterns, maps, strict=True):
            if not any(wanted.match(name) for name in matrices):
                raise DeltawError(f"no matrix is named like {pattern!r}; there are {candidates(matrices)}")
    elif family is not None:
        maps = tuple(family.patterns())
    else:
        raise DeltawError(
            f"the model type {model_type!r} is not among {', '.join(sorted(model_types()))}; name its matrices with "
            f"--modules, from {candidates(matrices)}"
        )
    modules = [
        module
        for name in matrices
        for pattern in maps
        if (match := pattern.match(name))
        for module in _modules(pattern, name, _layer(match), shapes[name], config)
    ]
    if not modules:
        whose = "the patterns give" if family is None else f"the architecture {family.name} gives"
        raise DeltawError(
            f"no tensor has the name that {whose} to its matrices; name them with --modules, from "
            f"{candidates(matrices)}"
        )
    modules += _stacked(modules)
    return sorted(modules, key=lambda module: (-1 if module.layer is None else module.layer, module.name))


def candidates(names: Iterable[str]) -> str:
    """Names of matrices for a message, with layers' numbers as {layer}."""
    general = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "{layer}", name, count=1) for name in names))
    return (
        ", ".join(general[:30]) + (f" and {len(general) - 30} more" if len(general) > 30 else "")
        or "no matrices at all"
    )


def _layer(match: re.Match[str]) -> int | None:
    return int(match["layer"]) if "layer" in match.groupdict() else None


def _modules(
    pattern: Pattern, tensor: str, layer: int | None, shape: tuple[int, ...], config: Mapping[str, Any]
) -> Iterable[Module]:
    name = tensor.removesuffix(".weight")
    if pattern.whole:
        yield Module(name, pattern.kind, layer, (Piece(tensor, pattern.transposed),))
    if pattern.cut is not None:
        for part, rows in pattern.cut(shape[1] if pattern.transposed else shape[0], config).items():
            yield Module(f"{name}:{part}", pattern.kind, layer, (Piece(tensor, pattern.transposed, rows),))


def _stacked(modules: Sequence[Module]) -> list[Module]:
    by_name = {module.name: module for module in modules}
    found = []
    for name, gate in by_name.items():
        up = by_name.get(name.replace("gate_proj", "up_proj"))
        if name.endswith("gate_proj") and up is not None:
            both = (*gate.pieces, *up.pieces)
            found.append(Module(f"{name.removesuffix('gate_proj')}gate_up", gate.kind, gate.layer, both))
    return found
