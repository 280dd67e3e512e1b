import numpy as np
import pytest

from deltaw.errors import DeltawError
from deltaw.statistics import variance_components


@pytest.mark.parametrize(("between", "within", "repeats"), [(4.0, 1.0, 2), (0.0, 1.0, 3), (1.0, 0.25, 5)])
def test_planted_components_are_found_without_bias(between: float, within: float, repeats: int) -> None:
    rng = np.random.default_rng(0)
    groups = rng.normal(3.0, between**0.5, (4000, 1))
    found = variance_components(groups + rng.normal(0.0, within**0.5, (4000, repeats)))
    assert found.within == pytest.approx(within, rel=0.08)
    assert found.between == pytest.approx(between, rel=0.1, abs=0.04)
    assert found.share_between == pytest.approx(between / (between + within), abs=0.03)


def test_what_varies_in_one_way_only_is_all_of_that_kind() -> None:
    groups = variance_components([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    assert (groups.within, groups.share_between) == (0.0, 1.0)
    assert groups.between == pytest.approx(np.var([1, 2, 4], ddof=1))
    repeats = variance_components([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])
    assert (repeats.between, repeats.within) == (0.0, 2.0)
    assert np.isnan(variance_components(np.ones((2, 2))).share_between)


def test_what_is_too_few_or_no_number_is_refused() -> None:
    for values in ([1.0, 2.0], [[1.0, 2.0]], [[1.0], [2.0]]):
        with pytest.raises(DeltawError, match="at least 2 groups"):
            variance_components(values)
    with pytest.raises(DeltawError, match="not finite"):
        variance_components([[1.0, np.nan], [0.0, 1.0]])
