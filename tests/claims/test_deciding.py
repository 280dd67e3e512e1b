"""The rule: differences by question, words, Holm, offered words; against scipy and simulation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from deltaw.claims.decision import (
    QUESTIONS,
    UNCLEAR,
    WORDS,
    adjust,
    answered,
    planned_seeds,
    questions_of,
    seeds_that_decide,
    without_words,
    word_power,
    words_offered,
)
from deltaw.claims.lookup import Collected, SeedValue
from deltaw.claims.statements import PRIMARY, Query, Statement
from deltaw.results import Answer, Claim
from deltaw.results.claim import Null
from deltaw.statistics import Interval, equivalence_test, holm, t_interval

STATEMENT = Statement(
    id="planted",
    observation=2,
    text="it is large",
    paper="",
    query=Query("statistic", ("model",)),
    smallest_effect=1.0,
    margin=1.0,
    spread=0.4,
)
CLEAR = (2.0, 2.1, 1.9, 2.2, 1.8, 2.0, 2.3, 1.7)
Numbers = Sequence[float] | np.ndarray[Any, Any]
LITTLE = (0.1, -0.2, 0.2, 0.0, -0.1, 0.15, -0.15, 0.05)


def collected(values: Numbers, nulls: Sequence[Null] = (), **controls: Numbers) -> Collected:
    def by_seed(numbers: Numbers) -> dict[int, SeedValue]:
        return {
            seed: SeedValue(float(v), None, None, {null.kind: null for null in nulls}) for seed, v in enumerate(numbers)
        }

    return Collected(by_seed(values), {name: by_seed(numbers) for name, numbers in controls.items()})


def claim(statement: Statement, measured: Collected) -> Claim:
    (decided,) = answered([(statement, measured)], exploratory=False)
    return decided


def answer(statement: Statement, measured: Collected, question: str = "seen") -> Answer:
    return next(one for one in claim(statement, measured).answers if one.question == question)


@pytest.mark.parametrize(
    ("shift", "word"),
    [(0.0, "seen"), (-2.0, "absent"), (-4.0, "opposite"), (-1.05, UNCLEAR)],
)
def test_each_word_of_the_first_question(shift: float, word: str) -> None:
    found = answer(STATEMENT, collected([value + shift for value in CLEAR]))
    assert found.word == word
    assert found.value == pytest.approx(2.0 + shift)
    assert (found.n, found.question) == (8, "seen")


def test_the_other_direction_mirrors_the_words_and_keeps_the_sign_of_the_numbers() -> None:
    less = replace(STATEMENT, direction="less")
    found = answer(less, collected([-value for value in CLEAR]))
    assert found.word == "seen"
    assert found.value == pytest.approx(-2.0)
    assert answer(less, collected(CLEAR)).word == "opposite"


def test_an_effect_that_is_surely_there_and_too_small_is_none() -> None:
    """0.5 ± little: the interval excludes zero, and lies within the margin of 1, which goes before."""
    values = [0.5 + 0.1 * value for value in LITTLE]
    assert t_interval(values).low > 0
    assert answer(STATEMENT, collected(values)).word == "absent"


def test_a_mean_below_the_smallest_effect_is_never_seen() -> None:
    """Margin 0.5 below the smallest effect 1: a sure 0.7 lies beyond the one and short of the other."""
    found = answer(replace(STATEMENT, margin=0.5, spread=0.2), collected([0.7 + 0.1 * value for value in LITTLE]))
    assert found.word == UNCLEAR
    assert "smaller than the smallest effect" in found.why


def test_controls_are_compared_seed_by_seed() -> None:
    """Seeds differ by far more than claim and control do: only the paired difference shows it."""
    seeds = np.arange(8) * 10.0
    measured = collected(seeds + 2.0, other=seeds + np.array(LITTLE), constant=seeds + 2.0 + np.array(LITTLE))
    statement = replace(STATEMENT, controls=("other", "constant"))
    other, constant = (answer(statement, measured, name) for name in ("other", "constant"))
    assert (other.word, constant.word) == ("more", "same")
    assert (other.low, other.high) == pytest.approx(
        tuple(stats.t.interval(0.95, 7, 2 - np.mean(LITTLE), stats.sem(LITTLE)))
    )
    assert answer(statement, collected(seeds, other=seeds + 2.0 + np.array(LITTLE)), "other").word == "less"


def test_shape_is_asked_only_of_a_null_with_a_mean_of_its_own() -> None:
    null = Null(kind="rotation", mean=0.75, low=0.7, high=0.8)
    statement = replace(
        STATEMENT,
        scale="logit",
        reference=0.5,
        smallest_effect=0.1,
        margin=0.1,
        spread=0.04,
        shape="rotation",
        nulls=("rotation",),
    )
    shares = [0.70, 0.71, 0.69, 0.70, 0.705, 0.695, 0.70, 0.70]
    seen, shape = (answer(statement, collected(shares, [null]), name) for name in ("seen", "shape"))
    assert (seen.word, shape.word) == ("seen", "less")  # more null than column, and less than its shape gives
    odds = np.log(np.array(shares) / (1 - np.array(shares)))
    assert seen.value == pytest.approx(odds.mean())
    assert shape.value == pytest.approx(odds.mean() - np.log(3))
    drawn = claim(replace(statement, shape=None), collected(shares, [null]))
    assert [one.question for one in drawn.answers] == ["seen"]
    assert [one.kind for one in drawn.nulls] == ["rotation"]


def test_what_was_not_measured_in_every_seed_gets_no_word() -> None:
    statement = replace(STATEMENT, controls=("other",))
    partly = answer(statement, Collected(collected(CLEAR).values, {"other": collected(LITTLE[:4]).values}), "other")
    assert (partly.word, partly.n) == (None, 4)
    assert "4 of 8 seeds" in partly.why
    never = answer(statement, Collected(collected(CLEAR).values, {"other": {}}), "other")
    assert (never.word, never.value, never.why) == (None, None, "not measured")
    lacking = answer(STATEMENT, replace(collected(CLEAR), without=1))
    assert lacking.word is None
    assert "8 of 9 seeds" in lacking.why


def test_one_seed_has_numbers_and_no_words() -> None:
    alone = Collected({7: SeedValue(2.0, Interval(1.5, 2.5), 400, {})}, {"other": {7: SeedValue(0.5, None, None, {})}})
    decided = claim(replace(STATEMENT, controls=("other",)), alone)
    assert (decided.value, decided.low, decided.high, decided.n_unit) == (2.0, 1.5, 2.5, "prompt")
    assert [(one.question, one.word, one.value) for one in decided.answers] == [
        ("seen", None, 2.0), ("other", None, 1.5),
    ]  # fmt: skip


def test_a_claim_that_was_not_measured_has_no_answers() -> None:
    decided = claim(STATEMENT, Collected({}, {}))
    assert (decided.value, decided.answers) == (None, ())


def test_holm_is_over_the_primary_claims_of_one_question() -> None:
    """A mean that is just apart from zero is seen alone, and unclear among twenty that are nothing."""
    middling = [1.0, 2.6, 0.2, 2.2, 3.0, 0.4, 1.9, 0.9]
    assert stats.ttest_1samp(middling, 0).pvalue < 0.05
    rng = np.random.default_rng(0)
    primary = replace(STATEMENT, primary=True, spread=0.2)
    family = [(primary, collected(middling))]
    family += [(replace(primary, id=f"planted/{number}"), collected(list(rng.normal(0, 2, 8)))) for number in range(19)]
    first, *_ = claims = answered(family, exploratory=False)
    assert answer(replace(primary, primary=False), collected(middling)).word == "seen"
    assert first.answers[0].word == UNCLEAR
    assert "Holm" in first.answers[0].why
    p: list[Any] = [stats.ttest_1samp([v.value for v in measured.values.values()], 0).pvalue for _, measured in family]
    assert [one.answers[0].p_adjusted for one in claims] == pytest.approx(list(holm(p)))


def test_secondary_claims_do_not_enlarge_the_family() -> None:
    primary = replace(STATEMENT, primary=True)
    alone = adjust(questions_of(primary, collected(CLEAR)))
    beside = [*questions_of(primary, collected(CLEAR)), *questions_of(replace(STATEMENT, id="x"), collected(LITTLE))]
    assert adjust(beside) == alone


def test_a_word_without_power_is_not_offered() -> None:
    wide = replace(STATEMENT, spread=2.0)  # eight seeds cannot show a margin of half a standard deviation
    assert words_offered(wide, 8)["seen"] == ()
    few = answer(wide, collected(LITTLE))
    assert few.word == UNCLEAR
    assert "too few" in few.why
    assert words_offered(wide, planned_seeds(wide, 400) or 0) == WORDS


def test_power_is_what_simulation_finds() -> None:
    statement = replace(STATEMENT, spread=0.9)
    rng, draws = np.random.default_rng(1), 4000
    none = rng.normal(0, 0.9, (draws, 8))
    twice = none + 2 * statement.smallest_effect
    same = np.mean([equivalence_test(values, statement.margin) <= 0.05 for values in none])
    more = np.mean([t_interval(values).low > 0 for values in twice])
    assert word_power(statement, 8) == pytest.approx((more, same), abs=0.025)


def test_an_unclear_answer_says_how_many_seeds_would_decide() -> None:
    values = [1.6, -0.9, 2.8, -1.7, 3.5, 1.3, -0.2, 3.9]
    found = answer(STATEMENT, collected(values))
    assert found.word == UNCLEAR
    (question,) = questions_of(STATEMENT, collected(values))
    assert found.seeds_needed == seeds_that_decide(question)
    rng, seeds = np.random.default_rng(2), found.seeds_needed or 0
    decided = [t_interval(draw).low > 0 for draw in rng.normal(np.mean(values), np.std(values, ddof=1), (2000, seeds))]
    assert np.mean(decided) == pytest.approx(0.8, abs=0.06)


def test_a_pair_of_checkpoints_has_numbers_and_no_words() -> None:
    plain = without_words(claim(STATEMENT, collected(CLEAR)), "one case")
    assert [(one.word, one.p, one.why) for one in plain.answers] == [(None, None, "one case")]
    assert plain.value == pytest.approx(2.0)


def test_every_primary_statistic_is_planned_for_eight_seeds() -> None:
    for statement in PRIMARY:
        more, same = word_power(statement, 8)
        assert more >= 0.8
        assert same >= 0.8
    assert set(QUESTIONS) == set(WORDS)
