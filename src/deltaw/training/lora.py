"""LoRA (Hu et al., 2021) on every linear map of the blocks: y = W x + (alpha / r) B A x, of which A and B are trained.

B starts at zero, so that the adapted model is the base model; A is drawn as PEFT draws it. Adapters are saved as PEFT
saves them, and `deltaw compare` reads them as exact low-rank updates.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models.architectures import find_modules


class LoraLinear(nn.Module):
    """A linear map that stays as it is, and its low-rank update. scale: alpha / r.

    Its weight has the name that it had, by which architectures find the parts of a block.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.scale = linear.weight, scale
        self.register_parameter("bias", linear.bias)
        bound = 1 / math.sqrt(linear.in_features)
        start = torch.rand((rank, linear.in_features), generator=generator) * 2 * bound - bound
        self.lora_A = nn.Parameter(start)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        found: Tensor = F.linear(x, self.weight, self.bias) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)
        return found


def add_lora(model: nn.Module, rank: int, generator: torch.Generator) -> dict[str, LoraLinear]:
    """Adapt every linear map of MLPs and attention in place, freezing all else: its updates by the map's name.

    DeltawError if the rank is not positive, or the architecture has other kinds of maps.
    """
    if rank < 1:
        raise DeltawError(f"the rank of LoRA is {rank}; expected at least 1")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = {}
    for name, linear in modules_to_adapt(model).items():
        parent, _, leaf = name.rpartition(".")
        found[name] = LoraLinear(linear, rank, 2.0, generator)
        setattr(model.get_submodule(parent), leaf, found[name])
    return found


def modules_to_adapt(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear map of MLPs and attention, by name. DeltawError if one is of another kind."""
    config = model.config.to_dict()  # type: ignore[operator,union-attr]
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    modules = find_modules(shapes, config, str(config.get("model_type", "")))
    names = sorted({piece.tensor.removesuffix(".weight") for module in modules for piece in module.pieces})
    linears = {}
    for name in names:
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise DeltawError(
                f"{name} is a {type(module).__name__}; LoRA here adapts nn.Linear only, so tune all weights"
            )
        linears[name] = module
    return linears


def save_lora(adapters: dict[str, LoraLinear], directory: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors, in PEFT's names. directory: exists and is empty."""
    rank = len(next(iter(adapters.values())).lora_A)
    tensors = {}
    for name, one in adapters.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = one.lora_A.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = one.lora_B.detach().cpu().contiguous()
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapters}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
