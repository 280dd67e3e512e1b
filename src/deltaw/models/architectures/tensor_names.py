"""What a tensor's name says: which name it has without wrappers, and whether it belongs to the text decoder.

Programs that wrap a model put constant words into its names (`model.`, `_orig_mod.`, `base_model.model.`), so that base
and tuned can differ in them. Multimodal checkpoints hold encoders whose matrices have the decoder's names; those of
DeepSeek and Qwen3-Next have heads that predict further tokens. Both are kept apart.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

ANYWHERE = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
"""Words that wrappers put in front of any module: torch.compile, FSDP, activation checkpointing, DeepSpeed."""
LEADING = frozenset(
    ("base_model", "model", "module", "transformer", "language_model", "text_model", "llm", "gpt_neox", "thinker")
)
"""Words that a name can begin with or not: those of a model with a head, of a bare one, and of one inside another."""
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where config.json of a multimodal model has the text decoder's fields."""
_APART = (
    (r"(.*_)?(mtp|nextn|medusa|eagle)(_.*)?", "a head that predicts further tokens"),
    (r"(.*_)?(audio|speech|whisper|talker|token2wav|code2wav)(_.*)?", "the audio side"),
    (r"(.*_)?(vision|visual|image|images|img|vit|siglip|clip|vpm|sam|pixtral)(_.*)?", "the vision side"),
)
_APART_FIRST = (
    r"multi_modal_projector|mm_projector|multimodal_projector|connector|aligner|projector|merger|perceiver|resampler"
    r"|mlp1|patch_merger|modality_projection"
)
"""First words of what leads from an encoder to the decoder."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.([0-9]{1,6})\.")


def unwrapped(name: str) -> str:
    """A tensor's name without the words that wrappers put in front of any module."""
    return ".".join(word for word in name.split(".") if word not in ANYWHERE)


def without_wrapper(name: str) -> str:
    """The name that a parameter had before PEFT wrapped its module, which PEFT keeps as base_layer."""
    return name.replace(".base_layer.", ".")


def plain_name(name: str) -> str:
    """A tensor's name without the words that wrappers and outer models put before it."""
    words = unwrapped(name).split(".")
    while len(words) > 1 and words[0] in LEADING:
        words = words[1:]
    return ".".join(words)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the text decoder: the whole configuration, or the part that has them."""
    for key in TEXT_CONFIGS:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            return text_config(inner)
    return config


def decoder_type(config: Mapping[str, Any], model_type: str) -> str:
    """What the text decoder is called, whether it stands alone or inside a multimodal model."""
    inner = text_config(config)
    name = model_type if inner is config else str(inner.get("model_type") or model_type)
    return re.sub(r"_text(_model)?$", "", name)


def layer_limit(config: Mapping[str, Any]) -> int | None:
    """How many blocks config.json gives the decoder; None if it does not say."""
    inner = text_config(config)
    counts = (inner.get(key) for key in ("num_hidden_layers", "n_layer", "num_layers"))
    return next((count for count in counts if type(count) is int and count > 0), None)


def why_apart(name: str, config: Mapping[str, Any]) -> str | None:
    """What a tensor belongs to if not to the text decoder; None if it does."""
    plain = plain_name(name)
    words = plain.split(".")
    for pattern, part in _APART:
        if any(re.fullmatch(pattern, word) for word in words):
            return part
    if re.fullmatch(_APART_FIRST, words[0]):
        return "what leads from an encoder to the decoder"
    match, limit = _LAYER.search(plain), layer_limit(config)
    if match is not None and limit is not None and int(match[1]) >= limit:
        inner = text_config(config)
        further = any(inner.get(key) for key in ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers"))
        return _APART[0][1] if further else f"a layer beyond the {limit} of config.json"
    return None


def grouped(names: Iterable[str]) -> dict[str, int]:
    """Names with layers' and experts' numbers as {layer} and {expert}, and how many tensors each stands for."""
    counts: dict[str, int] = {}
    for name in names:
        general = group_of(name)
        counts[general] = counts.get(general, 0) + 1
    return counts


def group_of(name: str) -> str:
    """The name with a layer's and an expert's number replaced."""
    general = re.sub(r"\.experts\.\d+\.", ".experts.{expert}.", name)
    return re.sub(r"(?<![^.])\d+(?=\.)", "{layer}", general, count=1)
