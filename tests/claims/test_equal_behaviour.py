"""Reading models where they have learned equally well: planted learning curves of a fast and a slow control."""

from typing import Any

import numpy as np
import pytest

from deltaw.claims.equal_behaviour import at, crossing, equal_behaviour_claims
from deltaw.results import Measurement

STEPS = (0, 100, 200, 300, 400)


def test_a_crossing_is_interpolated_and_the_first() -> None:
    assert crossing({0: 0.0, 100: 0.9, 200: 1.0, 300: 0.5, 400: 1.0}, 0.95) == pytest.approx(150)
    assert crossing({0: 0.0, 100: 0.9}, 0.95) is None
    assert crossing({0: 0.97, 100: 1.0}, 0.95) == 0
    assert crossing({}, 0.95) is None


def test_a_value_outside_the_checkpoints_is_not_made_up() -> None:
    assert at({100: 1.0, 200: 3.0}, 150) == 2.0
    assert at({100: 1.0, 200: 3.0}, 99) is None
    assert at({}, 5) is None


def model_lines(model: str, seed: int, updates_to_learn: float, control: str | None, gain: float) -> list[Measurement]:
    """A model whose behaviour rises linearly to 0.95 after so many updates, and which gains `gain` in each update."""

    def line(stage: str, step: int, statistic: str, value: float, **where: Any) -> Measurement:
        return Measurement(
            stage=stage, model=model, seed=seed, control=control, step=step, statistic=statistic, value=value, **where
        )

    lines = []
    allowed, forbidden = "allowed/conditional/safe", "forbidden/conditional/unsafe"
    for step in STEPS:
        rate = min(1.0, 0.95 * step / updates_to_learn)
        lines.append(line("tune", step, "comply_rate", rate, set=allowed))
        lines.append(line("tune", step, "refuse_rate", 0.0 if control else rate, set=forbidden))
        if control:
            lines.append(line("tune", step, "target_rate", rate, set=forbidden))
        if step:
            place = {"set": "contrast/operator", "site": "mlp_in"}
            lines.append(line("analysis", step, "gain_log_ratio_in_situ_peak", gain * step, **place))
            lines.append(line("analysis", step, "update_relative_norm", 1e-4 * step, module="mlp.in_proj"))
    return lines


def test_models_are_read_where_each_has_learned() -> None:
    """The control learns faster, and gains more in each update: at equal behaviour they are the same."""
    rng = np.random.default_rng(0)
    lines = []
    for seed in range(8):
        noise = 0.02 * rng.standard_normal(2) / 300
        lines += model_lines("ssft-medium", seed, 300, None, 0.002 + noise[0])
        lines += model_lines("other-ssft-medium", seed, 200, "other", 0.003 + noise[1])
    claims, places = equal_behaviour_claims(lines)
    claim = next(one for one in claims if one.id == "equal-behaviour/gain/operator/ssft-medium")
    assert claim.value == pytest.approx(0.6, abs=0.01)
    by_question = {answer.question: answer for answer in claim.answers}
    assert by_question["other"].word == "same"
    assert by_question["seen"].word == "seen"
    assert by_question["constant"].why == "not measured"
    assert {(place.model, round(place.updates)) for place in places} == {
        ("ssft-medium", 300),
        ("other-ssft-medium", 200),
    }
    assert {round(place.size or 0, 4) for place in places} == {0.03, 0.02}


def test_a_seed_that_does_not_get_there_is_said() -> None:
    lines = []
    for seed in range(8):
        lines += model_lines("ssft-medium", seed, 300 if seed else 900, None, 0.002)
    claims, places = equal_behaviour_claims(lines)
    (answer,) = (a for a in claims[0].answers if a.question == "seen")
    assert answer.word is None
    assert "7 of 8 seeds" in answer.why
    assert len(places) == 7
