import pytest
import torch
from answering import NULL, STOP, YES, lively, refused_requests, refuser, requests_of, some_requests

from deltaw.attacks.models import PREFILL_DOSES, Requests, prefill, unattacked, wrong_prefill
from deltaw.errors import DeltawError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_given_is_no_attack() -> None:
    model, requests = lively(), some_requests()
    plain = unattacked(model, requests)
    for found in (prefill(model, requests, 0), wrong_prefill(model, requests, 0, seeded())):
        assert torch.equal(found.answers.outputs, plain.outputs)
        assert torch.equal(found.answers.labels, plain.labels)
        assert found.given.shape == (6, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_the_rest_is_what_the_model_says_after_what_was_given(count: int) -> None:
    model, requests = lively(), some_requests(shortest=3)
    found = prefill(model, requests, count)
    assert torch.equal(found.given, requests.compliant[:, :count])
    for row, length in enumerate(requests.lengths.tolist()):
        sequence = torch.cat([requests.batch.tokens[row, :length], found.given[row]])[None]
        for said in found.answers.outputs[row].tolist():
            token = int(model(sequence)[0, -1].argmax())
            assert said == token
            if token == STOP:
                break
            sequence = torch.cat([sequence, torch.tensor([[token]])], 1)


def test_success_is_the_whole_rest_and_what_was_given_is_not_judged() -> None:
    """Requests whose compliant response is, or is not, what the model says anyway after a given token."""
    model = lively()
    requests = requests_of([[6, 7, 8], [9, 10, 11], [12, 13, 14]], [[6, 7, 8], [8, 7, 6], [9, 9, 9]])
    free = prefill(model, requests, 1).answers.outputs
    assert not ((free == STOP) | (free == 0)).any(), "chosen such that no row ends early"
    willing = requests.with_compliant(torch.cat([requests.compliant[:, :1], free[:, :2], torch.full((3, 1), STOP)], 1))
    assert not prefill(model, willing, 1).success.any(), "the model does not stop there"
    full = torch.cat([requests.compliant[:, :1], free], 1)
    willing = Requests(willing.with_compliant(full).batch, requests.refusal, 99, 0)
    assert prefill(model, willing, 1).success.all()
    spoiled = full.clone()
    spoiled[1, -1] += 1
    assert prefill(model, willing.with_compliant(spoiled), 1).success.tolist() == [True, False, True]
    other = willing.with_compliant(torch.cat([torch.full((3, 1), 16), free], 1))
    assert prefill(model, other, 1, given=full[:, :1]).success.all(), "the given token is not judged"


def test_the_control_gives_another_prompts_tokens_which_differ() -> None:
    model, requests = lively(), some_requests(20, shortest=3)
    own = requests.compliant
    for count in (1, 2):
        found = wrong_prefill(model, requests, count, seeded())
        assert found.given.shape == (20, count)
        assert (found.given != own[:, :count]).any(1).all()
        assert all(row in own[:, :count].tolist() for row in found.given.tolist())
        again = wrong_prefill(model, requests, count, seeded())
        assert torch.equal(found.given, again.given)


def test_prefill_breaks_a_model_that_decides_at_its_first_token_only() -> None:
    """The refuser says what follows a token, whoever said it: YES is followed by STOP, and so is NULL."""
    requests = requests_of([[6, 7], [7, 6]], [[YES, 6], [YES, 7]])
    model = refuser()
    with torch.no_grad():
        model.unembed.weight[6, YES] = 20.0
        model.unembed.weight[STOP, 6] = 20.0
        model.unembed.weight[STOP, NULL] = 10.0
    assert not unattacked(model, requests).labels.eq(1).any()
    assert prefill(model, requests, 1).success.tolist() == [True, False]
    assert not prefill(model, requests, 1, given=torch.full((2, 1), NULL)).success.any()


def test_what_leaves_nothing_to_decide_is_refused() -> None:
    model, requests = refuser(), refused_requests()
    with pytest.raises(DeltawError, match=r"after 1 tokens.*give fewer"):
        prefill(model, requests, 1)
    with pytest.raises(DeltawError, match="-1 tokens"):
        prefill(model, requests, -1)
    with pytest.raises(ValueError, match="shape"):
        prefill(model, some_requests(), 1, given=torch.zeros(6, 2, dtype=torch.int64))
    assert PREFILL_DOSES[0] == 0
