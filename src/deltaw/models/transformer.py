"""The decoder, in a form whose every weight, activation and number format can be named.

Two styles of block: GPT-2's own (`pre_ln`), and that of the published code (`published`), whose one layer norm
replaces the residual stream. Absolute positions, learned or sinusoidal. Attention is causal: right-padding needs
no mask, since no position looks to its right. Weights are float32 masters. Matrix products inside the blocks run
in `compute_dtype`; softmax, layer norms, the residual stream and the logits stay in the masters' dtype, where
bfloat16 loses accuracy. Keys and values that are cached are in the masters' dtype too.

Shapes: B rows, T positions, D width, H heads, E = D / H, V vocabulary. Linear weights are (out, in).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models import fused
from deltaw.models.fused import can_fuse
from deltaw.models.packed import Packing, attend_packed, pack

BlockStyle = Literal["pre_ln", "published"]
Positions = Literal["learned", "sinusoidal"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `Transformer`. DeltawError if the numbers do not fit together.

    positions: a learned table, or the fixed one of sines and cosines (`sinusoidal_table`). dead_norm: whether each
    published block has a second layer norm that nothing calls, as the published checkpoints do. masked_token: a
    token, such as padding, that no other position may look at; None, as in the published code, lets padding in the
    middle of a sequence be attended like any token.
    """

    vocabulary_size: int
    context: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    mlp_ratio: int = 4
    block: BlockStyle = "pre_ln"
    positions: Positions = "learned"
    dead_norm: bool = False
    masked_token: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "context", "layers", "heads", "width", "mlp_ratio"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise DeltawError(f"model {name} is {value!r}; give a whole number of at least 1")
        if self.width % self.heads:
            raise DeltawError(f"model width {self.width} cannot be split into {self.heads} heads; give a multiple")
        if self.block not in get_args(BlockStyle):
            raise DeltawError(f"unknown block style {self.block!r}; there are: {', '.join(get_args(BlockStyle))}")
        if self.positions not in get_args(Positions):
            raise DeltawError(f"unknown positions {self.positions!r}; there are: {', '.join(get_args(Positions))}")
        if type(self.dead_norm) is not bool or (self.dead_norm and self.block != "published"):
            raise DeltawError(f"dead_norm is {self.dead_norm!r}; only a published block can have one, as true or false")
        masked = self.masked_token
        if masked is not None and (type(masked) is not int or not 0 <= masked < self.vocabulary_size):
            raise DeltawError(f"masked_token is {masked!r}; give a token from 0 to {self.vocabulary_size - 1}, or None")


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
    alone = q_BHTE.shape[2] == 1
    plain = q_BHTE.dtype == torch.bfloat16 or (q_BHTE.dtype == torch.float32 and alone and mask is None)
    if q_BHTE.device.type != "cpu" or not plain:
        causal = mask is None and not alone
        return F.scaled_dot_product_attention(q_BHTE, k_BHSE, v_BHSE, attn_mask=mask, is_causal=causal)
    length, size = q_BHTE.shape[2:]
    scores = (q_BHTE * size**-0.5) @ k_BHSE.transpose(2, 3)
    if mask is None and not alone:
        mask = torch.ones(length, k_BHSE.shape[2], dtype=torch.bool).tril(k_BHSE.shape[2] - length)
    if mask is not None:
        scores = scores + scores.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)
    shares_BHTS = scores.softmax(-1, dtype=torch.float32).to(v_BHSE.dtype)
    return torch.matmul(shares_BHTS, v_BHSE)


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)

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
        return self.out.packed(_taken(attend_packed(qkv_N3D, self.heads, packing.groups), chosen_M), dtype)


def _taken(x_ND: Tensor, chosen_M: Tensor | None) -> Tensor:
    return x_ND if chosen_M is None else x_ND.index_select(0, chosen_M)


class Mlp(nn.Module):
    """Two linear maps with the tanh form of GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.in_proj = Linear(config.width, config.mlp_ratio * config.width)
        self.out_proj = Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), each position by itself."""
        return self.out_proj(F.gelu(self.in_proj(x_BTD), approximate="tanh"))  # type: ignore[no-any-return]

    def packed(self, x_ND: Tensor, dtype: torch.dtype) -> Tensor:
        """The same of packed positions, in `dtype`: (N, D)."""
        if can_fuse(self.in_proj.weight, dtype):
            first, second = self.in_proj, self.out_proj
            return fused.mlp(x_ND.to(dtype), first.weight, first.bias, second.weight, second.bias)
        return self.forward(x_ND.to(dtype))


