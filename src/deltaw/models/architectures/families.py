"""The architectures that deltaw knows, one class a family. The tests hold each against the model that transformers
builds.
"""

from dataclasses import dataclass

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
    attention = (*_QKV, Map("self_attn.o_proj"))
    mlp_in = (Map("mlp.gate_proj"), Map("mlp.up_proj"))
    mlp_out = Map("mlp.down_proj")
    gated = True
    model_types = (
        "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_text", "granite", "helium", "ministral",
        "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm",
    )  # fmt: skip


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


FAMILIES: dict[str, Architecture] = {
    family.name: family for family in (Deltaw(), Llama(), Nemotron(), Phi3(), Glm(), Phi(), Gpt2(), GptNeoX(), Opt())
}
"""By name, in the order in which a model's parameters are tried."""
