"""What a model makes of both responses of a pair: their log-probabilities, by one pass.

Notation, in all protocols: w is the preferred response of a row and l the dispreferred one, log π(y) the summed
log-probability of a response's weighted tokens under the model, log ρ(y) that under the reference (the model before
tuning), N the number of rows. "Token mean" is Σ weights · NLL / Σ weights. Both responses go through the model as one
batch, and through a `Transformer` of ours with their common prompt read once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deltaw.models import LanguageModel, Transformer, packed_nll, response_weights, token_nll
from deltaw.protocols.forks import fork, widened
from deltaw.protocols.pair import Pair, ReferenceLogProbs, before_loss


@torch.no_grad()
def reference_log_probs(model: LanguageModel, pair: Pair, batch_size: int = 256) -> ReferenceLogProbs:
    """log ρ of each response under `model`, without gradients; each depends on its own row only."""
    parts = [responses_of(model, pair[start : start + batch_size]) for start in range(0, len(pair), batch_size)]
    return ReferenceLogProbs(*(torch.cat([part[side].log_probs for part in parts]) for side in (0, 1)))


@dataclass(frozen=True)
class Responses:
    """Summed log-probabilities (N,) of responses, their sums of weights (N,), and the vocabulary's size."""

    log_probs: Tensor
    weights: Tensor
    vocabulary: int

    def nll(self) -> Tensor:
        """Scalar: token mean over all rows."""
        return -self.log_probs.sum() / self.weights.sum()

    def row_nll(self) -> Tensor:
        """(N,) token mean of each row."""
        return -self.log_probs / self.weights


def responses_of(model: LanguageModel, pair: Pair) -> tuple[Responses, Responses]:
    """What is known of the preferred and of the dispreferred responses."""
    if isinstance(model, Transformer):
        sizes = pair.sizes
        forked = fork(pair.preferred, pair.dispreferred, None if sizes is None else sizes.forked)
        halves = [widened(half, forked.places[0].shape[1]) for half in (pair.preferred, pair.dispreferred)]
        asked = list(zip(halves, forked.places, strict=True))
        vocabulary = model.config.vocabulary_size
        if model.packs(forked.tokens):
            nll = packed_nll(model, forked.tokens, asked, positions=forked.positions, visible=forked.visible)
        else:
            since = min((before_loss(half) for half in halves) if sizes is None else sizes.since)
            logits = model(forked.tokens, positions=forked.positions, visible=forked.visible, since=since)
            # Of a token before `since` nothing is asked.
            nll = [token_nll(logits, half, (places - since).clamp(min=0)) for half, places in asked]
    else:
        batch, rows = pair.joined(), len(pair)
        logits = model(batch.tokens)
        halves, both, vocabulary = [batch[:rows], batch[rows:]], token_nll(logits, batch), logits.shape[-1]
        nll = [both[:rows], both[rows:]]
    w, l = (  # noqa: E741
        Responses(-(tokens * half.weights).sum(1), response_weights(half), vocabulary)
        for tokens, half in zip(nll, halves, strict=True)
    )
    return w, l


def gains(
    preferred: Responses,
    dispreferred: Responses,
    reference: ReferenceLogProbs | None,
    name: str,
) -> tuple[Tensor, Tensor]:
    """(log π − log ρ) of w and of l, (N,) each."""
    if reference is None:
        raise ValueError(f"the protocol {name} needs the log-probabilities of the reference model")
    return preferred.log_probs - reference.preferred, dispreferred.log_probs - reference.dispreferred
