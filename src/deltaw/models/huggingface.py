"""A causal language model from a directory, with transformers (extra `hf`): logits, activations, gradients.

Weights are safetensors only, and code that a checkpoint brings along is not run. Whatever format they are stored in,
the model computes in float32 unless told otherwise. Prompts of different lengths share a batch by padding on the left,
which attention does not see and positions do not count; so a row's logits do not depend on its company.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deltaw.analysis.sensitivity import Readout
from deltaw.errors import DeltawError
from deltaw.models import chat_prompts
from deltaw.models.architectures import layer_count
from deltaw.models.batched import batched
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
    _turns: dict[tuple[tuple[int, ...], str], int | None] = field(default_factory=dict)

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
        """Tokens that end an answer: those of the generation's and the model's configuration and of the tokenizer, and
        the template's own where it ends answers with none of these.
        """
        ends: set[int] = set()
        for source in (getattr(self.model, "generation_config", None), self.config, self.tokenizer):
            ids = getattr(source, "eos_token_id", None)
            ends |= set() if ids is None else ({ids} if isinstance(ids, int) else set(ids))
        turn = self._end_of_turn(tuple(sorted(ends)))
        return sorted(ends if turn is None else ends | {turn})

    def _end_of_turn(self, known: tuple[int, ...]) -> int | None:
        key = (known, str(getattr(self.tokenizer, "chat_template", None)))
        if key not in self._turns:
            self._turns[key] = chat_prompts.end_of_turn(self.tokenizer, known)
        return self._turns[key]


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
    source: str | Path,
    dtype: torch.dtype | str = torch.float32,
    device: str = "cpu",
    tokenizer: Path | None = None,
    device_map: str | None = None,
) -> Chat:
    """The model and tokenizer in a directory (or of a hub name), in evaluation mode.

    dtype: the format that it computes in; "auto": that of its files. tokenizer: the directory that has the tokenizer
    and its template, where it is another one. device_map: spreads the model over devices, as accelerate does, such as
    "auto"; None puts it on `device` whole. DeltawError, one sentence: no transformers, no safetensors (a pickled
    checkpoint is refused), code of its own in the configuration, no tokenizer, an architecture that transformers does
    not know, files whose tensors do not fill the model, or too little memory.
    """
    checkpoint = open_checkpoint(source)
    directory, package = checkpoint.directory, transformers()
    if "auto_map" in checkpoint.config:
        raise DeltawError(f"{directory} brings code of its own (auto_map in config.json), which deltaw does not run")
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise DeltawError("--device-map needs accelerate, which is not installed; install it: pip install accelerate")
    try:
        model, report = _from_pretrained(package, directory, dtype, device_map)
        _check_tensors(directory, report)
        words = chat_prompts.load_tokenizer(tokenizer or directory, package)
        model = model.eval() if device_map is not None else model.to(device).eval()
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DeltawError(
            f"the model in {directory} does not fit into the memory of {device}; use a smaller --dtype, or "
            "--device-map auto with several devices"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DeltawError(f"transformers cannot read the model in {directory}: {reason}") from error
    if any(parameter.is_meta for parameter in model.parameters()):
        raise DeltawError(
            f"the model in {directory} does not fit into the devices of --device-map {device_map}, and deltaw reads no "
            "weights from the disk as it computes; use a smaller --dtype or more devices"
        )
    return Chat(model, words, directory, tuple(sorted(report["unexpected_keys"])))


def _from_pretrained(package: Any, directory: Path, dtype: torch.dtype | str, device_map: str | None) -> Any:
    """The model and what was read of it. Where transformers has no fast attention for a family (Gemma 2 caps its
    scores), its own plain one is taken.
    """
    options = {
        "local_files_only": True,
        "trust_remote_code": False,
        "dtype": dtype,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are refused, by name
        **({} if device_map is None else {"device_map": device_map}),
    }
    try:
        return package.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "attention" not in str(error):
            raise
    return package.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", **options)


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
    """What the model reads (`chat_prompts.chat_text`). DeltawError if the template fails."""
    return chat_prompts.chat_text(chat.tokenizer, chat.directory, prompt.text, prompt.prefill)


def token_ids(chat: Chat, text: str) -> list[int]:
    """Tokens of a text as `chat_text` gives it (`chat_prompts.token_ids`). DeltawError if there are none."""
    return chat_prompts.token_ids(chat.tokenizer, chat.directory, text)


def padded(rows: Sequence[Sequence[int]], side: Side = "left", device: torch.device | str = "cpu") -> Encoded:
    """Rows of tokens as one rectangle. Padding is token 0: masked, it makes no difference."""
    length = max(map(len, rows))
    tokens = torch.zeros((len(rows), length), dtype=torch.int64)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for place, row in enumerate(rows):
        columns = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        tokens[place, columns] = torch.tensor(row)
        mask[place, columns] = True
    return Encoded(tokens.to(device), mask.to(device))


def encode(chat: Chat, prompts: Sequence[Prompt], side: Side = "left") -> Encoded:
    """Prompts as the model reads them, on its device."""
    return padded(rows_of(chat, prompts), side, chat.device)


def logits_of(chat: Chat, encoded: Encoded) -> Tensor:
    """(N, T, V) logits; those of padding mean nothing."""
    logits: Tensor = chat.model(
        input_ids=encoded.tokens,
        attention_mask=encoded.mask.long(),
        position_ids=encoded.positions,
        use_cache=False,
    ).logits
    return logits


@torch.no_grad()
def activations_of(
    chat: Chat, rows: Sequence[Sequence[int]], sites: Sequence[str], layers: Sequence[int], batch_size: int = 16
) -> dict[Place, Tensor]:
    """Activations at the last of each row of tokens: (N, width of the site), float32 or, of a model in float64,
    float64, on the CPU, by (layer, site).
    """
    parts: dict[Place, list[Tensor]] = {(layer, site): [] for layer in layers for site in sites}

    def read(batch: Sequence[Sequence[int]]) -> dict[Place, Tensor]:
        encoded = padded(batch, "left", chat.device)
        numbers, last = torch.arange(len(encoded.last), device=chat.device), encoded.last

        def pick(x: Tensor, numbers: Tensor = numbers, last: Tensor = last) -> Tensor:
            # some architectures flatten batch and positions before their MLP
            return (x.view(len(numbers), -1, x.shape[-1]) if x.ndim == 2 else x)[numbers, last]

        with tap(chat.model, sites, layers, select=pick) as recorded:
            logits_of(chat, encoded)
        return {place: at_least_float32(tensor).cpu() for place, tensor in recorded.items()}

    for tensors in batched(rows, batch_size, read):
        for place, tensor in tensors.items():
            parts[place].append(tensor)
    return {place: torch.cat(tensors) for place, tensors in parts.items()}


@torch.no_grad()
def row_losses(chat: Chat, rows: Sequence[tuple[Sequence[int], int]], batch_size: int = 8) -> list[float]:
    """Σ −log p in nats of each row's tokens given those before them. rows: (tokens, place of the first that counts)."""

    def read(batch: Sequence[tuple[Sequence[int], int]]) -> list[float]:
        logits = logits_of(chat, padded([tokens for tokens, _ in batch], "right", chat.device))
        losses = []
        for row, (tokens, first) in zip(logits, batch, strict=True):
            log_probs = torch.log_softmax(at_least_float32(row[first - 1 : len(tokens) - 1]), -1)
            wanted = torch.tensor(tokens[first:], device=log_probs.device)
            losses.append(-float(log_probs.gather(1, wanted[:, None]).double().sum()))
        return losses

    return [loss for losses in batched(rows, batch_size, read) for loss in losses]


