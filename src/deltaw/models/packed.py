"""Sequences of different lengths without the padding between them, for training on a CPU.

`pack` takes the rows of a batch by length and puts what is read of them one after the other: the packed positions. What
works on each position by itself then runs once over all of them, and `attend_packed` gathers a group of rows at a time,
so few that their scores stay small. oneDNN compiles a product anew for each shape of its operands,
which takes longer than the product; the number of packed positions, and the rows and lengths of groups, are therefore
rounded, so that the same shapes come back.

Shapes: B rows, S positions of a row, N packed positions, D width, H heads, E = D / H; a group: G rows of L positions.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 2**21  # of one group at most: 4 MiB in bfloat16
LENGTHS = 16  # L is a multiple of it
POSITIONS = 128  # N is a multiple of it


@dataclass(frozen=True)
class Group:
    """Rows that are attended together.

    positions: of the packed positions, those of this group's rows.
    rows: G, a power of two.
    length: L, at least that of the longest row.
    mask: what is added to the scores, (L, L) or (G, 1, L, L) float32: 0, or −∞ for what a position may not read.
    by_head: (G · H · L,) int64, of x (N · H, E) the vector of each row, head and place. Places after the end of a row
        have those of the last packed position, which is of no row.
    by_position: the inverse: where among these each vector of `positions` is.
    qkv_by_head, qkv_by_position: the same of x (N · 3 · H, E), the queries before the keys before the values.
    """

    positions: slice
    rows: int
    length: int
    mask: Tensor
    by_head: Tensor
    by_position: Tensor
    qkv_by_head: Tensor
    qkv_by_position: Tensor

    def vectors(self, heads: int) -> slice:
        """Of the vectors of all packed positions, those of this group."""
        return slice(self.positions.start * heads, self.positions.stop * heads)


@dataclass(frozen=True)
class Packing:
    """Which positions of a batch (B, S) are computed, and in which order.

    groups: in the order of their packed positions.
    source: (N,) int64 places in the flattened batch. The last packed positions, at least one, are of no row: nothing
        is read of them, and no gradient reaches them.
    chosen: (M,) int64 packed positions whose outputs are wanted, ascending, then some of no row.
    slot: (B · S,) int64 where among the M outputs that of a place of the flattened batch is; −1 if it is not wanted.
    """

    groups: tuple[Group, ...]
    source: Tensor
    chosen: Tensor
    slot: Tensor


def pack(wanted: Tensor, visible: Tensor | None, heads: int) -> Packing:
    """The packing that computes the outputs of the positions `wanted` (B, S) bool, and no others but what these read.

    visible: (B, S, S) bool, which positions each may read, itself among them, and also whatever those may read;
    None: all up to itself.
    """
    rows, width = wanted.shape
    places = torch.arange(width)
    if visible is None:
        read = places < ((places + 1) * wanted).amax(1)[:, None]
    else:
        read = (visible & wanted[:, :, None]).any(1)
    counts = read.sum(1)
    order = counts.argsort(descending=True, stable=True)
    # What is read of a row, in front: sorting the negation moves it there without changing its order.
    columns = (~read).to(torch.uint8).argsort(dim=1, stable=True)[order]
    inside, counts = places < counts[order, None], counts[order]
    source = (order[:, None] * width + columns)[inside]
    packed = _rounded(len(source) + 1, POSITIONS)
    starts = counts.cumsum(0) - counts
    groups, first = [], 0
    lengths: list[int] = counts.tolist()
    ends: list[int] = (starts + counts).tolist()
    while first < rows and lengths[first]:
        length = _rounded(lengths[first], LENGTHS)
        most = max(1, min(rows - first, SCORES // (heads * length**2)))
        part = slice(first, first + 2 ** (most.bit_length() - 1))
        mask = _mask(columns[part], counts[part], length, None if visible is None else visible[order[part]])
        positions = slice(int(starts[first]), ends[part.stop - 1])
        groups.append(_group(positions, starts[part], counts[part], length, mask, heads, packed))
        first = part.stop
    chosen = wanted.flatten()[source].nonzero()[:, 0]
    slot = torch.full((rows * width,), -1)
    slot[source[chosen]] = torch.arange(len(chosen))
    source = F.pad(source, (0, packed - len(source)))
    chosen = F.pad(chosen, (0, _rounded(len(chosen), POSITIONS) - len(chosen)), value=packed - 1)
    return Packing(tuple(groups), source, chosen, slot)


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def _mask(columns: Tensor, counts: Tensor, length: int, visible: Tensor | None) -> Tensor:
    """See `Group.mask`. columns: (G, S) places in its row of what is read of it, in front; counts: (G,) of these."""
    if visible is None:
        may_read = torch.ones(length, length, dtype=torch.bool).tril()
    else:
        places = torch.arange(length)
        inside = places < counts[:, None]
        columns = F.pad(columns, (0, max(0, length - columns.shape[1])))[:, :length]
        rows = torch.arange(len(columns))[:, None, None]
        may_read = visible[rows, columns[:, :, None], columns[:, None, :]] & inside[:, None]
        may_read = (may_read | torch.eye(length, dtype=torch.bool))[:, None]
    return torch.zeros(may_read.shape).masked_fill_(~may_read, -math.inf)


def _group(
    positions: slice, starts: Tensor, counts: Tensor, length: int, mask: Tensor, heads: int, packed: int
) -> Group:
    """starts, counts: (G,) of each row, its first packed position and its number of positions. packed: N."""
    rows, places, head = len(starts), torch.arange(length), torch.arange(heads)
    inside = places < counts[:, None]
    read = torch.where(inside, starts[:, None] + places, packed - 1)
    by_head = read[:, None] * heads + head[:, None]
    own = ((torch.arange(rows)[:, None, None] * heads + head) * length + places[:, None])[inside]
    part = torch.arange(3)[:, None]
    qkv_by_head = read[:, None] * 3 * heads + (part * heads + head)[:, None, :, None]
    qkv_own = own[:, None] + part * by_head.numel()
    return Group(
        positions, rows, length, mask, by_head.flatten(), own.flatten(), qkv_by_head.flatten(), qkv_own.flatten()
    )


def attend_packed(qkv_N3D: Tensor, heads: int, groups: tuple[Group, ...]) -> Tensor:
    """softmax(q kᵀ / √E) v of every group: (N, D). qkv_N3D: queries, keys and values of all heads, side by side.

    In bfloat16 the scores and shares are rounded to it; sums run in float32, as in `transformer.attend`.
    """
    return _PackedAttention.apply(qkv_N3D, heads, groups)  # type: ignore[no-any-return,no-untyped-call]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3D: Tensor, heads: int, groups: tuple[Group, ...]) -> Tensor:
        size = qkv_N3D.shape[1] // 3 // heads
        vectors = qkv_N3D.view(-1, size)
        mixed = vectors.new_zeros(len(vectors) // 3, size)
        kept = []
        for group in groups:
            q, k, v = qkv = vectors.index_select(0, group.qkv_by_head).view(3, -1, group.length, size)
            mask = group.mask.to(q.dtype)
            if mask.ndim == 4:
                mask = mask.expand(-1, heads, -1, -1).flatten(0, 1)
            shares = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=size**-0.5).softmax(-1)
            into = mixed[group.vectors(heads)]
            torch.index_select(torch.bmm(shares, v).view(-1, size), 0, group.by_position, out=into)
            kept += [qkv, shares]
        ctx.save_for_backward(*kept)
        ctx.heads, ctx.groups = heads, groups
        return mixed.view(len(qkv_N3D), -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (to_mixed_ND,), heads, kept = gradients, ctx.heads, ctx.saved_tensors
        size = to_mixed_ND.shape[1] // heads
        to_mixed_vectors = to_mixed_ND.reshape(-1, size)
        to_vectors = to_mixed_vectors.new_zeros(3 * len(to_mixed_vectors), size)
        for group, qkv, shares in zip(ctx.groups, kept[::2], kept[1::2], strict=True):
            q, k, v = qkv
            to_mixed = to_mixed_vectors.index_select(0, group.by_head).view_as(q)
            to_shares = torch.baddbmm(q.new_zeros(()), to_mixed, v.transpose(1, 2), beta=0, alpha=size**-0.5)
            to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype)
            to_qkv = torch.empty_like(qkv)
            torch.bmm(to_scores, k, out=to_qkv[0])
            torch.bmm(to_scores.transpose(1, 2), q, out=to_qkv[1])
            torch.bmm(shares.transpose(1, 2), to_mixed, out=to_qkv[2])
            into = to_vectors[group.vectors(3 * heads)]
            torch.index_select(to_qkv.view(-1, size), 0, group.qkv_by_position, out=into)
        return to_vectors.view(len(to_mixed_ND), -1), None, None
