"""A matrix to compare, and the parts of stored tensors that it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deltaw.models.architectures.tensor_names import plain_name

Rows = slice | Tensor | None


@dataclass(frozen=True)
class Piece:
    """Rows of a stored tensor, seen as (out, in)."""

    tensor: str
    """The tensor's name."""
    transposed: bool
    """Whether it is stored (in, out)."""
    rows: Rows = None
    """The outputs that are meant; None for all."""
    expert: int | None = None
    """The place on the first of three axes; None for a tensor of two."""

    def view(self, stored: Tensor) -> Tensor:
        """The piece (out, in) of the stored matrix; a copy only where its rows are scattered."""
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
    """The tensor's without `.weight`, and `:part` for a part of a fused one."""
    kind: str
    """attention or mlp."""
    layer: int | None
    pieces: tuple[Piece, ...]
    key: str = ""
    """What it is called on both sides, whatever their names have before it; by default from the name."""

    @property
    def shared_name(self) -> str:
        """The key, or what the name gives."""
        return self.key or plain_name(self.name)

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
        """(outputs, inputs), from the shapes of the stored tensors."""
        sides = [
            shapes[piece.tensor][:-3:-1] if piece.transposed else shapes[piece.tensor][-2:] for piece in self.pieces
        ]
        rows = [piece.count(side[0]) for piece, side in zip(self.pieces, sides, strict=True)]
        return sum(rows), sides[0][1]
