"""A `pre_ln` model as a Hugging Face GPT-2 directory: the same logits, in the names and layout of `GPT2LMHeadModel`.

GPT-2 stores the four maps of a block as (in, out). Output and input embeddings are two tensors (`tie_word_embeddings`
is false). The tokens have no text: the directory has no tokenizer.
"""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models.transformer import ModelConfig, Transformer
from deltaw.results import whole_directory

_BLOCK = {
    "norm_attn": ("ln_1", False),
    "attn.qkv": ("attn.c_attn", True),
    "attn.out": ("attn.c_proj", True),
    "norm_mlp": ("ln_2", False),
    "mlp.in_proj": ("mlp.c_fc", True),
    "mlp.out_proj": ("mlp.c_proj", True),
}


def export_gpt2(model: Transformer, directory: Path | str) -> None:
    """Write `model` to `directory` as config.json and model.safetensors, by renaming a finished directory.

    DeltawError if the model has no GPT-2 form, or `directory` is not empty or cannot be written.
    """
    directory, config = Path(directory), model.config
    if config.block != "pre_ln" or config.masked_token is not None:
        obstacle = f"block {config.block!r}" if config.block != "pre_ln" else "a masked token"
        raise DeltawError(
            f"a model with {obstacle} has no GPT-2 form; export one of block 'pre_ln' without a masked token"
        )
    if directory.is_dir() and any(directory.iterdir()):
        raise DeltawError(f"{directory} is not empty; give another directory, or remove it first")
    with whole_directory(directory) as partial:
        save_file(_tensors(model), partial / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(_config(config, str(model.unembed.weight.dtype).removeprefix("torch.")), indent=2)
        (partial / "config.json").write_text(text + "\n", encoding="utf-8")


def _tensors(model: Transformer) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = {
        "transformer.wte.weight": state["embed.weight"],
        "transformer.wpe.weight": model.position.weight.detach().cpu(),
        "transformer.ln_f.weight": state["norm_final.weight"],
        "transformer.ln_f.bias": state["norm_final.bias"],
        "lm_head.weight": state["unembed.weight"],
    }
    for layer in range(model.config.layers):
        for ours, (theirs, transposed) in _BLOCK.items():
            weight, bias = (state[f"blocks.{layer}.{ours}.{part}"] for part in ("weight", "bias"))
            tensors[f"transformer.h.{layer}.{theirs}.weight"] = weight.T if transposed else weight
            tensors[f"transformer.h.{layer}.{theirs}.bias"] = bias
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _config(config: ModelConfig, dtype: str) -> dict[str, object]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": config.vocabulary_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_ratio * config.width,
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": dtype,
    }
