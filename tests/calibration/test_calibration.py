"""The calibration, with few draws: every cell runs; exact tests hold their level; violated nulls are seen to be."""

from collections.abc import Mapping, Sequence

import pytest
from scipy import stats

from deltaw.calibration.rates import Rate, calibrate, rates_of, records, tables
from deltaw.calibration.scenarios import cells
from deltaw.calibration.trials import Cell
from deltaw.claims import STATEMENTS
from deltaw.report.pages.calibration import calibration_figure

CELLS = {cell.name: cell for cell in cells()}


def by_null(name: str, draws: int) -> Mapping[str, Rate]:
    return {rate.test.rpartition(", ")[2]: rate for rate in rates_of(CELLS[name], draws, seed=1)}


def too_often(rate: Rate) -> bool:
    """Whether so many findings have a probability below 1e-4 at the nominal level."""
    return bool(stats.binom.sf(rate.beyond - 1, rate.draws, rate.level) < 1e-4)


@pytest.mark.parametrize("name", list(CELLS))
def test_every_cell_can_be_drawn_and_is_reproducible(name: str) -> None:
    first = rates_of(CELLS[name], 2, seed=0)
    assert first == rates_of(CELLS[name], 2, seed=0)
    assert all(0 <= rate.beyond + rate.other_side <= rate.draws == 2 for rate in first)
    assert CELLS[name].true <= {rate.test.rpartition(", ")[2] for rate in first}


def test_every_null_of_the_paper_s_observations_is_tried() -> None:
    tried = {kind for cell in CELLS.values() for kind in cell.true}
    asked = {kind for statement in STATEMENTS for kind in statement.nulls}
    assert asked & tried >= {
        "row_sign_flip", "row_permutation", "rotation", "label_permutation", "m_matched", "m_matched_centred",
        "model_swap", "exchangeable_with_source", "success_permutation", "dose_permutation", "random_split",
        "random_direction",
    }  # fmt: skip


EXACT = [
    ("null space of weights: rotated update", 300),
    ("clusters: labels permuted", 100),
    ("clusters by depth: labels permuted", 60),
    ("ranks: labels permuted", 200),
    ("ranks: models swapped", 200),
    ("gain: labels permuted, anisotropic activations", 400),
    ("row space: directions drawn from N(0, M)", 150),
    ("attacks: attacked and source swapped", 300),
    ("sensitivity: models swapped", 500),
    ("dose and response: success by attack alone", 60),
    ("dose and response: gains: success by attack alone", 60),
    ("function of the MLP: rotated update", 40),
    ("moves by dose: doses swapped", 500),
    ("update cut in two: rotated update", 40),
    ("seeds: no difference, normal seeds", 400),
    ("seeds: a difference as large as the margin", 400),
    ("seeds: claim and control of one law", 400),
    ("seeds: a control three times as noisy, at the margin", 400),
    ("seeds: no claim is true", 150),
]


@pytest.mark.parametrize(("name", "draws"), EXACT)
def test_a_true_null_is_found_at_its_level(name: str, draws: int) -> None:
    true = [rate for rate in by_null(name, draws).values() if rate.by_construction]
    assert true
    assert not any(too_often(rate) for rate in true)


def test_what_a_null_does_not_assume_is_found() -> None:
    """Rows that are shorter where leverage is larger: rotation and permutation take that for the null space."""
    rates = by_null("null space of weights: rows shorter with leverage", 60)
    assert too_often(rates["rotation"])
    assert too_often(rates["row_permutation"])
    assert not too_often(rates["row_sign_flip"])


def test_operators_as_clusters_are_found_by_tests_that_take_prompts_for_independent() -> None:
    rates = by_null("sensitivity: operators as clusters, each changed at random", 200)
    assert all(too_often(rate) for rate in rates.values())


def test_other_operators_on_each_side_are_taken_for_clusters_and_not_for_gain() -> None:
    """So a claim about clusters of never-allowed beside always-allowed operators needs a control that shows fewer."""
    condition = "operators as clusters, others on each side"
    assert too_often(by_null(f"clusters: {condition}", 200)["label_permutation"])
    assert not too_often(by_null(f"gain: {condition}", 200)["label_permutation"])


def test_a_trait_of_prompts_that_moves_dose_and_success_is_found() -> None:
    """So a slope within attacks says that prompts differ, not that moving them makes them succeed."""
    assert too_often(by_null("dose and response: easy prompts move further", 12)["success_permutation"])


def test_training_on_forbidden_prompts_is_found_whatever_it_teaches() -> None:
    assert too_often(by_null("gain: update learnt from random errors on forbidden prompts", 60)["label_permutation"])


def test_a_noisy_control_makes_no_difference_of_its_own() -> None:
    """With no true difference beside a control three times as noisy, few are found on either side."""
    rate = by_null("seeds: claim and control of one law, the control three times as noisy", 400)["a difference"]
    assert not too_often(rate)
    assert rate.other_side / rate.draws < 0.06


@pytest.mark.parametrize(
    "family",
    [
        "null space of weights: ρ_N raised by",
        "sensitivity: falls by",
        "attacks: moved by",
        "moves by dose: moved",
        "seeds: mean",
        "seeds: beside a control,",
        "seeds: of sixteen",
        "ranks: directions gone",
        "clusters by depth: clusters",
        "dose and response: gains: slope",
    ],
)
def test_power_grows_with_the_effect(family: str) -> None:
    planted = sorted((c for n, c in CELLS.items() if n.startswith(family)), key=lambda cell: cell.effect or 0)
    ends = [rates_of(cell, 60, seed=2) for cell in (planted[0], planted[-1])]
    for small, large in zip(*ends, strict=True):
        assert small.test == large.test
        if small.test.endswith("no difference"):
            small, large = large, small
        assert large.value > small.value
        assert large.value > 0.5


def test_rates_are_what_was_counted() -> None:
    def rate(**changes: object) -> Rate:
        fields: dict[str, object] = {
            "family": "f", "condition": "c", "test": "t, kind", "effect": None, "unit": "", "by_construction": True,
            "level": 0.025, "draws": 2000, "beyond": 50, "other_side": 40,
        }  # fmt: skip
        return Rate(**{**fields, **changes})  # type: ignore[arg-type]

    assert (rate().value, rate().finding) == (0.025, "")
    assert rate(beyond=100).finding == "too often"
    assert rate(beyond=20).finding == "rarely"
    assert rate(beyond=1000, effect=0.1).finding == ""
    text = tables([rate(beyond=100), rate(effect=0.1, beyond=1500)])
    assert "0.050 [0.039, 0.064]" in text
    assert "**too often**" in text
    assert "Planted effects" in text
    (record, _) = records([rate(beyond=100), rate()])
    assert record["rate"] == 0.05


def test_the_figure_shows_every_rate_without_a_planted_effect() -> None:
    drawn = calibration_figure(records(_few(["seeds: no difference, normal seeds", "sensitivity: models swapped"])))
    assert drawn is not None
    svg = drawn.draw().file
    assert "models swapped" in svg
    assert "no difference, normal seeds" in svg


def _few(names: Sequence[str]) -> list[Rate]:
    return [rate for name in names for rate in rates_of(CELLS[name], 5, seed=0)]


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    assert calibrate(draws=2, power_draws=2, workers=2) == calibrate(draws=2, power_draws=2)


def test_cells_have_names_of_their_own() -> None:
    assert len(CELLS) == len(cells())
    assert all(isinstance(cell, Cell) for cell in cells())
