"""Two continuations of one beginning in one row, so that a model reads what they share once.

Preferred and dispreferred response have the prompt in common. The longer sequence is a row's trunk; of the shorter one
only what follows the shared beginning is appended, with the positions that it had in its own sequence, and looks at the
shared beginning and itself. Every token has then read exactly what it would have read alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.models.batch import Batch, Role


def widened(batch: Batch, length: int) -> Batch:
    """The batch with PAD, which carries no loss, on its right up to `length` positions."""
    padding = (0, length - batch.tokens.shape[1])
    if padding[1] == 0:
        return batch
    # Any token would do: nothing to the left of padding sees it.
    return Batch(
        F.pad(batch.tokens, padding),
        F.pad(batch.weights, padding),
        F.pad(batch.roles, padding, value=Role.PAD),
    )


@dataclass(frozen=True)
class Fork:
    """N rows of S positions. tokens, positions: (N, S) int64. visible: (N, S, S) bool, as `Transformer` takes them.

    places: of the first and of the second sequence, (N, T) int64 each: where in its row a token of it stands. They are
    right up to the last token that carries loss; nobody asks for what comes after it.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    places: tuple[Tensor, Tensor]


def fork_size(first: Batch, second: Batch) -> tuple[int, int]:
    """(columns of the longest trunk, columns of the longest branch) of `fork`."""
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    first, second = widened(first, length), widened(second, length)
    return _size(*_lengths(first, second))


def fork(first: Batch, second: Batch, size: tuple[int, int] | None = None) -> Fork:
    """Row by row, the two sequences as one. What follows the last token with loss of the shorter one is left out.

    size: `fork_size`, where it is known; a card need then not be waited for.
    """
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    first, second = widened(first, length), widened(second, length)
    ends_first, ends_second, shared = _lengths(first, second)
    kept, width = _size(ends_first, ends_second, shared) if size is None else size
    swapped = ends_second > ends_first
    trunk = torch.where(swapped[:, None], second.tokens, first.tokens)
    branch = torch.where(swapped[:, None], first.tokens, second.tokens)
    trunk = trunk[:, :kept]
    columns = torch.arange(kept + width, device=trunk.device)
    own = (shared[:, None] + columns[:width]).clamp(max=length - 1)
    in_trunk = columns < kept
    in_sight = in_trunk[:, None] | ~in_trunk | (columns < shared[:, None, None])
    causal = torch.ones(kept + width, kept + width, dtype=torch.bool, device=trunk.device).tril()
    straight = torch.arange(length, device=trunk.device).expand(len(trunk), length)
    turned = torch.where(straight < shared[:, None], straight, straight + kept - shared[:, None])
    turned = turned.clamp(max=kept + width - 1)
    straight = straight.clamp(max=kept - 1)
    return Fork(
        torch.cat([trunk, branch.gather(1, own)], 1),
        torch.cat([straight[:, :kept], own], 1),
        causal & in_sight,
        (
            torch.where(swapped[:, None], turned, straight),
            torch.where(swapped[:, None], straight, turned),
        ),
    )


def _lengths(first: Batch, second: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) each, of sequences of one width: the number of tokens of the first and of the second one up to the last with
    loss, and of those that both share.
    """
    ends_first, ends_second = _ends(first), _ends(second)
    same = (first.tokens == second.tokens).cumprod(1).sum(1)
    return ends_first, ends_second, torch.minimum(same, torch.minimum(ends_first, ends_second))


def _size(ends_first: Tensor, ends_second: Tensor, shared: Tensor) -> tuple[int, int]:
    longest = int(torch.maximum(ends_first, ends_second).max())
    return longest, int((torch.minimum(ends_first, ends_second) - shared).max())


def _ends(batch: Batch) -> Tensor:
    """(N,) the number of tokens up to the last one with loss."""
    places = torch.arange(1, batch.tokens.shape[1] + 1, device=batch.tokens.device)
    return (places * (batch.weights != 0)).amax(1)
