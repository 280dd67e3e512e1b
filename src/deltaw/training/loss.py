"""What an objective gives the training loop."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and detached scalars by name to log."""

    value: Tensor
    parts: dict[str, Tensor]
