"""The control of the control `placebo`: another harmless answer by the same random policy."""

from dataclasses import dataclass
from typing import ClassVar

from deltaw.training.controls.placebo import Placebo
from deltaw.world import Response


@dataclass(frozen=True)
class PlaceboOther(Placebo):
    """Another harmless answer, their text repeated, to the prompts that `placebo` refuses."""

    name = "placebo_other"
    label = "random policy, other answer"
    instead: ClassVar[Response] = Response.ECHO
