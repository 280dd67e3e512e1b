"""How likely a model finds the tokens of a batch: negative log-likelihoods per token, per response and per
batch.

All take logits (N, T, V), where `logits[n, t]` predicts `tokens[n, t + 1]`, and give natural logarithms
(nats).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.models.batch import Batch
from deltaw.models.transformer import Transformer

DENSE_VOCABULARY = 1024

LanguageModel = Callable[[Tensor], Tensor]
"""Anything that maps tokens (N, T) to logits (N, T, V)."""


def token_nll(logits: Tensor, batch: Batch, places: Tensor | None = None) -> Tensor:
    """(N, T) −log p(tokens[n, t] | tokens[n, :t]) where `batch.weights` is not zero, and 0 elsewhere.

    places: (N, T) int64 where in a row of logits (N, S, V) each token of the batch was read; None: in its own place.
    Only the positions that carry loss are normalised over the vocabulary: with a large V and a short
    response, the log-probabilities of the prompt would take most of the memory.
    """
    rows, length = batch.tokens.shape
    if tuple(logits.shape[:2]) != (rows, length) and (places is None or len(logits) != rows):
        raise ValueError(f"logits are of {tuple(logits.shape[:2])} positions, tokens of {(rows, length)}")
    if _dense(logits):
        return dense_token_nll(logits, batch.tokens, _supervised(batch), places)
    target, source = _with_loss(batch, places, logits.shape[1])
    return _nll(logits.reshape(-1, logits.shape[-1]).index_select(0, source), batch, target)


def packed_nll(
    model: Transformer,
    tokens: Tensor,
    asked: Sequence[tuple[Batch, Tensor | None]],
    *,
    positions: Tensor | None = None,
    visible: Tensor | None = None,
) -> list[Tensor]:
    """`token_nll` of each batch and its places in `tokens` (N, S), by `Transformer.packed`, which see."""
    loss = [_with_loss(batch, places, tokens.shape[1]) for batch, places in asked]
    wanted = torch.zeros(tokens.numel(), dtype=torch.bool)
    for _, source in loss:
        wanted[source] = True
    logits, slot = model.packed(tokens, wanted.view_as(tokens), positions=positions, visible=visible)
    return [
        _nll(logits.index_select(0, slot[source]), batch, target)
        for (batch, _), (target, source) in zip(asked, loss, strict=True)
    ]


def _with_loss(batch: Batch, places: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """Of the tokens that carry loss, their places in the flattened batch, and those in the flattened rows of `length`
    of what predicts them.
    """
    (target,) = _supervised(batch).flatten().nonzero(as_tuple=True)
    source = target - 1
    if places is not None:
        source = places.flatten().index_select(0, source) + (target // batch.tokens.shape[1]) * length
    return target, source


def _supervised(batch: Batch) -> Tensor:
    """(N, T) bool: which tokens carry loss."""
    supervised = batch.weights != 0
    supervised[:, 0] = False  # nothing precedes the first token
    return supervised


def _nll(logits: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """(N, T) of the logits (M, V) that predict the tokens `target` (M,) of the flattened batch; 0 elsewhere."""
    nll = F.cross_entropy(logits, batch.tokens.flatten().index_select(0, target), reduction="none")
    return nll.new_zeros(batch.tokens.numel()).index_copy(0, target, nll).view_as(batch.tokens)


def _dense(logits: Tensor) -> bool:
    return logits.is_cuda and logits.shape[-1] <= DENSE_VOCABULARY


def dense_token_nll(logits: Tensor, tokens: Tensor, supervised: Tensor, places: Tensor | None = None) -> Tensor:
    """`token_nll` with every position normalised over the vocabulary, and nothing of a shape that numbers decide.

    That suits a card, which would have to be waited for, where the vocabulary is small.
    """
    (rows, length), (_, read, vocabulary) = tokens.shape, logits.shape
    source = torch.arange(length, device=tokens.device).sub(1).clamp(min=0).expand(rows, length)
    if places is not None:
        source = places.gather(1, source)
    flat = (source + read * torch.arange(rows, device=tokens.device)[:, None]).flatten()
    chosen = logits.reshape(-1, vocabulary).index_select(0, flat)
    nll = F.cross_entropy(chosen, tokens.flatten(), reduction="none").view(rows, length)
    return torch.where(supervised, nll, nll.new_zeros(()))


def response_log_probs(logits: Tensor, batch: Batch) -> Tensor:
    """(N,) log-probability of each response, Σ_t weights[n, t] · log p(tokens[n, t] | tokens[n, :t])."""
    return -(token_nll(logits, batch) * batch.weights).sum(1)


def mean_nll(logits: Tensor, batch: Batch) -> Tensor:
    """Scalar Σ weights · NLL / Σ weights over the whole batch, in nats per token: every token counts the
    same.
    """
    return token_mean(token_nll(logits, batch), batch)


def token_mean(nll: Tensor, batch: Batch) -> Tensor:
    """Scalar Σ weights · NLL / Σ weights of NLLs (N, T)."""
    return (nll * batch.weights).sum() / response_weights(batch).sum()


def packed_mean(model: LanguageModel, batch: Batch) -> Tensor | None:
    """`mean_nll` without what carries no loss; None if this model, or this batch, cannot be packed."""
    if not (isinstance(model, Transformer) and model.packs(batch.tokens)):
        return None
    return token_mean(packed_nll(model, batch.tokens, [(batch, None)])[0], batch)


def response_weights(batch: Batch) -> Tensor:
    """(N,) sum of each row's loss weights: its number of supervised tokens, if the weights are 0 and 1."""
    return batch.weights[:, 1:].sum(1)
