"""The architectures that deltaw knows, one class a family. The tests hold each against the model that transformers
builds.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from deltaw.models.architectures.architecture import Architecture, Map, grouped, halves, interleaved, thirds


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU (Hendrycks and Gimpel 2016), elementwise."""
    return F.gelu(x, approximate="tanh")


_QKV = tuple(Map(f"self_attn.{part}_proj") for part in "qkv")


@dataclass(frozen=True)
class Deltaw(Architecture):
    """The decoder of the synthetic study."""

    name = "deltaw"
    label = "deltaw"

    block = "blocks.{layer}"
    attention = (Map("attn.qkv", cut=thirds, whole=False), Map("attn.out"))
    mlp_in = (Map("mlp.in_proj"),)
    mlp_out = Map("mlp.out_proj")
    activation = staticmethod(gelu_tanh)


@dataclass(frozen=True)
class Llama(Architecture):
    """Llama and the many models with its names: gated MLP; queries, keys and values apart."""

    name = "llama"
    label = "Llama"

    block = "model.layers.{layer}"
    attention: ClassVar[tuple[Map, ...]] = (*_QKV, Map("self_attn.o_proj"))
    mlp_in: ClassVar[tuple[Map, ...]] = (Map("mlp.gate_proj"), Map("mlp.up_proj"))
    mlp_out = Map("mlp.down_proj")
    gated = True
    model_types: ClassVar[tuple[str, ...]] = (
        "cohere",
        "cohere2",
        "exaone",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "granite",
        "helium",
        "ministral",
        "mistral",
        "olmo",
        "olmo2",
        "olmo3",
        "qwen2",
        "qwen3",
        "seed_oss",
        "smollm3",
        "stablelm",
    )


@dataclass(frozen=True)
class Nemotron(Architecture):
    """Nemotron and others: Llama's names, but an MLP without a gate."""

    name = "nemotron"
    label = "Nemotron"

    block = "model.layers.{layer}"
    attention = (*_QKV, Map("self_attn.o_proj"))
    mlp_in = (Map("mlp.up_proj"),)
    mlp_out = Map("mlp.down_proj")
    model_types = ("apertus", "arcee")


@dataclass(frozen=True)
class Phi3(Architecture):
    """Phi-3: gate and up in one matrix, queries, keys and values in another."""

    name = "phi3"
    label = "Phi-3"

    block = "model.layers.{layer}"
    attention = (Map("self_attn.qkv_proj", cut=grouped, whole=False), Map("self_attn.o_proj"))
    mlp_in = (Map("mlp.gate_up_proj", cut=halves),)
    mlp_out = Map("mlp.down_proj")
    gated = True


@dataclass(frozen=True)
class Glm(Architecture):
    """GLM: Llama's attention, gate and up in one matrix."""

    name = "glm"
    label = "GLM"

    block = "model.layers.{layer}"
    attention = (*_QKV, Map("self_attn.o_proj"))
    mlp_in = (Map("mlp.gate_up_proj", cut=halves),)
    mlp_out = Map("mlp.down_proj")
    gated = True
    model_types = ("glm4",)


@dataclass(frozen=True)
class Phi(Architecture):
    """Phi and Phi-2: plain MLP; queries, keys and values apart."""

    name = "phi"
    label = "Phi"

    block = "model.layers.{layer}"
    attention = (*_QKV, Map("self_attn.dense"))
    mlp_in = (Map("mlp.fc1"),)
    mlp_out = Map("mlp.fc2")


@dataclass(frozen=True)
class Gpt2(Architecture):
    """GPT-2: matrices stored as (inputs, outputs)."""

    name = "gpt2"
    label = "GPT-2"

    block = "transformer.h.{layer}"
    attention = (Map("attn.c_attn", cut=thirds, whole=False), Map("attn.c_proj"))
    mlp_in = (Map("mlp.c_fc"),)
    mlp_out = Map("mlp.c_proj")
    transposed = True


@dataclass(frozen=True)
class GptNeoX(Architecture):
    """GPT-NeoX and Pythia: queries, keys and values of each head side by side."""

    name = "gpt_neox"
    label = "GPT-NeoX"

    block = "gpt_neox.layers.{layer}"
    attention = (Map("attention.query_key_value", cut=interleaved, whole=False), Map("attention.dense"))
    mlp_in = (Map("mlp.dense_h_to_4h"),)
    mlp_out = Map("mlp.dense_4h_to_h")


@dataclass(frozen=True)
class Opt(Architecture):
    """OPT: plain MLP; queries, keys and values apart."""

    name = "opt"
    label = "OPT"

    block = "model.decoder.layers.{layer}"
    attention = (*_QKV, Map("self_attn.out_proj"))
    mlp_in = (Map("fc1"),)
    mlp_out = Map("fc2")


@dataclass(frozen=True)
class Mllama(Llama):
    """Llama 3.2 Vision: some blocks read the image by cross-attention instead."""

    name = "mllama_text_model"
    label = "Llama 3.2 Vision"

    attention = (*Llama.attention, *(Map(f"cross_attn.{part}_proj") for part in "qkvo"))
    model_types = ()


@dataclass(frozen=True)
class Mixture(Llama):
    """Mixtures of experts in Llama's names; `mixtures` finds the experts. Attention as each of them has it."""

    name = "mixtral"
    label = "Mixtral and other mixtures of experts"
    experts = True

    attention = (
        *Llama.attention,
        *(Map(f"self_attn.{path}") for path in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")),
        *(
            Map(f"linear_attn.{path}")
            for path in ("in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "out_proj")
        ),
    )
    model_types = (
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "dots1",
        "ernie4_5_moe",
        "flex_olmo",
        "glm4_moe",
        "gpt_oss",
        "granitemoe",
        "hunyuan_v1_moe",
        "kimi_k2",
        "minimax",
        "minimax_m2",
        "olmoe",
        "phimoe",
        "qwen2_moe",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_moe",
        "qwen3_next",
    )


@dataclass(frozen=True)
class Llama4(Llama):
    """Llama 4: MLPs and experts under `feed_forward`."""

    name = "llama4"
    label = "Llama 4"
    experts = True

    mlp_in = (Map("feed_forward.gate_proj"), Map("feed_forward.up_proj"))
    mlp_out = Map("feed_forward.down_proj")
    model_types = ("llama4_text",)


FAMILIES: dict[str, Architecture] = {
    family.name: family for family in (Deltaw(), Llama(), Nemotron(), Phi3(), Glm(), Phi(), Gpt2(), GptNeoX(), Opt())
}
"""By name, in the order in which a model's parameters are tried."""
MIXTURES: tuple[Architecture, ...] = (Mllama(), Mixture(), Llama4())
"""Families that are told by the configuration, not by a loaded model's parameters."""
IN_MULTIMODAL = {
    **dict.fromkeys(
        (
            "aya_vision",
            "gemma3n",
            "gemma3n_text",
            "idefics2",
            "idefics3",
            "internvl",
            "internvl_chat",
            "llava",
            "llava_next",
            "llava_onevision",
            "mistral3",
            "paligemma",
            "pixtral",
            "qwen2_5_vl",
            "qwen2_audio",
            "qwen2_vl",
            "qwen3_vl",
            "smolvlm",
        ),
        "llama",
    ),
    **dict.fromkeys(("qwen3_vl_moe", "glm4v_moe", "qwen3_omni_moe"), "mixtral"),
    "mllama": "mllama_text_model",
    "glm4v": "glm",
}
"""Multimodal models whose text decoder has a family's layout, by what config.json calls them."""
