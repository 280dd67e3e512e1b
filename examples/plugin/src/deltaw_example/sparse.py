"""An intervention: how many entries of ΔW does the behaviour need?"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deltaw.interventions import Intervention, Subject, SweepSize


def largest(base: Tensor, tuned: Tensor, share: float) -> Tensor:
    """Base plus a share of the update's entries, the largest."""
    delta = tuned.double() - base.double()
    cut = delta.abs().flatten().kthvalue(min(round((1 - share) * delta.numel()) + 1, delta.numel())).values
    return (base.double() + delta * (delta.abs() >= cut)).to(base.dtype)


def sparse_update(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The same of every tensor."""
    return {name: largest(tensor, tuned[name], share) for name, tensor in base.items()}


@dataclass(frozen=True)
class Sparse(Intervention):
    """Only the largest entries of ΔW are kept, tensor by tensor."""

    name = "sparse"
    label = "largest entries of ΔW"
    shares: tuple[float, ...] = (0.01, 0.1)

    def measure(self, subject: Subject) -> None:
        """Behaviour with each share of the entries, the dose."""
        for share in self.shares:
            answered = subject.answer(subject.conditional, sparse_update(subject.base, subject.tuned, share))
            subject.add_rates(answered, subject.sheet.with_(intervention=self.name, dose=share))

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Both conditional sets, a time a share."""
        return len(self.shares) * size.conditional
