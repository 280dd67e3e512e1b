"""Rates corrected for an imperfect instrument: the definition, and coverage in simulations by numpy."""

import numpy as np
import pytest

from deltaw.errors import DeltawError
from deltaw.statistics import corrected_rate, wilson


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.8])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.9, 0.95), (0.7, 0.9)])
def test_the_interval_covers_the_truth(truth: float, sensitivity: float, specificity: float) -> None:
    generator, n, known = np.random.default_rng(0), 112, (40, 56)
    inside, errors = [], []
    read = truth * sensitivity + (1 - truth) * (1 - specificity)
    for _ in range(800):
        positive = int(generator.binomial(n, read))
        found, left = int(generator.binomial(known[0], sensitivity)), int(generator.binomial(known[1], specificity))
        made = corrected_rate(positive, n, found, known[0], left, known[1])
        assert made is not None
        inside.append(truth in made[1])
        errors.append(made[0] - truth)
    assert np.mean(inside) >= 0.93
    assert abs(np.mean(errors)) < 0.03


def test_the_definition_at_known_errors() -> None:
    """(0.5 + 0.9 − 1) / (0.8 + 0.9 − 1) = 4/7."""
    made = corrected_rate(50, 100, 8000, 10000, 9000, 10000)
    assert made is not None
    assert made[0] == pytest.approx(4 / 7)
    assert made[1].width == pytest.approx(wilson(50, 100).width / 0.7, rel=0.03)


def test_a_perfect_instrument_known_from_few_widens_the_interval() -> None:
    plain = wilson(30, 60)
    made = corrected_rate(30, 60, 10, 10, 14, 14)
    assert made is not None
    assert made[0] == 0.5
    assert made[1].low < plain.low
    assert made[1].high > plain.high


def test_an_instrument_at_chance_corrects_nothing_and_wrong_counts_are_said() -> None:
    assert corrected_rate(5, 10, 5, 10, 5, 10) is None
    assert corrected_rate(0, 10, 10, 10, 10, 10) is not None
    with pytest.raises(DeltawError, match="11 of 10 is no rate"):
        corrected_rate(11, 10, 5, 10, 5, 10)
