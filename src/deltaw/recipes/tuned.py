"""A fine-tuned model of a study, as its configuration names it."""

from dataclasses import dataclass

from deltaw.training.finetuning import TuningConfig


@dataclass(frozen=True)
class Tuned:
    """One fine-tuned model of a study."""

    name: str
    """What measurements call it."""
    protocol: str
    """What the study calls its protocol and the variants of it: ssft, dpo, dpo_plain, ssft_left_out."""
    strength: str
    """medium or small."""
    config: TuningConfig
    """How it is tuned."""
    curve_only: bool = False
    """Whether nothing but its training is followed."""

    @property
    def control(self) -> str | None:
        """What measurements call its control, if it is one."""
        return None if self.config.control is None else self.config.control.name
