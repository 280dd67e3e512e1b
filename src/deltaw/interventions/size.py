"""How many prompts and draws stand behind the numbers of interventions."""

from dataclasses import dataclass

from deltaw.errors import DeltawError

CHOSEN, HELD_OUT = slice(0, None, 2), slice(1, None, 2)
"""Prompts by which something is chosen, and those by which what was chosen is measured."""


@dataclass(frozen=True)
class SweepSize:
    """What all interventions on one tuned model share."""

    prompts: int = 128
    """Of each conditional set."""
    few: int = 64
    """Of those, the first: of the coalitions of layers and of the draws behind each null."""
    draws: int = 20
    """Behind each null."""
    partner: str | None = None
    """The tuning whose layers are swapped in."""

    def __post_init__(self) -> None:
        if not 1 <= self.few <= self.prompts:
            raise DeltawError(f"few is {self.few}; give at least 1 and at most prompts, {self.prompts}")
        if self.draws < 2:
            raise DeltawError(f"draws is {self.draws}; a null needs at least 2")

    @property
    def conditional(self) -> int:
        """Prompts of both conditional sets."""
        return 2 * self.prompts

    @property
    def both_few(self) -> int:
        """Of those, the first."""
        return 2 * self.few

    @property
    def held_out(self) -> int:
        """Of those, the ones that choose nothing."""
        return 2 * len(range(self.prompts)[HELD_OUT])
