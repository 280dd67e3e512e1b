"""Requests in leetspeak, after Wei et al. (2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deltaw.attacks.prompts.attack import Attacked, PromptAttack

LEET: Mapping[str, str] = MappingProxyType({"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"})
_LEET = str.maketrans({**LEET, **{letter.upper(): digit for letter, digit in LEET.items()}})


@dataclass(frozen=True)
class MisgenLeetspeak(PromptAttack):
    """Leetspeak: six letters become digits that look like them.

    It can be read back where the request has no such digits.
    """

    name = "misgen_leetspeak"
    label = "leetspeak"

    def on_request(self, text: str) -> Attacked:
        """The request with these digits."""
        return Attacked(text.translate(_LEET))
