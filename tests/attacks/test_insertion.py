import pytest
import torch
from answering import EOT, NULL, PAD, STOP, YES, lively, refused_requests, refuser, requests_of, some_requests

from deltaw.attacks.models import (
    Positions,
    Requests,
    ResponseLosses,
    answers_with,
    attacked_inputs,
    insert,
    position_ids,
    requests_for,
    require_room,
    response_losses,
    slots,
    spliced,
    unattacked,
    unrelated,
)
from deltaw.behaviour.exact import Behaviour
from deltaw.errors import DeltawError
from deltaw.models import activations, response_log_probs, response_weights, token_nll
from deltaw.models.batch import Batch, Role
from deltaw.world import World


def rows_of(batch: Batch) -> list[list[tuple[int, float, int]]]:
    columns = (batch.tokens.tolist(), batch.weights.tolist(), batch.roles.tolist())
    return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_only_inserted_slots_are_new_and_all_roles_move_by_their_number(count: int) -> None:
    requests = some_requests()
    tokens = torch.arange(6 * count).view(6, count) + 100
    found = insert(requests.batch, tokens)
    for row, (before, after) in enumerate(zip(rows_of(requests.batch), rows_of(found), strict=True)):
        at = int(requests.lengths[row]) - 1
        assert after[at : at + count] == [(100 + row * count + k, 0.0, Role.INSERTED) for k in range(count)]
        assert after[:at] + after[at + count :] == before
    assert torch.equal(found.position_of(Role.LAST_PROMPT), requests.batch.position_of(Role.LAST_PROMPT) + count)


def test_position_ids_of_both_kinds() -> None:
    requests = requests_of([[6, 7], [6]], [[8], [8, 9]])
    batch = slots(requests.batch, 2)
    assert position_ids(batch, "shifted").tolist() == [list(range(7))] * 2
    assert position_ids(batch, "reused").tolist() == [[0, 1, 2, 2, 2, 3, 4], [0, 1, 1, 1, 2, 3, 4]]
    plain = position_ids(requests.batch, "reused")
    assert plain.tolist() == [list(range(5))] * 2, "the prompt and the response keep their positions"


def test_vectors_stand_only_where_something_was_inserted() -> None:
    model, requests = lively(), some_requests()
    vectors = torch.randn(6, 3, 12)
    found = spliced(model, slots(requests.batch, 3), vectors)
    plain = model.embed(requests.batch.tokens)
    for row, at in enumerate((requests.lengths - 1).tolist()):
        assert torch.equal(found[row, at : at + 3], vectors[row])
        assert torch.equal(torch.cat([found[row, :at], found[row, at + 3 :]]), plain[row])


@pytest.mark.parametrize("positions", ["reused", "shifted"])
def test_no_insertion_is_no_attack(positions: Positions) -> None:
    model, requests = lively(), some_requests()
    nothing = torch.zeros(6, 0, 12)
    plain = unattacked(model, requests)
    assert torch.equal(answers_with(model, requests, nothing, positions).outputs, plain.outputs)
    losses = response_losses(model, requests.batch, nothing, positions)
    expected = -response_log_probs(model(requests.batch.tokens), requests.batch) / response_weights(requests.batch)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)


def test_shifted_tokens_are_those_of_the_longer_prompt_and_reused_ones_are_not() -> None:
    model, requests = lively(), some_requests()
    suffix = torch.randint(6, 17, (6, 2), generator=torch.Generator().manual_seed(0))
    longer = insert(requests.batch, suffix)
    expected = -response_log_probs(model(longer.tokens), longer) / response_weights(longer)
    vectors = model.embed(suffix).detach()
    torch.testing.assert_close(response_losses(model, requests.batch, vectors, "shifted"), expected, rtol=0, atol=1e-5)
    reused = response_losses(model, requests.batch, vectors, "reused")
    assert ((reused - expected).abs() > 1e-3).all()
    whole = Requests(longer, requests.refusal, STOP, PAD)
    assert torch.equal(answers_with(model, requests, vectors, "shifted").outputs, unattacked(model, whole).outputs)


