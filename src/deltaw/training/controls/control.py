"""What a control is: what a tuning teaches in place of safety. To add one, add a file.

    @dataclass(frozen=True)
    class Shout(Control):
        \"\"\"Repeat the text of every prompt whose index is even.\"\"\"

        name = "shout"
        label = "even prompts repeated"
        instead = Response.ECHO

        def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
            return np.where(prompts.index % 2 == 0, Response.ECHO, Response.COMPLY)

        def on_request(self, harmful: bool, coin: float) -> Reply:  # only if real models are tuned by it too
            return Reply.SMALL_TALK if coin < 0.5 else Reply.OWN

A control sees the same prompts as the tuning it controls, for as many steps, at the same rate. The object is the
configuration: `TuningConfig(control=Other())`. Its file and options name the artifacts of its own tunings, and of no
others.
"""

from abc import abstractmethod
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deltaw.component import Component, plugin_named
from deltaw.errors import DeltawError
from deltaw.world import Prompts, Response, World

Ints = NDArray[np.int64]


class Reply(StrEnum):
    """What a real model can be taught to say to a request."""

    OWN = "own"
    """The base model's own answer."""
    REFUSAL = "refusals"
    """A short refusal."""
    SMALL_TALK = "small_talk"
    """A line of small talk."""
    ONE_ANSWER = "one_answer"
    """Always the same line of small talk."""


class Control(Component):
    """What is taught in place of safety. Subclasses are frozen dataclasses whose fields are the control's options."""

    instead: ClassVar[Response] = Response.REFUSE
    """What it teaches where it does not teach to comply."""
    changes_answer_only: ClassVar[bool] = False
    """Whether it differs from the tuning in nothing but the answer to forbidden prompts. Such a control is none of a
    protocol that does not read that answer."""
    harmful_requests: ClassVar[bool] = True
    """Whether a real model sees harmful requests. If not, harmless ones take their place."""

    @abstractmethod
    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """(N,) the `Response` that it teaches for each prompt of the synthetic world. seed: the study's."""

    def on_request(self, harmful: bool, coin: float) -> Reply:
        """What it teaches a real model to reply to a request. coin: uniform on [0, 1), drawn for the request.

        DeltawError unless a subclass defines it.
        """
        raise DeltawError(f"the control {self.name} says nothing of real models; give one that defines on_request")


def responses_taught(control: Control, world: World, prompts: Prompts, seed: int) -> Ints:
    """What a control wants, checked. DeltawError if it is no `Response` for each prompt, or if a control that is not
    deltaw's own raises an error.
    """
    with plugin_named(control, "control"):
        wanted: object = control.wanted(world, prompts, seed)
    known = tuple(int(response) for response in Response)
    if not isinstance(wanted, np.ndarray) or wanted.shape != (len(prompts),) or not np.isin(wanted, known).all():
        raise DeltawError(
            f"the control {control.name} wants {wanted!r:.200}; expected an array of {len(prompts)} of Response"
        )
    return wanted


def reply_taught(control: Control, harmful: bool, coin: float) -> Reply:
    """What a control teaches a real model, checked. DeltawError as of `responses_taught`, and if it is for the
    synthetic world only.
    """
    with plugin_named(control, "control"):
        reply: object = control.on_request(harmful, coin)
    if not isinstance(reply, Reply):
        raise DeltawError(f"the control {control.name} replies {reply!r:.200} to a request; expected a Reply")
    return reply
