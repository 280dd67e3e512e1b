"""The world as one object, and its prompts by name: which texts, which operators, in which proportions.

Every prompt is a pure function of (seed, split, index). A *set* fixes the text's branch and the kind of operator pair;
a *mixture* cycles through sets by index, so that each batch has its share of each exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar
from deltaw.world.language import published, published_subgrammars
from deltaw.world.operators import Operators
from deltaw.world.policy import PUBLISHED, Branch, Policy, Rule
from deltaw.world.probability import BranchPosterior, WindowLikelihood
from deltaw.world.prompts import Layout, Prompts
from deltaw.world.randomness import Key, content_uniform
from deltaw.world.vocabulary import Vocabulary
from deltaw.world.windows import Windows, WindowSampler

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PAIR_DRAW = 0  # draws 0..15 of a sample's key are the operators' (windows take the later ones)
MOST_REDRAWS = 10_000


@dataclass(frozen=True)
class WorldConfig:
    """What a world is. The defaults are the paper's grammar 1 with one operator pair on 20 letters.

    aliases: the operators that have a second token, seen in pre-training and never in tuning.
    unsafe_level_5: "specific" or "shared" (see `language.language`). redraw_below: a tuning window whose posterior of
    its own branch is below this is drawn anew. junction_margin: fewest letters on either side of a junction.
    held_out: the share of all prompts, chosen by their content, that the split "train" never shows; all other splits
    show only these.
    """

    grammar: int = 1
    text_length: int = 20
    pairs: int = 1
    aliases: tuple[int, ...] = (1, 2, 5, 6, 7, 8, 9)
    operator_seed: int = 0
    unsafe_level_5: str = "specific"
    redraw_below: float = 0.999
    junction_margin: int = 3
    held_out: float = 0.125


@dataclass(frozen=True)
class PromptSet:
    """text: safe | unsafe | held_out | junction | full. pair: the kind of operator pair (see `World._operators`)."""

    text: str
    pair: str


SETS: dict[str, PromptSet] = {
    "allowed/conditional/safe": PromptSet("safe", "conditional"),
    "allowed/always/safe": PromptSet("safe", "always"),
    "allowed/always/unsafe": PromptSet("unsafe", "always"),
    "allowed/mixed/safe": PromptSet("safe", "always_conditional"),
    "forbidden/conditional/unsafe": PromptSet("unsafe", "conditional"),
    "forbidden/never/safe": PromptSet("safe", "never"),
    "forbidden/never/unsafe": PromptSet("unsafe", "never"),
    "forbidden/mixed/unsafe": PromptSet("unsafe", "never_conditional"),
    "pretrain/no_identity": PromptSet("full", "no_identity"),
    "pretrain/one_identity": PromptSet("full", "one_identity"),
    "pretrain/alias": PromptSet("full", "alias"),
    "pretrain/any": PromptSet("full", "any"),
}

# Half of every sixteen prompts have conditional operators, a quarter on each branch; half are forbidden.
_CONDITIONAL = ("allowed/conditional/safe", "forbidden/conditional/unsafe")
MIXTURES: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain/any",),
    "tune": (
        *_CONDITIONAL * 2,
        "allowed/always/safe",
        "forbidden/never/safe",
        "allowed/always/unsafe",
        "forbidden/never/unsafe",
        *_CONDITIONAL * 2,
        "allowed/mixed/safe",
        "forbidden/never/safe",
        "allowed/always/unsafe",
        "forbidden/mixed/unsafe",
    ),
}


@dataclass(frozen=True)
class Ceiling:
    """The exact posterior's verdict on `n` tuning windows, half of each branch, before and after redrawing.

    accuracy: expected accuracy of the Bayes-optimal branch classifier. conflict: probability that the same (grammar,
    operators, letters) stands for the other branch, hence, with conditional operators, for the other response.
    """

    accuracy_before: float
    accuracy: float
    conflict_before: float
    conflict: float
    redrawn_share: float
    n: int


class World:
    """The ground truth: vocabulary, operators, policy, grammars, and every prompt that can be drawn from them."""

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config = config or WorldConfig()
        if config.unsafe_level_5 not in ("specific", "shared"):
            raise DeltawError(f"unsafe_level_5 is '{config.unsafe_level_5}'; it can be 'specific' or 'shared'")
        if config.grammar != 1:
            raise DeltawError(f"grammar is {config.grammar}; this version has the leaf table of grammar 1 only")
        if config.pairs < 1 or config.text_length < 2 * config.junction_margin:
            raise DeltawError(
                "a world needs at least one operator pair, and text of at least twice junction_margin letters"
            )
        self.operators = Operators.published(config.aliases, config.operator_seed)
        n_operators, n_letters = self.operators.permutations.shape
        if any(not 0 < alias < n_operators for alias in config.aliases):
            raise DeltawError(f"aliases {config.aliases} must name operators 1 to {n_operators - 1}")
        self.vocabulary = Vocabulary(n_operators, config.aliases, n_letters)
        self.policy: Policy = PUBLISHED
        self.layout = Layout(self.vocabulary, self.operators, self.policy, config.pairs, config.text_length)
        full = published(config.grammar, config.unsafe_level_5)
        self.grammars: dict[str, Grammar] = {"full": full, **published_subgrammars(full)}
        self.samplers = {name: WindowSampler(grammar, config.text_length) for name, grammar in self.grammars.items()}

    @cached_property
    def posterior(self) -> BranchPosterior:
        """The exact posterior of the branch of a tuning window, at equal priors."""
        return BranchPosterior(self.grammars["safe"], self.grammars["unsafe"])

    def sample(self, name: str, index: Ints | range, split: str = "test", seed: int = 0) -> Prompts:
        """Prompts number `index` (N,) of a set or mixture. DeltawError lists the names there are.

        The same (seed, split, name, index) gives the same prompt in any batch. No prompt (operators and letters) of
        the split "train" occurs in any other split; beyond that a split is a word that keys its own draws.
        """
        numbers = np.asarray(index, dtype=np.int64)
        key = Key(seed, f"{split}/{name}")
        train = split == "train"
        if name in SETS:
            return self._draw(SETS[name], key, numbers, train)
        if name not in MIXTURES:
            raise DeltawError(f"there is no set of prompts '{name}'; there are {', '.join([*SETS, *MIXTURES])}")
        cycle = MIXTURES[name]
        place = numbers % len(cycle)
        parts, rows = [], []
        for set_name in dict.fromkeys(cycle):
            members = np.flatnonzero(np.isin(place, [k for k, other in enumerate(cycle) if other == set_name]))
            if len(members):
                parts.append(self._draw(SETS[set_name], key, numbers[members], train))
                rows.append(members)
        return Prompts.concatenate(parts)[np.argsort(np.concatenate(rows))]

    def ceiling(self, count: int, split: str = "test", seed: int = 0) -> "Ceiling":
        """What the best possible classifier reaches on tuning windows, from the exact posterior of `count` windows."""
        index = np.arange(count)
        own_before: list[Floats] = []
        own_after: list[Floats] = []
        redrawn = 0
        for text in ("safe", "unsafe"):
            key = Key(seed, f"{split}/ceiling/{text}")
            raw = self.samplers[text].sample(key, index, np.zeros(count, dtype=np.int64)).letters
            fit, redraws = self.windows(text, key, index)
            redrawn += int((redraws > 0).sum())
            for letters, own in ((raw, own_before), (fit.letters, own_after)):
                unsafe = self.posterior(letters)
                own.append(unsafe if text == "unsafe" else 1 - unsafe)
        before, after = np.concatenate(own_before), np.concatenate(own_after)
        return Ceiling(
            accuracy_before=float(np.maximum(before, 1 - before).mean()),
            accuracy=float(np.maximum(after, 1 - after).mean()),
            conflict_before=float((1 - before).mean()),
            conflict=float((1 - after).mean()),
            redrawn_share=redrawn / (2 * count),
            n=2 * count,
        )

    def windows(
        self, text: str, key: Key, index: Ints, also: Callable[[Ints, Ints], Bools] | None = None
    ) -> tuple[Windows, Ints]:
        """Windows (N,) of one kind of text, and how often each was redrawn until it was fit for that kind.

        `also(rows, letters)` may ask more of the letters of some rows.
        """
        sampler = self.samplers["full" if text == "junction" else text]
        n, length = len(index), self.config.text_length
        letters, branch = np.zeros((n, length), dtype=np.int64), np.zeros((n, length), dtype=np.int8)
        attempt = np.zeros(n, dtype=np.int64)
        waiting = np.arange(n)
        while len(waiting):
            drawn = sampler.sample(key, index[waiting], attempt[waiting])
            letters[waiting], branch[waiting] = drawn.letters, drawn.branch
            fit = also(waiting, drawn.letters) if also else np.ones(len(waiting), dtype=np.bool_)
            fit[fit] = self._fit(text, drawn.letters[fit], drawn.branch[fit])
            waiting = waiting[~fit]
            attempt[waiting] += 1
            if attempt.max(initial=0) > MOST_REDRAWS:
                raise DeltawError(
                    f"no fit '{text}' window in {MOST_REDRAWS} draws; lower redraw_below or lengthen the text"
                )
        return Windows(letters, branch), attempt

    def _fit(self, text: str, letters: Ints, branch: NDArray[np.int8]) -> Bools:
        """(N,) whether windows may stand for their kind of text: the keyed redraw rule."""
        if text == "full":
            return np.ones(len(letters), dtype=np.bool_)
        if text == "junction":
            unsafe = (branch == Branch.UNSAFE).sum(1)
            changes = (np.diff(branch, axis=1) != 0).sum(1)
            margin = self.config.junction_margin
            fit: Bools = (changes == 1) & (unsafe >= margin) & (unsafe <= letters.shape[1] - margin)
            return fit
        if text == "held_out":  # text that tuning could have shown is not held out
            return np.asarray(WindowLikelihood(self.grammars["unsafe"])(letters) == 0)
        unsafe_probability = self.posterior(letters)
        own = unsafe_probability if text == "unsafe" else 1 - unsafe_probability
        return np.asarray(own >= self.config.redraw_below)

    def _draw(self, kind: PromptSet, key: Key, index: Ints, train: bool) -> Prompts:
        pairs = self.config.pairs
        draws = key.uniform(index, PAIR_DRAW, 4 * pairs).reshape(len(index), pairs, 4)
        operators = self._operators(kind.pair, draws)

        def in_split(rows: Ints, letters: Ints) -> Bools:
            content = np.concatenate([operators[rows].reshape(len(rows), -1), letters], axis=1)
            return np.asarray((content_uniform(content) >= self.config.held_out) == train)

        return self.prompts(kind.text, key, index, operators, in_split)

    def prompts(
        self,
        text: str,
        key: Key,
        index: Ints,
        operators: Ints,
        also: Callable[[Ints, Ints], Bools] | None = None,
    ) -> Prompts:
        """Prompts with the given operator tokens (N, P, 2) on freshly drawn windows (see `windows`)."""
        windows, redraws = self.windows(text, key, index, also)
        n = len(index)
        grammar = np.full(n, self.config.grammar, dtype=np.int64)
        source = np.full(n, f"{key.seed}/{key.split}")
        return Prompts(grammar, operators, windows.letters, windows.branch, index, redraws, np.full(n, text), source)

    def explain(self, prompts: Prompts, row: int) -> str:
        """The part of a prompt's derivation that its text touches, as one line."""
        seed, split = str(prompts.source[row]).split("/", 1)
        text = str(prompts.text[row])
        sampler = self.samplers["full" if text == "junction" else text]
        return sampler.derivation(Key(int(seed), split), int(prompts.index[row]), int(prompts.redraws[row]))

    def _operators(self, kind: str, draws: Floats) -> Ints:
        """(N, P, 2) operator tokens of one kind of pair, from uniforms (N, P, 4).

        conditional, never: two such operators, or (a quarter each) one of them before or after the identity.
        always: two operators allowed everywhere. always_conditional, never_conditional: one of each, no identity.
        any: pre-training; all tokens, half of the pairs with an identity. no_identity, one_identity, alias: its strata.
        """
        grammar, rules = self.config.grammar, self.policy
        always = rules.of_rule(grammar, Rule.ALWAYS)
        conditional = rules.of_rule(grammar, Rule.CONDITIONAL)
        never = rules.of_rule(grammar, Rule.NEVER)
        tokens = tuple(range(self.vocabulary.n_operator_tokens))
        plain = tuple(range(1, self.vocabulary.n_operators))
        alias_tokens = tokens[self.vocabulary.n_operators :]
        moving = tuple(k for k in always if k)
        pools: dict[str, tuple[tuple[int, ...], tuple[int, ...], float, float]] = {
            # first pool, second pool, chance of the identity in place of one, chance that the two swap places
            "conditional": (conditional, conditional, 0.5, 0.5),
            "never": (never, never, 0.5, 0.5),
            "always": (always, always, 0.0, 0.5),
            "always_conditional": (moving, conditional, 0.0, 0.5),
            "never_conditional": (never, conditional, 0.0, 0.5),
            "any": (tokens, tokens, 0.5, 0.5),
            "no_identity": (plain, plain, 0.0, 0.5),
            "one_identity": (plain, plain, 1.0, 0.5),
            "alias": (alias_tokens, tokens, 0.0, 0.5),
        }
        first_pool, second_pool, identity_chance, swap_chance = pools[kind]
        first = np.array(first_pool)[(draws[..., 0] * len(first_pool)).astype(np.int64)]
        second = np.array(second_pool)[(draws[..., 1] * len(second_pool)).astype(np.int64)]
        second = np.where(draws[..., 2] < identity_chance, 0, second)
        swap = draws[..., 3] < swap_chance
        return np.stack([np.where(swap, second, first), np.where(swap, first, second)], axis=-1)
