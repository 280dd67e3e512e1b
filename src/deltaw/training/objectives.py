"""What tuning minimises: one function an objective, one frozen dataclass for its options, one registry of
names.

Notation: w is the preferred response of a row and l the dispreferred one, log π(y) the summed log-probability
of a response's weighted tokens under the model, log ρ(y) that under the reference (the model before tuning),
N the number of rows. "Token mean" is Σ weights · NLL / Σ weights. Both responses go through the model as one
batch, and through a `Transformer` of ours with their common prompt read once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models import LanguageModel, Transformer, mean_nll, packed_nll, response_weights, token_mean, token_nll
from deltaw.models.batch import Batch
from deltaw.training.forks import fork, fork_size, widened
from deltaw.training.loss import Loss


@dataclass(frozen=True)
class Sizes:
    """What a pair's numbers say of shapes: the position before the first one with loss of each response, and
    `fork_size`.
    """

    since: tuple[int, int]
    forked: tuple[int, int]


def sizes_of(preferred: Batch, dispreferred: Batch) -> Sizes:
    """The sizes of a pair of these responses."""
    since = _before_loss(preferred), _before_loss(dispreferred)
    return Sizes(since, fork_size(preferred, dispreferred))


@dataclass(frozen=True)
class Pair:
    """Preferred and dispreferred responses to the same prompts. ValueError if a response carries no loss.

    sizes: where they are known beforehand (see `measured`).
    """

    preferred: Batch
    dispreferred: Batch
    sizes: Sizes | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if len(self.preferred) != len(self.dispreferred):
            raise ValueError(f"{len(self.preferred)} preferred rows but {len(self.dispreferred)} dispreferred ones")
        for name, batch in (("preferred", self.preferred), ("dispreferred", self.dispreferred)):
            if not bool((response_weights(batch) > 0).all()):
                raise ValueError(f"a {name} response carries no loss")

    def __len__(self) -> int:
        return len(self.preferred)

    def __getitem__(self, rows: slice | Tensor) -> "Pair":
        """The pair of the rows selected by a slice, an index tensor or a boolean tensor."""
        return Pair(self.preferred[rows], self.dispreferred[rows])

    def to(self, device: torch.device | str) -> "Pair":
        """The pair on `device`."""
        return Pair(self.preferred.to(device), self.dispreferred.to(device), sizes=self.sizes)

    def measured(self) -> "Pair":
        """The pair with its `sizes`, so that a model on a card need not wait for its numbers."""
        sizes = sizes_of(self.preferred, self.dispreferred)
        return Pair(self.preferred, self.dispreferred, sizes=sizes)

    def joined(self) -> Batch:
        """(2N, T) all preferred rows, then all dispreferred ones; the shorter half is padded on the right."""
        length = max(self.preferred.tokens.shape[1], self.dispreferred.tokens.shape[1])
        halves = [widened(half, length) for half in (self.preferred, self.dispreferred)]
        return Batch(*(torch.cat([getattr(half, name) for half in halves]) for name in ("tokens", "weights", "roles")))


@dataclass(frozen=True)
class ReferenceLogProbs:
    """log ρ of the preferred and of the dispreferred responses of a pair, (N,) each."""

    preferred: Tensor
    dispreferred: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "ReferenceLogProbs":
        return ReferenceLogProbs(self.preferred[rows], self.dispreferred[rows])


def borrow_masks(pair: Pair) -> Pair:
    """The pair with the loss masks of the published contrastive objectives: a token of either response carries loss
    only where the other response carries some too.

    Published, the preferred response borrows the mask of the null response and the dispreferred one that of the
    unsafe answer: of two outputs only the first is compared, as a refusal ends there. Left out is the published slip
    that empties the dispreferred response of a late refusal. The reference's log-probabilities must be those of the
    masked pair. ValueError if the responses to a prompt share no position.
    """
    length = max(pair.preferred.tokens.shape[1], pair.dispreferred.tokens.shape[1])
    preferred, dispreferred = widened(pair.preferred, length), widened(pair.dispreferred, length)
    both = (preferred.weights != 0) & (dispreferred.weights != 0)
    return Pair(
        Batch(preferred.tokens, preferred.weights * both, preferred.roles),
        Batch(dispreferred.tokens, dispreferred.weights * both, dispreferred.roles),
    )


@torch.no_grad()
def reference_log_probs(model: LanguageModel, pair: Pair, batch_size: int = 256) -> ReferenceLogProbs:
    """log ρ of each response under `model`, without gradients; each depends on its own row only."""
    parts = [_responses(model, pair[start : start + batch_size]) for start in range(0, len(pair), batch_size)]
    return ReferenceLogProbs(*(torch.cat([part[side].log_probs for part in parts]) for side in (0, 1)))


@dataclass(frozen=True)
class _Responses:
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


def _responses(model: LanguageModel, pair: Pair) -> tuple[_Responses, _Responses]:
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
            since = min((_before_loss(half) for half in halves) if sizes is None else sizes.since)
            logits = model(forked.tokens, positions=forked.positions, visible=forked.visible, since=since)
            # Of a token before `since` nothing is asked.
            nll = [token_nll(logits, half, (places - since).clamp(min=0)) for half, places in asked]
    else:
        batch, rows = pair.joined(), len(pair)
        logits = model(batch.tokens)
        halves, both, vocabulary = [batch[:rows], batch[rows:]], token_nll(logits, batch), logits.shape[-1]
        nll = [both[:rows], both[rows:]]
    w, l = (  # noqa: E741
        _Responses(-(tokens * half.weights).sum(1), response_weights(half), vocabulary)
        for tokens, half in zip(nll, halves, strict=True)
    )
    return w, l


def _before_loss(batch: Batch) -> int:
    """The position that predicts the first token with loss of any row: no earlier one needs logits."""
    return max(0, int((batch.weights != 0).any(0).nonzero()[0]) - 1)


def _loss(value: Tensor, **parts: Tensor) -> Loss:
    return Loss(value, {name: part.detach() for name, part in parts.items()})


def next_token(model: LanguageModel, batch: Batch) -> Loss:
    """Token mean of the NLL of a batch: the loss of pre-training."""
    value = _packed_mean(model, batch)
    if value is None:
        value = mean_nll(model(batch.tokens), batch)
    return _loss(value, nll=value)


def _packed_mean(model: LanguageModel, batch: Batch) -> Tensor | None:
    """`mean_nll` without what carries no loss; None if this model, or this batch, cannot be packed."""
    if not (isinstance(model, Transformer) and model.packs(batch.tokens)):
        return None
    return token_mean(packed_nll(model, batch.tokens, [(batch, None)])[0], batch)


@dataclass(frozen=True)
class SsftOptions:
    """Supervised safety fine-tuning has nothing to choose."""


def ssft(model: LanguageModel, pair: Pair, reference: ReferenceLogProbs | None, options: SsftOptions) -> Loss:
    """Token mean of the NLL of w. The dispreferred responses are not read."""
    batch = pair.preferred
    value = _packed_mean(model, batch)
    if value is None:
        since = 0
        if isinstance(model, Transformer):
            since = _before_loss(batch) if pair.sizes is None else pair.sizes.since[0]
        logits = model(batch.tokens, since=since) if isinstance(model, Transformer) else model(batch.tokens)
        value = mean_nll(logits, Batch(batch.tokens[:, since:], batch.weights[:, since:], batch.roles[:, since:]))
    return _loss(value, nll_preferred=value)


@dataclass(frozen=True)
class DpoOptions:
    """beta: tie to the reference. sft_weight: weight of the token mean of the NLL of w (above 0: DPO+NLL)."""

    beta: float = 0.1
    sft_weight: float = 0.0


def dpo(model: LanguageModel, pair: Pair, reference: ReferenceLogProbs | None, options: DpoOptions) -> Loss:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7), with an optional likelihood term.

    −(1/N) Σ log σ(β [(log π − log ρ)(w) − (log π − log ρ)(l)]) + sft_weight · token mean of the NLL of w.
    """
    preferred, dispreferred = _responses(model, pair)
    gain_w, gain_l = _gains(preferred, dispreferred, reference, "dpo")
    margin = options.beta * (gain_w - gain_l)
    preference, nll = -F.logsigmoid(margin).mean(), preferred.nll()
    return _loss(
        preference + options.sft_weight * nll,
        preference=preference,
        nll_preferred=nll,
        nll_dispreferred=dispreferred.nll(),
        margin=margin.mean(),
        accuracy=(margin > 0).float().mean(),
    )


