"""The decoder, in a form whose every weight, activation and number format can be named.

Two styles of block: GPT-2's own (`pre_ln`), and that of the published code (`published`), whose one layer norm
replaces the residual stream. Absolute positions, learned or sinusoidal. Attention is causal: right-padding needs
no mask, since no position looks to its right. Weights are float32 masters. Matrix products inside the blocks run
in `compute_dtype`; softmax, layer norms, the residual stream and the logits stay in the masters' dtype, where
bfloat16 loses accuracy. Keys and values that are cached are in the masters' dtype too.

Shapes: B rows, T positions, D width, H heads, E = D / H, V vocabulary. Linear weights are (out, in).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models.layers import Attention, Cache, Embedding, LayerCache, Linear, Mlp, SinusoidalPositions, taken
from deltaw.models.packed import Packing, pack

BlockStyle = Literal["pre_ln", "published"]
Positions = Literal["learned", "sinusoidal"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `Transformer`. DeltawError if the numbers do not fit together."""

    vocabulary_size: int
    """Tokens."""
    context: int
    """Positions, the longest sequence."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Attention heads of a block; the width is a multiple of it."""
    width: int = 128
    """Of the residual stream."""
    mlp_ratio: int = 4
    """Hidden units of an MLP, in widths."""
    block: BlockStyle = "pre_ln"
    """GPT-2's block, or the published code's."""
    positions: Positions = "learned"
    """A learned table, or the fixed one of sines and cosines (`sinusoidal_table`)."""
    dead_norm: bool = False
    """Whether each published block has a second layer norm that nothing calls, as the published checkpoints do."""
    masked_token: int | None = None
    """A token, such as padding, that other positions cannot attend to. None, as published: padding in the middle of a
    sequence is attended like any token."""

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


class PreNormBlock(nn.Module):
    """GPT-2's block: each branch reads a normalised copy of the residual stream and adds to the stream
    itself.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_ratio)

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
        x_ND = taken(x_ND, chosen_M) + self.attn.packed(self.norm_attn(x_ND), dtype, packing, chosen_M)
        return x_ND + self.mlp.packed(self.norm_mlp(x_ND), dtype)


class PublishedBlock(nn.Module):
    """The block of the published code: u = LN(x), v = u + attention(u), and v + MLP(v).

    The residual stream itself is normalised, once a block, and the MLP reads it as it is. `norm_dead` is never called.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        if config.dead_norm:
            self.norm_dead = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_ratio)

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
        x_ND = taken(x_ND, chosen_M) + mixed
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
        positions_N = packing.source % tokens.shape[1] if positions is None else positions.flatten()[packing.source]
        x_ND = self.embed(tokens.flatten()[packing.source]) + F.embedding(positions_N, self.position.weight)
        dtype = self.compute_dtype or self.unembed.weight.dtype
        for index, block in enumerate(self.blocks):
            chosen = packing.chosen if index == len(self.blocks) - 1 else None
            x_ND = block.packed(x_ND, dtype, packing, chosen)  # type: ignore[operator]
        return self.unembed(self.norm_final(x_ND)), packing.slot
