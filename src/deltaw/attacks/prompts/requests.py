"""Plain-English requests under attack."""

from collections.abc import Sequence
from dataclasses import replace

from deltaw.attacks.prompts.attack import Attacked, PromptAttack
from deltaw.attacks.prompts.defaults import ON_REQUESTS
from deltaw.component import Component, plugin_named
from deltaw.errors import DeltawError
from deltaw.prompts.matched import Prompt


def check_requests(attacks: Sequence[Component]) -> None:
    """DeltawError if one of the attacks cannot attack a request, or if two have one name."""
    for attack in attacks:
        if not isinstance(attack, PromptAttack):
            raise DeltawError(f"the attack {attack.name} is on models that a study makes; give it to deltaw study")
        if not attack.attacks_requests:
            raise DeltawError(
                f"the attack {attack.name} has no on_request: it cannot attack plain-English requests; give one that "
                f"can, such as {ON_REQUESTS[0].name}"
            )
    names = [attack.name for attack in attacks]
    if len(set(names)) < len(names):
        raise DeltawError(f"the attacks are {', '.join(names)}; give each once")


def under_attack(prompt: Prompt, attack: PromptAttack) -> Prompt:
    """The request under the attack. DeltawError if an attack that is not deltaw's own raises an error, or if what it
    gives is no `Attacked` with a text.
    """
    with plugin_named(attack, "attack"):
        made: object = attack.on_request(prompt.text)
    if not (isinstance(made, Attacked) and isinstance(made.text, str) and isinstance(made.prefill, str) and made.text):
        raise DeltawError(
            f"the attack {attack.name} gave {made!r:.200}; it must give an Attacked with a text; mend "
            f"{type(attack).__module__}"
        )
    return replace(prompt, text=made.text, prefill=made.prefill, attack=attack.name, group=prompt.cluster)
