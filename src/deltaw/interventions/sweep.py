"""The interventions on one tuned model, and what that costs."""

from dataclasses import dataclass

from deltaw.interventions.intervention import Intervention
from deltaw.interventions.size import SweepSize

Sweeps = tuple[tuple[str, "Sweep"], ...]
"""(name of a tuning, its sweep)."""


@dataclass(frozen=True)
class Sweep(SweepSize):
    """The interventions on one tuned model, and how many prompts stand behind each number."""

    interventions: tuple[Intervention, ...] = ()
    """In the order in which they are made."""

    @property
    def pairs(self) -> int:
        """Matched pairs that any of them reads."""
        return max((intervention.pairs for intervention in self.interventions), default=0)

    @property
    def means(self) -> int:
        """Prompts of each kind that any of them wants behind a difference in means."""
        return max((intervention.means for intervention in self.interventions), default=0)

    def answered(self, blocks: int, attacks: int) -> int:
        """Prompts that are answered; of those behind nulls of patches, as many as there can be."""
        return sum(intervention.answered(self, blocks, attacks) for intervention in self.interventions)
