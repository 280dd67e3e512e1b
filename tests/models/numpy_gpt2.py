"""GPT-2 on Hugging Face's own names and layout, in float64 numpy: the oracle of the export.

From the published architecture: Conv1D weights are (in, out), GELU is the tanh form, each branch normalises a copy.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]


def logits(directory: Path, tokens: NDArray[np.int64]) -> Array:
    """(B, T) tokens to (B, T, V), from config.json and model.safetensors alone."""
    config = json.loads((directory / "config.json").read_text())
    w = {name: x.astype(np.float64) for name, x in load_file(directory / "model.safetensors").items()}
    heads, epsilon, length = config["n_head"], config["layer_norm_epsilon"], tokens.shape[1]

    def conv1d(x: Array, name: str) -> Array:
        return np.asarray(x @ w[f"{name}.weight"] + w[f"{name}.bias"])

    def norm(x: Array, name: str) -> Array:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])

    def split(x: Array) -> Array:
        return np.asarray(x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3))

    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][:length]
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}"
        q, k, v = (split(part) for part in np.split(conv1d(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn"), 3, -1))
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + conv1d(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{block}.attn.c_proj")
        pre = conv1d(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        post = 0.5 * pre * (1 + np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3)))
        x = x + conv1d(post, f"{block}.mlp.c_proj")
    return np.asarray(norm(x, "transformer.ln_f") @ w["lm_head.weight"].T)
