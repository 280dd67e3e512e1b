"""Preferred and dispreferred responses to the same prompts, and what the base model makes of them."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deltaw.models import response_weights
from deltaw.models.batch import Batch
from deltaw.protocols.forks import fork_size, widened


@dataclass(frozen=True)
class Sizes:
    """What a pair's numbers say of shapes: the position before the first one with loss of each response, and
    `fork_size`.
    """

    since: tuple[int, int]
    forked: tuple[int, int]


def sizes_of(preferred: Batch, dispreferred: Batch) -> Sizes:
    """The sizes of a pair of these responses."""
    since = before_loss(preferred), before_loss(dispreferred)
    return Sizes(since, fork_size(preferred, dispreferred))


@dataclass(frozen=True)
class Pair:
    """Preferred and dispreferred responses to the same prompts. ValueError if a response carries no loss."""

    preferred: Batch
    dispreferred: Batch
    sizes: Sizes | None = field(default=None, kw_only=True)
    """Where they are known beforehand (see `measured`)."""
    complies: Tensor | None = field(default=None, kw_only=True)
    """(N,) bool, the rows whose preferred response complies with the prompt; of the others the dispreferred one does.
    None where nobody has said."""

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
        complies = None if self.complies is None else self.complies[rows]
        return Pair(self.preferred[rows], self.dispreferred[rows], complies=complies)

    def to(self, device: torch.device | str) -> "Pair":
        """The pair on `device`."""
        complies = None if self.complies is None else self.complies.to(device)
        return Pair(self.preferred.to(device), self.dispreferred.to(device), sizes=self.sizes, complies=complies)

    def measured(self) -> "Pair":
        """The pair with its `sizes`, so that a model on a card need not wait for its numbers."""
        return replace(self, sizes=sizes_of(self.preferred, self.dispreferred))

    def joined(self) -> Batch:
        """(2N, T) all preferred rows, then all dispreferred ones; the shorter half is padded on the right."""
        halves = self._of_one_length()
        return Batch(*(torch.cat([getattr(half, name) for half in halves]) for name in ("tokens", "weights", "roles")))

    def compliant(self) -> Batch:
        """(N, T) of each row the response that complies with the prompt. ValueError if `complies` is not known."""
        if self.complies is None:
            raise ValueError("the pair does not say which responses comply with the prompts")
        preferred, dispreferred = self._of_one_length()
        rows = self.complies[:, None]
        names = ("tokens", "weights", "roles")
        return Batch(*(torch.where(rows, getattr(preferred, name), getattr(dispreferred, name)) for name in names))

    def _of_one_length(self) -> tuple[Batch, Batch]:
        length = max(self.preferred.tokens.shape[1], self.dispreferred.tokens.shape[1])
        return widened(self.preferred, length), widened(self.dispreferred, length)


@dataclass(frozen=True)
class ReferenceLogProbs:
    """log ρ of the preferred and of the dispreferred responses of a pair, (N,) each."""

    preferred: Tensor
    dispreferred: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "ReferenceLogProbs":
        return ReferenceLogProbs(self.preferred[rows], self.dispreferred[rows])


def borrow_masks(pair: Pair) -> Pair:
    """The pair with the loss masks of the published contrastive protocols: a token of either response carries loss
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
        complies=pair.complies,
    )


def before_loss(batch: Batch) -> int:
    """The position that predicts the first token with loss of any row: no earlier one needs logits."""
    return max(0, int((batch.weights != 0).any(0).nonzero()[0]) - 1)
