"""Statistics: arrays in, numbers out. Nothing here knows about models, prompts or safety.

    intervals   how uncertain a number is     wilson, t_interval, bootstrap, bootstrap_means
    jackknife   the same, where a row must not count twice     jackknife_interval
    logistic    how success depends on something               firth_logistic, bootstrap_coefficients
    misclassification   a rate read by an imperfect judge      corrected_rate
    nulls       what it would be by chance    Null, from_draws, from_beta, permutation_null, sign_flip_null
    tests       whether the two differ        t_test, holm, auroc, d_prime
    equivalence whether it is no more than a margin    equivalence_test, equivalence_power
    power       how many seeds would show it  t_power, seeds_needed, tolerated_sd
    variance    where spread comes from       variance_components

Randomness is always an argument (a `numpy.random.Generator`); a mistake in the data raises `DeltawError`.
"""

from deltaw.statistics.arrays import FloatArray
from deltaw.statistics.equivalence import equivalence_power, equivalence_test
from deltaw.statistics.intervals import (
    Interval,
    bootstrap,
    bootstrap_means,
    from_scale,
    percentile_interval,
    smoothed_log_odds,
    t_interval,
    to_scale,
    wilson,
)
from deltaw.statistics.jackknife import jackknife_interval
from deltaw.statistics.logistic import LogisticFit, bootstrap_coefficients, firth_logistic, permuted_coefficients
from deltaw.statistics.misclassification import corrected_rate
from deltaw.statistics.nulls import (
    Null,
    from_beta,
    from_draws,
    from_normal,
    mean_null,
    mean_of_each_kind,
    permutation_null,
    sign_flip_null,
)
from deltaw.statistics.power import seeds_needed, t_power, tolerated_sd
from deltaw.statistics.tests import auroc, d_prime, holm, t_test
from deltaw.statistics.variance import VarianceComponents, variance_components

__all__ = [
    "FloatArray",
    "Interval",
    "LogisticFit",
    "Null",
    "VarianceComponents",
    "auroc",
    "bootstrap",
    "bootstrap_coefficients",
    "bootstrap_means",
    "corrected_rate",
    "d_prime",
    "equivalence_power",
    "equivalence_test",
    "firth_logistic",
    "from_beta",
    "from_draws",
    "from_normal",
    "from_scale",
    "holm",
    "jackknife_interval",
    "mean_null",
    "mean_of_each_kind",
    "percentile_interval",
    "permutation_null",
    "permuted_coefficients",
    "seeds_needed",
    "sign_flip_null",
    "smoothed_log_odds",
    "t_interval",
    "t_power",
    "t_test",
    "to_scale",
    "tolerated_sd",
    "variance_components",
    "wilson",
]