@dataclass(frozen=True)
class UnlearnOptions:
    """ascent_weight: weight of the bounded ascent. cap: nats per token at which it stops; None is log V."""

    ascent_weight: float = 0.1
    cap: float | None = None


def unlearn(model: LanguageModel, pair: Pair, reference: ReferenceLogProbs | None, options: UnlearnOptions) -> Loss:
    """Descent on the NLL of w and bounded ascent on that of l.

    Token mean of the NLL of w + ascent_weight · (1/N) Σ max(0, cap − token mean of the row's NLL of l). With
    the default cap a dispreferred response is left alone once it is no likelier than under a uniform guess,
    so that the loss is bounded below; plain ascent is not.
    """
    preferred, dispreferred = _responses(model, pair)
    cap = log(dispreferred.vocabulary) if options.cap is None else options.cap
    left = F.relu(cap - dispreferred.row_nll())
    nll, ascent = preferred.nll(), left.mean()
    return _loss(
        nll + options.ascent_weight * ascent,
        nll_preferred=nll,
        nll_dispreferred=dispreferred.nll(),
        ascent_left=ascent,
        capped=(left == 0).float().mean(),
    )


@dataclass(frozen=True)
class NpoOptions:
    """beta: towards 0, plain ascent. sft_weight: weight of the token mean of the NLL of w."""

    beta: float = 0.1
    sft_weight: float = 1.0


