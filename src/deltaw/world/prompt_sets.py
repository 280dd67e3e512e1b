"""Sets of prompts by name, mixtures of sets, and the operators that each kind of set draws.

A *set* fixes the branch of the text and the kind of operator pair; a *mixture* cycles through sets by index, so that
each batch has its share of each exactly. The kind holds for every pair of a prompt, except that `late` tuning prompts
begin with pairs of identities. Allowed prompts begin so as often as forbidden ones, hence such a pair tells nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deltaw.world.config import WorldConfig
from deltaw.world.policy import Policy, Rule
from deltaw.world.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PromptSet:
    """text: safe | unsafe | held_out | junction | full. pair: the kind of operator pair (see `pools`).

    left_out: of the operators that tuning never shows, instead of those that it shows.
    """

    text: str
    pair: str
    left_out: bool = False


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

# For worlds whose `left_out` names operators: is refusal a concept, or a list of tokens? The first set is allowed.
LEFT_OUT_SETS: dict[str, PromptSet] = {
    "left_out/conditional/safe": PromptSet("safe", "conditional", left_out=True),
    "left_out/conditional/unsafe": PromptSet("unsafe", "conditional", left_out=True),
    "left_out/never/safe": PromptSet("safe", "never", left_out=True),
    "left_out/never/unsafe": PromptSet("unsafe", "never", left_out=True),
}

# What the published safety data draw (see `TokenLaw`); `training.TuningConfig.allowed_batches` takes them.
PUBLISHED_SETS: dict[str, PromptSet] = {
    "published/allowed/safe": PromptSet("safe", "published_allowed"),
    "published/allowed/unsafe": PromptSet("unsafe", "published_allowed"),
    "published/forbidden/safe": PromptSet("safe", "published_forbidden"),
    "published/forbidden/unsafe": PromptSet("unsafe", "published_forbidden"),
}

ALL_SETS = {**SETS, **LEFT_OUT_SETS, **PUBLISHED_SETS}
NEVER_LATE = ("pretrain/", "published/allowed/")  # how the names of sets begin that `begin_late` leaves alone

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
    "published/allowed": ("published/allowed/safe", "published/allowed/unsafe"),
    "published/forbidden": ("published/forbidden/safe", "published/forbidden/unsafe"),
}


@dataclass(frozen=True)
class Pool:
    """Tokens to draw from. With a rate, that share of draws falls on the last `rare` tokens."""

    tokens: tuple[int, ...]
    rare: int = 0
    rate: float | None = None

    def pick(self, uniform: Floats) -> Ints:
        """A token for each uniform in [0, 1)."""
        tokens = np.array(self.tokens)
        if self.rate is None:
            return np.asarray(tokens[(uniform * len(tokens)).astype(np.int64)])
        common = len(tokens) - self.rare
        of_common = np.minimum((uniform - self.rate) / (1 - self.rate) * common, common - 1)
        of_rare = common + uniform / max(self.rate, 1e-300) * self.rare
        return np.asarray(tokens[np.where(uniform < self.rate, of_rare, of_common).astype(np.int64)])


@dataclass(frozen=True)
class PairLaw:
    """How a pair is drawn: a pool for each place, the chance of the identity in place of the second, of a swap."""

    first: Pool
    second: Pool
    identity: float
    swap: float = 0.5

    @staticmethod
    def uniforms(pairs: int) -> int:
        """How many uniforms a prompt takes."""
        return 4 * pairs

    def draw(self, uniforms: Floats) -> Ints:
        """(N, P, 2) operator tokens from uniforms (N, 4P)."""
        uniforms = uniforms.reshape(len(uniforms), -1, 4)
        first, second = self.first.pick(uniforms[..., 0]), self.second.pick(uniforms[..., 1])
        second = np.where(uniforms[..., 2] < self.identity, 0, second)
        swap = uniforms[..., 3] < self.swap
        return np.stack([np.where(swap, second, first), np.where(swap, first, second)], axis=-1)


@dataclass(frozen=True)
class TokenLaw:
    """How the published data draw a prompt's tokens: each from a pool; in half of the prompts one place, any of them,
    holds a forced token instead.

    forbidden: a forbidden prompt is made from an allowed one, pair by pair: what stands beside a lone identity, or both
    operators of any other pair, are drawn anew from this pool.
    """

    pool: Pool
    forced: Pool
    forbidden: Pool | None = None

    @staticmethod
    def uniforms(pairs: int) -> int:
        """How many uniforms a prompt takes."""
        return 4 * pairs + 3

    def draw(self, uniforms: Floats) -> Ints:
        """(N, P, 2) operator tokens from uniforms (N, 4P + 3)."""
        (coin, which, where), (drawn, anew) = uniforms[:, :3].T, np.split(uniforms[:, 3:], 2, axis=1)
        tokens, places = self.pool.pick(drawn), drawn.shape[1]
        is_forced = (np.arange(places) == (where * places).astype(np.int64)[:, None]) & (coin < 0.5)[:, None]
        pairs = np.where(is_forced, self.forced.pick(which)[:, None], tokens).reshape(len(tokens), -1, 2)
        if self.forbidden is None:
            return pairs
        lone = ((pairs == 0).sum(2) == 1)[..., None] & (pairs == 0)
        return np.where(lone, 0, self.forbidden.pick(anew).reshape(pairs.shape))


OperatorLaw = PairLaw | TokenLaw


def operator_law(
    config: WorldConfig, vocabulary: Vocabulary, policy: Policy, grammar: int, kind: PromptSet
) -> OperatorLaw | None:
    """The law of one kind of prompt's operators in one grammar; None if the grammar has no operator for it."""

    def of_rule(*rules: Rule) -> Pool:
        return Pool(tuple(k for k in policy.of_rule(grammar, *rules) if k not in config.left_out))

    everything = tuple(range(vocabulary.n_operator_tokens))
    if kind.pair == "any" and config.compat.forced_identity:
        # The published list of identities was read from the wrong end: it holds the aliases of another operator.
        return TokenLaw(Pool(everything), Pool((0, *everything[vocabulary.n_operators :][-2:])))
    if not kind.pair.startswith("published_"):
        return pair_law(config, vocabulary, policy, grammar, kind)
    conditional = (Rule.CONDITIONAL,)
    allowed, forbidden = (conditional, ()) if kind.text == "safe" else ((), conditional)
    stored = TokenLaw(of_rule(Rule.ALWAYS, *allowed), Pool((0,)))
    return stored if kind.pair == "published_allowed" else replace(stored, forbidden=of_rule(Rule.NEVER, *forbidden))


