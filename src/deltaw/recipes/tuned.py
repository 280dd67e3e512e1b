"""A fine-tuned model of a study, as its configuration names it."""

from dataclasses import dataclass

from deltaw.training.finetuning import TuningConfig


@dataclass(frozen=True)
class Tuned:
    """One fine-tuned model of a study. protocol: ssft | dpo | dpo_plain | unlearn | ssft_left_out. strength: medium |
    small. curve_only: nothing but its training is followed.
    """

    name: str
    protocol: str
    strength: str
    control: str | None
    config: TuningConfig
    curve_only: bool = False
