"""Small random checkpoints of each family, written by safetensors in the names and layouts of Hugging Face."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D, F, LAYERS, HEADS, GROUPS = 12, 40, 2, 3, 1
KV = D // HEADS * GROUPS

_ATTENTION = {"q": (D, D), "k": (KV, D), "v": (KV, D)}
SHAPES: Mapping[str, tuple[str, dict[str, tuple[int, int]]]] = {
    "llama": (
        "model.layers",
        {f"self_attn.{x}_proj": shape for x, shape in _ATTENTION.items()}
        | {"self_attn.o_proj": (D, D), "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)},
    ),
    "phi3": (
        "model.layers",
        {
            "self_attn.qkv_proj": (D + 2 * KV, D),
            "self_attn.o_proj": (D, D),
            "mlp.gate_up_proj": (2 * F, D),
            "mlp.down_proj": (D, F),
        },
    ),
    "phi": (
        "model.layers",
        {f"self_attn.{x}_proj": (D, D) for x in "qkv"}
        | {"self_attn.dense": (D, D), "mlp.fc1": (F, D), "mlp.fc2": (D, F)},
    ),
    "gpt2": (
        "transformer.h",
        {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, F), "mlp.c_proj": (F, D)},
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        {
            "attention.query_key_value": (3 * D, D),
            "attention.dense": (D, D),
            "mlp.dense_h_to_4h": (F, D),
            "mlp.dense_4h_to_h": (D, F),
        },
    ),
    "opt": (
        "model.decoder.layers",
        {f"self_attn.{x}_proj": (D, D) for x in "qkv"} | {"self_attn.out_proj": (D, D), "fc1": (F, D), "fc2": (D, F)},
    ),
}
# For each family: a tall module, how to see its stored tensor as (out, in), and a wide one.
TALL = {
    "llama": "mlp.gate_proj", "phi3": "mlp.gate_up_proj:up", "phi": "mlp.fc1", "gpt2": "mlp.c_fc",
    "gpt_neox": "mlp.dense_h_to_4h", "opt": "fc1",
}  # fmt: skip
WIDE = {
    "llama": "mlp.down_proj", "phi3": "mlp.down_proj", "phi": "mlp.fc2", "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h", "opt": "fc2",
}  # fmt: skip
FAMILIES = tuple(SHAPES)


def config(family: str) -> dict[str, Any]:
    return {"model_type": family, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "hidden_size": D}


def tensors(family: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prefix, shapes = SHAPES[family]
    found = {"embed.weight": torch.randn(30, D, generator=generator)}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            found[f"{prefix}.{layer}.{name}.weight"] = torch.randn(shape, generator=generator)
            found[f"{prefix}.{layer}.{name}.bias"] = torch.randn(shape[0], generator=generator)
    return found


def write(directory: Path, state: Mapping[str, Tensor], settings: Mapping[str, Any], shards: int = 1) -> Path:
    """A single file, or shards with their index."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(settings))
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    if shards == 1:
        save_file(state, directory / "model.safetensors")
        return directory
    table: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name] for name in sorted(state)[number::shards]}
        save_file(part, directory / file)
        table |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return directory


def tensor_of(family: str, module: str, layer: int = 1) -> str:
    return f"{SHAPES[family][0]}.{layer}.{module.partition(':')[0]}.weight"


def changed(family: str, state: Mapping[str, Tensor], module: str, update: Tensor) -> dict[str, Tensor]:
    """The state with `update` (out, in) added to a module of layer 1, in the family's own layout."""
    name = tensor_of(family, module)
    after = state[name].double()
    if family == "gpt2":
        after = after + update.T
    elif module.endswith(":up"):
        after = torch.cat([after[: len(after) // 2], after[len(after) // 2 :] + update])
    else:
        after = after + update
    return {**state, name: after}


def matrix_of(family: str, state: Mapping[str, Tensor], module: str) -> Tensor:
    """A module of layer 1 as (out, in)."""
    stored = state[tensor_of(family, module)].double()
    if family == "gpt2":
        return stored.T
    return stored[len(stored) // 2 :] if module.endswith(":up") else stored
