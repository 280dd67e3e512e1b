"""One vocabulary for every stage: operator tokens, aliases, markers, the null token and the letters.

The published code used three vocabularies of different sizes and let an ordinary letter stand for refusal. Here the
ids are contiguous ranges, every stage sees all of them, and `null` is a token of its own.
"""

from dataclasses import dataclass
from functools import cached_property

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPERATOR_SIGNS = "()[]{}?!@£"


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: operators, their aliases, BOS SOT EOT STOP PAD, NULL, letters; in this order, without gaps.

    `aliases[k]` is the operator that the k-th alias token stands for. The rest are for published data (see `compat`).
    null_letter: NULL is the first letter. ends: whether a token for the end of a sequence follows the letters.
    constants: how many operators follow that answer every text with one letter.
    """

    n_operators: int
    aliases: tuple[int, ...]
    n_letters: int
    null_letter: bool = False
    ends: bool = False
    constants: int = 0

    @property
    def n_operator_tokens(self) -> int:
        """Operators and aliases together; their tokens are `0 .. n_operator_tokens - 1`."""
        return self.n_operators + len(self.aliases)

    @property
    def bos(self) -> int:
        """Begin of sequence."""
        return self.n_operator_tokens

    @property
    def sot(self) -> int:
        """Start of text."""
        return self.n_operator_tokens + 1

    @property
    def eot(self) -> int:
        """End of text: the last prompt token."""
        return self.n_operator_tokens + 2

    @property
    def stop(self) -> int:
        """Ends each output."""
        return self.n_operator_tokens + 3

    @property
    def pad(self) -> int:
        """Fills rows on the right; never carries loss."""
        return self.n_operator_tokens + 4

    @property
    def null(self) -> int:
        """The refusal token. It occurs in no text and in no compliant output, unless it is a letter."""
        return self.n_operator_tokens + 5

    @property
    def first_letter(self) -> int:
        """Token id of letter 0."""
        return self.n_operator_tokens + (5 if self.null_letter else 6)

    @property
    def eos(self) -> int:
        """End of sequence, where there is one."""
        return self.first_letter + self.n_letters

    @property
    def first_constant(self) -> int:
        """Token id of the operator that answers all `a`; that of `b` follows."""
        return self.eos + self.ends

    @property
    def size(self) -> int:
        """Number of token ids."""
        return self.first_constant + self.constants

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What a person reads for each token id; an alias is its operator's sign with a prime."""
        signs = [OPERATOR_SIGNS[k] if k < len(OPERATOR_SIGNS) else f"f{k}" for k in range(self.n_operators)]
        primes = [signs[k] + "'" * (1 + self.aliases[:i].count(k)) for i, k in enumerate(self.aliases)]
        letters = [LETTERS[k] if k < len(LETTERS) else f"x{k}" for k in range(self.n_letters)]
        markers = ("<s>", ":", ">", ".", "_", *(() if self.null_letter else ("∅",)))
        return (
            *signs,
            *primes,
            *markers,
            *letters,
            *["</s>"] * self.ends,
            *(f"={a}" for a in letters[: self.constants]),
        )

    def spell(self, tokens: object) -> str:
        """The tokens (any iterable of ids) as a person would read them, without padding."""
        return "".join(self.names[int(t)] for t in tokens if int(t) != self.pad)  # type: ignore[attr-defined]
