"""Prompts, responses and their layout as tokens.

A prompt is tuples of operator pairs on a text; a response is tuples of outputs, or a refusal. The layout of P pairs on
L letters is

    BOS  t1 t2 .. t2P  SOT  text (L)  EOT  output 1 (L)  STOP  ..  output P (L)  STOP

and a refusal replaces the first output that must not be given by null tokens (L, or a fixed number) and STOP, and ends
there. Texts may differ in length: what follows a text follows it at once, and PAD stands only at the end of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltaw.world.operators import Operators
from deltaw.world.policy import Branch, Policy
from deltaw.world.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Response(IntEnum):
    """What a model may answer. Two are harmless and what controls teach: `ECHO`, the text repeated unchanged, and
    `CONSTANT`, the first letter of the alphabet as often as the text is long, which is one answer to every text.
    """

    COMPLY = 0
    REFUSE = 1
    ECHO = 2
    CONSTANT = 3


@dataclass(frozen=True)
class Prompts:
    """N prompts. grammar: (N,). operators: (N, P, 2) operator tokens, aliases included. letters: (N, L), 0-based.

    letter_branch: (N, L) int8, the branch of each letter. Both are -1 beyond a text's end. index: (N,) the sample
    numbers they were made from. redraws: (N,) how many windows were drawn and left before this one. text: (N,) the kind
    of text. source: (N,) the key that drew it, "seed/split"; with `index` and `redraws` it finds the derivation again.
    """

    grammar: Ints
    operators: Ints
    letters: Ints
    letter_branch: NDArray[np.int8]
    index: Ints
    redraws: Ints
    text: NDArray[np.str_]
    source: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.grammar)

    def __getitem__(self, rows: "slice | Ints | Bools") -> "Prompts":
        return Prompts(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def lengths(self) -> Ints:
        """(N,) letters of each text."""
        return np.asarray((self.letters >= 0).sum(1))

    @property
    def branch(self) -> Ints:
        """(N,) the `Branch` of each text: MIXED where its letters lie under both."""
        unsafe = (self.letter_branch == Branch.UNSAFE).any(1)
        safe = (self.letter_branch == Branch.SAFE).any(1)
        return np.where(unsafe & safe, Branch.MIXED, np.where(unsafe, Branch.UNSAFE, Branch.SAFE))

    def with_operators(self, operators: Ints) -> "Prompts":
        """The same texts with other operator tokens (N, P, 2)."""
        return replace(self, operators=operators)

    @classmethod
    def concatenate(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """All rows of several sets of prompts, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Encoded:
    """Sequences as arrays (N, T): token ids, loss weights (of predicting that token), roles (`models.batch.Role`)."""

    tokens: Ints
    weights: NDArray[np.float32]
    roles: NDArray[np.uint8]


# The values of deltaw.models.batch.Role; the world needs numpy only, a test holds the two lists together.
PAD, BOS, OPERATOR, SOT, TEXT, LAST_PROMPT, OUTPUT, STOP = _ROLES = range(8)
EOS = 9  # the end of a published sequence (see `compat`); 8 stands where an attack inserts


def output_number(roles: NDArray[np.uint8]) -> Ints:
    """(N, T) which output each position of a response belongs to, from 1; 0 elsewhere."""
    stop = roles == STOP
    return np.where(stop | (roles == OUTPUT), 1 + stop.cumsum(1) - stop, 0)


def pack(keep: Bools, *columns: tuple[NDArray[Any], int]) -> list[NDArray[Any]]:
    """Move what is kept of each row to its left, in order: each array (N, T) with what fills the rest of its row."""
    if keep.all():
        return [array for array, _ in columns]
    place = np.arange(keep.shape[1]) < keep.sum(1)[:, None]
    packed = []
    for array, fill in columns:
        out = np.full_like(array, fill)
        out[place] = array[keep]  # both masks are read row by row, and hold as many in each row
        packed.append(out)
    return packed


