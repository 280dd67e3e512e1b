"""Which entries of a matrix changed, beside what storing it in a format hides: is an update sparse, or only rounded?

A stored number changes only if its update reaches half the distance u to the next number of the format. So an update
that moves every entry may look sparse once it is stored. Two references for the share of entries that changed:

    rounding_alone   the entries that storing the base matrix in the tuned one's format changes: an update of zero
    dense_update     every entry moved by an independent N(0, s²), then stored; s is such that the stored update has
                     the observed energy. An entry that the format holds changes with probability P(|N| > u/2), any
                     other entry changes for certain

A share far below `dense_update` is sparse beyond what storing explains. A share near it says nothing about sparsity.

With Z normal, an entry on the grid moves by j steps with probability P((j − ½) u < |Z s| < (j + ½) u), so its mean
squared change is u² Σ_j (2j − 1) P(|Z s| > (j − ½) u), which is s² + u²/12 where s is large; s is found by bisection.

Cost: entries are grouped by u, of which a format has a few dozen; one pass over the matrix.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from deltaw.analysis.inputs import array, matrix
from deltaw.analysis.rounding import holds, step_sizes
from deltaw.statistics import FloatArray, Null

FORMATS = (torch.bfloat16, torch.float16, torch.float32)
_LARGE = 3.0
"""Steps to a standard deviation from which the mean squared change is s² + u²/12, to nine digits."""


@dataclass(frozen=True)
class ChangedEntries:
    """How many entries changed."""

    share: float
    """Of all entries, those whose stored numbers differ."""
    format: str
    """Of the tuned matrix: the coarsest that holds all its entries, such as bfloat16."""
    nulls: tuple[Null, ...]
    """`rounding_alone` and `dense_update`."""


def stored_format(x: Tensor) -> torch.dtype:
    """The coarsest format that holds every entry, float64 if none of `FORMATS` does."""
    return next((dtype for dtype in FORMATS if holds(x, dtype)), torch.float64)


def changed_entries(W: Tensor, tuned: Tensor) -> ChangedEntries:
    """The share of entries of W (m, n) that differ in `tuned`, with its nulls."""
    before = matrix(W, "W")
    after = matrix(tuned, "tuned", rows=before.shape[0], columns=before.shape[1])
    dtype, size = stored_format(after), before.numel()
    on_grid = before.to(dtype).double() == before
    u, times = np.unique(array(step_sizes(before[on_grid], dtype)), return_counts=True)
    counts = times.astype(np.float64)
    off_grid = array(step_sizes(before[~on_grid], dtype))
    alone = len(off_grid) / size
    s = _scale(float((after - before).square().sum()), u, counts, off_grid)
    seen = special.erfc(u / (2 * np.sqrt(2) * s)) if s > 0 else np.zeros_like(u)
    mean = float((counts * seen).sum() + len(off_grid)) / size
    half = 1.959964 * float((counts * seen * (1 - seen)).sum()) ** 0.5 / size
    return ChangedEntries(
        share=float((before != after).sum()) / size,
        format=str(dtype).removeprefix("torch."),
        nulls=(
            Null("rounding_alone", alone, alone, alone),
            Null("dense_update", mean, max(0.0, mean - half), min(1.0, mean + half)),
        ),
    )


def _scale(energy: float, u: FloatArray, counts: FloatArray, off_grid: FloatArray) -> float:
    """s, in the same unit as u; 0 where rounding alone has that energy. off_grid: u of the entries off the grid."""
    rounding = float((off_grid**2).sum()) / 12
    size = float(counts.sum()) + len(off_grid)
    low, high = 0.0, 2 * math.sqrt(energy / size) + float(max(u.max(initial=0), off_grid.max(initial=0)))
    if energy <= rounding:
        return 0.0
    s = high
    for _ in range(200):
        s = (low + high) / 2
        total = rounding + len(off_grid) * s**2 + float((counts * _squared_change(u, s)).sum())
        low, high = (low, s) if total > energy else (s, high)
    return s


def _squared_change(u: FloatArray, s: float) -> FloatArray:
    """(groups,) the mean squared change of an entry whose grid has the step u."""
    if s == 0:
        return np.zeros(len(u))
    j = np.arange(1, int(10 * _LARGE) + 2)
    steps = np.minimum(u / s, 1e6)[:, None]
    tails = special.erfc((j - 0.5) * steps / np.sqrt(2))
    exact = u**2 * ((2 * j - 1) * tails).sum(1)
    return np.asarray(np.where(s > _LARGE * u, s**2 + u**2 / 12, exact))
