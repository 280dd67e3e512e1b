"""The decoder once more, in float64 numpy with explicit masks, as the oracle of the tests."""

import numpy as np
import torch
from numpy.typing import NDArray

from deltaw.model import Transformer

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


def forward(model: Transformer, tokens: torch.Tensor) -> tuple[Array, dict[tuple[int, str], Array]]:
    """Logits (B, T, V), and the activations at every (layer, site)."""
    w, config, ids = weights(model), model.config, tokens.numpy()
    size = config.width // config.heads
    x = w["embed.weight"][ids] + w["position.weight"][: ids.shape[1]]
    allowed = np.arange(ids.shape[1])[:, None] >= np.arange(ids.shape[1])[None, :]
    sites: dict[tuple[int, str], Array] = {}
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        q, k, v = np.split(linear(norm(x, w, f"{block}.norm_attn"), w, f"{block}.attn.qkv"), 3, axis=-1)
        mixed = np.zeros_like(x)
        for head in range(config.heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[..., part] @ k[..., part].swapaxes(-1, -2) / np.sqrt(size)
            mixed[..., part] = np.exp(log_softmax(np.where(allowed, scores, -1e30))) @ v[..., part]
        x = x + linear(mixed, w, f"{block}.attn.out")
        sites[layer, "mlp_in"] = norm(x, w, f"{block}.norm_mlp")
        sites[layer, "mlp_pre"] = linear(sites[layer, "mlp_in"], w, f"{block}.mlp.in_proj")
        sites[layer, "mlp_post"] = gelu(sites[layer, "mlp_pre"])
        sites[layer, "mlp_out"] = linear(sites[layer, "mlp_post"], w, f"{block}.mlp.out_proj")
        x = x + sites[layer, "mlp_out"]
        sites[layer, "resid_out"] = x
    return norm(x, w, "norm_final") @ w["unembed.weight"].T, sites
