"""How many prompts, draws and windows the numbers of a study take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How many prompts, windows and draws a number takes."""

    final: int = 2000
    """Prompts of each conditional set, and of the rest of each verdict, at the end of a tuning."""
    checkpoint: int = 256
    """The same at earlier checkpoints, and the most pairs of an analysis there."""
    attacked: int = 400
    """Prompts of each attack on prompts."""
    contrast: int = 512
    """Pairs of an analysis of activations."""
    draws: int = 200
    """Draws of a null."""
    bootstrap: int = 500
    """Draws of an interval."""
    ceiling: int = 4000
    """Windows of each branch, for the Bayes ceiling."""
    shown: int = 3
    """Decoded prompts of each set in prompts.jsonl."""
    base: int | None = None
    """Prompts of each stratum and grammar at the end of a base model. None: `final`."""
