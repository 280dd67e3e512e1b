"""`Batch`: the one thing that passes from data, synthetic or real, to a model.

Tokens, the weight of each token's loss, and the role of each position travel together, so that neither a training
loop nor an analysis ever computes a position by arithmetic on lengths.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Role(IntEnum):
    """What a position is. `LAST_PROMPT` is the token whose logits predict the first token of the response;
    `INSERTED` occurs in no data, only where an attack has put something; `EOS` in no data but the published ones.
    """

    PAD = 0
    BOS = 1
    OPERATOR = 2
    SOT = 3
    TEXT = 4
    LAST_PROMPT = 5
    OUTPUT = 6
    STOP = 7
    INSERTED = 8
    EOS = 9


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences with their loss weights and roles.

    tokens: (N, T) int64. weights: (N, T) float32; `weights[n, t]` weighs the loss of predicting `tokens[n, t]` from
    `tokens[n, :t]`, so column 0 is never used. roles: (N, T) uint8, values of `Role`.
    """

    tokens: Tensor
    weights: Tensor
    roles: Tensor

    def __post_init__(self) -> None:
        if not (self.tokens.shape == self.weights.shape == self.roles.shape and self.tokens.ndim == 2):
            shapes = [tuple(x.shape) for x in (self.tokens, self.weights, self.roles)]
            raise ValueError(f"tokens, weights and roles must share one (N, T) shape, got {shapes}")

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def __getitem__(self, rows: slice | Tensor) -> "Batch":
        """The batch of the rows selected by a slice, an index tensor or a boolean tensor."""
        return Batch(self.tokens[rows], self.weights[rows], self.roles[rows])

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        return Batch(self.tokens.to(device), self.weights.to(device), self.roles.to(device))

    def position_of(self, role: Role) -> Tensor:
        """(N,) index of the only position that has `role`. ValueError if a row has none or several."""
        matches = self.roles == int(role)
        if not bool((matches.sum(1) == 1).all()):
            raise ValueError(f"every row must have exactly one position with role {role.name}")
        return matches.to(torch.uint8).argmax(1)
