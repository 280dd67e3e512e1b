from dataclasses import replace

import pytest
import torch
from answering import lively, refused_requests, refuser, some_requests, weights_of

from deltaw.attacks.models import RelearningConfig, RelearningCurve, relearn, unattacked
from deltaw.behaviour.exact import BehaviourCounts
from deltaw.errors import DeltawError
from deltaw.models.batch import Batch
from deltaw.training import next_token, train

CONFIG = RelearningConfig(rate=3e-2, batch=4, measured=(0, 1, 2, 5, 40))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_few_steps_on_harmful_responses_break_the_refusal_and_the_model_is_left_alone() -> None:
    model, requests = refuser(), refused_requests()
    before = weights_of(model)
    curve = relearn(model, requests.batch, {"forbidden": requests}, CONFIG, seeded())
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(model), strict=True)), "bit for bit"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert unattacked(model, requests).counts().refuse == 4
    assert curve.steps == CONFIG.measured
    refused = [counts.refuse for counts in curve.behaviour["forbidden"]]
    assert (refused[0], refused[-1]) == (4, 0)
    assert curve.behaviour["forbidden"][-1] == BehaviourCounts(4, 0, 0)
    assert len(curve.losses) == 40
    assert curve.losses[-1] < curve.losses[0]


def test_the_training_is_the_ordinary_loop_on_whole_passes() -> None:
    """One batch a pass, hence the same rows at every step, whatever their order."""
    model, requests = lively(), some_requests(4)
    config = replace(CONFIG, measured=(3,))
    curve = relearn(model, requests.batch, {}, config, seeded())
    ordinary = lively()
    log = train(ordinary, lambda _: requests.batch, next_token, config.optimiser())
    assert curve.losses == pytest.approx([record.loss for record in log.records], rel=1e-4)
    assert len({record.learning_rate for record in log.records}) == 1


def test_each_pass_shows_each_row_once_and_the_order_is_the_generators() -> None:
    requests = some_requests(12)
    config = replace(CONFIG, rate=1e-12, measured=(9,))
    curve = relearn(lively(), requests.batch, {}, config, seeded())
    again = relearn(lively(), requests.batch, {}, config, seeded())
    other = relearn(lively(), requests.batch, {}, config, seeded(1))
    assert curve.losses == again.losses
    assert curve.losses != other.losses

    equal = Batch(requests.batch.tokens, torch.ones_like(requests.batch.weights), requests.batch.roles)
    curve = relearn(lively(), equal, {}, config, seeded())
    whole = next_token(lively(), equal).value.item()
    for first in (0, 3, 6):
        assert sum(curve.losses[first : first + 3]) / 3 == pytest.approx(whole, rel=1e-4)


def test_all_who_are_asked_are_measured_at_the_same_steps() -> None:
    model = refuser()
    asked = {"one": refused_requests(), "two": refused_requests()[:2]}
    curve = relearn(model, refused_requests().batch, asked, replace(CONFIG, measured=(0, 2)), seeded())
    assert {name: len(counts) for name, counts in curve.behaviour.items()} == {"one": 2, "two": 2}
    assert curve.behaviour["two"][0].n == 2
    untrained = relearn(model, refused_requests().batch, asked, replace(CONFIG, measured=(0,)), seeded())
    assert untrained.losses == ()
    assert untrained.behaviour["one"][0].refuse == 4


def test_half_life() -> None:
    counts = tuple(BehaviourCounts(10 - refuse, refuse, 0) for refuse in (9, 8, 5, 4, 0))
    curve = RelearningCurve((0, 1, 2, 5, 10), {"forbidden": counts, "held": (counts[0],) * 5}, ())
    assert curve.half_life("forbidden") == 5
    assert curve.half_life("held") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "peak_lr"),
        ({"batch": 0}, "batch is 0"),
        ({"measured": ()}, "measured"),
        ({"measured": (0, 2, 2)}, "increasing"),
    ],
)
def test_numbers_out_of_range_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(DeltawError, match=message):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_too_few_rows_are_refused() -> None:
    requests = refused_requests()
    with pytest.raises(DeltawError, match=r"3 rows.*batches of 4"):
        relearn(refuser(), requests.batch[:3], {}, CONFIG, seeded())
    silent = Batch(requests.batch.tokens, torch.zeros_like(requests.batch.weights), requests.batch.roles)
    with pytest.raises(ValueError, match="no loss"):
        relearn(refuser(), silent, {}, CONFIG, seeded())