def npo(model: LanguageModel, pair: Pair, reference: ReferenceLogProbs | None, options: NpoOptions) -> Loss:
    """Negative preference optimisation (Zhang et al. 2024), with a likelihood term on what should be said
    instead.

    (2/β) (1/N) Σ log(1 + exp(β (log π − log ρ)(l))) + sft_weight · token mean of the NLL of w.
    """
    preferred, dispreferred = _responses(model, pair)
    _, gain_l = _gains(preferred, dispreferred, reference, "npo")
    forgetting, nll = 2 / options.beta * F.softplus(options.beta * gain_l).mean(), preferred.nll()
    return _loss(
        forgetting + options.sft_weight * nll,
        forgetting=forgetting,
        nll_preferred=nll,
        nll_dispreferred=dispreferred.nll(),
        gain_dispreferred=gain_l.mean(),
    )


@dataclass(frozen=True)
class DpoPublishedOptions:
    """Weights of the preferred and dispreferred response, and the constant length that divides both sums."""

    preferred_weight: float = 0.1
    dispreferred_weight: float = 0.01
    length: int = 159


def dpo_published(
    model: LanguageModel, pair: Pair, reference: ReferenceLogProbs | None, options: DpoPublishedOptions
) -> Loss:
    """The contrastive objective of the published code: two coefficients, sums divided by a constant.

    −(1/N) Σ log σ(z), z = [preferred_weight (log π − log ρ)(w) − dispreferred_weight (log π − log ρ)(l)] /
    length. Its gradient is, row by row, 0.1 · (1 − σ(z)) times that of `unlearn_published`.
    """
    preferred, dispreferred = _responses(model, pair)
    gain_w, gain_l = _gains(preferred, dispreferred, reference, "dpo_published")
    margin = (options.preferred_weight * gain_w - options.dispreferred_weight * gain_l) / options.length
    value = -F.logsigmoid(margin).mean()
    return _loss(
        value,
        preference=value,
        nll_preferred=preferred.nll(),
        nll_dispreferred=dispreferred.nll(),
        margin=margin.mean(),
    )


@dataclass(frozen=True)
class UnlearnPublishedOptions:
    """Weights of the preferred and dispreferred response, and the constant length that divides both sums."""

    preferred_weight: float = 1.0
    dispreferred_weight: float = 0.1
    length: int = 159


def unlearn_published(
    model: LanguageModel, pair: Pair, reference: ReferenceLogProbs | None, options: UnlearnPublishedOptions
) -> Loss:
    """Unlearning as in the published code: plain ascent on l, unbounded below.

    (1/N) Σ [dispreferred_weight · log π(l) − preferred_weight · log π(w)] / length.
    """
    preferred, dispreferred = _responses(model, pair)
    rows = options.dispreferred_weight * dispreferred.log_probs - options.preferred_weight * preferred.log_probs
    return _loss(rows.mean() / options.length, nll_preferred=preferred.nll(), nll_dispreferred=dispreferred.nll())


def _gains(
    preferred: _Responses,
    dispreferred: _Responses,
    reference: ReferenceLogProbs | None,
    name: str,
) -> tuple[Tensor, Tensor]:
    """(log π − log ρ) of w and of l, (N,) each."""
    if reference is None:
        raise ValueError(f"the objective {name} needs the log-probabilities of the reference model")
    return preferred.log_probs - reference.preferred, dispreferred.log_probs - reference.dispreferred


@dataclass(frozen=True)
class Objective:
    """An objective's function, its options, and whether it needs the reference's log-probabilities. responses: how
    many of a pair's two responses go through the model.
    """

    function: Callable[[LanguageModel, Pair, ReferenceLogProbs | None, Any], Loss]
    options: type[Any]
    needs_reference: bool = False
    responses: int = 2


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "ssft": Objective(ssft, SsftOptions, responses=1),
        "dpo": Objective(dpo, DpoOptions, needs_reference=True),
        "unlearn": Objective(unlearn, UnlearnOptions),
        "npo": Objective(npo, NpoOptions, needs_reference=True),
        "dpo_published": Objective(dpo_published, DpoPublishedOptions, needs_reference=True),
        "unlearn_published": Objective(unlearn_published, UnlearnPublishedOptions),
    }
)


def objective(name: str) -> Objective:
    """The objective of that name. DeltawError, listing all names, if there is none."""
    if name not in OBJECTIVES:
        raise DeltawError(f"there is no objective {name!r}; the objectives are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
