"""How much of each intervention is made on a tuned model, and what that costs."""

from dataclasses import dataclass

from deltaw.errors import DeltawError

PARTS = ("alpha", "subspace", "rank", "layers", "swaps", "patches", "directions")
CHOSEN, HELD_OUT = slice(0, None, 2), slice(1, None, 2)
"""Prompts by which something is chosen, and those by which what was chosen is measured."""


@dataclass(frozen=True)
class Sweep:
    """The interventions on one tuned model, and how many prompts stand behind each number."""

    parts: tuple[str, ...] = PARTS
    """Which of `PARTS` are made."""
    prompts: int = 128
    """Of each conditional set."""
    few: int = 64
    """Of those, the first: of the coalitions of layers and of the draws behind each null."""
    draws: int = 20
    """Behind each null."""
    alphas: tuple[float, ...] = (-1.0, 0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0)
    """Of the whole model."""
    scopes: tuple[str, ...] = ("mlp", "attention")
    """Parts of the model that are moved alone: of `SCOPES`, or `layers`, each block alone."""
    scope_alphas: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Of each of the scopes."""
    rescaled: bool = False
    """Whether the null-space and the column-space part are also made at the norm of ΔW."""
    ranks: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    """Ranks kept."""
    removed: tuple[int, ...] = (1, 4, 16)
    """Ranks taken out."""
    partner: str | None = None
    """The tuning whose layers are swapped in."""
    attacked: int = 128
    """Prompts of each attack on prompts, source included."""
    ks: tuple[int, ...] = (8, 0)
    """Ranks of the patches, 0 for full rank."""
    everywhere: bool = True
    """Whether all positions of the prompt are patched as well."""
    means: int = 128
    """Prompts of each kind behind a difference in means."""
    doses: tuple[float, ...] = (1.0,)
    """Multiples at which it is added."""

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise DeltawError(f"there is no part {unknown[0]!r} of a sweep; there are {', '.join(PARTS)}")
        if not 1 <= self.few <= self.prompts:
            raise DeltawError(f"few is {self.few}; give at least 1 and at most prompts, {self.prompts}")
        if self.draws < 2:
            raise DeltawError(f"draws is {self.draws}; a null needs at least 2")

    @property
    def direction_draws(self) -> int:
        """Behind each null of a direction: fewer, since each layer has its own and random directions do little."""
        return max(2, self.draws // 4)

    def answered(self, blocks: int, attacks: int) -> int:
        """Prompts that are answered; of those behind nulls of patches, as many as there can be."""
        few, conditional, null = 2 * self.few, 2 * self.prompts, self.draws
        held_out = 2 * len(range(self.prompts)[HELD_OUT])
        steps = len(self.scope_alphas) * sum(blocks if scope == "layers" else 1 for scope in self.scopes)
        patched = len(self.ks) * (2 if self.everywhere else 1)
        counts = {
            "alpha": len(self.alphas) * 2 * conditional + (steps + 1) * conditional + null * held_out,
            "subspace": (9 + 4 * self.rescaled) * conditional + (4 * null + 1) * few,
            "rank": (len(self.ranks) + len(self.removed)) * conditional,
            "layers": 2 ** (blocks + 1) * few,
            "swaps": (blocks - 1) * conditional if self.partner else 0,
            "patches": self.attacked * (1 + attacks) * (2 + 3 * patched) + null * self.few * (attacks + 1),
            "directions": blocks * (1 + len(self.doses)) * conditional + (1 + blocks) * self.direction_draws * few,
        }
        return sum(counts[part] for part in self.parts)
