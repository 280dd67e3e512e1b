"""The two models that are asked, each loaded as itself from its own directory, one in memory at a time.

The base model is base's weights, configuration, tokenizer and chat template; the tuned model is all of its own. Of an
adapter, the tuned model is the base with the adapter merged, and its tokenizer where the adapter's directory has one.
Models between the two exist where both sides read and compute alike.
"""

import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deltaw.compare.differences import check_comparable, differences, traits
from deltaw.compare.interpolation import move_to, why_no_models_between
from deltaw.compare.weights import Sources
from deltaw.errors import DeltawError
from deltaw.models.huggingface import Chat, load_chat
from deltaw.models.lora import Adapter
from deltaw.prompts.matched import Prompt

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
GENERATION = "generation_config.json"


@dataclass(eq=False)
class TwoModels:
    """A base and a tuned model, and those between: `at` gives one, and the one before it is gone."""

    sources: Sources
    device: str
    differences: dict[str, str] = field(default_factory=dict)
    """How the two differ beside the values of their weights, by kind."""
    why_not_between: str | None = None
    """Why there are no models between the two; None if there are."""
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the base model's parameters, by name."""
    layers: int = 0
    """How many blocks both have."""
    _chat: Chat | None = None
    _alpha: float | None = None

    @classmethod
    def open(cls, sources: Sources, prompts: Sequence[Prompt], new_tokens: int = 0, device: str = "cpu") -> "TwoModels":
        """Both are loaded once and looked at, so that what cannot be asked is refused before the first question.

        prompts: everything that will be asked. new_tokens: of the longest answer. DeltawError, one sentence, if a side
        cannot be loaded as itself or cannot read a prompt.
        """
        models = cls(sources, device)
        tuned = traits(models.at(1.0), prompts, new_tokens)
        base = traits(models.at(0.0), prompts, new_tokens)
        check_comparable(base, tuned)
        models.parameters, models.layers = base.parameters, base.layers
        models.differences = differences(base, tuned)
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

    def _load(self, tuned: bool) -> Chat:
        sources, base = self.sources, self.sources.base.directory
        if not tuned:
            return load_chat(base, device=self.device)
        if not isinstance(sources.after, Adapter):
            return load_chat(sources.directory, device=self.device)
        if sources.after.unused:
            names, more = sources.after.unused[:3], len(sources.after.unused) - 3
            raise DeltawError(
                f"the adapter {sources.directory} holds {', '.join(names)}{f' and {more} more' if more > 0 else ''}, "
                "which deltaw cannot add to the base model yet; merge it with PEFT (merge_and_unload), save the model "
                "with its tokenizer, and give that directory"
            )
        chat = load_chat(base, device=self.device, tokenizer=_tokenizer_directory(sources))
        move_to(chat, sources, 1.0)
        return chat


def asking_files(sources: Sources) -> dict[str, str]:
    """By side, a hash of the files beside weights and config.json that say how the model is asked."""
    base, tuned = sources.base.directory, sources.directory
    words = _tokenizer_directory(sources) if isinstance(sources.after, Adapter) else tuned
    settings = base if isinstance(sources.after, Adapter) else tuned
    return {
        "base": _hash([*(base / name for name in TOKENIZER_FILES), base / GENERATION]),
        "tuned": _hash([*(words / name for name in TOKENIZER_FILES), settings / GENERATION]),
    }


def _tokenizer_directory(sources: Sources) -> Path:
    """An adapter's own directory if it has a tokenizer, else the base model's."""
    own = any((sources.directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    return sources.directory if own else sources.base.directory


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
