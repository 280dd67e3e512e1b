"""Views of a training sequence, and the schedule of their shares over pre-training.

A view takes parts out of a sequence and alters nothing that stays. The published code wrote PAD over what it took out
and let the model attend to it (`gaps`). Here what stays moves together, so that every token attends to kept tokens only
and PAD stands at the end: the first output follows SOT at once where the text is taken out, the text follows SOT at
position 2 where the operators are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.world.prompts import LAST_PROMPT, OPERATOR, PAD, TEXT, Encoded, output_number, pack
from deltaw.world.randomness import Key

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Weights = NDArray[np.float32]

VIEW_DRAW = 4  # of a sample's key (see `sampling`)
SHARES_TOLERANCE = 1e-9


def text(encoded: Encoded) -> tuple[Bools, Weights]:
    """The text alone: neither operators nor outputs. Published mode 1."""
    roles = encoded.roles
    return (roles != OPERATOR) & (output_number(roles) == 0), encoded.weights


def full(encoded: Encoded) -> tuple[Bools, Weights]:
    """Everything. Published mode 2."""
    return np.ones(encoded.roles.shape, dtype=np.bool_), encoded.weights


def first(encoded: Encoded) -> tuple[Bools, Weights]:
    """Prompt and first output. Published mode 3."""
    return output_number(encoded.roles) <= 1, encoded.weights


def second(encoded: Encoded) -> tuple[Bools, Weights]:
    """The second output given the operators and the first output, without the text. Published mode 4."""
    number = output_number(encoded.roles)
    keep = (number <= 2) & (encoded.roles != TEXT) & (encoded.roles != LAST_PROMPT)
    return keep, np.where(number == 2, encoded.weights, 0).astype(np.float32)


# Each gives what is kept (N, T) and the loss weights (N, T), before what is kept moves together.
VIEWS: dict[str, Callable[[Encoded], tuple[Bools, Weights]]] = {
    "text": text,
    "full": full,
    "first": first,
    "second": second,
}

WHOLE_VIEWS = tuple(number for number, name in enumerate(VIEWS) if name in ("full", "second"))  # reach to the end


def viewed(encoded: Encoded, names: Ints, pad: int, gaps: bool = False) -> Encoded:
    """Each row under its view: names (N,) are positions in `VIEWS`. pad: the token that fills rows.

    gaps: what stays stays in its place, and PAD is written over the rest, as in the published data.
    """
    keep, weights = np.ones(encoded.roles.shape, dtype=np.bool_), encoded.weights.copy()
    for number, view in enumerate(VIEWS.values()):
        rows = np.flatnonzero(names == number)
        if len(rows):
            part = Encoded(encoded.tokens[rows], encoded.weights[rows], encoded.roles[rows])
            keep[rows], weights[rows] = view(part)
    keep &= encoded.roles != PAD
    if bool((keep == (encoded.roles != PAD)).all()):
        return Encoded(encoded.tokens, weights, encoded.roles)
    if gaps:
        kept = np.where(keep, weights, 0).astype(np.float32), np.where(keep, encoded.roles, PAD).astype(np.uint8)
        return Encoded(np.where(keep, encoded.tokens, pad), *kept)
    return Encoded(*pack(keep, (encoded.tokens, pad), (weights, 0), (encoded.roles, PAD)))


@dataclass(frozen=True)
class ViewSchedule:
    """Shares of the views over training, linear between knots and constant outside them.

    knots: (number of samples seen, shares of `VIEWS` in order), ascending. DeltawError if shares do not sum to 1.
    """

    knots: tuple[tuple[int, tuple[float, ...]], ...] = ((0, (0.0, 1.0, 0.0, 0.0)),)

    def __post_init__(self) -> None:
        if not self.knots or any(a >= b for (a, _), (b, _) in pairwise(self.knots)):
            raise DeltawError("a schedule of views needs knots at ascending numbers of samples")
        for place, shares in self.knots:
            if len(shares) != len(VIEWS) or min(shares) < 0 or abs(sum(shares) - 1) > SHARES_TOLERANCE:
                raise DeltawError(
                    f"the shares of views at sample {place} are {shares}; give {len(VIEWS)} ({', '.join(VIEWS)}), none "
                    "below 0, that sum to 1"
                )

    def ever(self, name: str) -> bool:
        """Whether a view has any share at any time."""
        return any(shares[list(VIEWS).index(name)] > 0 for _, shares in self.knots)

    def shares(self, index: Ints) -> Floats:
        """(N, views) the shares at samples `index` (N,)."""
        places = [place for place, _ in self.knots]
        return np.stack(
            [np.interp(index, places, [shares[k] for _, shares in self.knots]) for k in range(len(VIEWS))], axis=1
        )

    def choose(self, key: Key, index: Ints) -> Ints:
        """(N,) the view of each sample, a position in `VIEWS`: a function of key, index and schedule."""
        edges = self.shares(index).cumsum(1)[:, :-1]
        return np.asarray((key.uniform(index, VIEW_DRAW) >= edges).sum(1))


def published_schedule(samples: int, flat: int) -> ViewSchedule:
    """The published mixture: half text, until `flat` samples; then linearly to two fifths second outputs at the end."""
    start, end = (0.5, 0.1, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4)
    return ViewSchedule(((flat, start), (samples, end)))
