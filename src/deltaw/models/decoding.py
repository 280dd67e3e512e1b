"""Greedy free-running decoding: the model's own answer, each token chosen given the ones it chose before."""

import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models.transformer import Transformer


@torch.no_grad()
def greedy(
    model: Transformer,
    prompts: Tensor,
    steps: int,
    *,
    positions: Tensor | None = None,
    stop_id: int,
    pad_id: int,
    stops: int = 1,
    batch_size: int = 512,
) -> Tensor:
    """The likeliest next token, `steps` times: (N, steps) int64 on the prompts' device.

    prompts: (N, T0) int64, all of one length, or (N, T0, D) vectors in the place of token embeddings. positions: (T0,)
    int64, the learned position of each (see `Transformer.forward`), after the last of which the answer goes on; None:
    their places. A row that has answered `stop_id` for the last of `stops` times holds `pad_id` after it: an answer of
    several outputs has a stop after each. Keys and values are cached, so that a step costs one position; a batch ends
    early when all its rows have stopped.
    DeltawError if prompt and answer do not fit the model's context.
    """
    rows, length = prompts.shape[:2]
    # The last token chosen is not fed back, so it needs no position.
    if positions is None and length + steps - 1 > model.config.context:
        raise DeltawError(
            f"a prompt of {length} tokens and an answer of {steps} do not fit the model's context of "
            f"{model.config.context}; shorten them, or train a model with a longer context"
        )
    answers = torch.full((rows, steps), pad_id, dtype=torch.int64, device=prompts.device)
    for start in range(0, rows, batch_size):
        part = slice(start, start + batch_size)
        _decode(model, prompts[part], answers[part], stop_id, pad_id, stops, positions)
    return answers


def _decode(
    model: Transformer,
    prompts: Tensor,
    answers: Tensor,
    stop_id: int,
    pad_id: int,
    stops: int,
    positions: Tensor | None,
) -> None:
    """Fill `answers`, a (B, steps) view that holds `pad_id`, with the greedy answers to `prompts`: tokens
    (B, T0) or vectors (B, T0, D).
    """
    rows, steps = answers.shape
    cache = model.new_cache(rows, prompts.shape[1] + steps - 1)
    left = torch.full((rows,), stops, device=prompts.device)
    fed = {"embeddings" if prompts.ndim == 3 else "tokens": prompts}
    for step in range(steps):
        token = model(**fed, positions=positions, cache=cache)[:, -1].argmax(-1)
        answers[:, step] = token.masked_fill(left <= 0, pad_id)
        left -= (token == stop_id).long()
        if bool((left <= 0).all()):
            return
        fed = {"tokens": token[:, None]}
        positions = None if positions is None else positions[-1:] + 1


def greedy_by_length(
    model: Transformer,
    tokens: Tensor,
    lengths: Tensor,
    steps: int,
    *,
    stop_id: int,
    pad_id: int,
    stops: int = 1,
    batch_size: int = 512,
) -> Tensor:
    """`greedy` for prompts of various lengths: (N, steps), rows in the order given.

    tokens: (N, T) int64, right-padded. lengths: (N,) number of tokens of each prompt, at least 1. Prompts of
    one length are decoded together, so that no answer depends on padding.
    """
    if len(lengths) != len(tokens):
        raise ValueError(f"there are {len(lengths)} lengths for {len(tokens)} prompts")
    if bool(((lengths < 1) | (lengths > tokens.shape[1])).any()):
        raise ValueError(f"lengths must lie between 1 and {tokens.shape[1]}")
    answers = torch.full((len(tokens), steps), pad_id, dtype=torch.int64, device=tokens.device)
    for length in sorted(set(lengths.tolist())):
        (rows,) = (lengths == length).nonzero(as_tuple=True)
        prompts = tokens[rows, :length]
        answers[rows] = greedy(
            model, prompts, steps, stop_id=stop_id, pad_id=pad_id, stops=stops, batch_size=batch_size
        )
    return answers
