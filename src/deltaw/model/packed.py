"""Sequences of different lengths without the padding between them, for training on a CPU.

`pack` sorts the rows of a batch by length and cuts them into groups of nearly equal ones; the tokens of all groups, one
after the other, are the packed positions. What works on each position by itself then runs once over all of them, and
`attend_packed` goes group by group, over so few rows at a time that their scores stay in the processor's cache.

Shapes: B rows, S positions of a row, N packed positions, D width, H heads, E = D / H; a group: G rows of L positions.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCORES = 2**19  # of one group at most: 1 MiB in bfloat16
SLACK = 4  # positions that a row of a group may lack: a further group costs as much as six more positions


@dataclass(frozen=True)
class Group:
    """Rows that are attended together.

    start: the first packed position.
    rows: G.
    length: L; the group ends at start + G · L.
    mask: what is added to the scores, (L, L) or (G, 1, L, L) float32: 0, or −∞ for what a position may not read.
    """

    start: int
    rows: int
    length: int
    mask: Tensor

    @property
    def positions(self) -> slice:
        """Of the packed positions, those of this group."""
        return slice(self.start, self.start + self.rows * self.length)


@dataclass(frozen=True)
class Packing:
    """Which positions of a batch (B, S) are computed, and in which order.

    groups: in the order of their packed positions.
    source: (N,) int64 places in the flattened batch. A row that is shorter than its group repeats its first position
        at its end, where no other position reads it.
    chosen: (M,) int64 packed positions whose outputs are wanted, ascending.
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
    places = torch.arange(wanted.shape[1])
    if visible is None:
        ends = ((places + 1) * wanted).amax(1)
        read = places < ends[:, None]
    else:
        read = (visible & wanted[:, :, None]).any(1)
    counts = read.sum(1)
    order = counts.argsort(descending=True, stable=True)
    # What is read of each row, in front: sorting the negation moves it there without changing its order.
    columns = (~read).to(torch.uint8).argsort(dim=1, stable=True)
    lengths: list[int] = counts[order].tolist()
    groups, sources, real, start, first = [], [], [], 0, 0
    while first < len(lengths) and lengths[first]:
        length = lengths[first]
        most = first + max(1, SCORES // (heads * length**2))
        last = first + 1
        while last < min(most, len(lengths)) and lengths[last] >= max(1, length - SLACK):
            last += 1
        rows = order[first:last]
        inside = places[:length] < counts[rows, None]
        chosen_columns = torch.where(inside, columns[rows, :length], columns[rows, :1])
        if visible is None:
            may_read = torch.ones(length, length, dtype=torch.bool).tril()
        else:
            may_read = visible[rows[:, None, None], chosen_columns[:, :, None], chosen_columns[:, None, :]]
            may_read = ((may_read & inside[:, None]) | torch.eye(length, dtype=torch.bool))[:, None]
        mask = torch.zeros(may_read.shape).masked_fill_(~may_read, -math.inf)
        groups.append(Group(start, last - first, length, mask))
        sources.append((rows[:, None] * wanted.shape[1] + chosen_columns).flatten())
        real.append(inside.flatten())
        start, first = start + (last - first) * length, last
    source = torch.cat([places[:0], *sources])
    chosen = (wanted.flatten()[source] & torch.cat([wanted[0, :0], *real])).nonzero()[:, 0]
    slot = torch.full((wanted.numel(),), -1)
    slot[source[chosen]] = torch.arange(len(chosen))
    return Packing(tuple(groups), source, chosen, slot)


def attend_packed(qkv_N3D: Tensor, heads: int, groups: tuple[Group, ...]) -> Tensor:
    """softmax(q kᵀ / √E) v of every group: (N, D). qkv_N3D: queries, keys and values of all heads, side by side.

    In bfloat16 the scores and shares are rounded to it; sums run in float32, as in `transformer.attend`.
    """
    return _PackedAttention.apply(qkv_N3D, heads, groups)  # type: ignore[no-any-return,no-untyped-call]


class _PackedAttention(torch.autograd.Function):
    """Keeps the shares only: what else the backward pass needs is a part of the input."""

    @staticmethod
    def forward(ctx: Any, qkv_N3D: Tensor, heads: int, groups: tuple[Group, ...]) -> Tensor:
        width = qkv_N3D.shape[1] // 3
        scale = (width // heads) ** -0.5
        mixed_ND = qkv_N3D.new_empty(len(qkv_N3D), width)
        kept = []
        for group in groups:
            q, k, v = _by_head(qkv_N3D, group, 3, heads)
            mask = group.mask.to(q.dtype)
            if mask.ndim == 4:
                mask = mask.expand(-1, heads, -1, -1).flatten(0, 1)
            shares = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale).softmax(-1)
            _parts(mixed_ND, group, 1, heads)[0].copy_(torch.bmm(shares, v).view(group.rows, heads, group.length, -1))
            kept.append(shares)
        ctx.save_for_backward(qkv_N3D, *kept)
        ctx.heads, ctx.groups = heads, groups
        return mixed_ND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        qkv_N3D, *kept = ctx.saved_tensors
        heads = ctx.heads
        scale = (qkv_N3D.shape[1] // 3 // heads) ** -0.5
        to_qkv = torch.empty_like(qkv_N3D)
        for group, shares in zip(ctx.groups, kept, strict=True):
            q, k, v = _by_head(qkv_N3D, group, 3, heads)
            (to_mixed,) = _by_head(gradients[0], group, 1, heads)
            to_shares = torch.bmm(to_mixed, v.transpose(1, 2))
            to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype)
            into = _parts(to_qkv, group, 3, heads)
            shape = into[0].shape
            torch.mul(torch.bmm(to_scores, k).view(shape), scale, out=into[0])
            torch.mul(torch.bmm(to_scores.transpose(1, 2), q).view(shape), scale, out=into[1])
            into[2].copy_(torch.bmm(shares.transpose(1, 2), to_mixed).view(shape))
        return to_qkv, None, None


def _parts(x: Tensor, group: Group, parts: int, heads: int) -> Tensor:
    """(parts, G, H, L, E): the group's positions of x (N, parts · D), a view."""
    return x[group.positions].view(group.rows, group.length, parts, heads, -1).permute(2, 0, 3, 1, 4)


def _by_head(x: Tensor, group: Group, parts: int, heads: int) -> Tensor:
    """(parts, G · H, L, E): the same, contiguous."""
    return _parts(x, group, parts, heads).reshape(parts, group.rows * heads, group.length, -1)
