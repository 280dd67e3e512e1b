"""FAMILIES, the table of all architectures that deltaw knows. To add one, add an entry; the tests hold every entry
against the model that transformers builds.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from deltaw.models.architectures.family import Family, Map, grouped, halves, interleaved, thirds


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU (Hendrycks and Gimpel 2016), elementwise."""
    return F.gelu(x, approximate="tanh")


_QKV = tuple(Map(f"self_attn.{part}_proj") for part in "qkv")
FAMILIES: dict[str, Family] = {
    "deltaw": Family(
        block="blocks.{layer}",
        attention=(Map("attn.qkv", cut=thirds, whole=False), Map("attn.out")),
        mlp_in=(Map("mlp.in_proj"),),
        mlp_out=Map("mlp.out_proj"),
        activation=gelu_tanh,
    ),
    "llama": Family(
        block="model.layers.{layer}",
        attention=(*_QKV, Map("self_attn.o_proj")),
        mlp_in=(Map("mlp.gate_proj"), Map("mlp.up_proj")),
        mlp_out=Map("mlp.down_proj"),
        gated=True,
        model_types=(
            "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_text", "granite", "helium",
            "ministral", "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm",
        ),
    ),
    "nemotron": Family(
        block="model.layers.{layer}",
        attention=(*_QKV, Map("self_attn.o_proj")),
        mlp_in=(Map("mlp.up_proj"),),
        mlp_out=Map("mlp.down_proj"),
        model_types=("apertus", "arcee"),
    ),
    "phi3": Family(
        block="model.layers.{layer}",
        attention=(Map("self_attn.qkv_proj", cut=grouped, whole=False), Map("self_attn.o_proj")),
        mlp_in=(Map("mlp.gate_up_proj", cut=halves),),
        mlp_out=Map("mlp.down_proj"),
        gated=True,
    ),
    "glm": Family(
        block="model.layers.{layer}",
        attention=(*_QKV, Map("self_attn.o_proj")),
        mlp_in=(Map("mlp.gate_up_proj", cut=halves),),
        mlp_out=Map("mlp.down_proj"),
        gated=True,
        model_types=("glm4",),
    ),
    "phi": Family(
        block="model.layers.{layer}",
        attention=(*_QKV, Map("self_attn.dense")),
        mlp_in=(Map("mlp.fc1"),),
        mlp_out=Map("mlp.fc2"),
    ),
    "gpt2": Family(
        block="transformer.h.{layer}",
        attention=(Map("attn.c_attn", cut=thirds, whole=False), Map("attn.c_proj")),
        mlp_in=(Map("mlp.c_fc"),),
        mlp_out=Map("mlp.c_proj"),
        transposed=True,
    ),
    "gpt_neox": Family(
        block="gpt_neox.layers.{layer}",
        attention=(Map("attention.query_key_value", cut=interleaved, whole=False), Map("attention.dense")),
        mlp_in=(Map("mlp.dense_h_to_4h"),),
        mlp_out=Map("mlp.dense_4h_to_h"),
    ),
    "opt": Family(
        block="model.decoder.layers.{layer}",
        attention=(*_QKV, Map("self_attn.out_proj")),
        mlp_in=(Map("fc1"),),
        mlp_out=Map("fc2"),
    ),
}  # fmt: skip


def model_types() -> Mapping[str, Family]:
    """What config.json calls the architectures that are known, and the family of each."""
    listed = {name: family for family in FAMILIES.values() for name in family.model_types}
    return {**FAMILIES, **listed}


def family_of_type(model_type: str) -> Family | None:
    """The family of what config.json calls an architecture; None if it is unknown."""
    return model_types().get(model_type)
