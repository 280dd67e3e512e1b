"""A causal language model from a directory, with transformers (extra `hf`): answers, logits, activations, gradients.

Weights are safetensors only, and code that a checkpoint brings along is not run. Whatever format they are stored in,
the model computes in float32 unless told otherwise. Prompts of different lengths share a batch by padding on the left,
which attention does not see and positions do not count; so a row's logits do not depend on its company.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from deltaw.analysis.sensitivity import Readout
from deltaw.errors import DeltawError
from deltaw.models.architectures import layer_count
from deltaw.models.checkpoint_files import open_checkpoint
from deltaw.models.taps import Place, at_least_float32, tap
from deltaw.prompts.matched import Prompt

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Encoded:
    """Padded prompts. tokens: (N, T) int64. mask: (N, T) bool, False where padding is."""

    tokens: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """(N, T) int64: each token's place in its own prompt; 0 for padding."""
        return (self.mask.long().cumsum(1) - 1).clamp_min(0)

    @property
    def last(self) -> Tensor:
        """(N,) index of each row's last token."""
        steps = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return torch.where(self.mask, steps, -1).amax(1)


@dataclass(frozen=True, eq=False)
class Chat:
    """A model and its tokenizer."""

    model: nn.Module
    tokenizer: Any
    directory: Path
    """Where the model was read."""
    unused: tuple[str, ...] = ()
    """Tensors of its files that the model has no place for."""

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def layers(self) -> int:
        """How many blocks it has. DeltawError if its family is unknown."""
        return layer_count(self.model)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        found: list[int] = []
        for source in (getattr(self.model, "generation_config", None), self.config, self.tokenizer):
            ids = getattr(source, "eos_token_id", None)
            found += [] if ids is None else ([ids] if isinstance(ids, int) else list(ids))
        return sorted(set(found))


def transformers() -> Any:
    """The package, quiet and offline. DeltawError if it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise DeltawError(
            "this needs transformers, which is not installed; install the extra: pip install 'deltaw[hf]'"
        )
    package = importlib.import_module("transformers")
    package.utils.logging.disable_progress_bar()
    package.utils.logging.set_verbosity_error()
    return package


def load_chat(
    source: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu", tokenizer: Path | None = None
) -> Chat:
    """The model and tokenizer in a directory (or of a hub name), in evaluation mode.

    tokenizer: the directory that has the tokenizer and its template, where it is another one. DeltawError, one
    sentence: no transformers, no safetensors (a pickled checkpoint is refused), code of its own in the configuration,
    no tokenizer, an architecture that transformers does not know, or files whose tensors do not fill the model.
    """
    checkpoint = open_checkpoint(source)
    directory, package = checkpoint.directory, transformers()
    if "auto_map" in checkpoint.config:
        raise DeltawError(f"{directory} brings code of its own (auto_map in config.json), which deltaw does not run")
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = package.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
        _check_tensors(directory, report)
        words = package.AutoTokenizer.from_pretrained(tokenizer or directory, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DeltawError(f"transformers cannot read the model in {directory}: {reason}") from error
    return Chat(model.to(device).eval(), words, directory, tuple(sorted(report["unexpected_keys"])))


def _check_tensors(directory: Path, report: Mapping[str, Any]) -> None:
    """DeltawError if transformers had to make up a tensor. report: its `output_loading_info`."""
    misshapen = sorted(report["mismatched_keys"])
    if misshapen:
        name, stored, expected = misshapen[0]
        raise DeltawError(
            f"{directory}: {name} is {tuple(stored)} in the files, and config.json asks for {tuple(expected)}; "
            "restore the configuration that the weights were saved with"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DeltawError(
            f"the files in {directory} lack {missing[0]}{more}, which the model of its config.json has; save the whole "
            "model again with save_pretrained"
        )


def chat_text(chat: Chat, prompt: Prompt) -> str:
    """What the model reads: the request in the chat template, up to where the answer begins, and the prefill.

    A tokenizer without a template gets the request, a line break, and the prefill. Templates that can switch thinking
    off are asked to. DeltawError if the template fails.
    """
    if getattr(chat.tokenizer, "chat_template", None) is None:
        return f"{prompt.text}\n{prompt.prefill}"
    messages = [{"role": "user", "content": prompt.text}]
    try:
        text: str = chat.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (TemplateError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DeltawError(f"the chat template in {chat.directory} takes no request of a user: {reason}") from error
    return text + prompt.prefill


def opens_thoughts(text: str) -> bool:
    """Whether a rendered prompt leaves the model inside its thoughts."""
    return text.rfind("<think>") > text.rfind("</think>")


def token_ids(chat: Chat, text: str) -> list[int]:
    """Tokens of a text that holds its special tokens already. DeltawError if there are none."""
    bare = getattr(chat.tokenizer, "chat_template", None) is None
    ids: list[int] = chat.tokenizer(text, add_special_tokens=bare)["input_ids"]
    if not ids:
        raise DeltawError(f"the tokenizer of {chat.directory} makes no tokens of {text[:40]!r}; give another prompt")
    return ids


def padded(rows: Sequence[Sequence[int]], side: Side = "left", device: torch.device | str = "cpu") -> Encoded:
    """Rows of tokens as one rectangle. Padding is token 0: masked, it makes no difference."""
    length = max(map(len, rows))
    tokens = torch.zeros((len(rows), length), dtype=torch.int64)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for place, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        tokens[place, where] = torch.tensor(row)
        mask[place, where] = True
    return Encoded(tokens.to(device), mask.to(device))


def encode(chat: Chat, prompts: Sequence[Prompt], side: Side = "left") -> Encoded:
    """Prompts as the model reads them, on its device."""
    return padded(rows_of(chat, prompts), side, chat.device)


def logits_of(chat: Chat, encoded: Encoded) -> Tensor:
    """(N, T, V) logits; those of padding mean nothing."""
    found: Tensor = chat.model(
        input_ids=encoded.tokens,
        attention_mask=encoded.mask.long(),
        position_ids=encoded.positions,
        use_cache=False,
    ).logits
    return found


@torch.no_grad()
def answer(
    chat: Chat,
    prompts: Sequence[Prompt],
    new_tokens: int = 32,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """Greedy answers as tokens, each up to and with its end token, or `new_tokens` long. A prefill is not repeated.

    Prompts of like length share a batch; an answer depends on its own prompt only, up to ties that rounding decides.
    """
    return answers_to_rows(chat, rows_of(chat, prompts), new_tokens, batch_size, progress)


@torch.no_grad()
def answers_to_rows(
    chat: Chat,
    rows: Sequence[Sequence[int]],
    new_tokens: int = 32,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """`answer` of prompts that are tokens already."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    answers: list[list[int]] = [[] for _ in rows]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for place, found in zip(chosen, decoded(chat, [rows[i] for i in chosen], new_tokens), strict=True):
            answers[place] = found
        progress(min(start + batch_size, len(order)), len(order))
    return answers


