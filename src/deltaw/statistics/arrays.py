"""What counts as data here: finite float64 vectors, checked at the door so that no NaN becomes a number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltaw.errors import DeltawError

FloatArray = NDArray[np.float64]
"""An array of float64."""

IntArray = NDArray[np.int64]
"""An array of int64: indices, labels, cluster numbers."""


def vector(values: ArrayLike, name: str = "values", least: int = 1) -> FloatArray:
    """`values` as a float64 vector. DeltawError if no vector, shorter than `least` or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least:
        raise DeltawError(
            f"{name} have shape {array.shape}; expected a vector of at least {least}. Pass one number per observation."
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise DeltawError(
            f"{name} hold {bad} NaN or infinite entries of {len(array)}; expected finite numbers. "
            "Look for the step that made them."
        )
    return array


def clusters_of(ids: Sequence[ArrayLike]) -> tuple[list[IntArray], int]:
    """Cluster names of several groups as numbers 0 .. G − 1, equal for equal names in any group; and G."""
    arrays = [np.asarray(x) for x in ids]
    names, numbers = np.unique(np.concatenate(arrays), return_inverse=True)
    ends = np.cumsum([len(x) for x in arrays])[:-1]
    return [part.astype(np.int64) for part in np.split(numbers, ends)], len(names)
