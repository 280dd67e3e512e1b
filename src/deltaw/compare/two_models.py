"""The two models that are asked, each loaded as itself from its own directory, one in memory at a time.

The base model is base's weights, configuration, tokenizer and chat template; the tuned model is all of its own. Of an
adapter, the tuned model is the base with the adapter merged, and its tokenizer where the adapter's directory has one.
Models between the two exist where both sides read and compute alike.
"""

import copy
import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deltaw.compare.differences import check_comparable, differences, notes, traits
from deltaw.compare.interpolation import move_to, why_no_models_between
from deltaw.compare.weights import Sources
from deltaw.errors import DeltawError
from deltaw.models import chat_prompts
from deltaw.models.huggingface import Chat, load_chat, transformers
from deltaw.models.lora import Adapter
from deltaw.prompts.matched import Prompt

OWN_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
"""A directory with one of these has a tokenizer of its own."""
TOKENIZER_FILES = (
    *OWN_TOKENIZER,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
GENERATION = "generation_config.json"
DTYPES = ("float32", "bfloat16", "float16", "auto")
OWN = "own"
SIDES = ("base", "tuned")


@dataclass(frozen=True)
class Loading:
    """How both models are loaded. DeltawError if the format is unknown or the template's file cannot be read."""

    device: str = "cpu"
    """Where each model is put whole."""
    dtype: str = "float32"
    """The format that the models compute in; auto: that of their files."""
    device_map: str | None = None
    """How accelerate spreads a model over devices, such as auto; None: not."""
    template: str = OWN
    """Which chat template both are asked in: own (each its own), base, tuned, or a file."""
    answer_dtype: str | None = None
    """The format that answers are computed in; None: `dtype`. Activations and losses stay in `dtype`."""

    def __post_init__(self) -> None:
        for name, dtype in (("dtype", self.dtype), ("answer_dtype", self.answer_dtype or self.dtype)):
            if dtype not in DTYPES:
                raise DeltawError(f"{name} is {dtype!r}; it can be {', '.join(DTYPES)}")
        if self.answer_dtype is not None and (self.device_map is not None or self.answer_dtype == "auto"):
            raise DeltawError("an answer_dtype is float32, bfloat16 or float16, and goes without a device_map")
        _ = self.given_template

    @property
    def given_template(self) -> str | None:
        """The text of the template's file, if it is one."""
        if self.template in (OWN, *SIDES):
            return None
        try:
            return Path(self.template).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DeltawError(
                f"the chat template {self.template} cannot be read ({error}); give base, tuned, own, or a file"
            ) from error


@dataclass(eq=False)
class TwoModels:
    """A base and a tuned model, and those between: `at` gives one, and the one before it is gone."""

    sources: Sources
    loading: Loading = Loading()
    differences: dict[str, str] = field(default_factory=dict)
    """How the two differ beside the values of their weights, by kind."""
    notes: dict[str, str] = field(default_factory=dict)
    """What else a reader has to know of how they are asked, by kind."""
    why_not_between: str | None = None
    """Why there are no models between the two; None if there are."""
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the base model's parameters, by name."""
    layers: int = 0
    """How many blocks both have."""
    _chat: Chat | None = None
    _alpha: float | None = None
    _answering: Chat | None = None
    """A copy of `_chat` in the format that answers are computed in."""

    @classmethod
    def open(
        cls,
        sources: Sources,
        prompts: Sequence[Prompt],
        new_tokens: int = 0,
        loading: Loading = Loading(),
    ) -> "TwoModels":
        """Both are loaded once and looked at, so that what cannot be asked is refused before the first question.

        prompts: everything that will be asked. new_tokens: of the longest answer. DeltawError, one sentence, if a side
        cannot be loaded as itself or cannot read a prompt.
        """
        models = cls(sources, loading)
        models.check_prompts(prompts)
        tuned = traits(models.at(1.0), prompts, new_tokens)
        base = traits(models.at(0.0), prompts, new_tokens)
        check_comparable(base, tuned)
        models.parameters, models.layers = base.parameters, base.layers
        models.differences = differences(base, tuned)
        models.notes = notes(base, tuned, loading.template)
        alike = {kind: text for kind, text in models.differences.items() if not kind.startswith("unused")}
        if alike:
            kind, text = next(iter(alike.items()))
            models.why_not_between = f"the models differ in more than the values of their weights ({kind}: {text})"
        else:
            models.why_not_between = why_no_models_between(models.at(0.0), sources)
        return models

    def at(self, alpha: float) -> Chat:
        """The base model (0), the tuned model (1) or one between them.

        DeltawError if there are none between. The model that was given before must no longer be used.
        """
        if self._chat is not None and alpha == self._alpha:
            return self._chat
        inside = alpha not in (0.0, 1.0)
        self._answering = None
        if inside and self.why_not_between is not None:
            raise DeltawError(f"there is no model between the two: {self.why_not_between}")
        if not (inside and self._chat is not None and self._alpha != 1.0):
            self._chat = self._alpha = None
            gc.collect()  # before the next one takes its memory
            self._chat = self._load(tuned=alpha == 1.0)
            self._chat.model.requires_grad_(False)  # a gradient to the embeddings then costs half
        if inside:
            self._alpha = None  # a move that fails leaves no known model
            move_to(self._chat, self.sources, alpha)
        self._alpha = alpha
        return self._chat

    def answering(self, alpha: float) -> Chat:
        """The model that `at` gives, in the format that answers are computed in; both are then in memory."""
        chat = self.at(alpha)
        if self.loading.answer_dtype is None:
            return chat
        if self._answering is None:
            dtype = getattr(torch, self.loading.answer_dtype)
            # As transformers loads it: buffers, such as the frequencies of positions, stay as they are.
            weights = {id(x): torch.nn.Parameter(x.to(dtype), x.requires_grad) for x in chat.model.parameters()}
            self._answering = replace(chat, model=copy.deepcopy(chat.model, weights))
        return self._answering

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """DeltawError if a template fails or a prompt has no tokens: from the tokenizers alone, before any weights are
        read.
        """
        for tuned in (True, False):
            directory = tokenizer_directory(self.sources, tuned)
            words = _tokenizer(directory)
            words.chat_template = self._template(words, tuned)
            for prompt in prompts:
                text = chat_prompts.chat_text(words, directory, prompt.text, prompt.prefill)
                chat_prompts.token_ids(words, directory, text)

    def release(self) -> None:
        """Drop the model that is in memory; `at` loads it again."""
        self._chat = self._alpha = self._answering = None
        gc.collect()

    def _template(self, own: Any, tuned: bool) -> Any:
        """The chat template that a side is asked in. own: its tokenizer."""
        if self.loading.template == OWN or self.loading.template == SIDES[tuned]:
            return getattr(own, "chat_template", None)
        if self.loading.template in SIDES:
            other = _tokenizer(tokenizer_directory(self.sources, not tuned))
            return getattr(other, "chat_template", None)
        return self.loading.given_template

    def _load(self, tuned: bool) -> Chat:
        chat = self._load_own(tuned)
        chat.tokenizer.chat_template = self._template(chat.tokenizer, tuned)
        return chat

    def _load_own(self, tuned: bool) -> Chat:
        sources, base, how = self.sources, self.sources.base.directory, self.loading
        dtype = how.dtype if how.dtype == "auto" else getattr(torch, how.dtype)
        if not tuned:
            return load_chat(base, dtype, how.device, device_map=how.device_map)
        if not isinstance(sources.after, Adapter):
            return load_chat(sources.directory, dtype, how.device, device_map=how.device_map)
        if sources.after.unused:
            names, more = sources.after.unused[:3], len(sources.after.unused) - 3
            raise DeltawError(
                f"the adapter {sources.directory} holds {', '.join(names)}{f' and {more} more' if more > 0 else ''}, "
                "which deltaw cannot add to the base model yet; merge it with PEFT (merge_and_unload), save the model "
                "with its tokenizer, and give that directory"
            )
        words = tokenizer_directory(sources, tuned=True)
        chat = load_chat(base, dtype, how.device, tokenizer=words, device_map=how.device_map)
        move_to(chat, sources, 1.0)
        return chat


def _tokenizer(directory: Path) -> Any:
    try:
        return chat_prompts.load_tokenizer(directory, transformers())
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DeltawError(
            f"{directory} has no tokenizer that can be read ({reason}); copy it there from where the model came from"
        ) from error


def asking_files(sources: Sources, loading: Loading) -> dict[str, str]:
    """By side, a hash of what says how the model is asked beside weights and config.json: the files of tokenizer and
    template, and the choices of format and template.
    """
    base, tuned = sources.base.directory, sources.directory
    settings = base if isinstance(sources.after, Adapter) else tuned
    words = {side: tokenizer_directory(sources, side == "tuned") for side in SIDES}
    formats = loading.dtype if loading.answer_dtype is None else f"{loading.dtype}, answers {loading.answer_dtype}"
    chosen = f"{formats} {loading.given_template}"
    return {
        side: _hash(
            [*(words[side] / name for name in TOKENIZER_FILES), folder / GENERATION]
            + [words[loading.template] / name for name in TOKENIZER_FILES if loading.template in SIDES],
            chosen,
        )
        for side, folder in (("base", base), ("tuned", settings))
    }


def tokenizer_directory(sources: Sources, tuned: bool) -> Path:
    """Where a side's tokenizer lies: of an adapter its own directory if that has one, else the base model's."""
    if not tuned:
        return sources.base.directory
    if not isinstance(sources.after, Adapter):
        return sources.directory
    own = any((sources.directory / name).is_file() for name in OWN_TOKENIZER)
    return sources.directory if own else sources.base.directory


def _hash(files: Sequence[Path], chosen: str) -> str:
    digest = hashlib.sha256(chosen.encode())
    for path in files:
        digest.update(path.name.encode() + b"\0")
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
