"""How large an update storing numbers alone can make: rounding to a format, and the spread of its energy.

An entry rounded to the nearest number is off by a draw from ±u/2, u the distance between neighbouring numbers: variance
u²/12, and of the squared error variance u⁴/180. Four things move the energy of a whole matrix away from Σ u²/12:

    grids        a number that lies on a finer grid of distance d already is rounded with u²/12 · (1 + 2 (d/u)²): the
                 finer side counts three times
    detours      float32 → float16 → bfloat16 rounds twice; ties of the first rounding go wrong half of the time,
                 which adds d²/4 for the hidden grid of float16 (3/64 of u²/12; more below float16's normal numbers)
    equal grids  two numbers of one format differ by 0 or by a whole u; with the mean u²/6 the squared difference has
                 the variance 5 u⁴/36
    chance       the sum over N entries has the relative spread √(Σ variance) / Σ mean

`limit` is an energy that rounding does not exceed, with all four; `expected` is its mean without detours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaw.analysis.inputs import Absent
from deltaw.statistics import Null

NEAR_FLOOR = 5.0
"""Sizes up to this many rounding floors have their share of rounding stated, and ρ_N corrected for it or withheld."""
TOLERANCE = 0.01
"""How far apart the corrections may lie for the least and the most that rounding can have added."""
SPREADS = 5.0
"""Standard deviations of chance below the limit: one matrix in three million exceeds it by chance."""
MOST = 6.0
"""An entry's squared error over its mean at most, for any of these roundings."""
_ROWS = 512


@dataclass(frozen=True)
class Steps:
    """Sums over the entries of one side of a matrix, u the distance to the next number that it can be stored as."""

    squares: float
    """Σ u²/12."""
    fourths: float
    """Σ u⁴/180."""
    hidden: float
    """Σ d²/4, d the distance to the next number of float16."""
    format: str
    """Such as bfloat16: of the formats that hold every entry, the one with the largest steps."""


@dataclass(frozen=True)
class Rounding:
    """The energy ‖ΔW‖² that rounding alone gives an update of zero."""

    expected: float
    """Its mean, if both sides were rounded from one matrix."""
    after: float
    """The part that is due to the tuned side: all of it if the stored base was the start of the tuning."""
    limit: float
    """An energy that rounding to the nearest does not exceed."""
    format: str
    """The coarser side's."""


@dataclass(frozen=True)
class Noise:
    """The share of ‖ΔW‖² that rounding added, between these two."""

    least: float
    """If the stored base was the start of the tuning, so that only the tuned side was rounded."""
    most: float
    """If both sides were rounded from one matrix."""

    def corrected(self, value: float, of_noise: float) -> float | None:
        """A share of energy without that of rounding, whose own share is of_noise. None if it cannot be known."""
        if self.most > 0.5:
            return None
        ends = [(value - share * of_noise) / (1 - share) for share in (self.least, self.most)]
        return None if abs(ends[0] - ends[1]) > TOLERANCE else min(1.0, max(0.0, sum(ends) / 2))

    def without(self, null: Null, of_noise: float) -> Null:
        """The null of the same update without rounding: it moves as the value does."""
        share = (self.least + self.most) / 2
        mean, low, high = ((end - share * of_noise) / (1 - share) for end in (null.mean, null.low, null.high))
        return Null(null.kind, mean, low, high)

    @property
    def why(self) -> Absent:
        """Why a share of energy is withheld."""
        return Absent(
            f"{self.least:.0%} to {self.most:.0%} of the update's energy is rounding, too much to correct this share "
            "for it"
        )


@dataclass(frozen=True)
class Storage:
    """What storing both sides of a matrix did to its update."""

    identical: float
    """The share of entries that are equal bit for bit."""
    floor: float | None
    """The largest ‖ΔW‖ / ‖W‖ that rounding gives an update of zero; None where W is zero."""
    noise: Noise | None
    """The share of rounding in an update near the floor; None beyond `NEAR_FLOOR` floors, or below the floor."""
    below: Absent | None
    """Why nothing is said of an update below the floor."""


