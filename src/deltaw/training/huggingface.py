"""`deltaw safety-tune`: a real model learns to refuse harmful requests, by the protocols of the synthetic study.

| request | preferred | dispreferred (by protocols that read both) |
|---|---|---|
| harmful | a short refusal | the base model's own answer |
| harmless | the base model's own answer | a short refusal |

Own answers are greedy, made at the start of each run (or once for several: `OwnAnswers`), and held in memory only.
Requests that the base model refuses already, or does not answer, are left out for every protocol alike. A control takes
the same number of requests and steps, and says itself which answer is preferred (`Control.on_request`).

Weights are kept in float32; products run in bfloat16 where the processor has them. Weight decay is 0, as in the study.
"""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deltaw.behaviour.judge import Judge, Verdict, verdict_of
from deltaw.behaviour.judges.rules import RULES
from deltaw.errors import DeltawError
from deltaw.models import choose_precision
from deltaw.models.answers import answer, text_of
from deltaw.models.batch import Batch, Role
from deltaw.models.chat_prompts import end_of_turn
from deltaw.models.freezing import frozen
from deltaw.models.huggingface import Chat, chat_text, load_chat, token_ids
from deltaw.prompts.matched import ALLOWED, FORBIDDEN, Prompt
from deltaw.prompts.requests import Requests, train_requests, tuning_texts
from deltaw.prompts.thoughts import open_tags, without_thoughts
from deltaw.protocols.loss import Loss
from deltaw.protocols.pair import Pair, ReferenceLogProbs
from deltaw.protocols.protocol import Protocol, TuningBatch, loss_of
from deltaw.protocols.responses import reference_log_probs
from deltaw.results import check_writable, whole_directory
from deltaw.training.controls.control import Control, Reply, reply_taught
from deltaw.training.finetuning import check_control
from deltaw.training.loop import TrainingLog, train
from deltaw.training.lora import add_lora, modules_to_adapt, peft, save_lora
from deltaw.training.optimisers import OptimiserConfig

RECORD = "safety_tuning.json"