def rows_of(chat: Chat, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of each prompt as the model reads it, template included."""
    return [token_ids(chat, chat_text(chat, prompt)) for prompt in prompts]


def request_rows_of(chat: Chat, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The tokens of each prompt as the model reads it, up to and with the one that holds the request's last character.

    DeltawError if the template changes the request, or the tokenizer cannot say where its tokens come from.
    """
    return [chat_prompts.request_ids(chat.tokenizer, chat.directory, prompt.text) for prompt in prompts]


def embedded(chat: Chat, encoded: Encoded) -> Tensor:
    """(N, T, D) embeddings of the tokens, as the model's first block would be given them."""
    embeddings: Tensor = chat.model.get_input_embeddings()(encoded.tokens)  # type: ignore[operator]
    return embeddings.detach()


def readout(chat: Chat, encoded: Encoded) -> Readout:
    """The map from embeddings (N, T, D) of left-padded prompts to the logits (N, V) of the answer's first token.

    DeltawError if padding is on the right: the last column must hold every row's last token.
    """
    if not bool(encoded.mask[:, -1].all()):
        raise DeltawError("prompts are padded on the right; the readout takes them padded on the left")

    def read(embeddings: Tensor) -> Tensor:
        logits: Tensor = chat.model(
            inputs_embeds=embeddings,
            attention_mask=encoded.mask.long(),
            position_ids=encoded.positions,
            use_cache=False,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    return read
