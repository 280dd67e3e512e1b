"""What a block of the decoder is made of: linear maps, embeddings, positions, attention, MLP, and cached keys.

Weights are float32 masters. Matrix products run in the dtype of their input; softmax and cached keys and values stay in
the masters' dtype.

Shapes: B rows, T positions, D width, H heads, E = D / H; N packed positions. Linear weights are (out, in).
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.models import fused
from deltaw.models.fused import can_fuse
from deltaw.models.packed import Packing, attend_packed


class LayerCache:
    """Keys and values (B, H, length, E) of one layer, of which the first `filled` positions are known.

    They are written in place, for decoding: there is no gradient through a cache that was extended twice.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.filled = keys, values, 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions; returns all keys and values so far."""
        end = self.filled + keys.shape[2]
        self.keys[:, :, self.filled : end] = keys
        self.values[:, :, self.filled : end] = values
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Cache(list[LayerCache]):
    """One `LayerCache` a layer. hidden: (B, length) bool, which positions hold the masked token, if there is one."""

    def __init__(self, layers: Iterable[LayerCache], hidden: Tensor) -> None:
        super().__init__(layers)
        self.hidden = hidden


class Linear(nn.Linear):
    """A linear map with float32 master weights, computed in the dtype of its input and left unset by its
    constructor.
    """

    def reset_parameters(self) -> None:
        """Nothing: `Transformer` draws all weights, from the generator it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def packed(self, x_NI: Tensor, dtype: torch.dtype) -> Tensor:
        """The same of packed positions, in `dtype`: (N, out)."""
        if can_fuse(self.weight, dtype):
            return fused.linear(x_NI.to(dtype), self.weight, self.bias)
        return self.forward(x_NI.to(dtype))


class Embedding(nn.Embedding):
    """An embedding table left unset by its constructor."""

    def reset_parameters(self) -> None:
        """Nothing: `Transformer` draws all weights, from the generator it is given."""


def sinusoidal_table(length: int, width: int) -> Tensor:
    """(length, width) float32: sines of position · 10000^(−2i / width) in dimensions 2i, cosines in 2i + 1
    (Vaswani et al. 2017, section 3.5).
    """
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0**-exponents
    table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return table[:, :width].float()


class SinusoidalPositions(nn.Module):
    """The fixed table as `weight`, like that of an embedding; it is no parameter, and no checkpoint holds it."""

    weight: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", sinusoidal_table(length, width), persistent=False)


def attend(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √E) v: (B, H, T, E). mask: bool, broadcastable to (B, H, T, S), what each query may read; None:
    the keys up to its own place, which is the last one if it is alone.

    On a CPU PyTorch's kernel takes 13 times as long backwards in bfloat16 as in float32, and on short sequences, or for
    one query, more than two plain products, which are therefore written out there.
    """
    one_query = q_BHTE.shape[2] == 1
    plain = q_BHTE.dtype == torch.bfloat16 or (q_BHTE.dtype == torch.float32 and one_query and mask is None)
    if q_BHTE.device.type != "cpu" or not plain:
        causal = mask is None and not one_query
        return F.scaled_dot_product_attention(q_BHTE, k_BHSE, v_BHSE, attn_mask=mask, is_causal=causal)
    length, size = q_BHTE.shape[2:]
    scores = (q_BHTE * size**-0.5) @ k_BHSE.transpose(2, 3)
    if mask is None and not one_query:
        mask = torch.ones(length, k_BHSE.shape[2], dtype=torch.bool).tril(k_BHSE.shape[2] - length)
    if mask is not None:
        scores = scores + scores.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)
    shares_BHTS = scores.softmax(-1, dtype=torch.float32).to(v_BHSE.dtype)
    return torch.matmul(shares_BHTS, v_BHSE)


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(
        self,
        x_BTD: Tensor,
        cache: LayerCache | None = None,
        hidden_BS: Tensor | None = None,
        visible_BTT: Tensor | None = None,
        since: int = 0,
    ) -> Tensor:
        """What each position from `since` on reads from itself and those before it, the cached ones included:
        (B, T - since, D).

        hidden_BS: which of all S positions so far none but themselves may read. visible_BTT: see `Transformer.forward`.
        """
        rows, length, width = x_BTD.shape
        qkv = self.qkv(x_BTD)
        if cache is not None:
            qkv = qkv.to(self.qkv.weight.dtype)
        q_BHTE, k, v = qkv.view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        past = 0
        if cache is not None:
            past = cache.filled
            k, v = cache.extend(k, v)
        mask = None if visible_BTT is None else visible_BTT[:, None]
        # A kernel's own causal mask would align the first query, not the last, with the last key.
        if mask is None and ((past and length > 1) or hidden_BS is not None or since):
            mask = torch.ones(length, past + length, dtype=torch.bool, device=k.device).tril(past)
        if mask is not None and hidden_BS is not None:
            itself = torch.eye(length, past + length, dtype=torch.bool, device=k.device).roll(past, 1)
            mask = (mask & ~hidden_BS[:, None, None]) | itself
        mixed_BHTE = attend(q_BHTE[:, :, since:], k, v, None if mask is None else mask[..., since:, :])
        return self.out(mixed_BHTE.transpose(1, 2).reshape(rows, length - since, width).to(x_BTD.dtype))  # type: ignore[no-any-return]

    def packed(self, x_ND: Tensor, dtype: torch.dtype, packing: Packing, chosen_M: Tensor | None) -> Tensor:
        """The same of packed positions, in `dtype`: (N, D), or of the chosen ones: (M, D)."""
        qkv_N3D = self.qkv.packed(x_ND, dtype)
        return self.out.packed(taken(attend_packed(qkv_N3D, self.heads, packing.groups), chosen_M), dtype)


def taken(x_ND: Tensor, chosen_M: Tensor | None) -> Tensor:
    """The chosen packed positions: (M, D); all for None."""
    return x_ND if chosen_M is None else x_ND.index_select(0, chosen_M)


class Mlp(nn.Module):
    """Two linear maps with the tanh form of GELU between them."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.in_proj = Linear(width, ratio * width)
        self.out_proj = Linear(ratio * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), each position by itself."""
        return self.out_proj(F.gelu(self.in_proj(x_BTD), approximate="tanh"))  # type: ignore[no-any-return]

    def packed(self, x_ND: Tensor, dtype: torch.dtype) -> Tensor:
        """The same of packed positions, in `dtype`: (N, D)."""
        if can_fuse(self.in_proj.weight, dtype):
            first, second = self.in_proj, self.out_proj
            return fused.mlp(x_ND.to(dtype), first.weight, first.bias, second.weight, second.bias)
        return self.forward(x_ND.to(dtype))
