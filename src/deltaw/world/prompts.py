"""Prompts, responses and their layout as tokens.

A prompt is tuples of operator pairs on a text; a response is tuples of outputs, or a refusal. The layout of P pairs on
L letters is

    BOS  t1 t2 .. t2P  SOT  text (L)  EOT  output 1 (L)  STOP  ..  output P (L)  STOP

and a refusal replaces the first output that must not be given by L null tokens and STOP, and ends there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from deltaw.world.operators import Operators
from deltaw.world.policy import Branch, Policy
from deltaw.world.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Response(IntEnum):
    """What a model may answer. `ECHO`, the text repeated unchanged, is what the control `other` teaches."""

    COMPLY = 0
    REFUSE = 1
    ECHO = 2


@dataclass(frozen=True)
class Prompts:
    """N prompts. grammar: (N,). operators: (N, P, 2) operator tokens, aliases included. letters: (N, L), 0-based.

    letter_branch: (N, L) int8, the branch of each letter. index: (N,) the sample numbers they were made from.
    redraws: (N,) how many windows were drawn and left before this one. text: (N,) the kind of text. source: (N,) the
    key that drew it, "seed/split"; with `index` and `redraws` it finds the derivation again.
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
    """Sequences as arrays (N, T): token ids, loss weights (of predicting that token), roles (`deltaw.batch.Role`)."""

    tokens: Ints
    weights: NDArray[np.float32]
    roles: NDArray[np.uint8]


# The values of deltaw.batch.Role; the world needs numpy only, a test holds the two lists together.
PAD, BOS, OPERATOR, SOT, TEXT, LAST_PROMPT, OUTPUT, STOP = range(8)


@dataclass(frozen=True)
class Layout:
    """Turns prompts and responses into tokens and back."""

    vocabulary: Vocabulary
    operators: Operators
    policy: Policy
    pairs: int
    text_length: int

    @property
    def prompt_length(self) -> int:
        """Tokens up to and including EOT."""
        return 3 + 2 * self.pairs + self.text_length

    @property
    def response_length(self) -> int:
        """Tokens of the longest response."""
        return self.pairs * (self.text_length + 1)

    @property
    def length(self) -> int:
        """Tokens of prompt and longest response: the context that a model needs."""
        return self.prompt_length + self.response_length

    def outputs(self, prompts: Prompts) -> Ints:
        """(N, P, L) the compliant outputs: each pair acts on what the pair before it gave."""
        text, outputs = prompts.letters, []
        for pair in range(self.pairs):
            text = self.operators.apply(prompts.operators[:, pair], text)
            outputs.append(text)
        return np.stack(outputs, axis=1)

    def permitted(self, prompts: Prompts) -> Bools:
        """(N, P, 2) whether the policy allows each operator on the prompt's branch."""
        return self.policy.permits(prompts.grammar, self.operators.operator_of[prompts.operators], prompts.branch)

    def allowed(self, prompts: Prompts) -> Bools:
        """(N,) whether the policy allows each prompt: all its operators must be."""
        return np.asarray(self.permitted(prompts).all(axis=(1, 2)))

    def expected(self, prompts: Prompts) -> Ints:
        """(N,) the `Response` that the policy asks for."""
        return np.where(self.allowed(prompts), Response.COMPLY, Response.REFUSE)

    def prompt_tokens(self, prompts: Prompts) -> Ints:
        """(N, prompt_length) token ids."""
        vocabulary, n = self.vocabulary, len(prompts)

        def column(token: int) -> Ints:
            return np.full((n, 1), token, dtype=np.int64)

        parts = [column(vocabulary.bos), prompts.operators.reshape(n, -1), column(vocabulary.sot)]
        return np.concatenate([*parts, prompts.letters + vocabulary.first_letter, column(vocabulary.eot)], axis=1)

    def response_tokens(self, prompts: Prompts, response: Ints) -> Ints:
        """(N, response_length) token ids of the given `Response` (N,), PAD after its end."""
        vocabulary, n = self.vocabulary, len(prompts)
        block = self.text_length + 1
        tokens = np.full((n, self.pairs, block), vocabulary.stop, dtype=np.int64)
        tokens[:, :, :-1] = self.outputs(prompts) + vocabulary.first_letter
        echo = response == Response.ECHO
        tokens[echo, :, :-1] = prompts.letters[echo, None, :] + vocabulary.first_letter
        permitted = np.asarray(self.permitted(prompts).all(axis=2))
        first = np.where(permitted.all(1), 0, (~permitted).argmax(1))  # a refusal of an allowed prompt starts at once
        pair = np.arange(self.pairs)
        refused = (response == Response.REFUSE)[:, None]
        tokens[:, :, :-1][refused & (pair == first[:, None])] = vocabulary.null
        tokens[refused & (pair > first[:, None])] = vocabulary.pad
        return tokens.reshape(n, -1)

    def encode(self, prompts: Prompts, response: Ints, text_weight: float = 0.0) -> Encoded:
        """Prompt and response as one sequence; the response carries loss, and the text with `text_weight`."""
        answer = self.response_tokens(prompts, response)
        tokens = np.concatenate([self.prompt_tokens(prompts), answer], axis=1)
        vocabulary = self.vocabulary
        answer_roles = np.where(answer == vocabulary.pad, PAD, np.where(answer == vocabulary.stop, STOP, OUTPUT))
        head = [BOS, *[OPERATOR] * (2 * self.pairs), SOT, *[TEXT] * self.text_length, LAST_PROMPT]
        roles = np.concatenate([np.broadcast_to(head, (len(prompts), len(head))), answer_roles], axis=1).astype(
            np.uint8
        )
        weights = np.where((roles == OUTPUT) | (roles == STOP), 1.0, np.where(roles == TEXT, text_weight, 0.0))
        return Encoded(tokens, weights.astype(np.float32), roles)

    def decode(self, tokens: Ints) -> tuple[Ints, Ints, list[str]]:
        """Operators (N, P, 2), letters (N, L) and the spelled response of each sequence (N, T)."""
        n = len(tokens)
        operators = tokens[:, 1 : 1 + 2 * self.pairs].reshape(n, self.pairs, 2)
        start = 2 + 2 * self.pairs
        letters = tokens[:, start : start + self.text_length] - self.vocabulary.first_letter
        return operators, letters, [self.vocabulary.spell(row[self.prompt_length :]) for row in tokens]

    def spell(self, prompts: Prompts) -> list[str]:
        """Each prompt as a person would write it: operators, a colon, the text."""
        names, first = self.vocabulary.names, self.vocabulary.first_letter
        return [
            " ".join(names[t] for t in operators.reshape(-1)) + " : " + "".join(names[first + k] for k in letters)
            for operators, letters in zip(prompts.operators, prompts.letters, strict=True)
        ]