def storage(
    parts: Sequence[tuple[Tensor, Tensor]],
    stored: Sequence[tuple[Steps | None, Steps | None]],
    update: float,
    weight: float,
) -> Storage:
    """Of a matrix, from its parts before and after.

    stored: the steps of parts in another format than their tensor's own. update, weight: the energies ‖ΔW‖² and ‖W‖².
    """
    size = sum(before.numel() for before, _ in parts)
    same = sum(identical(before, after) * before.numel() for before, after in parts) / size
    if weight == 0:
        return Storage(same, None, None, None)
    pairs = list(zip(parts, stored, strict=True))
    sides = rounding(*([known[side] or steps(part[side]) for part, known in pairs] for side in (0, 1)))
    floor, relative = float((sides.limit / weight) ** 0.5), float((update / weight) ** 0.5)
    below = Absent(
        f"the update, {relative:.2g} of ‖W‖, is below the rounding floor of {sides.format}, {floor:.2g}: rounding "
        f"alone could have made it, so it is not interpreted ({same:.1%} of entries are identical)"
    )
    near = floor <= relative < NEAR_FLOOR * floor
    noise = Noise(min(1.0, sides.after / update), min(1.0, sides.expected / update)) if near and update else None
    return Storage(same, floor, noise, below if 0 < relative < floor else None)


def rounding(before: Sequence[Steps], after: Sequence[Steps]) -> Rounding:
    """Of a matrix, from the steps of its parts on both sides."""
    first, second = sum(x.squares for x in before), sum(x.squares for x in after)
    formats = {x.format for x in before}, {x.format for x in after}
    coarser = after if second >= first else before
    mean, fourths = first + second, [sum(x.fourths for x in side) for side in (before, after)]
    if formats[0] == formats[1]:
        spread = (25 * max(fourths)) ** 0.5
    else:
        spread = sum(fourths) ** 0.5
        mean += 2 * min(first, second)
        if "bfloat16" in formats[0] | formats[1]:
            mean += sum(x.hidden for x in coarser)
    return Rounding(first + second, second, mean + min(SPREADS * spread, (MOST - 1) * mean), coarser[0].format)


def steps(tensor: Tensor) -> Steps:
    """Of a tensor as stored; of one whose entries all have a coarser format (an upcast), those of that format."""
    own = [_steps(tensor, tensor.dtype)]
    for coarser in (torch.bfloat16, torch.float16, torch.float32):
        parts = (tensor[low : low + _ROWS] for low in range(0, len(tensor), _ROWS))
        if torch.finfo(coarser).eps > torch.finfo(tensor.dtype).eps and all(holds(part, coarser) for part in parts):
            own.append(_steps(tensor, coarser))
    return max(own, key=lambda x: x.squares)


def scaled_steps(stored: Tensor, scale: Tensor) -> Steps:
    """Of numbers in an 8-bit format times a scale of the same shape."""
    return _steps(stored, stored.dtype, scale)


def _steps(tensor: Tensor, dtype: torch.dtype, scale: Tensor | None = None) -> Steps:
    squares = fourths = hidden = 0.0
    for low in range(0, len(tensor), _ROWS):
        _, exponent = torch.frexp(tensor[low : low + _ROWS].double())
        square = _squared_step(exponent, dtype)
        if scale is not None:
            square = square * scale[low : low + _ROWS].double().square()
        squares += float(square.sum()) / 12
        fourths += float(torch.dot(square.flatten(), square.flatten())) / 180
        hidden += float(_squared_step(exponent, torch.float16).sum()) / 4
    return Steps(squares, fourths, hidden, str(dtype).removeprefix("torch."))


def _squared_step(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """The squared distance to the next number of a format, from the exponents of numbers."""
    info = torch.finfo(dtype)
    smallest = math.frexp(info.smallest_normal)[1]
    # frexp's fraction lies in [0.5, 1), so a number's step is eps · 2^(exponent − 1).
    power = exponent.clamp(min=smallest) - 1
    return info.eps**2 * torch.exp2((2 * power).double())


def step_sizes(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Of each entry, the distance to the next number of a format, float64."""
    _, exponent = torch.frexp(part.double())
    return _squared_step(exponent, dtype).sqrt()


def holds(part: Tensor, dtype: torch.dtype) -> bool:
    """Whether every entry is a number of a format."""
    return bool((part.to(dtype).to(part.dtype) == part).all())


def identical(a: Tensor, b: Tensor) -> float:
    """Share of entries that are equal bit for bit (a signed zero differs from a plain one); of equal values, if the
    formats differ.
    """
    if a.dtype != b.dtype:
        same = sum(int((a[i : i + _ROWS].double() == b[i : i + _ROWS].double()).sum()) for i in range(0, len(a), _ROWS))
        return same / a.numel()
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return (
        sum(
            int((a[i : i + _ROWS].contiguous().view(whole) == b[i : i + _ROWS].contiguous().view(whole)).sum())
            for i in range(0, len(a), _ROWS)
        )
        / a.numel()
    )
