"""The world as one object, and its prompts by name: which texts, which operators, in which proportions.

Every prompt is a pure function of (seed, split, index). With several grammars or lengths, those of sample i are the
same in every set of a split, so that row by row two sets differ in nothing but what their names say.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.world.config import GrammarConfig, WorldConfig, check
from deltaw.world.grammar import Tree
from deltaw.world.language import Language, language
from deltaw.world.length_conditioning import long_enough
from deltaw.world.operators import Operators
from deltaw.world.policy import Branch, Policy, rules
from deltaw.world.probability import BranchPosterior, WindowLikelihood, unsafe_side_probability
from deltaw.world.prompt_sets import (
    ALL_SETS,
    LEFT_OUT_SETS,
    MIXTURES,
    NEVER_LATE,
    SETS,
    OperatorLaw,
    PromptSet,
    begin_late,
    operator_law,
)
from deltaw.world.prompts import Layout, Prompts
from deltaw.world.randomness import Key, content_uniform
from deltaw.world.vocabulary import Vocabulary
from deltaw.world.windows import Windows, WindowSampler

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Draws 0..15 of a sample's key are for these and the attacks' and views' own (windows take the later ones).
PAIR_DRAW, GRAMMAR_DRAW, LATE_DRAW, LENGTH_DRAW = 0, 1, 2, 3
MOST_REDRAWS = 10_000
MOST_AHEAD, ROWS_AHEAD = 32, 256  # attempts at one window that are drawn at once, and rows of such a call


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


@lru_cache(maxsize=32)
def _texts(source: str, unsafe_level_5: str | None, longest: int) -> tuple[Language, dict[str, WindowSampler]]:
    """A language whose every text fills the longest window, and the samplers of its four grammars, made once."""
    whole = language(source, unsafe_level_5)
    filling = replace(whole, held_out=long_enough(whole.held_out, longest))
    return filling, {name: WindowSampler(grammar, longest) for name, grammar in filling.grammars.items()}


class World:
    """The ground truth: vocabulary, operators, policy, grammars, and every prompt that can be drawn from them."""

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config = config or WorldConfig()
        check(config)
        grammars, count = config.grammars, config.n_operators
        self.numbers = tuple(grammar.number for grammar in grammars)
        compat, constants = config.compat, 2 if config.compat.constant_operators else 0
        ends = compat.window is not None
        self.vocabulary = Vocabulary(count, config.aliases, config.alphabet, compat.null_letter, ends, constants)
        seeds = {grammar.number: grammar.operator_seed for grammar in grammars}
        self.operators = Operators.published(seeds, config.aliases, count, config.alphabet)
        self.policy = Policy({grammar.number: rules(grammar.never, grammar.always, count) for grammar in grammars})
        self.layout = Layout(
            self.vocabulary, self.operators, self.policy, config.pairs, config.longest, config.refusal_nulls
        )
        if compat.window is not None and compat.window <= self.layout.length:
            raise DeltawError(
                f"the window of {compat.window} tokens does not hold a sequence of {self.layout.length} and its end; "
                f"make it {self.layout.length + 1} or more"
            )
        texts = {grammar.number: self._texts(grammar) for grammar in grammars}
        self.languages = {number: spoken for number, (spoken, _) in texts.items()}
        self.samplers = {
            (number, text): sampler for number, (_, samplers) in texts.items() for text, sampler in samplers.items()
        }

    def _texts(self, grammar: GrammarConfig) -> tuple[Language, dict[str, WindowSampler]]:
        largest = max(language(grammar.source, self.config.unsafe_level_5).letters_used)
        if largest >= self.config.alphabet:
            raise DeltawError(
                f"grammar {grammar.number} uses letter {largest}, and alphabet is {self.config.alphabet}; "
                f"make it {largest + 1} or more"
            )
        return _texts(grammar.source, self.config.unsafe_level_5, self.config.longest)

    @property
    def sequence_length(self) -> int:
        """Tokens of a training sequence: the context that a model needs."""
        return self.config.compat.window or self.layout.length

    @cached_property
    def posteriors(self) -> dict[int, BranchPosterior]:
        """For each grammar the exact posterior of the branch of a tuning window, at equal priors."""
        return {number: BranchPosterior(spoken.safe, spoken.unsafe) for number, spoken in self.languages.items()}

    def posterior(self, grammar: Ints, letters: Ints) -> Floats:
        """(N,) probability that windows letters (N, L) of grammars (N,) are of the unsafe branch, at equal priors."""
        return self._by_grammar(grammar, letters, lambda number, part: self.posteriors[number](part))

    def unsafe_side(self, grammar: Ints, letters: Ints) -> Floats:
        """(N,) probability, under the full grammar, that a window has at least one unsafe letter."""
        return self._by_grammar(
            grammar, letters, lambda number, part: unsafe_side_probability(self.languages[number].full, part)
        )

    def _by_grammar(self, grammar: Ints, letters: Ints, function: Callable[[int, Ints], Floats]) -> Floats:
        """`function(number, windows)` for the windows of one grammar at a time, in the rows' order."""
        result = np.empty(len(letters))
        for number, rows in self._groups(grammar):
            result[rows] = function(number, letters[rows])
        return result

    def _groups(self, grammar: Ints) -> Iterator[tuple[int, Ints]]:
        """(number, rows) of each grammar that occurs."""
        for number in self.numbers:
            rows = np.flatnonzero(grammar == number)
            if len(rows):
                yield number, rows

    def sample(self, name: str, index: Ints | range, split: str = "test", seed: int = 0) -> Prompts:
        """Prompts number `index` (N,) of a set or mixture. DeltawError lists the names there are.

        The same (seed, split, name, index) gives the same prompt in any batch. No prompt (operators and letters) of
        the split "train" occurs in any other split; beyond that a split is a word that keys its own draws.
        """
        numbers = np.asarray(index, dtype=np.int64)
        key = Key(seed, f"{split}/{name}")
        if name in ALL_SETS:
            return self._draw(name, key, numbers, split)
        if name not in MIXTURES:
            raise DeltawError(f"there is no set of prompts '{name}'; there are {', '.join((*self.sets, *MIXTURES))}")
        cycle = MIXTURES[name]
        place = numbers % len(cycle)
        parts, rows = [], []
        for set_name in dict.fromkeys(cycle):
            members = np.flatnonzero(np.isin(place, [k for k, other in enumerate(cycle) if other == set_name]))
            if len(members):
                parts.append(self._draw(set_name, key, numbers[members], split))
                rows.append(members)
        return Prompts.concatenate(parts)[np.argsort(np.concatenate(rows))]

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets that this world has operators for; beside them there are the `MIXTURES`."""
        return tuple(name for name, kind in {**SETS, **LEFT_OUT_SETS}.items() if self._laws[kind])

    def ceiling(self, count: int, split: str = "test", seed: int = 0) -> "Ceiling":
        """What the best possible classifier reaches on tuning windows, from the exact posterior of `count` windows."""
        index = np.arange(count)
        grammar, lengths = self._grammars(self.numbers, split, seed, index), self._lengths(split, seed, index)
        own_before: list[Floats] = []
        own_after: list[Floats] = []
        redrawn = 0
        for text in ("safe", "unsafe"):
            key = Key(seed, f"{split}/ceiling/{text}")
            raw = self._windows(text, key, index, np.zeros_like(index), grammar, lengths)
            fit, redraws = self.windows(text, key, index, grammar, lengths)
            redrawn += int((redraws > 0).sum())
            for letters, own in ((raw.letters, own_before), (fit.letters, own_after)):
                unsafe = self.posterior(grammar, letters)
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
        self,
        text: str,
        key: Key,
        index: Ints,
        grammar: Ints,
        lengths: Ints,
        also: Callable[[Ints, Ints], Bools] | None = None,
    ) -> tuple[Windows, Ints]:
        """Windows (N,) of one kind of text, and how often each was redrawn until it was fit for that kind.

        grammar, lengths: (N,) of each window; a redraw changes neither. `also(rows, letters)` may ask more of the
        letters of some rows.
        """
        n, longest = len(index), self.config.longest
        letters, branch = np.zeros((n, longest), dtype=np.int64), np.zeros((n, longest), dtype=np.int8)
        attempt = np.zeros(n, dtype=np.int64)
        waiting = np.arange(n)
        while len(waiting):
            # When few windows wait, several attempts at each are drawn at once: a call costs more than its rows.
            ahead = 1 if attempt[waiting[0]] == 0 else max(1, min(MOST_AHEAD, ROWS_AHEAD // len(waiting)))
            rows = np.repeat(waiting, ahead)
            attempts = (attempt[waiting, None] + np.arange(ahead)).reshape(-1)
            drawn = self._windows(text, key, index[rows], attempts, grammar[rows], lengths[rows])
            fit = also(rows, drawn.letters) if also else np.ones(len(rows), dtype=np.bool_)
            fit[fit] = self._fit(text, grammar[rows][fit], drawn.letters[fit], drawn.branch[fit])
            of_window = fit.reshape(-1, ahead)
            ready = of_window.any(1)
            first = np.where(ready, of_window.argmax(1), ahead)
            taken = np.flatnonzero(ready) * ahead + first[ready]
            letters[waiting[ready]], branch[waiting[ready]] = drawn.letters[taken], drawn.branch[taken]
            attempt[waiting] += first
            waiting = waiting[~ready]
            if attempt[waiting].max(initial=0) > MOST_REDRAWS:
                raise DeltawError(
                    f"no fit '{text}' window in {MOST_REDRAWS} draws; lower redraw_below or lengthen the text"
                )
        return Windows(letters, branch), attempt

    def _windows(self, text: str, key: Key, index: Ints, attempt: Ints, grammar: Ints, lengths: Ints) -> Windows:
        """One draw of each window, fit or not."""
        kind = "full" if text == "junction" else text
        longest = self.config.longest
        letters, branch = (
            np.empty((len(index), longest), dtype=np.int64),
            np.empty((len(index), longest), dtype=np.int8),
        )
        for number, rows in self._groups(grammar):
            sizes = None if self.config.shortest == longest else lengths[rows]
            drawn = self.samplers[number, kind].sample(key, index[rows], attempt[rows], sizes)
            letters[rows], branch[rows] = drawn.letters, drawn.branch
        return Windows(letters, branch)

    def _fit(self, text: str, grammar: Ints, letters: Ints, branch: NDArray[np.int8]) -> Bools:
        """(N,) whether windows may stand for their kind of text: the keyed redraw rule."""
        if text == "full":
            return np.ones(len(letters), dtype=np.bool_)
        if text == "junction":
            unsafe, safe = (branch == Branch.UNSAFE).sum(1), (branch == Branch.SAFE).sum(1)
            changes = ((np.diff(branch, axis=1) != 0) & (branch[:, 1:] >= 0)).sum(1)
            margin = self.config.junction_margin
            fit: Bools = (changes == 1) & (unsafe >= margin) & (safe >= margin)
            return fit
        if text == "held_out":  # text that tuning could have shown is not held out
            seen = self._by_grammar(grammar, letters, lambda number, part: self._seen_in_tuning[number](part))
            return np.asarray(seen == 0)
        unsafe_probability = self.posterior(grammar, letters)
        own = unsafe_probability if text == "unsafe" else 1 - unsafe_probability
        return np.asarray(own >= self.config.redraw_below)

    @cached_property
    def _seen_in_tuning(self) -> dict[int, WindowLikelihood]:
        return {number: WindowLikelihood(spoken.unsafe) for number, spoken in self.languages.items()}

    def _grammars(self, numbers: tuple[int, ...], split: str, seed: int, index: Ints) -> Ints:
        """(N,) the grammar of each sample, uniform over `numbers`: a draw that no set's name enters."""
        if len(numbers) == 1:
            return np.full(len(index), numbers[0], dtype=np.int64)
        uniform = Key(seed, f"{split}/grammar").uniform(index, GRAMMAR_DRAW)[:, 0]
        return np.array(numbers, dtype=np.int64)[(uniform * len(numbers)).astype(np.int64)]

    def _lengths(self, split: str, seed: int, index: Ints) -> Ints:
        """(N,) letters of each sample's text, uniform over what `text_length` says."""
        shortest, longest = self.config.shortest, self.config.longest
        if shortest == longest:
            return np.full(len(index), longest, dtype=np.int64)
        uniform = Key(seed, f"{split}/length").uniform(index, LENGTH_DRAW)[:, 0]
        return shortest + (uniform * (longest - shortest + 1)).astype(np.int64)

    def _draw(self, name: str, key: Key, index: Ints, split: str) -> Prompts:
        kind = ALL_SETS[name]
        laws = self._laws[kind]
        if not laws:
            raise DeltawError(f"this world has no operators for the set '{name}'; see left_out and its grammars' rules")
        grammar = self._grammars(tuple(laws), split, key.seed, index)
        operators = self._operators(name, laws, key, index, grammar)
        train = split == "train"
        lengths = self._lengths(split, key.seed, index)
        if self.config.held_out == 0:
            return self.prompts(kind.text, key, index, operators, grammar, lengths)

        def in_split(rows: Ints, letters: Ints) -> Bools:
            content = np.concatenate([operators[rows].reshape(len(rows), -1), letters], axis=1)
            return np.asarray((content_uniform(content) >= self.config.held_out) == train)

        return self.prompts(kind.text, key, index, operators, grammar, lengths, in_split)

    @cached_property
    def _laws(self) -> dict[PromptSet, dict[int, OperatorLaw]]:
        """The law of each kind of prompt's operators, in each grammar that has operators for it."""
        by_grammar: dict[PromptSet, dict[int, OperatorLaw]] = {}
        for kind in ALL_SETS.values():
            laws = {n: operator_law(self.config, self.vocabulary, self.policy, n, kind) for n in self.numbers}
            by_grammar[kind] = {number: law for number, law in laws.items() if law is not None}
        return by_grammar

    def _operators(self, name: str, laws: dict[int, OperatorLaw], key: Key, index: Ints, grammar: Ints) -> Ints:
        """(N, P, 2) operator tokens of a set, each grammar's by its own law."""
        pairs = self.config.pairs
        draws = key.uniform(index, PAIR_DRAW, max(law.uniforms(pairs) for law in laws.values()))
        operators = np.empty((len(index), pairs, 2), dtype=np.int64)
        for number, rows in self._groups(grammar):
            operators[rows] = laws[number].draw(draws[rows])
        if pairs == 1 or name.startswith(NEVER_LATE):
            return operators
        return begin_late(operators, key.uniform(index, LATE_DRAW)[:, 0], self.config.late)

    def prompts(
        self,
        text: str,
        key: Key,
        index: Ints,
        operators: Ints,
        grammar: Ints,
        lengths: Ints,
        also: Callable[[Ints, Ints], Bools] | None = None,
    ) -> Prompts:
        """Prompts with the given operator tokens (N, P, 2) on freshly drawn windows (see `windows`)."""
        windows, redraws = self.windows(text, key, index, grammar, lengths, also)
        n = len(index)
        source = np.full(n, f"{key.seed}/{key.split}")
        return Prompts(grammar, operators, windows.letters, windows.branch, index, redraws, np.full(n, text), source)

    def derivation(self, prompts: Prompts, row: int) -> tuple[Tree, int]:
        """The part of a prompt's derivation that its text touches, and how many of its letters come before the text."""
        seed, split = str(prompts.source[row]).split("/", 1)
        text = str(prompts.text[row])
        sampler = self.samplers[int(prompts.grammar[row]), "full" if text == "junction" else text]
        key, length = Key(int(seed), split), int(prompts.lengths[row])
        return sampler.derivation(key, int(prompts.index[row]), int(prompts.redraws[row]), length)

    def explain(self, prompts: Prompts, row: int) -> str:
        """The part of a prompt's derivation that its text touches, as a line: `10#(n'(...) x'(...))`."""
        return str(self.derivation(prompts, row)[0])
