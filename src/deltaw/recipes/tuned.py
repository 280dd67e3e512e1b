"""A fine-tuned model of a study, as its configuration names it."""

from dataclasses import dataclass

from deltaw.training.finetuning import TuningConfig


@dataclass(frozen=True)
class Tuned:
    """One fine-tuned model of a study."""

    name: str
    """What measurements call it."""
    protocol: str
    """Name of its protocol, or of a variant: ssft, dpo, dpo_plain, ssft_left_out."""
    strength: str
    """medium or small."""
    config: TuningConfig
    """How it is tuned."""
    curve_only: bool = False
    """Whether only its training is measured."""

    @property
    def control(self) -> str | None:
        """Name of its control in measurements, if it is one."""
        return None if self.config.control is None else self.config.control.name