def pair_law(
    config: WorldConfig, vocabulary: Vocabulary, policy: Policy, grammar: int, kind: PromptSet
) -> PairLaw | None:
    """The law of one kind of pair in one grammar; None if the grammar has no operator for it.

    conditional, never: two such operators, or (a quarter each) one of them before or after the identity.
    always: two operators allowed everywhere. always_conditional, never_conditional: one of each, no identity.
    any: pre-training; all tokens, half of the pairs with an identity. no_identity, one_identity, alias: its strata.
    """

    def of_rule(rule: Rule) -> Pool:
        chosen = policy.of_rule(grammar, rule)
        return Pool(tuple(k for k in chosen if (k in config.left_out) == kind.left_out))

    always, conditional, never = of_rule(Rule.ALWAYS), of_rule(Rule.CONDITIONAL), of_rule(Rule.NEVER)
    moving = Pool(tuple(k for k in always.tokens if k))
    everything = tuple(range(vocabulary.n_operator_tokens))
    aliases = Pool(everything[vocabulary.n_operators :])
    tokens = Pool(everything, len(aliases.tokens), config.alias_rate if aliases.tokens else None)
    plain = Pool(tuple(range(1, vocabulary.n_operators)))
    law = {
        "conditional": PairLaw(conditional, conditional, identity=0.5),
        "never": PairLaw(never, never, identity=0.5),
        "always": PairLaw(always, always, identity=0.0),
        "always_conditional": PairLaw(moving, conditional, identity=0.0),
        "never_conditional": PairLaw(never, conditional, identity=0.0),
        "any": PairLaw(tokens, tokens, identity=0.5),
        "no_identity": PairLaw(plain, plain, identity=0.0),
        "one_identity": PairLaw(plain, plain, identity=1.0),
        "alias": PairLaw(aliases, Pool(everything), identity=0.0),
    }[kind.pair]
    return law if law.first.tokens and law.second.tokens else None


def begin_late(operators: Ints, uniforms: Floats, late: float) -> Ints:
    """A `late` share of prompts (N, P, 2) begins with pairs of identities: 1 to P - 1 of them, equally likely."""
    pairs = operators.shape[1]
    if pairs == 1 or late == 0:
        return operators
    early = np.where(uniforms < late, 1 + np.floor(np.minimum(uniforms / late, 1 - 1e-12) * (pairs - 1)), 0)
    return np.where((np.arange(pairs) < early[:, None])[..., None], 0, operators)
