"""How many prompts, draws and windows stand behind the numbers of a study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How many prompts stand behind a number.

    final: of each conditional set, and of the rest of each verdict, at the end of a tuning. checkpoint: the same at its
    earlier checkpoints, and the most pairs behind an analysis there. attacked: of each attack on prompts. contrast:
    pairs behind an activation analysis. draws, bootstrap: of a null, of an interval.
    ceiling: windows of each branch. shown: decoded prompts of each set in prompts.jsonl. base: of each stratum and
    grammar, at the end of a base model; None: as many as `final`.
    """

    final: int = 2000
    checkpoint: int = 256
    attacked: int = 400
    contrast: int = 512
    draws: int = 200
    bootstrap: int = 500
    ceiling: int = 4000
    shown: int = 3
    base: int | None = None
