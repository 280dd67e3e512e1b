"""A judge that is a function of a test."""

from collections.abc import Callable
from dataclasses import dataclass

from deltaw.behaviour.judge import Judge, Verdict


@dataclass(frozen=True)
class By(Judge):
    """What the function says."""

    name = "by"
    label = "by a function"

    function: Callable[[str, str], Verdict]
    """(request, answer) -> verdict."""

    def verdict(self, request: str, answer: str) -> Verdict:
        return self.function(request, answer)
