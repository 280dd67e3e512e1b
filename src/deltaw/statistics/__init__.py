"""Statistics: arrays in, numbers out. Nothing here knows about models, prompts or safety.

    intervals   how uncertain a number is     wilson, t_interval, bootstrap, bootstrap_means
    nulls       what it would be by chance    Null, from_draws, from_beta, permutation_null, sign_flip_null
    tests       whether the two differ        sign_flip, benjamini_hochberg, auroc, d_prime
    variance    where spread comes from       variance_components

Randomness is always an argument (a `numpy.random.Generator`); a mistake in the data raises `DeltawError`.
"""

from deltaw.statistics.arrays import FloatArray
from deltaw.statistics.intervals import (
    Interval,
    bootstrap,
    bootstrap_means,
    percentile_interval,
    t_interval,
    wilson,
)
from deltaw.statistics.nulls import Null, from_beta, from_draws, from_normal, permutation_null, sign_flip_null
from deltaw.statistics.tests import SignFlip, auroc, benjamini_hochberg, d_prime, sign_flip
from deltaw.statistics.variance import VarianceComponents, variance_components

__all__ = [
    "FloatArray",
    "Interval",
    "Null",
    "SignFlip",
    "VarianceComponents",
    "auroc",
    "benjamini_hochberg",
    "bootstrap",
    "bootstrap_means",
    "d_prime",
    "from_beta",
    "from_draws",
    "from_normal",
    "percentile_interval",
    "permutation_null",
    "sign_flip",
    "sign_flip_null",
    "t_interval",
    "variance_components",
    "wilson",
]
