"""LoRA adapters (Hu et al., 2021) as exact low-rank updates of a base model: ΔW = scale · B A, never merged.

The directory has `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltaw.analysis.large_matrices import LowRank
from deltaw.errors import DeltawError
from deltaw.models.checkpoint_files import (
    INDEX,
    SINGLE,
    Checkpoint,
    Stored,
    read_json_object,
    refuse_pickled,
    tensors_of,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.\w+)?\.weight")

LARGEST_ALPHA = 1e9
_CHANGES_THE_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga")
"""Initialisations (`init_lora_weights`) that take the adapter's first values out of the base's own weights."""
# At most three signs that repeat, and none after a group: no name takes long to match.
_QUICK = re.compile(r"(?:[^*+{]*(?<!\))[*+{]){0,3}[^*+{]*")


@dataclass(frozen=True)
class Adapter:
    """An adapter's factors by the base model's tensor that they change. unused: what it holds beside them."""

    checkpoint: Checkpoint
    factors: Mapping[str, tuple[str, str]]
    unused: tuple[str, ...]

    def update(self, tensor: str) -> LowRank:
        """scale · B A (out, in) for a tensor of the base model."""
        name_a, name_b = self.factors[tensor]
        a, b = self.checkpoint.read(name_a).double(), self.checkpoint.read(name_b).double()
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise DeltawError(
                f"{self.checkpoint.directory}: the factors of {tensor} are {tuple(b.shape)} and {tuple(a.shape)}; "
                "expected (outputs, rank) and (rank, inputs)"
            )
        module = tensor.removesuffix(".weight")
        return LowRank(b * scale(self.checkpoint.config, module, int(a.shape[0])), a.T)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and not a whole checkpoint."""
    return (directory / CONFIG).is_file() and not any((directory / name).is_file() for name in (SINGLE, INDEX))


def open_adapter(directory: Path, base: Mapping[str, Stored]) -> Adapter:
    """The adapter in a directory, for a base model's tensors. DeltawError if it is no plain LoRA, or damaged."""
    config = read_json_object(directory / CONFIG)
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA" or config.get("use_dora"):
        found = "DoRA" if config.get("use_dora") else kind
        raise DeltawError(
            f"{directory} is an adapter of kind {found}; deltaw reads LoRA, so merge it into a checkpoint"
        )
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_THE_BASE.match(begun.lower()):
        raise DeltawError(
            f"{directory} was initialised by {begun}, which changes the base model's weights too, so its factors alone "
            "are not the update; merge it with PEFT into a checkpoint"
        )
    for setting in ("layer_replication", "alora_invocation_tokens"):
        if config.get(setting):
            raise DeltawError(
                f"{directory} has {setting} in {CONFIG}, so that it is no fixed change of the base model's weights; "
                "deltaw does not read it"
            )
    if not (directory / WEIGHTS).is_file():
        refuse_pickled(directory)
        raise DeltawError(f"{directory} has no {WEIGHTS}; restore it beside {CONFIG}")
    tensors = tensors_of({directory / WEIGHTS: None})
    halves: dict[str, dict[str, str]] = {}
    unused = []
    for name in tensors:
        match = _FACTOR.fullmatch(name)
        target = _target(match["module"], base) if match else None
        if match is None or target is None:
            unused.append(name)
        else:
            halves.setdefault(target, {})[match["factor"]] = name
    lonely = next((target for target, half in halves.items() if len(half) < 2), None)
    if lonely is not None:
        raise DeltawError(f"{directory / WEIGHTS} has one factor of {lonely} and not the other; save the adapter again")
    if not halves:
        raise DeltawError(
            f"{directory / WEIGHTS} changes no tensor of the base model (it has {', '.join(unused[:3]) or 'none'}); "
            "give the base model that the adapter was made for"
        )
    factors = {target: (half["A"], half["B"]) for target, half in halves.items()}
    return Adapter(Checkpoint(directory, tensors, config), factors, tuple(unused))


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """lora_alpha / r, or / √r with `use_rslora`; the module's own alpha where `alpha_pattern` has one."""
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise DeltawError(f"{CONFIG} has alpha_pattern = {patterns!r}; expected an object of patterns and numbers")
    for pattern, value in patterns.items():
        if _matches(pattern, module):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < LARGEST_ALPHA:
        raise DeltawError(f"{CONFIG} has lora_alpha = {alpha!r}; expected a number below {LARGEST_ALPHA:g}")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _matches(pattern: str, module: str) -> bool:
    """Whether PEFT would take the module for one that the pattern names."""
    if len(pattern) > 200 or len(module) > 500 or not _QUICK.fullmatch(pattern):
        raise DeltawError(
            f"{CONFIG} has the alpha_pattern {pattern!r}, which could take hours to match; name the modules, or merge "
            "the adapter into a checkpoint"
        )
    try:
        return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
    except re.error as error:
        raise DeltawError(f"{CONFIG} has the alpha_pattern {pattern!r}, which is no pattern ({error})") from error


def _target(module: str, base: Mapping[str, Stored]) -> str | None:
    """The base tensor of a module: by its name, or by one that differs in a prefix such as `transformer.` only."""
    exact = f"{module}.weight"
    if exact in base:
        return exact
    close = [name for name in base if name.endswith(f".{exact}") or exact.endswith(f".{name}")]
    return close[0] if len(close) == 1 else None
