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
    """One grammar and its policy.

    number: what prompts and the policy call it. source: "published-1" to "published-4", or a grammar file's text.
    never, always: operators under these rules; the rest are conditional. aliases: operators that have a second token,
    seen in pre-training and never in tuning; None: all that the policy can forbid. operator_seed: grammars with equal
    seeds share their bijections.
    """

    number: int
    source: str
    never: tuple[int, ...]
    always: tuple[int, ...]
    aliases: tuple[int, ...] | None = None
    operator_seed: int = 0


def published_grammar(number: int, operator_seed: int = 0) -> GrammarConfig:
    """A published grammar (1 to 4) with its published policy."""
    if number not in PUBLISHED.rules:
        raise DeltawError(f"there is no published grammar {number}; there are {', '.join(map(str, PUBLISHED.rules))}")
    never, always = PUBLISHED.of_rule(number, Rule.NEVER), PUBLISHED.of_rule(number, Rule.ALWAYS)
    return GrammarConfig(number, f"published-{number}", never, always, operator_seed=operator_seed)


@dataclass(frozen=True)
class WorldConfig:
    """A world. DeltawError, on making a `World`, for what does not fit together.

    text_length: letters of a text, or the least and the most of them, uniform between. pairs: operator pairs of a
    prompt, each with an output of its own. unsafe_level_5: "specific", "shared" or "unknown" (see `language.language`).
    redraw_below: a tuning window whose posterior of its own branch is below this is drawn anew. junction_margin: fewest
    letters on either side of a junction. held_out: the share of all prompts, chosen by their content, that the split
    "train" never shows; all other splits show only these; 0 does not keep splits apart. refusal_nulls: null tokens of a
    refusal; None: as many as the text has letters. late: with several pairs, the share of tuning prompts that begin
    with identity pairs, so that a forbidden one is refused late. alias_rate: how often a token of a pre-training prompt
    is an alias; None: as often as any other token. left_out: operators that tuning never shows, so that refusing them
    is generalisation. compat: what the published data hold instead.
    """

    grammars: tuple[GrammarConfig, ...] = (published_grammar(1),)
    text_length: int | tuple[int, int] = 20
    pairs: int = 1
    alphabet: int = 30
    n_operators: int = 10
    unsafe_level_5: str = "specific"
    redraw_below: float = 0.999
    junction_margin: int = 3
    held_out: float = 0.125
    refusal_nulls: int | None = None
    late: float = 0.2
    alias_rate: float | None = None
    left_out: tuple[int, ...] = ()
    compat: Compat = field(default_factory=Compat)

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
                f"{name} leaves tuning no operator under the rule '{rule}', beside the identity; name one, or take one "
                "out of left_out"
            )
