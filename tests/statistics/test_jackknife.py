import numpy as np
import pytest
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics import jackknife_interval, t_interval


def test_of_a_mean_it_is_students_interval() -> None:
    x = np.random.default_rng(0).lognormal(size=30)
    left_out = (x.sum() - x) / (len(x) - 1)
    found, known = jackknife_interval(float(x.mean()), left_out), t_interval(x)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_it_covers_the_log_of_a_variance() -> None:
    generator, hits = np.random.default_rng(1), 0
    for _ in range(400):
        x = generator.standard_normal(60)
        left_out = [np.log(np.delete(x, i).var(ddof=1)) for i in range(len(x))]
        hits += 0.0 in jackknife_interval(float(np.log(x.var(ddof=1))), left_out)
    assert stats.binomtest(hits, 400, 0.95).pvalue > 1e-3


def test_one_unit_has_no_spread() -> None:
    with pytest.raises(DeltawError, match="at least 2"):
        jackknife_interval(1.0, [1.0])
    with pytest.raises(DeltawError, match="between 0 and 1"):
        jackknife_interval(1.0, [1.0, 2.0], confidence=95)
