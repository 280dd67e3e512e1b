"""Where spread comes from: between groups, or between repeats within a group."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deltaw.errors import DeltawError


@dataclass(frozen=True)
class VarianceComponents:
    """between: variance of the groups' own values, at least 0; within: of repeats about their group's value."""

    between: float
    within: float

    @property
    def share_between(self) -> float:
        """Intraclass correlation, 0 to 1; not a number where nothing varies."""
        total = self.between + self.within
        return self.between / total if total > 0 else float("nan")


def variance_components(values: ArrayLike) -> VarianceComponents:
    """One-way random effects, by the method of moments (Searle, Casella and McCulloch 1992, chapter 3).

    values: (groups, repeats), at least 2 of each. Without bias but for what the bound at 0 adds; with few groups the
    two are rough. DeltawError for another shape or a value that is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise DeltawError(f"values are of shape {x.shape}; expected at least 2 groups of at least 2 repeats")
    if not np.isfinite(x).all():
        raise DeltawError("a value is not finite")
    within = float(x.var(axis=1, ddof=1).mean())
    between = float(x.mean(axis=1).var(ddof=1)) - within / x.shape[1]
    return VarianceComponents(max(0.0, between), within)
