"""The decoder once more, in float64 numpy with explicit masks, as the oracle of the tests."""

import numpy as np
import torch
from numpy.typing import NDArray

from deltaw.models import Transformer

Array = NDArray[np.float64]


def weights(model: Transformer) -> dict[str, Array]:
    return {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def norm(x: Array, w: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return np.asarray(centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"])


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def attention(x: Array, allowed: NDArray[np.bool_], w: dict[str, Array], name: str, heads: int) -> Array:
    """allowed: (T, T) or (B, T, T), whether a query (row) may look at a key (column)."""
    q, k, v = np.split(linear(x, w, f"{name}.qkv"), 3, axis=-1)
    size = x.shape[-1] // heads
    mixed = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].swapaxes(-1, -2) / np.sqrt(size)
        mixed[..., part] = np.exp(log_softmax(np.where(allowed, scores, -1e30))) @ v[..., part]
    return linear(mixed, w, f"{name}.out")


def sinusoids(length: int, width: int) -> Array:
    """The published table: even dimensions sines, odd ones cosines, base 10000."""
    table = np.zeros((length, width))
    for position in range(length):
        for i in range(0, width, 2):
            angle = position / 10000 ** (i / width)
            table[position, i] = np.sin(angle)
            if i + 1 < width:
                table[position, i + 1] = np.cos(angle)
    return table


def published_forward(model: Transformer, tokens: torch.Tensor) -> tuple[Array, dict[tuple[int, str], Array]]:
    """`forward` for published blocks, as the reference notes have them: u = LN(x), v = u + A(u), v + MLP(v)."""
    w, config, ids = weights(model), model.config, tokens.numpy()
    positions = sinusoids(config.context, config.width) if config.positions == "sinusoidal" else w["position.weight"]
    x = w["embed.weight"][ids] + positions[: ids.shape[1]]
    place = np.arange(ids.shape[1])
    allowed = np.broadcast_to(place[:, None] >= place[None, :], (len(ids), len(place), len(place))).copy()
    if config.masked_token is not None:
        for row, column in zip(*np.nonzero(ids == config.masked_token), strict=True):
            allowed[row, np.arange(len(place)) != column, column] = False
    sites: dict[tuple[int, str], Array] = {}
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        u = norm(x, w, f"{block}.norm")
        v = u + attention(u, allowed, w, f"{block}.attn", config.heads)
        pre = linear(v, w, f"{block}.mlp.in_proj")
        out = linear(gelu(pre), w, f"{block}.mlp.out_proj")
        x = v + out
        sites |= {(layer, "mlp_in"): v, (layer, "mlp_pre"): pre, (layer, "mlp_post"): gelu(pre)}
        sites |= {(layer, "mlp_out"): out, (layer, "resid_out"): x}
    return norm(x, w, "norm_final") @ w["unembed.weight"].T, sites


def forward(model: Transformer, tokens: torch.Tensor) -> tuple[Array, dict[tuple[int, str], Array]]:
    """Logits (B, T, V), and the activations at every (layer, site)."""
    w, config, ids = weights(model), model.config, tokens.numpy()
    x = w["embed.weight"][ids] + w["position.weight"][: ids.shape[1]]
    allowed = np.arange(ids.shape[1])[:, None] >= np.arange(ids.shape[1])[None, :]
    sites: dict[tuple[int, str], Array] = {}
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        x = x + attention(norm(x, w, f"{block}.norm_attn"), allowed, w, f"{block}.attn", config.heads)
        sites[layer, "mlp_in"] = norm(x, w, f"{block}.norm_mlp")
        sites[layer, "mlp_pre"] = linear(sites[layer, "mlp_in"], w, f"{block}.mlp.in_proj")
        sites[layer, "mlp_post"] = gelu(sites[layer, "mlp_pre"])
        sites[layer, "mlp_out"] = linear(sites[layer, "mlp_post"], w, f"{block}.mlp.out_proj")
        x = x + sites[layer, "mlp_out"]
        sites[layer, "resid_out"] = x
    return norm(x, w, "norm_final") @ w["unembed.weight"].T, sites
