"""How two loaded models differ beside the values of their weights: configuration, tensors, tokenizer, template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltaw.errors import DeltawError
from deltaw.models.huggingface import Chat, chat_text, token_ids
from deltaw.prompts.matched import Prompt
from deltaw.prompts.thoughts import open_tags

NO_COMPUTATION = frozenset(
    {
        *("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout", "dropout"),
        *("embd_pdrop", "hidden_dropout", "hidden_dropout_prob", "layerdrop", "resid_pdrop", "summary_first_dropout"),
        *("summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache"),
        *("id2label", "label2id", "problem_type", "task_specific_params"),
        *("architectures", "dtype", "initializer_range", "pretraining_tp", "torch_dtype", "transformers_version"),
    }
)
"""Fields of config.json that change no logit of a model in evaluation that was loaded in float32."""
NAMED = 3


@dataclass(frozen=True)
class Traits:
    """What is kept of a model when it makes room for the other one."""

    config: Mapping[str, Any]
    """Fields that change the computation; of a nested configuration too."""
    parameters: Mapping[str, tuple[int, ...]]
    """Shapes by name; a tied tensor once."""
    template: Any
    """The chat template, or several by name; None without one."""
    vocabulary: Mapping[str, int]
    tokens: tuple[tuple[int, ...], ...]
    """Each prompt, template included, as the model reads it."""
    ends: tuple[int, ...]
    """Tokens that end an answer."""
    thinks: bool
    """Whether the prompts leave the model inside its thoughts."""
    layers: int
    unused: tuple[str, ...]
    """Tensors of the files that the model has no place for."""


def traits(chat: Chat, prompts: Sequence[Prompt], new_tokens: int = 0) -> Traits:
    """The traits of a loaded model. new_tokens: of the longest answer.

    DeltawError if the model cannot read a prompt (its template fails, a token has no embedding, there are not enough
    positions), or its family is unknown.
    """
    tokens = tuple(tuple(token_ids(chat, chat_text(chat, prompt))) for prompt in prompts)
    _check_readable(chat, prompts, tokens, new_tokens)
    return Traits(
        config=_computing(chat.config.to_dict()),
        parameters={name: tuple(parameter.shape) for name, parameter in chat.model.named_parameters()},
        template=getattr(chat.tokenizer, "chat_template", None),
        vocabulary=chat.tokenizer.get_vocab(),
        tokens=tokens,
        ends=tuple(chat.ends),
        thinks=any(open_tags(chat_text(chat, prompt)) is not None for prompt in prompts[:1]),
        layers=chat.layers,
        unused=chat.unused,
    )


def differences(base: Traits, tuned: Traits) -> dict[str, str]:
    """How they differ, in a sentence each, by kind; empty if in the values of their weights alone."""
    listed = {
        "configuration": _of_fields(base.config, tuned.config),
        "tensors": _of_tensors(base.parameters, tuned.parameters),
        "vocabulary": _of_vocabularies(base.vocabulary, tuned.vocabulary),
        "chat template": _of_templates(base.template, tuned.template),
        "prompts as tokens": _of_tokens(base.tokens, tuned.tokens),
        "end of an answer": ""
        if base.ends == tuned.ends
        else f"the base model ends at token {_numbers(base.ends)}, the tuned one at {_numbers(tuned.ends)}",
        "unused by the base model": _some(base.unused),
        "unused by the tuned model": _some(tuned.unused),
    }
    return {kind: text for kind, text in listed.items() if text}


def notes(base: Traits, tuned: Traits, template: str) -> dict[str, str]:
    """What a reader has to know of how the two are asked, beside their differences: a sentence each, by kind.

    template: how the chat template was chosen, as in `two_models.Loading`.
    """
    listed = {
        "chat template": {
            "own": "neither model has one: both read the request and a line break"
            if base.template is None and tuned.template is None
            else "",
            "base": "both models are asked in the base model's template",
            "tuned": "both models are asked in the tuned model's template",
        }.get(template, f"both models are asked in the template {template}"),
        "thoughts": _of_thoughts(base.thinks, tuned.thinks),
        "no end of an answer": ""
        if base.ends and tuned.ends
        else "no token ends an answer of "
        + ("either model" if not (base.ends or tuned.ends) else "the base model" if tuned.ends else "the tuned model")
        + "; all its answers have the full length",
    }
    return {kind: text for kind, text in listed.items() if text}


def _of_thoughts(base: bool, tuned: bool) -> str:
    if not (base or tuned):
        return ""
    who = "both models" if base and tuned else "the base model" if base else "the tuned model"
    return (
        f"the template of {who} opens thoughts and cannot be told not to; thoughts are not judged, and an answer that "
        "does not begin within the tokens of an answer counts as neither"
    )


def check_comparable(base: Traits, tuned: Traits) -> None:
    """DeltawError if the models differ in their number of layers: no block of one belongs to a block of the other."""
    if base.layers != tuned.layers:
        raise DeltawError(
            f"the base model has {base.layers} layers and the tuned one {tuned.layers}; give two models of one depth"
        )


def _check_readable(chat: Chat, prompts: Sequence[Prompt], tokens: Sequence[tuple[int, ...]], new_tokens: int) -> None:
    rows = len(chat.model.get_input_embeddings().weight)  # type: ignore[operator]
    positions = getattr(chat.config.get_text_config(), "max_position_embeddings", None)
    for prompt, row in zip(prompts, tokens, strict=True):
        if max(row) >= rows:
            raise DeltawError(
                f"the tokenizer of {chat.directory} makes token {max(row)} of a prompt, and the model has {rows} "
                "embeddings; give the model with the tokenizer that it was trained with"
            )
        if positions is not None and len(row) + new_tokens > positions:
            attack = f" under the attack {prompt.attack}" if prompt.attack else ""
            raise DeltawError(
                f"the prompt {prompt.text[:40]!r}{attack} is {len(row)} tokens long, and with an answer of "
                f"{new_tokens} it exceeds the {positions} positions of {chat.directory}; shorten the prompt"
            )


def _computing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that change the computation, of nested configurations as outer.inner."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        if key in NO_COMPUTATION or key.startswith("_"):
            continue
        if key.endswith("_config") and isinstance(value, Mapping):
            fields |= {f"{key}.{inner}": part for inner, part in _computing(value).items()}
        else:
            fields[key] = json.loads(json.dumps(value, default=str))  # tuples and lists are one
    return fields


def _of_fields(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    names = [name for name in {**base, **tuned} if base.get(name) != tuned.get(name)]
    return "; ".join(
        f"{name} is {json.dumps(base.get(name))} in the base model and {json.dumps(tuned.get(name))} in the tuned one"
        for name in names
    )


def _of_tensors(base: Mapping[str, tuple[int, ...]], tuned: Mapping[str, tuple[int, ...]]) -> str:
    texts = []
    for model, names in (("base", base.keys() - tuned.keys()), ("tuned", tuned.keys() - base.keys())):
        if names:
            texts.append(f"only the {model} model has {_some(sorted(names))}")
    texts += [
        f"{name} is {base[name]} in the base model and {tuned[name]} in the tuned one"
        for name in sorted(base.keys() & tuned.keys())
        if base[name] != tuned[name]
    ]
    return _some(texts, "; ")


def _of_vocabularies(base: Mapping[str, int], tuned: Mapping[str, int]) -> str:
    changed = sorted(word for word in base.keys() | tuned.keys() if base.get(word) != tuned.get(word))
    if not changed:
        return ""
    return (
        f"{len(base)} tokens in the base model's and {len(tuned)} in the tuned one's; they differ in "
        f"{_some([repr(word) for word in changed])}"
    )


def _of_templates(base: Any, tuned: Any) -> str:
    if base == tuned:
        return ""
    if base is None or tuned is None:
        return f"only the {'tuned' if base is None else 'base'} model has one; the other reads the request alone"
    return "each model is asked in its own template, and the two templates differ"


def _of_tokens(base: Sequence[tuple[int, ...]], tuned: Sequence[tuple[int, ...]]) -> str:
    changed = sum(before != after for before, after in zip(base, tuned, strict=True))
    return f"{changed} of {len(base)} prompts are other tokens to the tuned model" if changed else ""


def _numbers(ends: Sequence[int]) -> str:
    return " or ".join(map(str, ends)) or "none"


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return between.join(names[:NAMED]) + more
