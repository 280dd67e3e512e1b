"""Greedy answers of a causal language model, in batches that fit into memory, and their text."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from deltaw.models.batched import batched
from deltaw.models.huggingface import Chat, padded, rows_of
from deltaw.prompts.matched import Prompt
from deltaw.prompts.thoughts import MARKS


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
    answers: list[list[int]] = []
    for batch_answers in batched([rows[i] for i in order], batch_size, lambda batch: decoded(chat, batch, new_tokens)):
        answers += batch_answers
        progress(len(answers), len(order))
    in_order: list[list[int]] = [[] for _ in rows]
    for place, tokens in zip(order, answers, strict=True):
        in_order[place] = tokens
    return in_order


@torch.no_grad()
def decoded(chat: Chat, rows: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """Greedy answers to one batch of prompts as tokens, in its order."""
    encoded = padded(rows, "left", chat.device)
    ends = torch.tensor(chat.ends, dtype=torch.int64, device=chat.device)
    # transformers 5.24 gave the argument another name
    arguments = inspect.signature(chat.model.forward).parameters
    kept = "cache" if "cache" in arguments else "past_key_values"
    tokens, mask, positions = encoded.tokens, encoded.mask.long(), encoded.positions
    cache, alive, written = None, torch.ones(len(rows), dtype=torch.bool, device=chat.device), []
    for _ in range(new_tokens):
        output = chat.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{kept: cache},
        )
        tokens, cache = output.logits[:, -1].argmax(-1, keepdim=True), getattr(output, kept)
        written.append(torch.where(alive, tokens[:, 0], -1))
        alive = alive & ~torch.isin(tokens[:, 0], ends)
        if not bool(alive.any()):
            break
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
        positions = positions[:, -1:] + 1
    return [[token for token in row if token >= 0] for row in torch.stack(written, 1).tolist()]


def text_of(chat: Chat, tokens: Sequence[int]) -> str:
    """An answer as text, without special tokens but those that enclose thoughts."""
    words, added = chat.tokenizer, chat.tokenizer.get_added_vocab()
    marks = {added[mark]: mark for mark in MARKS if mark in added}
    text, segment = "", list[int]()
    for token in tokens:
        if token in marks:
            text += _plain(words, segment) + marks[token]
            segment = []
        else:
            segment.append(token)
    return text + _plain(words, segment)


def _plain(words: Any, tokens: list[int]) -> str:
    text: str = words.decode(tokens, skip_special_tokens=True) if tokens else ""
    return text
