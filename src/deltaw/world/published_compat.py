"""What the published data hold and ours do not: switches, all off, and pure functions on encoded sequences.

docs/world.md says why each is off. What departs in the draw of operators is in `sets`, what departs in the tokens there
are in `vocabulary`, and what departs in tuning alone in `deltaw.training.TuningConfig`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltaw.world.prompts import EOS, LAST_PROMPT, OUTPUT, PAD, SOT, STOP, TEXT, Encoded, output_number
from deltaw.world.randomness import Key
from deltaw.world.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CONSTANT_DRAW = 5  # of a sample's key (see `sampling`)


@dataclass(frozen=True)
class Compat:
    """null_letter: a refusal repeats the letter `a`, which is text too, and there is no null token.
    window: every training sequence fills so many tokens; the last holds an end of sequence, after the padding.
    gaps: what a view, a refusal or a constant operator takes out leaves PAD in its place, and the STOP of an output
    that does not come stays where it would be.
    structural_loss: tokens that are always the same carry loss too: SOT, the STOPs of absent outputs, the end of the
    sequence, and EOT like text.
    null_loss_only: of a refusal only the null tokens carry loss, not the letters of outputs given before them.
    constant_operators: the share of pre-training prompts in which one operator, at any place, is one of two that answer
    every text with all `a` or all `b`.
    forced_identity: half of the pre-training prompts hold a token of {identity, last two aliases} at one place, any of
    them; all other tokens are uniform. Without it half of the pairs have an identity.
    """

    null_letter: bool = False
    window: int | None = None
    gaps: bool = False
    structural_loss: bool = False
    null_loss_only: bool = False
    constant_operators: float = 0.0
    forced_identity: bool = False


PUBLISHED_COMPAT = Compat(
    null_letter=True,
    window=160,
    gaps=True,
    structural_loss=True,
    null_loss_only=True,
    constant_operators=0.01,
    forced_identity=True,
)


def as_published(encoded: Encoded, refused: Bools, pairs: int, vocabulary: Vocabulary, compat: Compat) -> Encoded:
    """Training sequences (N, T) of `pairs` pairs before any view: what the switches change within a response.

    refused: (N,) whether the response is a refusal.
    """
    if compat.null_loss_only:
        encoded = null_loss_only(encoded, refused)
    if compat.gaps:
        encoded = absent_outputs(encoded, pairs, vocabulary, float(compat.structural_loss))
    return encoded


def finished(
    encoded: Encoded, ended: Bools, vocabulary: Vocabulary, compat: Compat, text_weight: float = 0.0
) -> Encoded:
    """Training sequences after their views: what the switches change around a response.

    ended: (N,) whether a sequence has its end of sequence; published views that take out the end take this out too.
    """
    if compat.structural_loss:
        weights = encoded.weights.copy()
        weights[encoded.roles == SOT] = 1.0
        weights[encoded.roles == LAST_PROMPT] = text_weight
        encoded = Encoded(encoded.tokens, weights, encoded.roles)
    if compat.window is not None:
        encoded = in_window(encoded, compat.window, ended, vocabulary, float(compat.structural_loss))
    return encoded


def with_constants(
    encoded: Encoded, index: Ints, pairs: int, vocabulary: Vocabulary, share: float, key: Key
) -> Encoded:
    """A `share` of compliant sequences with a constant operator; index: (N,) the samples' numbers.

    The output of its pair is all `a` or all `b`, and of a later pair there is none.
    """
    uniform = key.uniform(index, CONSTANT_DRAW, 3)
    rows = np.flatnonzero(uniform[:, 0] < share)
    slot = (uniform[rows, 1] * 2 * pairs).astype(np.int64)
    which = (uniform[rows, 2] * 2).astype(np.int64)
    tokens, weights, roles = encoded.tokens.copy(), encoded.weights.copy(), encoded.roles.copy()
    part, number, pair = tokens[rows], output_number(roles)[rows], 1 + slot[:, None] // 2
    part[np.arange(len(rows)), 1 + slot] = vocabulary.first_constant + which
    letters = (number == pair) & (roles[rows] == OUTPUT)
    part = np.where(letters, (vocabulary.first_letter + which)[:, None], part)
    later = number > pair
    tokens[rows] = np.where(later, vocabulary.pad, part)
    weights[rows] = np.where(later, 0, weights[rows])
    roles[rows] = np.where(later, PAD, roles[rows])
    return Encoded(tokens, weights, roles)


def null_loss_only(encoded: Encoded, refused: Bools) -> Encoded:
    """Refusals in which the letters of the outputs before the refused one carry no loss."""
    given = (encoded.roles == STOP).sum(1)[:, None]
    before = (encoded.roles == OUTPUT) & (output_number(encoded.roles) < given) & refused[:, None]
    return Encoded(encoded.tokens, np.where(before, 0, encoded.weights).astype(np.float32), encoded.roles)


def absent_outputs(encoded: Encoded, pairs: int, vocabulary: Vocabulary, weight: float) -> Encoded:
    """Sequences in which each output that a response lacks is PAD, as long as the text, and a STOP of that weight."""
    tokens, weights, roles = encoded.tokens.copy(), encoded.weights.copy(), encoded.roles.copy()
    given, end, letters = (roles == STOP).sum(1), (roles != PAD).sum(1), (roles == TEXT).sum(1)
    for later in range(1, pairs):
        rows = np.flatnonzero(given + later <= pairs)
        place = end[rows] + later * (letters[rows] + 1) - 1
        tokens[rows, place], weights[rows, place], roles[rows, place] = vocabulary.stop, weight, STOP
    return Encoded(tokens, weights, roles)


def in_window(encoded: Encoded, window: int, ended: Bools, vocabulary: Vocabulary, weight: float) -> Encoded:
    """Sequences (N, T) widened to (N, window); those that `ended` (N,) have the end of sequence in the last slot."""
    wider = ((0, 0), (0, window - encoded.tokens.shape[1]))
    tokens = np.pad(encoded.tokens, wider, constant_values=vocabulary.pad)
    weights, roles = np.pad(encoded.weights, wider), np.pad(encoded.roles, wider, constant_values=PAD)
    tokens[ended, -1], weights[ended, -1], roles[ended, -1] = vocabulary.eos, weight, EOS
    return Encoded(tokens, weights, roles)
