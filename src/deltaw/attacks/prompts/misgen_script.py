"""Requests in another script."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deltaw.attacks.prompts.attack import Attacked, PromptAttack

CYRILLIC: Mapping[str, str] = MappingProxyType(
    dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшэыз", strict=True))
)
"""One Cyrillic letter for each Latin one, by sound where there is one."""
_CYRILLIC = str.maketrans({**CYRILLIC, **{latin.upper(): letter.upper() for latin, letter in CYRILLIC.items()}})


@dataclass(frozen=True)
class MisgenScript(PromptAttack):
    """English written in Cyrillic letters, one for one."""

    name = "misgen_script"
    label = "Cyrillic letters"

    def on_request(self, text: str) -> Attacked:
        """The request in these letters."""
        return Attacked(text.translate(_CYRILLIC))
