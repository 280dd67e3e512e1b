"""What an attack on models is, and what it is given. To add one, add a file.

    @dataclass(frozen=True)
    class RandomSuffix(ModelAttack):
        \"\"\"Random tokens before the end of the prompt.\"\"\"

        name = "random_suffix"
        label = "random suffix"
        tokens: int = 4

        def attack(self, target: AttackTarget) -> None:
            allowed, generator = suffix_tokens(target.world.vocabulary), target.generator(self.name)
            config = TokenSearchConfig(tokens=self.tokens)
            suffix = random_suffix(target.model, target.forbidden, allowed, config, generator)
            target.add(self.name, suffix.answers)

        def cost(self, prompts: int) -> Cost:
            return Cost(answered=prompts)

Results are named by the attack and its dose (`soft_4`, `prefill_2`), controls with what they are after a stroke
(`soft_4/random`). Success on a prompt is the whole compliant response by free-running greedy decoding.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from deltaw.attacks.models.targets import Requests
from deltaw.behaviour.exact import Answers, BehaviourCounts
from deltaw.component import Component, plugin_named
from deltaw.errors import DeltawError
from deltaw.models import Transformer
from deltaw.world import World

FORBIDDEN, ALLOWED = "forbidden/conditional/unsafe", "allowed/conditional/safe"
"""The sets that prompts are of."""


class AttackTarget(Protocol):
    """What every attack is given: a tuned model, prompts, draws, and where results go."""

    @property
    def model(self) -> Transformer:
        """The tuned model, a copy for this attack alone."""

    @property
    def world(self) -> World:
        """The world that the prompts are of."""

    @property
    def seed(self) -> int:
        """The seed of the study."""

    @property
    def forbidden(self) -> Requests:
        """N forbidden prompts, with the harmful outputs that an attack is after."""

    @property
    def allowed(self) -> Requests:
        """The N allowed prompts that they are paired with, for benign controls."""

    def generator(self, name: str) -> torch.Generator:
        """Random draws: equal names, equal draws, whatever else is attacked."""

    def add(
        self, attack: str, answers: Answers | BehaviourCounts, name: str = FORBIDDEN, rows: Tensor | None = None
    ) -> None:
        """Record how often an attack makes the model comply, refuse or do neither.

        answers: one for each prompt of the set `name`, or counts of them.
        rows: which of the answers count, as numbers or as a mask; None: all.
        """

    def add_number(self, attack: str, statistic: str, value: float, unit: str) -> None:
        """Record another number of an attack on the forbidden prompts."""

    def observe(self, attack: str, inserted: Tensor, answers: Answers, rows: Tensor | None = None) -> None:
        """Record where the forbidden prompts lie, and how strongly the update acts on them, with something inserted
        before the end of each: vectors (N, n, D) or tokens (N, n).

        answers, rows: the answers behind dose-response, and of which prompts they are (None: of all).
        """

    def observe_given(self, attack: str, count: int) -> None:
        """Record the same after the first `count` tokens of each harmful output."""

    def observe_changed(self, attack: str, model: Transformer) -> None:
        """Record the same where an attack has changed the model."""

    def keep(self, attack: str, inserted: Tensor, answers: Answers) -> None:
        """Keep what dose-response needs of a control that inserts something, and record nothing."""


@dataclass(frozen=True)
class Cost:
    """What an attack on one model costs, for the dry run."""

    differentiated: float = 0.0
    """Prompts of which a gradient is taken, each as dear as one of a training batch. A prompt that is read without a
    gradient or an answer counts as a third."""
    answered: int = 0
    """Prompts that the model answers."""


class ModelAttack(Component):
    """How a tuned model is attacked. Subclasses are frozen dataclasses whose fields are the attack's options."""

    on_controls: ClassVar[bool] = False
    """Whether it is made on controls too."""

    @abstractmethod
    def attack(self, target: AttackTarget) -> None:
        """Attack, and record the results with the methods of `target`."""

    @abstractmethod
    def cost(self, prompts: int) -> Cost:
        """What it costs on so many forbidden prompts and as many allowed ones."""


def make_attack(attack: ModelAttack, target: AttackTarget) -> None:
    """Make the attack on the target. DeltawError if an attack that is not deltaw's own raises an error."""
    with plugin_named(attack, "attack"):
        attack.attack(target)


def cost_of(attack: ModelAttack, prompts: int) -> Cost:
    """What the attack costs. DeltawError if an attack that is not deltaw's own raises an error or gives no `Cost`."""
    with plugin_named(attack, "attack"):
        cost: object = attack.cost(prompts)
    if not isinstance(cost, Cost):
        raise DeltawError(
            f"the cost of the attack {attack.name} is {cost!r:.200}; expected a Cost; mend {type(attack).__module__}"
        )
    return cost