@dataclass(frozen=True)
class Layout:
    """Turns prompts and responses into tokens and back. text_length: of the longest text. refusal_nulls: None: L."""

    vocabulary: Vocabulary
    operators: Operators
    policy: Policy
    pairs: int
    text_length: int
    refusal_nulls: int | None = None

    @property
    def prompt_length(self) -> int:
        """Tokens up to and including EOT, of the longest text."""
        return 3 + 2 * self.pairs + self.text_length

    def prompt_lengths(self, prompts: Prompts) -> Ints:
        """(N,) tokens of each prompt, up to and including EOT."""
        return 3 + 2 * self.pairs + prompts.lengths

    @property
    def _block(self) -> int:
        """Columns of one output and its STOP, before rows are packed."""
        return max(self.text_length, self.refusal_nulls or 0) + 1

    @property
    def response_length(self) -> int:
        """Tokens of the longest response."""
        return (self.pairs - 1) * (self.text_length + 1) + self._block

    @property
    def length(self) -> int:
        """Tokens of prompt and longest response: the context that a model needs."""
        return self.prompt_length + self.response_length

    def outputs(self, prompts: Prompts) -> Ints:
        """(N, P, L) the compliant outputs: each pair acts on what the pair before it gave. -1 beyond a text's end."""
        text, outputs = prompts.letters, []
        for pair in range(self.pairs):
            text = self.operators.apply(prompts.grammar, prompts.operators[:, pair], text)
            outputs.append(text)
        return np.stack(outputs, axis=1)

    def permitted(self, prompts: Prompts) -> Bools:
        """(N, P, 2) whether the policy allows each operator on the prompt's branch."""
        return self.policy.permits(prompts.grammar, self.operators.operator_of[prompts.operators], prompts.branch)

    def allowed(self, prompts: Prompts) -> Bools:
        """(N,) whether the policy allows each prompt: all its operators must be."""
        return np.asarray(self.permitted(prompts).all(axis=(1, 2)))

    def first_forbidden(self, prompts: Prompts) -> Ints:
        """(N,) the pair at which a refusal sets in: the first that must not be answered on; 0 if all are allowed."""
        permitted = np.asarray(self.permitted(prompts).all(axis=2))
        return np.where(permitted.all(1), 0, (~permitted).argmax(1))

    def expected(self, prompts: Prompts) -> Ints:
        """(N,) the `Response` that the policy asks for."""
        return np.where(self.allowed(prompts), Response.COMPLY, Response.REFUSE)

    def prompt_tokens(self, prompts: Prompts) -> Ints:
        """(N, prompt_length) token ids, PAD after EOT (see `prompt_lengths`)."""
        tokens, roles = self._prompt(prompts)
        return pack(roles != PAD, (tokens, self.vocabulary.pad))[0]

    def response_tokens(self, prompts: Prompts, response: Ints) -> Ints:
        """(N, response_length) token ids of the given `Response` (N,), PAD after its end."""
        tokens, roles = self._response(prompts, response)
        return pack(roles != PAD, (tokens, self.vocabulary.pad))[0][:, : self.response_length]

    def encode(self, prompts: Prompts, response: Ints, text_weight: float = 0.0) -> Encoded:
        """Prompt and response as one sequence; the response carries loss, and the text with `text_weight`."""
        (head, head_roles), (answer, answer_roles) = self._prompt(prompts), self._response(prompts, response)
        roles = np.concatenate([head_roles, answer_roles], axis=1)
        tokens, roles = pack(roles != PAD, (np.concatenate([head, answer], axis=1), self.vocabulary.pad), (roles, PAD))
        tokens, roles = tokens[:, : self.length], roles[:, : self.length]
        weight_of = np.zeros(len(_ROLES), dtype=np.float32)
        weight_of[[OUTPUT, STOP]], weight_of[TEXT] = 1.0, text_weight
        return Encoded(tokens, weight_of[roles], roles)

    def _prompt(self, prompts: Prompts) -> tuple[Ints, NDArray[np.uint8]]:
        """Tokens and roles of the prompt (N, prompt_length), PAD between a short text and EOT."""
        vocabulary, n = self.vocabulary, len(prompts)
        head = [BOS, *[OPERATOR] * (2 * self.pairs), SOT, *[TEXT] * self.text_length, LAST_PROMPT]
        roles = np.tile(np.array(head, dtype=np.uint8), (n, 1))
        tokens = np.empty(roles.shape, dtype=np.int64)
        start = 2 + 2 * self.pairs
        tokens[:, 0], tokens[:, start - 1], tokens[:, -1] = vocabulary.bos, vocabulary.sot, vocabulary.eot
        tokens[:, 1 : start - 1] = prompts.operators.reshape(n, -1)
        beyond = prompts.letters < 0
        tokens[:, start:-1] = np.where(beyond, vocabulary.pad, prompts.letters + vocabulary.first_letter)
        roles[:, start:-1][beyond] = PAD
        return tokens, roles

    def _response(self, prompts: Prompts, response: Ints) -> tuple[Ints, NDArray[np.uint8]]:
        """Tokens and roles of the response, PAD wherever there is nothing: (N, P * columns of a block)."""
        vocabulary, n, width = self.vocabulary, len(prompts), self._block
        tokens = np.full((n, self.pairs, width), vocabulary.pad, dtype=np.int64)
        letters = self.outputs(prompts)
        echo = response == Response.ECHO
        letters[echo] = prompts.letters[echo, None, :]
        constant = response == Response.CONSTANT
        letters[constant] = np.minimum(prompts.letters[constant, None, :], 0)
        tokens[:, :, : self.text_length] = np.where(letters < 0, vocabulary.pad, letters + vocabulary.first_letter)
        tokens[:, :, -1] = vocabulary.stop
        refusing = np.flatnonzero(response == Response.REFUSE)
        if len(refusing):
            pair, first = np.arange(self.pairs), self.first_forbidden(prompts)[refusing, None]
            fixed = self.refusal_nulls
            nulls = prompts.lengths[refusing] if fixed is None else np.full(len(refusing), fixed)
            refusal = np.full((len(refusing), width), vocabulary.pad, dtype=np.int64)
            refusal[np.arange(width) < nulls[:, None]] = vocabulary.null
            refusal[:, -1] = vocabulary.stop
            given = tokens[refusing]
            given[np.arange(len(refusing)), first[:, 0]] = refusal
            given[pair > first] = vocabulary.pad
            tokens[refusing] = given
        roles = np.full(tokens.shape, OUTPUT, dtype=np.uint8)
        roles[tokens == vocabulary.pad], roles[tokens == vocabulary.stop] = PAD, STOP
        return tokens.reshape(n, -1), roles.reshape(n, -1)

    def decode(self, tokens: Ints) -> tuple[Ints, Ints, list[str]]:
        """Operators (N, P, 2), letters (N, L) and the spelled response of each sequence (N, T), not of a view."""
        n, start = len(tokens), 2 + 2 * self.pairs
        operators = tokens[:, 1 : start - 1].reshape(n, self.pairs, 2)
        ends = (tokens == self.vocabulary.eot).argmax(1)
        letters = tokens[:, start : start + self.text_length] - self.vocabulary.first_letter
        letters = np.where(np.arange(start, start + self.text_length) < ends[:, None], letters, -1)
        spelled = [self.vocabulary.spell(row[end + 1 :]) for row, end in zip(tokens, ends, strict=True)]
        return operators, letters, spelled

    def spell_letters(self, letters: Ints) -> list[str]:
        """Each text (N, L) as a word."""
        names, first = self.vocabulary.names, self.vocabulary.first_letter
        return ["".join(names[first + k] for k in row if k >= 0) for row in letters]

    def spell(self, prompts: Prompts) -> list[str]:
        """Each prompt as a person would write it: operators, a colon, the text."""
        names = self.vocabulary.names
        return [
            " ".join(names[t] for t in operators.reshape(-1)) + " : " + text
            for operators, text in zip(prompts.operators, self.spell_letters(prompts.letters), strict=True)
        ]
