"""The rule over several seeds: multiplicity, sign flips, power; on planted seeds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from deltaw.claims.decision import LEAST_SEEDS, Weighed, adjust, verdicts, weigh
from deltaw.claims.lookup import Collected, Found
from deltaw.claims.statements import Query, Statement
from deltaw.results import Claim
from deltaw.results.schema import Null
from deltaw.statistics import Interval, benjamini_hochberg, t_interval, t_power, t_test

STATEMENT = Statement("planted", 2, "it is large", "", Query("statistic", ("model",)), smallest_effect=1.0)
CLEAR = (2.0, 2.1, 1.9, 2.2, 1.8, 2.0)


def seeds(values: Sequence[float], nulls: Sequence[Null] = (), **controls: Sequence[float]) -> Collected:
    def found(numbers: Sequence[float]) -> dict[int, Found]:
        return {seed: Found(v, None, None, {null.kind: null for null in nulls}) for seed, v in enumerate(numbers)}

    return Collected(found(values), {name: found(numbers) for name, numbers in controls.items()})


def one(statement: Statement, found: Collected) -> Claim:
    (claim,) = verdicts([weigh(statement, found)], exploratory=False)
    return claim


def weighed(number: int, values: Sequence[float]) -> Weighed:
    return weigh(replace(STATEMENT, id=str(number)), seeds(values))


def test_p_is_the_t_test_of_the_distance_from_the_smallest_effect() -> None:
    claim = one(STATEMENT, seeds(CLEAR))
    assert claim.p == claim.p_adjusted == pytest.approx(t_test(np.array(CLEAR) - 1, "greater"))
    assert claim.p_sign_flip == pytest.approx(1 / 64)
    assert claim.verdict == "holds"
    assert "Benjamini" in claim.why


def test_claims_in_the_other_direction_are_turned() -> None:
    less = replace(STATEMENT, direction="less", smallest_effect=-1.0)
    turned, straight = one(less, seeds([-v for v in CLEAR])), one(STATEMENT, seeds(CLEAR))
    assert (turned.p, turned.p_sign_flip, turned.verdict) == (straight.p, straight.p_sign_flip, "holds")


def test_a_seed_without_a_value_is_no_seed_that_agrees() -> None:
    """Which seeds lack it may depend on what is asked: a rate of few prompts, a position where classes lie together."""
    claim = one(STATEMENT, replace(seeds(CLEAR), without=1))
    assert claim.verdict == "undecided"
    assert "not in every seed: the value" in claim.why
    assert one(STATEMENT, replace(seeds([0.1 * v for v in CLEAR]), without=1)).verdict == "fails"


def test_the_hardest_bar_gives_p() -> None:
    """Value 2, smallest effect 1, null 0, control 1.9 with the same ups and downs: the control is hardest."""
    control = [v - 0.1 for v in (2.0, 2.15, 1.9, 2.15, 1.8, 2.0)]
    null = Null(kind="rotation", mean=0.0, low=-0.5, high=0.5)
    statement = replace(STATEMENT, nulls=("rotation",), controls=("other",))
    claim = one(statement, seeds(CLEAR, [null], other=control))
    assert claim.p == pytest.approx(t_test(np.array(CLEAR) - control, "greater"))
    assert claim.beats == ("rotation",)  # the control's interval overlaps the claim's, though seed by seed it is beaten
    assert claim.verdict == "undecided"


def test_many_claims_ask_for_more() -> None:
    """Alone it holds; among many that are nothing it does not."""
    rng = np.random.default_rng(0)
    middling = [1.45, 1.1, 1.8, 1.3, 1.9, 1.2]
    alone = weighed(0, middling)
    assert t_interval(middling).low > 1
    assert verdicts([alone], exploratory=False)[0].verdict == "holds"
    family = [alone, *(weighed(k, rng.standard_normal(6).tolist()) for k in range(1, 40))]
    claims = verdicts(family, exploratory=False)
    assert claims[0].verdict == "undecided"
    assert "over 40 claims" in claims[0].why
    assert [c.p_adjusted for c in claims] == pytest.approx(benjamini_hochberg([c.p for c in claims if c.p is not None]))
    assert claims[0].power is not None
    assert (claims[0].seeds_needed or 0) > 6


def test_four_seeds_cannot_hold_and_five_can() -> None:
    four, five = one(STATEMENT, seeds(CLEAR[:4])), one(STATEMENT, seeds(CLEAR[:5]))
    assert (four.verdict, five.verdict) == ("undecided", "holds")
    assert "signs of 4 seeds" in four.why
    assert four.seeds_needed == LEAST_SEEDS == 5


def test_failing_needs_no_more_than_the_interval() -> None:
    assert one(STATEMENT, seeds([0.1, 0.2, 0.15])).verdict == "fails"


def test_an_undecided_claim_states_power_and_seeds() -> None:
    values = np.array([1.6, 0.9, 1.8, 0.7, 1.5, 1.3])
    claim = one(STATEMENT, seeds(list(values)))
    assert claim.verdict == "undecided"
    sd = float(values.std(ddof=1))
    assert claim.power == pytest.approx(t_power(values.mean() - 1, sd, 6))
    assert claim.seeds_needed is not None
    assert t_power(values.mean() - 1, sd, claim.seeds_needed) >= 0.8
    assert f"about {claim.seeds_needed} seeds" in claim.why


def test_on_the_near_side_the_seeds_are_those_that_let_it_fail() -> None:
    values = np.array([0.4, 1.3, 0.2, 1.1, 0.6, 0.9])
    claim = one(STATEMENT, seeds(list(values)))
    assert claim.verdict == "undecided"
    assert claim.power == pytest.approx(t_power(1 - values.mean(), float(values.std(ddof=1)), 6))


def test_means_and_intervals_are_taken_on_the_scale() -> None:
    shares = [0.9, 0.99, 0.95, 0.999, 0.97, 0.98]
    null = Null(kind="rotation", mean=0.75, low=0.7, high=0.8)
    # A smallest effect at the end of the scale is cleared by every value; the null is the only bar.
    claim = one(replace(STATEMENT, scale="logit", smallest_effect=0.0, nulls=("rotation",)), seeds(shares, [null]))
    expected = t_interval(shares, "logit")
    assert (claim.low, claim.high) == (expected.low, expected.high)
    odds = np.log(np.array(shares) / (1 - np.array(shares)))
    assert claim.value == pytest.approx(1 / (1 + np.exp(-odds.mean())))
    assert claim.p == pytest.approx(t_test(odds - np.log(3), "greater"))
    assert claim.verdict == "holds"


def test_a_null_that_was_not_measured_is_no_null_of_zero() -> None:
    statement = replace(STATEMENT, smallest_effect=-1.0, direction="greater", nulls=("rotation",))
    claim = one(statement, seeds([-0.5, -0.4, -0.6, -0.5, -0.45]))
    assert claim.nulls == ()
    assert claim.verdict == "undecided"
    assert "rotation" in claim.why


def test_one_seed_has_no_p() -> None:
    claim = one(STATEMENT, seeds([2.0]))
    assert (claim.p, claim.p_adjusted, claim.power, claim.seeds_needed) == (None, None, None, None)
    assert adjust([weigh(STATEMENT, seeds([2.0]))]) == {}


def test_one_seed_of_a_study_that_decides_leaves_a_claim_undecided() -> None:
    alone = Found(1.0, Interval(0.9, 1.1), 400, {})
    for smallest, said in ((0.5, "the interval lies beyond"), (2.0, "the interval does not reach")):
        found = weigh(replace(STATEMENT, smallest_effect=smallest), Collected({101: alone}, {}))
        explored, decided = (verdicts([found], exploratory)[0] for exploratory in (True, False))
        assert explored.verdict == ("holds" if smallest < 1 else "fails")
        assert decided.verdict == "undecided"
        assert said in decided.why
        assert decided.power is None
