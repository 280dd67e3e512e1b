"""What adapter_config.json says: the scale of each update, and which kinds of adapters are no plain LoRA."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_ALPHA = 1e9
_CHANGES_THE_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga|lora-ga|milora|kasa")
"""Initialisations (`init_lora_weights`) that take the adapter's first values out of the base's own weights."""
_OF_PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CPT")
_NO_FIXED_CHANGE = ("layer_replication", "alora_invocation_tokens", "arrow_config", "monteclora_config")
_OTHER_FORMULA = {"use_qalora": "QALoRA", "use_bdlora": "BD-LoRA", "kasa_config": "KaSA"}
# At most three signs that repeat, and none after a group: no name takes long to match.
_QUICK = re.compile(r"(?:[^*+{]*(?<!\))[*+{]){0,3}[^*+{]*")


def refuse_other_kinds(directory: Path, config: Mapping[str, Any]) -> None:
    """DeltawError, with the reason, if an adapter is no LoRA whose factors alone are the update."""
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind in _OF_PROMPTS:
        raise DeltawError(
            f"{directory} is an adapter of kind {kind}, which adds to the model's input and changes no "
            "weight; there is no update to compare"
        )
    if config.get("use_dora"):
        raise DeltawError(
            f"{directory} is an adapter of kind DoRA, which also rescales the columns of the base model's weights; "
            "merge it with PEFT (merge_and_unload) into a checkpoint"
        )
    variant = next((name for setting, name in _OTHER_FORMULA.items() if config.get(setting)), None)
    if kind != "LORA" or variant is not None:
        raise DeltawError(
            f"{directory} is an adapter of kind {variant or kind}, whose update is no product of two factors as in "
            "LoRA; merge it with PEFT (merge_and_unload) into a checkpoint"
        )
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_THE_BASE.match(begun.lower()):
        raise DeltawError(
            f"{directory} was initialised by {begun}, which changes the base model's weights too, so its factors alone "
            "are not the update; merge it with PEFT into a checkpoint"
        )
    for setting in _NO_FIXED_CHANGE:
        if config.get(setting):
            raise DeltawError(
                f"{directory} has {setting} in {CONFIG}, so that it is no fixed change of the base model's weights; "
                "deltaw does not read it"
            )


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """lora_alpha / r, or / √r with `use_rslora`; the module's own alpha where `alpha_pattern` has one."""
    alpha = _of_module(config, "alpha_pattern", module, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < LARGEST_ALPHA:
        raise DeltawError(f"{CONFIG} has lora_alpha = {alpha!r}; expected a number below {LARGEST_ALPHA:g}")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def check_rank(config: Mapping[str, Any], module: str, rank: int) -> None:
    """DeltawError if a module's factors are not of the rank that the configuration gives it, which sets the scale."""
    expected = _of_module(config, "rank_pattern", module, config.get("r"))
    if expected is not None and expected != rank:
        raise DeltawError(
            f"the factors of {module} are of rank {rank}, and {CONFIG} gives it {expected!r}; restore the "
            "configuration that the adapter was saved with"
        )


def _of_module(config: Mapping[str, Any], setting: str, module: str, otherwise: Any) -> Any:
    """What a table of patterns has for a module: of several that match, the first, as in PEFT."""
    patterns = config.get(setting) or {}
    if not isinstance(patterns, dict):
        raise DeltawError(f"{CONFIG} has {setting} = {patterns!r}; expected an object of patterns and numbers")
    return next((value for pattern, value in patterns.items() if _matches(pattern, module, setting)), otherwise)


def _matches(pattern: str, module: str, setting: str) -> bool:
    """Whether PEFT would take the module for one that the pattern names."""
    if len(pattern) > 200 or len(module) > 500 or not _QUICK.fullmatch(pattern):
        raise DeltawError(
            f"{CONFIG} has the {setting} {pattern!r}, which could take hours to match; name the modules, or merge "
            "the adapter into a checkpoint"
        )
    try:
        return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
    except re.error as error:
        raise DeltawError(f"{CONFIG} has the {setting} {pattern!r}, which is no pattern ({error})") from error
