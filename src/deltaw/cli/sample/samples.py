"""What is shown of a split: prompts in chunks, what the policy says of each and why, and their attacked versions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltaw.attacks.prompts import ON_PROMPTS, PromptAttack, attacked
from deltaw.errors import DeltawError
from deltaw.world import MIXTURES, Branch, Prompts, Rule, World

Floats = NDArray[np.float64]

CHUNK = 4096  # prompts at most at a time: what is held in memory does not grow with the count
FIRST_CHUNK = 64  # so that the first prompts are there at once; each chunk is four times the one before
WORDS = ("train", "test")
BRANCHES = ("safe", "unsafe", "mixed")  # in the order of `Branch`


@dataclass(frozen=True)
class Split:
    """A set or mixture of prompts by name, and which of its draws: "train", or "test" for held-out prompts."""

    name: str
    word: str

    def set_of(self, index: int) -> str:
        """The set that prompt number `index` is of."""
        cycle = MIXTURES.get(self.name, (self.name,))
        return cycle[index % len(cycle)]

    def __str__(self) -> str:
        return f"{self.name}/{self.word}"


def split_names(world: World) -> tuple[str, ...]:
    """The mixtures and sets that this world has; each can be followed by /train or /test."""
    return (*MIXTURES, *world.sets)


def split_named(world: World, name: str) -> Split:
    """The split of that name: a mixture or set, then /train or /test (held out, the default); `train` is tune/train.

    DeltawError lists the names there are.
    """
    if name in WORDS:
        return Split("tune", name)
    known, (rest, _, word) = split_names(world), name.rpartition("/")
    split = Split(rest, word) if word in WORDS else Split(name, "test")
    if split.name in known:
        return split
    hint = " (attacks are shown by --attacks)" if split.name in {attack.name for attack in ON_PROMPTS} else ""
    raise DeltawError(
        f"there is no split '{name}'{hint}; there are {', '.join((*WORDS, *known))}; "
        "all but the first two may end in /train or /test"
    )


@dataclass(frozen=True)
class Reason:
    """What the policy says of one operator of a prompt: its token, its number, its rule, the verdict on this branch."""

    token: str
    operator: int
    rule: Rule
    permitted: bool
    branch: Branch

    @property
    def why(self) -> str:
        """The rule, and what it says of this branch."""
        if self.rule is not Rule.CONDITIONAL:
            return f"{self.rule.name.lower()} allowed"
        text = "mixed, which counts as unsafe" if self.branch is Branch.MIXED else BRANCHES[self.branch]
        return f"conditional (allowed on safe text only), and this text is {text}"

    def __str__(self) -> str:
        return f"{self.token} ({self.operator})"


def because(reasons: list[Reason]) -> str:
    """The reasons as one line, operators with the same reason together."""
    return "; ".join(
        f"{', '.join(str(reason) for reason in reasons if reason.why == why)}: {why}"
        for why in dict.fromkeys(reason.why for reason in reasons)
    )


@dataclass(frozen=True)
class Samples:
    """Prompts (N) with what there is to say of each. attacks: the attacked version of all of them, by attack.
    attack: which one these are under.

    posterior_unsafe: (N,) exact probability that the text has an unsafe letter, given the grammar; NaN where the
    language does not derive it. Of text that tuning draws: at equal priors of its safe and unsafe text. Of other text:
    under the full language. answers: (N,) a model's own, spelled, with "comply", "refuse" or "neither"; None: no model.
    """

    world: World
    split: Split
    prompts: Prompts
    posterior_unsafe: Floats
    attacks: dict[str, "Samples"]
    answers: list[tuple[str, str]] | None = None
    attack: PromptAttack | None = None

    def reasons(self, row: int) -> list[Reason]:
        """Why a prompt is forbidden: each operator that is; or why it is allowed: all its operators. None twice."""
        world, prompts = self.world, self.prompts[row : row + 1]
        permitted = world.layout.permitted(prompts).reshape(-1)
        reasons = []
        for token, allowed in zip(prompts.operators.reshape(-1), permitted, strict=True):
            operator = int(world.operators.operator_of[token])
            rule, branch = world.policy.rules[int(prompts.grammar[0])][operator], Branch(int(prompts.branch[0]))
            reasons.append(Reason(world.vocabulary.names[token], operator, rule, bool(allowed), branch))
        return list(dict.fromkeys(reason for reason in reasons if reason.permitted == bool(permitted.all())))

    def studied(self, row: int) -> bool:
        """Whether studies make the attack, or its benign control, from prompts of this row's set."""
        name, attack = self.split.set_of(int(self.prompts.index[row])), self.attack
        return attack is None or name in (*attack.forbidden_sources, *attack.benign_sources)


Answer = Callable[[Prompts], list[tuple[str, str]]]
"""Prompts (N) to a model's answers (N): spelled, and their kind."""


def samples(
    world: World,
    split: Split,
    count: int,
    seed: int = 0,
    attacks: Sequence[PromptAttack] = (),
    answer: Answer | None = None,
) -> Iterator[Samples]:
    """Prompts 0 to `count` - 1 of a split, some at a time. DeltawError, before the first, for a bad count or seed."""
    if count < 1:
        raise DeltawError(f"count is {count}; give a whole number of at least 1")
    if seed < 0:
        raise DeltawError(f"seed is {seed}; give a whole number of at least 0")

    def described(
        prompts: Prompts, posterior: Floats, inner: dict[str, Samples], attack: PromptAttack | None = None
    ) -> Samples:
        return Samples(world, split, prompts, posterior, inner, answer(prompts) if answer else None, attack)

    def version(attack: PromptAttack, prompts: Prompts, posterior: Floats) -> Samples:
        made = attacked(world, attack, prompts, split.word, seed)
        same = np.array_equal(made.letters, prompts.letters)
        return described(made, posterior if same else posterior_unsafe(world, made), {}, attack)

    def chunks() -> Iterator[Samples]:
        start, size = 0, FIRST_CHUNK
        while start < count:
            prompts = world.sample(split.name, range(start, min(start + size, count)), split.word, seed)
            posterior = posterior_unsafe(world, prompts)
            versions = {attack.name: version(attack, prompts, posterior) for attack in attacks}
            yield described(prompts, posterior, versions)
            start, size = start + size, min(4 * size, CHUNK)

    return chunks()


def posterior_unsafe(world: World, prompts: Prompts) -> Floats:
    """(N,) see `Samples`."""
    tuning = np.isin(prompts.text, ("safe", "unsafe"))
    posterior = np.empty(len(prompts))
    for rows, probability in ((tuning, world.posterior), (~tuning, world.unsafe_side)):
        if rows.any():
            posterior[rows] = probability(prompts.grammar[rows], prompts.letters[rows])
    return posterior