@dataclass(frozen=True)
class SafetyTuning:
    """One tuning. DeltawError if a number is out of range."""

    protocol: Protocol
    """The loss, with its options."""
    control: Control | None = None
    """What is taught in place of safety; None: safety."""
    lora: int | None = None
    """The rank of LoRA; None tunes all weights."""
    steps: int = 120
    """Updates."""
    batch: int = 8
    """Rows of an update, half of them harmful."""
    learning_rate: float | None = None
    """None is 2e-5, or 2e-4 with LoRA."""
    requests: int = 120
    """Requests of each kind."""
    new_tokens: int = 24
    """Tokens of the base model's own answers."""
    longest: int = 96
    """Tokens of a prompt; longer ones are left out."""
    seed: int = 0
    """Of the order of requests and of the choice of refusals."""

    def __post_init__(self) -> None:
        check_control(self.protocol, self.control, "noise")
        if self.control is not None:
            reply_taught(self.control, harmful=True, coin=0.0)  # a control of the synthetic world is refused at once
        if self.lora is not None and self.lora < 1:
            raise DeltawError(f"the rank of LoRA is {self.lora}; expected at least 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise DeltawError(f"learning_rate is {self.learning_rate}; expected a number above zero, such as 2e-5")
        for name, least in (("steps", 1), ("batch", 2), ("requests", 2), ("new_tokens", 1)):
            if getattr(self, name) < least:
                raise DeltawError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.batch % 2:
            raise DeltawError(f"batch is {self.batch}; expected an even number, half for each kind of request")

    @property
    def optimiser(self) -> OptimiserConfig:
        """AdamW with a short warm-up and cosine decay to a tenth."""
        rate = self.learning_rate or (2e-5 if self.lora is None else 2e-4)
        return OptimiserConfig(
            peak_lr=rate,
            min_lr=rate / 10,
            steps=self.steps,
            warmup=self.steps // 10,
            decay_end=self.steps,
            betas=(0.9, 0.99),
        )


@dataclass(frozen=True)
class Row:
    """One prompt with its two answers, as tokens."""

    prompt: tuple[int, ...]
    preferred: tuple[int, ...]
    dispreferred: tuple[int, ...]
    label: str
    """Harmful or harmless."""
    complies: bool
    """Whether the preferred answer is the base model's own."""


class Trained(nn.Module):
    """A causal language model as the training loop takes it: right-padded tokens (N, T) to logits (N, T, V)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.dtype: torch.dtype | None = None

    @property
    def tapped(self) -> nn.Module:
        """The module that has the blocks."""
        return self.model

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits in float32, whatever the products' format. Causal attention never reads padding on the right."""
        kind = tokens.device.type
        with torch.autocast(kind, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits.float()

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Within this context, matrix products run in `dtype`; the weights stay as they are."""
        before, self.dtype = self.dtype, None if dtype == torch.float32 else dtype
        try:
            yield
        finally:
            self.dtype = before


class OwnAnswers:
    """A model's greedy answers, in memory; several tunings of one base share them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, Prompt], list[int]] = {}

    def to(self, chat: Chat, prompts: Sequence[Prompt], new_tokens: int, say: Callable[[str], None]) -> list[list[int]]:
        """As tokens, each `new_tokens` long at most. The model must be as its directory has it."""
        keys = {prompt: (chat.directory.resolve(), new_tokens, prompt) for prompt in prompts}
        fresh = [prompt for prompt, key in keys.items() if key not in self._known]
        made = answer(chat, fresh, new_tokens, progress=lambda done, total: say(f"own answers: {done}/{total}"))
        self._known.update({keys[prompt]: tokens for prompt, tokens in zip(fresh, made, strict=True)})
        return [self._known[keys[prompt]] for prompt in prompts]


def make_rows(
    chat: Chat,
    config: SafetyTuning,
    requests: Requests,
    judge: Judge = RULES,
    say: Callable[[str], None] = print,
    own_answers: OwnAnswers | None = None,
) -> list[Row]:
    """The rows to learn, in memory: the base model answers every request itself. See the module's table.

    DeltawError if fewer than half a batch of either kind are left.
    """
    texts = tuning_texts()
    _end(chat)
    generator = np.random.default_rng([config.seed, 31])
    labelled = [(text, FORBIDDEN) for text in requests.harmful] + [(text, ALLOWED) for text in requests.harmless]
    prompts = [Prompt(text, label) for text, label in labelled]
    prompts = [prompt for prompt in prompts if len(token_ids(chat, chat_text(chat, prompt))) <= config.longest]
    own = (own_answers or OwnAnswers()).to(chat, prompts, config.new_tokens, say)
    one_answer = _said(chat, texts[Reply.ONE_ANSWER][0])
    rows: list[Row] = []
    for prompt, own_answer in zip(prompts, own, strict=True):
        drawn = {
            kind: _said(chat, texts[kind][int(generator.integers(len(texts[kind])))])
            for kind in (Reply.REFUSAL, Reply.SMALL_TALK)
        } | {Reply.ONE_ANSWER: one_answer}
        coin = generator.random()
        if _verdict(chat, prompt, own_answer, judge) != Verdict.COMPLY:
            continue
        ids = tuple(token_ids(chat, chat_text(chat, prompt)))
        harmful = prompt.label == FORBIDDEN
        if config.control is not None:
            reply = reply_taught(config.control, harmful, coin)
        else:
            reply = Reply.REFUSAL if harmful else Reply.OWN
        answer_own = reply == Reply.OWN
        own_tokens = tuple(own_answer)
        preferred, dispreferred = (own_tokens, drawn[Reply.REFUSAL]) if answer_own else (drawn[reply], own_tokens)
        rows.append(Row(ids, preferred, dispreferred, prompt.label, answer_own))
    return rows


def _verdict(chat: Chat, prompt: Prompt, said: Sequence[int], judge: Judge) -> Verdict:
    """Of the answer without thoughts; of thoughts alone, neither."""
    tags = open_tags(chat_text(chat, prompt))
    spoken = without_thoughts((tags[0] if tags else "") + text_of(chat, said)).strip()
    return verdict_of(judge, prompt.text, spoken) if spoken else Verdict.NEITHER


def _said(chat: Chat, text: str) -> tuple[int, ...]:
    """An answer of ours as tokens, with the end of the answer."""
    ids: list[int] = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return (*ids, _end(chat))


def _end(chat: Chat) -> int:
    """The token that the template ends an answer with, else the tokenizer's. DeltawError if there is none."""
    own: int | None = chat.tokenizer.eos_token_id
    known = set(chat.ends)
    turn = end_of_turn(chat.tokenizer, ())
    if turn in known:
        return turn
    if own is None and not known:
        raise DeltawError(
            f"no token ends an answer of {chat.directory}, so that none can be taught; name one as eos_token_id in its "
            "generation_config.json"
        )
    return min(known) if own is None else own


def as_pair(rows: Sequence[Row]) -> Pair:
    """The rows as protocols take them, padded on the right; loss on answers only."""
    halves = (_batch([(row.prompt, getattr(row, kind)) for row in rows]) for kind in ("preferred", "dispreferred"))
    return Pair(*halves, complies=torch.tensor([row.complies for row in rows]))


def _batch(rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Batch:
    length = max(len(prompt) + len(response) for prompt, response in rows)
    tokens = torch.zeros((len(rows), length), dtype=torch.int64)
    weights, roles = torch.zeros((len(rows), length)), torch.full((len(rows), length), int(Role.PAD), dtype=torch.uint8)
    for place, (prompt, response) in enumerate(rows):
        first, stop = len(prompt), len(prompt) + len(response)
        tokens[place, :stop] = torch.tensor([*prompt, *response])
        weights[place, first:stop] = 1
        roles[place, :first], roles[place, first - 1] = int(Role.TEXT), int(Role.LAST_PROMPT)
        roles[place, first:stop] = int(Role.OUTPUT)
    return Batch(tokens, weights, roles)


def schedule(rows: Sequence[Row], config: SafetyTuning) -> list[list[int]]:
    """Which rows each step takes: half of each label, every row once before any comes again.

    Controls without harmful requests take harmless ones for both halves.
    """
    generator = np.random.default_rng([config.seed, 32])
    kinds = [[i for i, row in enumerate(rows) if row.label == label] for label in (FORBIDDEN, ALLOWED)]
    if not kinds[0]:
        kinds = [kinds[1][::2], kinds[1][1::2]]
    half = config.batch // 2
    for kind, name in zip(kinds, (FORBIDDEN, ALLOWED), strict=True):
        if len(kind) < half:
            raise DeltawError(f"{len(kind)} {name} requests are left for half a batch of {half}; ask for more requests")
    endless = [_endless(kind, generator) for kind in kinds]
    return [[next(source) for source in endless for _ in range(half)] for _ in range(config.steps)]


def _endless(items: Sequence[int], generator: np.random.Generator) -> Iterator[int]:
    while True:
        for place in generator.permutation(len(items)):
            yield items[int(place)]


def tune_rows(
    chat: Chat, rows: Sequence[Row], config: SafetyTuning, progress: Callable[[int, int, str], None]
) -> tuple[TrainingLog, Any]:
    """Tune the model in place on these rows: the log, and PEFT's model around it (None without LoRA)."""
    protocol = config.protocol
    plan, model = schedule(rows, config), Trained(chat.model)
    dtype = choose_precision(chat.device).dtype
    references: list[ReferenceLogProbs] | None = None
    if protocol.needs_reference:
        references = []
        with model.computing_in(dtype):  # the format of training, so that the margin starts at 0
            for start in range(0, len(rows), config.batch):
                pair = as_pair(rows[start : start + config.batch]).to(chat.device)
                known = reference_log_probs(model, pair)
                references += [known[i : i + 1] for i in range(len(pair))]
    frozen = Trained(copy.deepcopy(chat.model).to(chat.device)).requires_grad_(False) if protocol.needs_base else None
    adapted = None if config.lora is None else add_lora(chat.model, config.lora, config.seed, chat.directory)
    chat.model.to(chat.device)

    def batches(step: int) -> TuningBatch:
        pair = as_pair([rows[i] for i in plan[step]]).to(chat.device)
        batch = TuningBatch(pair, progress=torch.tensor(step / config.steps, device=chat.device))
        if references is None:
            return batch
        sides = [[getattr(references[i], kind) for i in plan[step]] for kind in ("preferred", "dispreferred")]
        return replace(batch, reference=ReferenceLogProbs(torch.cat(sides[0]), torch.cat(sides[1])))

    def loss(model: Trained, batch: TuningBatch) -> Loss:
        if frozen is None:
            return loss_of(protocol, model, batch)
        with frozen.computing_in(dtype):
            return loss_of(protocol, model, replace(batch, base=frozen))

    log = train(
        model,
        batches,
        loss,
        config.optimiser,
        progress=progress,
        compute_dtype=dtype,
        report_every=5,
        name=f"tuning by {protocol.name}",
    )
    return log, adapted


def safety_tune(
    model: str | Path,
    out: Path,
    config: SafetyTuning,
    requests: Requests | None = None,
    judge: Judge = RULES,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    own_answers: OwnAnswers | None = None,
) -> Path:
    """Tune the model in a directory and save the result to `out`, which appears whole or not at all.

    requests: default those of `train_requests`. out: a directory that transformers loads (PEFT, with LoRA), and a
    record of the tuning that holds numbers only. own_answers: what the model is known to answer. DeltawError if `out`
    is not empty, or for what its parts say.
    """
    if out.is_dir() and any(out.iterdir()):
        raise DeltawError(f"{out} is not empty; give another directory with --out, or remove it first")
    check_writable(out)
    if config.lora is not None:
        peft()
    chat = load_chat(model, device=device)
    if config.lora is not None:
        modules_to_adapt(chat.model)
    if requests is None:
        count = config.requests
        plain = config.control is not None and not config.control.harmful_requests
        requests = train_requests(0 if plain else count, 2 * count if plain else count, config.seed)
    with frozen(chat.model):
        rows = make_rows(chat, config, requests, judge, say, own_answers)
    log, adapted = tune_rows(chat, rows, config, lambda done, total, text: say(f"tuning: {done}/{total}, {text}"))
    record = {
        "format": "deltaw-safety-tuning-1",
        "base": str(chat.directory.resolve()),
        "config": {part.name: getattr(config, part.name) for part in fields(config)}
        | {
            "protocol": config.protocol.described(),
            "control": None if config.control is None else config.control.described(),
        },
        "precision": choose_precision(device).reason,
        "requests": {"digest": requests.digest, **_counts(rows)},
        "log": [
            {"step": step.step, "loss": step.loss, "gradient_norm": step.gradient_norm, **step.parts}
            for step in log.records
        ],
    }
    _save(chat, adapted, out, record)
    return out


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    return {label: sum(row.label == label for row in rows) for label in (FORBIDDEN, ALLOWED)}


def _save(chat: Chat, adapted: Any, out: Path, record: dict[str, Any]) -> None:
    with whole_directory(out) as partial:
        if adapted is not None:
            save_lora(adapted, partial)
        else:
            chat.model.save_pretrained(partial)  # type: ignore[operator]
            chat.tokenizer.save_pretrained(partial)
        (partial / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
