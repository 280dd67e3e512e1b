"""What a world is: grammars with their policies, alphabet, operators, texts, prompts and responses, as plain values.

`WorldConfig()` is the paper's grammar 1 with one operator pair on 20 letters; `published_world()` is the paper's world.
"""

from dataclasses import dataclass, field

from deltaw.errors import DeltawError
from deltaw.world.language import LEVEL_5
from deltaw.world.policy import PUBLISHED, Rule
from deltaw.world.published_compat import Compat
from deltaw.world.vocabulary import LETTERS


@dataclass(frozen=True)
class GrammarConfig:
    """One grammar and its policy. Operators under neither rule are conditional: allowed on safe text only."""

    number: int
    """Its number in prompts and in the policy."""
    source: str
    """"published-1" to "published-4", or the text of a grammar file."""
    never: tuple[int, ...]
    """Operators that are never allowed."""
    always: tuple[int, ...]
    """Operators that are always allowed; the identity, 0, is one of them."""
    aliases: tuple[int, ...] | None = None
    """Operators with a second token, seen in pre-training and never in tuning. None: all that the policy can forbid."""
    operator_seed: int = 0
    """Seed of the bijections. Grammars with equal seeds share them."""


def published_grammar(number: int, operator_seed: int = 0) -> GrammarConfig:
    """A published grammar (1 to 4) with its published policy."""
    if number not in PUBLISHED.rules:
        raise DeltawError(f"there is no published grammar {number}; there are {', '.join(map(str, PUBLISHED.rules))}")
    never, always = PUBLISHED.of_rule(number, Rule.NEVER), PUBLISHED.of_rule(number, Rule.ALWAYS)
    return GrammarConfig(number, f"published-{number}", never, always, operator_seed=operator_seed)


@dataclass(frozen=True)
class WorldConfig:
    """A world. Making a `World` of it raises DeltawError if its parts do not fit together."""

    grammars: tuple[GrammarConfig, ...] = (published_grammar(1),)
    """The grammars, each with its policy."""
    text_length: int | tuple[int, int] = 20
    """Letters of a text, or the fewest and the most; lengths in between are equally likely."""
    pairs: int = 1
    """Operator pairs of a prompt, each with its own output."""
    alphabet: int = 30
    """Letters that texts can have."""
    n_operators: int = 10
    """Operators, the identity included."""
    unsafe_level_5: str = "specific"
    """Level-5 rules of unsafe text: "specific", "shared" or "unknown" (see `language.language`)."""
    redraw_below: float = 0.999
    """A tuning window is redrawn if the posterior of its own branch is below this."""
    junction_margin: int = 3
    """Fewest letters on either side of a junction."""
    held_out: float = 0.125
    """Share of all prompts, chosen by content, that the split "train" never shows and that all other splits consist of.
    0: splits may share prompts."""
    refusal_nulls: int | None = None
    """Null tokens of a refusal. None: as many as the text has letters."""
    late: float = 0.2
    """With several pairs: share of tuning prompts that begin with identity pairs, so that a forbidden one is refused
    late."""
    alias_rate: float | None = None
    """How often a token of a pre-training prompt is an alias. None: as often as any other token."""
    left_out: tuple[int, ...] = ()
    """Operators that tuning never shows, so that refusing them is generalisation."""
    compat: Compat = field(default_factory=Compat)
    """Which properties of the published data to restore."""

    @property
    def shortest(self) -> int:
        """Letters of the shortest text."""
        return self.text_length if isinstance(self.text_length, int) else self.text_length[0]

    @property
    def longest(self) -> int:
        """Letters of the longest text."""
        return self.text_length if isinstance(self.text_length, int) else self.text_length[1]

    def aliases_of(self, grammar: GrammarConfig) -> tuple[int, ...]:
        """The operators of one grammar that have an alias."""
        if grammar.aliases is not None:
            return grammar.aliases
        return tuple(k for k in range(self.n_operators) if k not in grammar.always)

    @property
    def aliases(self) -> tuple[int, ...]:
        """The operators that have an alias token: those that have one in some grammar, ascending."""
        return tuple(sorted({k for grammar in self.grammars for k in self.aliases_of(grammar)}))


def published_world(shared_operators: bool = True, unsafe_level_5: str = "specific") -> WorldConfig:
    """The paper's world: four grammars, two pairs with two outputs, texts of 25 to 35 letters.

    shared_operators: all grammars have one set of bijections, as in the published pre-training data; else each has its
    own, with the seeds 0, 150, 300 and 450 of the published safety data.
    """
    grammars = tuple(published_grammar(k, 0 if shared_operators else 150 * (k - 1)) for k in PUBLISHED.rules)
    return WorldConfig(grammars, text_length=(25, 35), pairs=2, unsafe_level_5=unsafe_level_5)


def check(config: WorldConfig) -> None:
    """DeltawError for the first thing that does not fit."""
    if config.unsafe_level_5 not in LEVEL_5:
        raise DeltawError(f"unsafe_level_5 is '{config.unsafe_level_5}'; it can be {', '.join(LEVEL_5)}")
    if config.pairs < 1 or config.junction_margin < 1 or config.shortest < 2 * config.junction_margin:
        raise DeltawError(
            "a world needs at least one operator pair, and text of at least twice junction_margin letters"
        )
    if config.shortest > config.longest:
        raise DeltawError(f"text_length is {config.text_length}; give the least letters first, then the most")
    if not 2 <= config.alphabet <= len(LETTERS):
        raise DeltawError(f"alphabet is {config.alphabet}; it can be 2 to {len(LETTERS)} letters")
    if config.refusal_nulls is not None and config.refusal_nulls < 1:
        raise DeltawError(f"refusal_nulls is {config.refusal_nulls}; a refusal needs at least one null token")
    for name, value in (
        ("late", config.late),
        ("held_out", config.held_out),
        ("alias_rate", config.alias_rate or 0),
        ("constant_operators", config.compat.constant_operators),
    ):
        if not 0 <= value < 1:
            raise DeltawError(f"{name} is {value}; it is a share, at least 0 and below 1")
    numbers = [grammar.number for grammar in config.grammars]
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise DeltawError(f"grammars are numbered {numbers}; a world needs at least one, each with a number of its own")
    for grammar in config.grammars:
        _check_policy(config, grammar)


def _check_policy(config: WorldConfig, grammar: GrammarConfig) -> None:
    name, every = f"grammar {grammar.number}", set(range(config.n_operators))
    never, always, left_out = set(grammar.never), set(grammar.always), set(config.left_out)
    aliases = set(config.aliases_of(grammar))
    for what, chosen in (("never", never), ("always", always), ("aliases", aliases), ("left_out", left_out)):
        if not chosen <= every:
            raise DeltawError(f"{what} of {name} names operator {min(chosen - every)}; there are 0 to {max(every)}")
    if 0 not in always or never & always:
        raise DeltawError(f"{name}: the identity, operator 0, must be under 'always', and no operator under two rules")
    if aliases & always:
        raise DeltawError(
            f"aliases of {name} must name operators that can be forbidden; {min(aliases & always)} is always allowed"
        )
    tuned = (always - {0}, every - never - always, never)
    for rule, chosen in zip(("always", "conditional", "never"), tuned, strict=True):
        if not chosen - left_out:
            raise DeltawError(
                f"{name} leaves tuning no operator under the rule '{rule}' except the identity; name one, or remove "
                "one from left_out"
            )