class PreNormBlock(nn.Module):
    """GPT-2's block: each branch reads a normalised copy of the residual stream and adds to the stream
    itself.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)

    def forward(
        self,
        x_BTD: Tensor,
        dtype: torch.dtype,
        cache: LayerCache | None = None,
        hidden_BS: Tensor | None = None,
        visible_BTT: Tensor | None = None,
        since: int = 0,
    ) -> Tensor:
        """The residual stream after the block, of positions from `since` on: (B, T - since, D). Matrix products run
        in `dtype`.
        """
        x_BTD = x_BTD[:, since:] + self.attn(self.norm_attn(x_BTD).to(dtype), cache, hidden_BS, visible_BTT, since)
        return x_BTD + self.mlp(self.norm_mlp(x_BTD).to(dtype))  # type: ignore[no-any-return]

    def packed(self, x_ND: Tensor, dtype: torch.dtype, packing: Packing, chosen_M: Tensor | None) -> Tensor:
        """The same of packed positions: (N, D), or of the chosen ones: (M, D)."""
        x_ND = _taken(x_ND, chosen_M) + self.attn.packed(self.norm_attn(x_ND), dtype, packing, chosen_M)
        return x_ND + self.mlp.packed(self.norm_mlp(x_ND), dtype)


class PublishedBlock(nn.Module):
    """The block of the published code: u = LN(x), v = u + attention(u), and v + MLP(v).

    The residual stream itself is normalised, once a block, and the MLP reads it as it is. `norm_dead` is never called.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        if config.dead_norm:
            self.norm_dead = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)

    def forward(
        self,
        x_BTD: Tensor,
        dtype: torch.dtype,
        cache: LayerCache | None = None,
        hidden_BS: Tensor | None = None,
        visible_BTT: Tensor | None = None,
        since: int = 0,
    ) -> Tensor:
        """The residual stream after the block, of positions from `since` on: (B, T - since, D). Matrix products run
        in `dtype`.
        """
        x_BTD = self.norm(x_BTD)
        x_BTD = x_BTD[:, since:] + self.attn(x_BTD.to(dtype), cache, hidden_BS, visible_BTT, since)
        return x_BTD + self.mlp(x_BTD.to(dtype))  # type: ignore[no-any-return]

    def packed(self, x_ND: Tensor, dtype: torch.dtype, packing: Packing, chosen_M: Tensor | None) -> Tensor:
        """The same of packed positions: (N, D), or of the chosen ones: (M, D)."""
        x_ND = self.norm(x_ND)
        mixed = self.attn.packed(x_ND, dtype, packing, chosen_M)
        x_ND = _taken(x_ND, chosen_M) + mixed
        return x_ND + self.mlp.packed(x_ND, dtype)


