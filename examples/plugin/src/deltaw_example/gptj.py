"""An architecture: GPT-J."""

from dataclasses import dataclass

from deltaw.models.architectures import Architecture, Map


@dataclass(frozen=True)
class GptJ(Architecture):
    """GPT-J: plain MLP; queries, keys and values apart."""

    name = "gptj"
    label = "GPT-J"
    block = "transformer.h.{layer}"
    attention = (Map("attn.q_proj"), Map("attn.k_proj"), Map("attn.v_proj"), Map("attn.out_proj"))
    mlp_in = (Map("mlp.fc_in"),)
    mlp_out = Map("mlp.fc_out")