@pytest.mark.parametrize("positions", ["reused", "shifted"])
def test_losses_from_what_was_read_once_are_those_of_whole_sequences(positions: Positions) -> None:
    model, requests = lively().double(), some_requests()
    batch, vectors = slots(requests.batch, 2), torch.randn(3, 6, 2, 12, dtype=torch.float64, requires_grad=True)
    found = ResponseLosses(model, requests.batch, 2, positions)(vectors)
    at = position_ids(batch, positions)
    logits = [model(embeddings=spliced(model, batch, copy), positions=at) for copy in vectors]
    nll = torch.stack([(token_nll(each, batch) * batch.weights).sum(1) for each in logits])
    expected = nll / response_weights(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    slopes = [torch.autograd.grad(losses.sum(), vectors)[0] for losses in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


def test_activations_are_read_at_the_role_wherever_it_went() -> None:
    model, requests = lively(), some_requests()
    suffix = torch.randint(6, 17, (6, 2), generator=torch.Generator().manual_seed(0))
    batch, inputs, at = attacked_inputs(model, requests.batch, model.embed(suffix), "shifted")
    found = activations(model, batch, ["mlp_in"], [1], embeddings=inputs, positions=at)
    expected = activations(model, insert(requests.batch, suffix), ["mlp_in"], [1])
    torch.testing.assert_close(found[1, "mlp_in"], expected[1, "mlp_in"], rtol=0, atol=1e-5)
    batch, inputs, at = attacked_inputs(model, requests.batch, torch.zeros(0, 12))
    found = activations(model, batch, ["mlp_in"], [1], embeddings=inputs, positions=at)
    expected = activations(model, requests.batch, ["mlp_in"], [1])
    torch.testing.assert_close(found[1, "mlp_in"], expected[1, "mlp_in"], rtol=0, atol=1e-5)


def test_a_context_too_short_is_named_with_the_ways_out() -> None:
    requests = some_requests()
    needed = int(requests.lengths.max()) + requests.steps - 1
    model = lively(context=needed + 1)
    require_room(model, requests, 1, "shifted")
    require_room(model, requests, 50, "reused")
    answers_with(model, requests, torch.zeros(1, 12), "shifted")
    with pytest.raises(DeltawError, match=f"2 inserted.*need {needed + 2}.*has {needed + 1}.*'reused'.*pre-train"):
        answers_with(model, requests, torch.zeros(2, 12), "shifted")
    with pytest.raises(DeltawError, match="need"):
        require_room(lively(context=needed - 1), requests, 0, "reused")


def test_requests_know_their_responses() -> None:
    requests = requests_of([[6, 7], [6]], [[8], [9, 10]])
    assert requests.lengths.tolist() == [3, 2]
    assert requests.compliant.tolist() == [[8, STOP, PAD], [9, 10, STOP]]
    assert requests.steps == 3
    exchanged = requests.with_compliant(requests.compliant.flip(0))
    assert exchanged.compliant.tolist() == [[9, 10, STOP], [8, STOP, PAD]]
    assert exchanged.lengths.tolist() == [3, 2]
    assert exchanged.batch.tokens[0].tolist() == [6, 7, EOT, 9, 10, STOP]
    again = exchanged.with_compliant(requests.compliant)
    width = requests.batch.tokens.shape[1]
    assert rows_of(again.batch)[0][:width] == rows_of(requests.batch)[0]
    assert rows_of(again.batch)[1][:width] == rows_of(requests.batch)[1]


def test_unrelated_targets_differ_from_the_prompts_own_and_come_from_the_others() -> None:
    requests = some_requests(30)
    own = requests.compliant
    found = unrelated(requests, torch.Generator().manual_seed(0)).compliant
    assert found.shape == own.shape
    assert (found != own).any(1).all()
    assert all(row in own.tolist() for row in found.tolist())
    first = unrelated(requests, torch.Generator().manual_seed(0), first=1).compliant
    assert (first[:, 0] != own[:, 0]).all()
    with pytest.raises(DeltawError, match="another prompt"):
        unrelated(refused_requests(), torch.Generator())


def test_the_hand_made_model_does_what_it_says() -> None:
    model, requests = refuser(), refused_requests()
    plain = unattacked(model, requests)
    assert plain.labels.tolist() == [Behaviour.REFUSE] * 4
    assert plain.outputs.tolist() == [[NULL, STOP]] * 4
    shown = answers_with(model, requests, model.embed.weight[None, 5].detach())
    assert shown.outputs.tolist() == [[YES, STOP]] * 4
    assert answers_with(model, requests, model.embed.weight[None, 6].detach()).counts().refuse == 4


def test_requests_of_a_world() -> None:
    world = World()
    prompts = world.sample("forbidden/conditional/unsafe", range(5))
    requests = requests_for(world, prompts)
    letters = world.layout.outputs(prompts)[:, 0] + world.vocabulary.first_letter
    assert torch.equal(requests.compliant[:, :-1], torch.from_numpy(letters))
    assert (requests.refusal[:, :-1] == world.vocabulary.null).all()
    assert (requests.compliant[:, -1] == world.vocabulary.stop).all()
    assert (requests.lengths == world.layout.prompt_length).all()