def _recording(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


BLOCKS: Mapping[BlockStyle, type[PreNormBlock] | type[PublishedBlock]] = {
    "pre_ln": PreNormBlock,
    "published": PublishedBlock,
}


class Transformer(nn.Module):
    """The decoder. Initial weights as in GPT-2 (Radford et al. 2019): N(0, 0.02²), and N(0, 0.02² / 2L) for
    the two maps of each block that write to the residual stream; biases 0. The published code draws the same. All
    come from `generator` (a CPU generator).
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = Embedding(config.vocabulary_size, config.width)
        table = Embedding if config.positions == "learned" else SinusoidalPositions
        self.position = table(config.context, config.width)
        self.blocks = nn.ModuleList(BLOCKS[config.block](config) for _ in range(config.layers))
        self.norm_final = nn.LayerNorm(config.width)
        self.unembed = Linear(config.width, config.vocabulary_size, bias=False)
        self._draw_weights(generator)

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 2:
                residual = name.endswith(("attn.out.weight", "mlp.out_proj.weight"))
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * self.config.layers if residual else 1), generator=generator)

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Within this context, the blocks' matrix products run in `dtype`. Outside, in the weights' own
        dtype.
        """
        before, self.compute_dtype = self.compute_dtype, dtype
        try:
            yield
        finally:
            self.compute_dtype = before

    def new_cache(self, rows: int, length: int) -> Cache:
        """An empty cache of keys and values for `rows` sequences of at most `length` positions."""
        like, heads = self.embed.weight, self.config.heads
        shape = (rows, heads, length, self.config.width // heads)
        layers = (LayerCache(like.new_empty(shape), like.new_empty(shape)) for _ in self.blocks)
        return Cache(layers, like.new_zeros((rows, length), dtype=torch.bool))

    def _hidden(self, tokens: Tensor | None, cache: Cache | None, length: int) -> Tensor | None:
        """(B, S) which of all positions so far hold the masked token; None if a causal mask hides them as well."""
        if self.config.masked_token is None:
            return None
        new: Tensor | bool = False if tokens is None else tokens == self.config.masked_token
        if cache is not None:
            start = cache[0].filled
            cache.hidden[:, start : start + length] = new
            new = cache.hidden[:, : start + length]
        if isinstance(new, bool):
            return None  # vectors, and nothing before them
        followed = new[:, :-1] & ~new[:, 1:]
        return new if bool(followed.any()) else None

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        cache: Cache | None = None,
        since: int = 0,
    ) -> Tensor:
        """Logits (B, T, V), in the weights' dtype, of the token after each position.

        Give tokens (B, T) int64, or embeddings (B, T, D) in the place of `embed.weight[tokens]`; positions
        are added to either. With `cache`, the input continues what the cache holds, and is appended to it.
        positions: (T,) or (B, T) int64, which learned position each input gets, if not its place in the
        sequence; what an input may look at depends on its place alone, or on `visible`: (B, T, T) bool, which inputs
        each may look at, itself among them, in the stead of all up to itself. It goes with no cache.
        since: the first input whose logits are wanted: (B, T - since, V); the last block leaves out the others' MLP,
        so hooks in it see those positions only.
        Where the model has a masked token, the logits at such tokens mean nothing, and vectors are never masked.
        DeltawError if a position, given or not, does not fit the context.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError("give either tokens or embeddings")
        x_BTD: Tensor = self.embed(tokens) if embeddings is None else embeddings
        if visible is not None and cache is not None:
            raise ValueError("give either visible or a cache")
        start = cache[0].filled if cache else 0
        end = start + x_BTD.shape[1]
        if positions is not None:  # while a CUDA graph is recorded there are no numbers to look at
            end = 0 if _recording(x_BTD) else int(positions.max()) + 1
        self._check_fits(end)
        table = self.position.weight
        x_BTD = x_BTD + (table[start:end] if positions is None else F.embedding(positions, table))
        hidden_BS = self._hidden(tokens, cache, x_BTD.shape[1])
        dtype = self.compute_dtype or self.unembed.weight.dtype
        for index, block in enumerate(self.blocks):
            left_out = since if index == len(self.blocks) - 1 else 0
            x_BTD = block(x_BTD, dtype, cache[index] if cache else None, hidden_BS, visible, left_out)
        return self.unembed(self.norm_final(x_BTD))  # type: ignore[no-any-return]

    def _check_fits(self, length: int) -> None:
        if length > self.config.context:
            raise DeltawError(
                f"a sequence of {length} tokens does not fit the model's context of {self.config.context}; "
                "shorten it, or train a model with a longer context"
            )

    def packs(self, tokens: Tensor) -> bool:
        """Whether `packed` computes what `forward` would for these tokens (B, T), and faster: on a CPU, if there are no
        hooks and no masked token stands before another token.
        """
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.modules())
        return tokens.device.type == "cpu" and not hooked and self._hidden(tokens, None, tokens.shape[1]) is None

    def packed(
        self, tokens: Tensor, wanted: Tensor, *, positions: Tensor | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (M, V) of the M positions where `wanted` (B, T) bool is true, as `forward` gives them up to rounding,
        and the slot (B · T,) int64 of each position of the flattened batch among them, or −1.

        Nothing is computed for positions that no wanted one reads, such as padding at a row's end, and nothing after
        the last block's attention for those that are not wanted. positions, visible: as in `forward`; what a position
        reads may itself read nothing else. For training: no hook sees these passes.
        """
        self._check_fits(tokens.shape[1] if positions is None else int(positions.max()) + 1)
        packing = pack(wanted, visible, self.config.heads)
        where = packing.source % tokens.shape[1] if positions is None else positions.flatten()[packing.source]
        x_ND = self.embed(tokens.flatten()[packing.source]) + F.embedding(where, self.position.weight)
        dtype = self.compute_dtype or self.unembed.weight.dtype
        for index, block in enumerate(self.blocks):
            chosen = packing.chosen if index == len(self.blocks) - 1 else None
            x_ND = block.packed(x_ND, dtype, packing, chosen)  # type: ignore[operator]
        return self.unembed(self.norm_final(x_ND)), packing.slot
