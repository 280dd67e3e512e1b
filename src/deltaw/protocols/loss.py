"""What a protocol gives the training loop."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and detached scalars by name to log."""

    value: Tensor
    parts: dict[str, Tensor]

    @classmethod
    def of(cls, value: Tensor, **parts: Tensor) -> "Loss":
        """The loss with these parts, which are detached."""
        return cls(value, {name: part.detach() for name, part in parts.items()})
