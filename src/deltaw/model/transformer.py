"""The decoder: GPT-2's block in a form whose every weight, activation and number format can be named.

Learned absolute positions, causal attention only: right-padding needs no mask, since no position looks to
its right. Weights are float32 masters. Matrix products inside the blocks run in `compute_dtype`; attention,
layer norms, the residual stream and the logits stay in the masters' dtype, where bfloat16 loses accuracy or,
on a CPU, time.

Shapes: B rows, T positions, D width, H heads, E = D / H, V vocabulary. Linear weights are (out, in).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.errors import DeltawError

BlockStyle = Literal["pre_ln"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `Transformer`. DeltawError if the numbers do not fit together."""

    vocabulary_size: int
    context: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    mlp_ratio: int = 4
    block: BlockStyle = "pre_ln"

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "context", "layers", "heads", "width", "mlp_ratio"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise DeltawError(f"model {name} is {value!r}; give a whole number of at least 1")
        if self.width % self.heads:
            raise DeltawError(f"model width {self.width} cannot be split into {self.heads} heads; give a multiple")
        if self.block not in get_args(BlockStyle):
            raise DeltawError(f"unknown block style {self.block!r}; there is: {', '.join(get_args(BlockStyle))}")


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


Cache = list[LayerCache]


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


class Embedding(nn.Embedding):
    """An embedding table left unset by its constructor."""

    def reset_parameters(self) -> None:
        """Nothing: `Transformer` draws all weights, from the generator it is given."""


class Attention(nn.Module):
    """Multi-head causal self-attention; scores, softmax and values in the masters' dtype."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        """What each position reads from itself and those before it, the cached ones included: (B, T, D)."""
        rows, length, width = x_BTD.shape
        qkv = self.qkv(x_BTD).to(self.qkv.weight.dtype)
        q_BHTE, k, v = qkv.view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = None
        if cache is not None:
            past = cache.filled
            k, v = cache.extend(k, v)
            if past and length > 1:  # `is_causal` would align the first query, not the last, with the last key
                mask = torch.ones(length, past + length, dtype=torch.bool, device=k.device).tril(past)
        causal = mask is None and length > 1
        mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k, v, attn_mask=mask, is_causal=causal)
        return self.out(mixed_BHTE.transpose(1, 2).reshape(rows, length, width).to(x_BTD.dtype))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear maps with the tanh form of GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.in_proj = Linear(config.width, config.mlp_ratio * config.width)
        self.out_proj = Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), each position by itself."""
        return self.out_proj(F.gelu(self.in_proj(x_BTD), approximate="tanh"))  # type: ignore[no-any-return]


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

    def forward(self, x_BTD: Tensor, dtype: torch.dtype, cache: LayerCache | None = None) -> Tensor:
        """The residual stream (B, T, D) after the block; matrix products run in `dtype`."""
        x_BTD = x_BTD + self.attn(self.norm_attn(x_BTD).to(dtype), cache)
        return x_BTD + self.mlp(self.norm_mlp(x_BTD).to(dtype))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The decoder. Initial weights as in GPT-2 (Radford et al. 2019): N(0, 0.02²), and N(0, 0.02² / 2L) for
    the two maps of each block that write to the residual stream; biases 0. All are drawn from `generator` (a
    CPU generator).
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.embed = Embedding(config.vocabulary_size, config.width)
        self.position = Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(PreNormBlock(config) for _ in range(config.layers))
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
        return [LayerCache(like.new_empty(shape), like.new_empty(shape)) for _ in self.blocks]

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V), in the weights' dtype, of the token after each position.

        Give tokens (B, T) int64, or embeddings (B, T, D) in the place of `embed.weight[tokens]`; positions
        are added to either. With `cache`, the input continues what the cache holds, and is appended to it.
        positions: (T,) or (B, T) int64, which learned position each input gets, if not its place in the
        sequence; what an input may look at depends on its place alone.
        DeltawError if a position, given or not, does not fit the context.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError("give either tokens or embeddings")
        x_BTD: Tensor = self.embed(tokens) if embeddings is None else embeddings
        start = cache[0].filled if cache else 0
        end = start + x_BTD.shape[1] if positions is None else int(positions.max()) + 1
        if end > self.config.context:
            raise DeltawError(
                f"a sequence of {end} tokens does not fit the model's context of {self.config.context}; "
                "shorten it, or train a model with a longer context"
            )
        x_BTD = x_BTD + self.position.weight[slice(start, end) if positions is None else positions]
        dtype = self.compute_dtype or self.unembed.weight.dtype
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, dtype, cache[index] if cache else None)
        return self.unembed(self.norm_final(x_BTD))  # type: ignore[no-any-return]
