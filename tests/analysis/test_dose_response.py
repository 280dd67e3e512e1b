"""Dose and response: planted slopes within attacks, and attacks that differ without one."""

import numpy as np
import pytest
from scipy.special import expit

from deltaw.analysis import Absent, DoseResponse, dose_response, success_by_dose
from deltaw.errors import DeltawError

PROMPTS, ATTACKS = 80, 4
IDS = np.tile(np.arange(PROMPTS), ATTACKS)
NAMES = np.repeat(["a", "b", "c", "d"], PROMPTS)
MEANS = np.repeat([0.0, 0.5, 1.0, 1.5], PROMPTS)


def simulated(slope: float, between: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(dose, success): attacks move prompts by their means; success follows the dose within and the means between."""
    generator = np.random.default_rng(seed)
    own = generator.standard_normal(PROMPTS)
    deviation = 0.6 * (own[IDS] + generator.standard_normal(len(IDS))) / np.sqrt(2)
    eta = slope * deviation + between * (MEANS - 0.75) + 0.5 * generator.standard_normal(PROMPTS)[IDS]
    return MEANS + deviation, (generator.random(len(IDS)) < expit(eta)).astype(float)


def response(slope: float, between: float, seed: int, within: bool = True) -> DoseResponse:
    dose, success = simulated(slope, between, seed)
    found = dose_response(dose, success, NAMES, [IDS], np.random.default_rng(seed), within=within, draws=40)
    assert isinstance(found, DoseResponse)
    return found


def test_a_slope_is_found_and_beyond_its_null() -> None:
    found = [response(3.0, 0.0, seed) for seed in range(8)]
    assert np.mean([one.slope for one in found]) == pytest.approx(3.0, rel=0.15)  # less by the prompts' own intercepts
    assert all(one.interval.low > one.null.high > 0 for one in found)
    assert (found[0].n, found[0].attacks) == (PROMPTS * ATTACKS, 4)


def test_attacks_that_differ_have_no_slope_within_and_a_slope_when_pooled() -> None:
    within = [response(0.0, 3.0, seed) for seed in range(60)]
    assert np.mean([0.0 in one.interval for one in within]) > 0.88
    assert np.mean([one.slope in one.null for one in within]) > 0.88
    assert response(0.0, 3.0, 0, within=False).interval.low > 0.5


def test_attacks_without_a_mixed_outcome_are_left_out() -> None:
    dose, success = simulated(2.0, 0.0, 1)
    success[NAMES == "a"] = 0
    success[NAMES == "d"] = 1
    found = dose_response(dose, success, NAMES, [IDS], np.random.default_rng(0), draws=5)
    assert isinstance(found, DoseResponse)
    assert (found.n, found.attacks) == (2 * PROMPTS, 2)
    kept = np.isin(NAMES, ["b", "c"])
    same = dose_response(dose[kept], success[kept], NAMES[kept], [IDS[kept]], np.random.default_rng(0), draws=5)
    assert isinstance(same, DoseResponse)
    assert found.slope == pytest.approx(same.slope)


def test_where_there_is_no_slope_to_be_had() -> None:
    dose, success = simulated(2.0, 0.0, 1)
    assert isinstance(dose_response(dose, 0 * success, NAMES, [IDS], np.random.default_rng(0)), Absent)
    assert isinstance(dose_response(0 * dose, success, NAMES, [IDS], np.random.default_rng(0)), Absent)
    assert isinstance(dose_response(MEANS, success, NAMES, [IDS], np.random.default_rng(0)), Absent)
    with pytest.raises(DeltawError, match="one of each a row"):
        dose_response(dose[:5], success, NAMES, [IDS], np.random.default_rng(0))


def test_bins_hold_everybody_once() -> None:
    dose = np.array([-9.0, 0.0, 0.24, 0.25, 0.6, 9.0])
    found = success_by_dose(dose, np.array([0.0, 1, 0, 1, 1, 1]), np.array([0.0, 0.25, 0.5, 0.75]))
    assert [(one.low, one.high, one.n, one.rate) for one in found] == [
        (0.0, 0.25, 3, pytest.approx(1 / 3)), (0.25, 0.5, 1, 1.0), (0.5, 0.75, 2, 1.0),
    ]  # fmt: skip
    assert all(one.rate in one.interval for one in found)
