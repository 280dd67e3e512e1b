"""LoRA (Hu et al., 2021) on every linear map of the blocks, through PEFT: y = W x + (alpha / r) B A x.

A and B are trained, all else is frozen. B starts at zero, so that the adapted model is the base model. The adapter is
written as PEFT writes it, and `deltaw compare` reads it as an exact low-rank update.
"""

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deltaw.errors import DeltawError
from deltaw.models.architectures import find_modules

SCALE = 2
"""alpha / r."""


def peft() -> Any:
    """The package. DeltawError if it is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise DeltawError("LoRA needs peft, which is not installed; install the extra: pip install 'deltaw[hf]'")
    return importlib.import_module("peft")


def add_lora(model: nn.Module, rank: int, seed: int, base: Path) -> Any:
    """Adapt every linear map of MLPs and attention in place, freezing all else: PEFT's model around it, which saves the
    adapter.

    seed: of the first values of A. base: where the adapter says that its base model is. DeltawError if the architecture
    has other kinds of maps.
    """
    names = modules_to_adapt(model)
    package = peft()
    transposed = type(model.get_submodule(names[0])).__name__ == "Conv1D"
    config = package.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=SCALE * rank,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=transposed,
        target_modules=names,
        base_model_name_or_path=str(base),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)  # PEFT draws from the generator that all code shares
        warnings.simplefilter("ignore", FutureWarning)  # transformers' to PEFT, of names to come
        adapted = package.get_peft_model(model, config)
    named = adapted.peft_config["default"]
    named.target_modules = sorted(named.target_modules)  # a set, whose order would differ from run to run
    named.base_model_name_or_path = str(base)
    return adapted


def modules_to_adapt(model: nn.Module) -> list[str]:
    """Names of all linear maps of MLPs and attention. DeltawError if one is of a kind that LoRA cannot wrap."""
    config = model.config.to_dict()  # type: ignore[operator,union-attr]
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    modules = find_modules(shapes, config, str(config.get("model_type", "")))
    names = sorted({piece.tensor.removesuffix(".weight") for module in modules for piece in module.pieces})
    if not names:
        raise DeltawError("no linear map of a block was found, so that LoRA has nothing to adapt; tune all weights")
    kinds = dict(model.named_modules())
    for name in names:
        kind = type(kinds[name]).__name__ if name in kinds else "parameter of several maps"
        if not isinstance(kinds.get(name), nn.Linear) and kind != "Conv1D":
            raise DeltawError(f"{name} is a {kind}; LoRA adapts nn.Linear and Conv1D only, so tune all weights")
    return names


def save_lora(adapted: Any, directory: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors. directory: exists and is empty."""
    # Whether embeddings grew need not be asked of the hub: none is adapted.
    adapted.save_pretrained(directory, save_embedding_layers=False)
