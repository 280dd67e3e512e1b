"""Small random language models of each family, written by transformers itself, with a tokenizer of bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deltaw.models.huggingface import Chat, Side, encode, logits_of
from deltaw.prompts.matched import Prompt

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
_SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 512}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_SMALL, "num_key_value_heads": 2, "intermediate_size": 64}),
    "qwen2": ("Qwen2Config", {**_SMALL, "num_key_value_heads": 2, "intermediate_size": 64}),
    "mistral": ("MistralConfig", {**_SMALL, "num_key_value_heads": 2, "intermediate_size": 64}),
    "gemma": ("GemmaConfig", {**_SMALL, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 6}),
    "phi": ("PhiConfig", {**_SMALL, "hidden_size": 32, "intermediate_size": 64}),
    "phi3": ("Phi3Config", {**_SMALL, "num_key_value_heads": 2, "intermediate_size": 64, "pad_token_id": 0}),
    "gpt2": ("GPT2Config", {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "gpt_neox": ("GPTNeoXConfig", {**_SMALL, "intermediate_size": 64}),
    "opt": ("OPTConfig", {**_SMALL, "ffn_dim": 64, "word_embed_proj_dim": 24}),
}

_EXPERTS = {**_SMALL, "num_key_value_heads": 2, "num_experts_per_tok": 2}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {**_EXPERTS, "intermediate_size": 48, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_EXPERTS, "head_dim": 6, "intermediate_size": 64, "moe_intermediate_size": 48, "num_experts": 4},
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            **_EXPERTS, "intermediate_size": 64, "moe_intermediate_size": 48, "num_experts": 4,
            "shared_expert_intermediate_size": 32,
        },
    ),
}  # fmt: skip
"""Mixtures of experts."""


def transformers() -> Any:
    return pytest.importorskip("transformers")


def tokenizer() -> Any:
    """Each byte is a token; two tokens more mark turns."""
    package = transformers()
    tokenizers = pytest.importorskip("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    fast = package.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL[1])
    fast.chat_template = TEMPLATE
    return fast


def write_model(directory: Path, family: str = "llama", seed: int = 0, noise: float = 0.0) -> Path:
    """A random model of the family. noise: added to every weight, from another seed."""
    package, words = transformers(), tokenizer()
    name, options = {**CONFIGS, **MIXTURES}[family]
    ends = {"bos_token_id": None, "eos_token_id": words.eos_token_id}
    config = getattr(package, name)(vocab_size=len(words), **{**options, **ends})
    torch.manual_seed(seed)
    model = package.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # random models of their own initialisation say the same after any prompt
                parameter.mul_(8)
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


@torch.no_grad()
def next_token_logits(chat: Chat, prompts: Sequence[Prompt], batch_size: int = 16, side: Side = "left") -> Tensor:
    """(N, V) float32 logits of each answer's first token, on the CPU."""
    found = []
    for start in range(0, len(prompts), batch_size):
        encoded = encode(chat, prompts[start : start + batch_size], side)
        logits = logits_of(chat, encoded)
        found.append(logits[torch.arange(len(logits)), encoded.last].float().cpu())
    return torch.cat(found)
