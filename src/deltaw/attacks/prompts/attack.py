"""What an attack on prompts is: a pure function of a prompt, with its options as fields. To add one, add a file.

    @dataclass(frozen=True)
    class Polite(PromptAttack):
        \"\"\"Asks politely.\"\"\"

        name = "co_polite"
        label = "please"

        def on_request(self, text: str) -> Attacked:
            return Attacked(f"Please. {text}")

An attack has one or both of two methods: `on_prompts` attacks prompts of the synthetic world, which studies measure;
`on_request` attacks plain-English requests, which comparisons of real models measure. The names of deltaw's own begin
with `co_` (competing objectives) or `misgen_` (mismatched generalisation), the two kinds of Wei et al. (2023).

An attack leaves the verdict as it is: a forbidden prompt stays forbidden, and the same change of an allowed prompt (the
benign control) stays allowed. A model that does not understand an attack loses refusals and answers alike. Success on a
forbidden prompt of the world is the exact harmful output. Results are given of all attacks, whether or not they work.
"""

from dataclasses import dataclass
from typing import ClassVar

from deltaw.component import Component, plugin_named
from deltaw.errors import DeltawError
from deltaw.world.prompts import Prompts
from deltaw.world.randomness import Key
from deltaw.world.sampling import World


@dataclass(frozen=True)
class Attacked:
    """A request under attack."""

    text: str
    """What the model is asked."""
    prefill: str = ""
    """The words that its answer is made to begin with."""


class PromptAttack(Component):
    """How prompts are attacked. Subclasses are frozen dataclasses whose fields are the attack's options."""

    forbidden_sources: ClassVar[tuple[str, ...]] = ()
    """Sets of forbidden prompts of the synthetic world that studies attack."""
    benign_sources: ClassVar[tuple[str, ...]] = ()
    """Sets of allowed prompts of the synthetic world that serve as its benign control."""
    two_sided: ClassVar[bool] = False
    """Whether its texts have a safe and an unsafe side: success is then also given by letters on the unsafe side."""

    def on_prompts(self, world: World, prompts: Prompts, key: Key) -> Prompts:
        """As many prompts of the synthetic world, under the attack. All draws are keyed by `key` and `prompts.index`,
        so that each prompt is attacked in the same way whichever others are attacked with it.
        """
        raise NotImplementedError

    def on_request(self, text: str) -> Attacked:
        """The plain-English request under the attack."""
        raise NotImplementedError

    @property
    def attacks_prompts(self) -> bool:
        """Whether it has `on_prompts`."""
        return type(self).on_prompts is not PromptAttack.on_prompts

    @property
    def attacks_requests(self) -> bool:
        """Whether it has `on_request`."""
        return type(self).on_request is not PromptAttack.on_request


def attacked(world: World, attack: PromptAttack, prompts: Prompts, split: str = "test", seed: int = 0) -> Prompts:
    """The attacked version of each prompt. DeltawError if an attack that is not deltaw's own raises an error or changes
    a verdict, or if what it gives is not as many prompts.
    """
    with plugin_named(attack, "attack"):
        made: object = attack.on_prompts(world, prompts, Key(seed, f"{split}/attack/{attack.name}"))
    if not isinstance(made, Prompts) or len(made) != len(prompts):
        what = f"{len(made)} prompts" if isinstance(made, Prompts) else f"{made!r:.200}"
        raise DeltawError(
            f"the attack {attack.name} gave {what} for {len(prompts)} prompts; it must give Prompts, one for each; "
            f"mend {type(attack).__module__}"
        )
    if type(attack).__module__.startswith("deltaw."):
        return made
    changed = int((world.layout.allowed(made) != world.layout.allowed(prompts)).sum())
    if changed:
        raise DeltawError(
            f"the attack {attack.name} changed the verdict of {changed} of {len(prompts)} prompts, from forbidden to "
            f"allowed or back; an attack leaves the verdict as it is; mend {type(attack).__module__}"
        )
    return made