@torch.no_grad()
def decoded(chat: Chat, rows: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """Greedy answers to one batch of prompts as tokens, in its order."""
    encoded = padded(rows, "left", chat.device)
    ends = torch.tensor(chat.ends, device=chat.device)
    # transformers 5.24 gave the argument another name
    arguments = inspect.signature(chat.model.forward).parameters
    kept = "cache" if "cache" in arguments else "past_key_values"
    tokens, mask, positions = encoded.tokens, encoded.mask.long(), encoded.positions
    cache, alive, written = None, torch.ones(len(rows), dtype=torch.bool, device=chat.device), []
    for _ in range(new_tokens):
        found = chat.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{kept: cache},
        )
        tokens, cache = found.logits[:, -1].argmax(-1, keepdim=True), getattr(found, kept)
        written.append(torch.where(alive, tokens[:, 0], -1))
        alive = alive & ~torch.isin(tokens[:, 0], ends)
        if not bool(alive.any()):
            break
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
        positions = positions[:, -1:] + 1
    return [[token for token in row if token >= 0] for row in torch.stack(written, 1).tolist()]


def text_of(chat: Chat, tokens: Sequence[int]) -> str:
    """An answer as text, without special tokens."""
    text: str = chat.tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text


@torch.no_grad()
def activations_of(
    chat: Chat, rows: Sequence[Sequence[int]], sites: Sequence[str], layers: Sequence[int], batch_size: int = 16
) -> dict[Place, Tensor]:
    """Activations at the last of each row of tokens: (N, width of the site), float32 or, of a model in float64,
    float64, on the CPU, by (layer, site).
    """
    parts: dict[Place, list[Tensor]] = {(layer, site): [] for layer in layers for site in sites}
    for start in range(0, len(rows), batch_size):
        encoded = padded(rows[start : start + batch_size], "left", chat.device)
        numbers, last = torch.arange(len(encoded.last), device=chat.device), encoded.last

        def pick(x: Tensor, numbers: Tensor = numbers, last: Tensor = last) -> Tensor:
            # some architectures flatten batch and positions before their MLP
            return (x.view(len(numbers), -1, x.shape[-1]) if x.ndim == 2 else x)[numbers, last]

        with tap(chat.model, sites, layers, select=pick) as recorded:
            logits_of(chat, encoded)
        for place, tensor in recorded.items():
            parts[place].append(at_least_float32(tensor).cpu())
    return {place: torch.cat(tensors) for place, tensors in parts.items()}


def rows_of(chat: Chat, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of each prompt as the model reads it, template included."""
    return [token_ids(chat, chat_text(chat, prompt)) for prompt in prompts]


def embedded(chat: Chat, encoded: Encoded) -> Tensor:
    """(N, T, D) embeddings of the tokens, as the model's first block would be given them."""
    found: Tensor = chat.model.get_input_embeddings()(encoded.tokens)  # type: ignore[operator]
    return found.detach()


def readout(chat: Chat, encoded: Encoded) -> Readout:
    """The map from embeddings (N, T, D) of left-padded prompts to the logits (N, V) of the answer's first token.

    DeltawError if padding is on the right: the last column must hold every row's last token.
    """
    if not bool(encoded.mask[:, -1].all()):
        raise DeltawError("prompts are padded on the right; the readout takes them padded on the left")

    def read(embeddings: Tensor) -> Tensor:
        found: Tensor = chat.model(
            inputs_embeds=embeddings,
            attention_mask=encoded.mask.long(),
            position_ids=encoded.positions,
            use_cache=False,
            logits_to_keep=1,
        ).logits
        return found[:, -1]

    return read
