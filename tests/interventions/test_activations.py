"""Edits of activations: what they do to a stream by hand, where they act and where not, and planted truths."""

import pytest
import torch
from guarded import NULL, asked, guarded, lively, pair, some_tokens
from torch import Tensor

from deltaw.attacks.models import unattacked
from deltaw.behaviour.exact import Behaviour
from deltaw.errors import DeltawError
from deltaw.interventions import (
    Patch,
    ablation,
    acting,
    addition,
    answers_patched,
    difference_in_means,
    editing,
    random_direction,
    shifted,
    state_of,
    with_state,
    without,
)
from deltaw.interventions.patching import _turned
from deltaw.models import mlp, tap

TOKENS = some_tokens()
COMPLY, REFUSE = int(Behaviour.COMPLY), int(Behaviour.REFUSE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_edit_that_changes_nothing_changes_nothing_and_hooks_go() -> None:
    model = lively()
    before = model(TOKENS)
    places = [(0, "mlp_in"), (0, "mlp_pre"), (1, "mlp_post"), (1, "mlp_out"), (1, "resid_out")]
    with editing(model, dict.fromkeys(places, lambda x: x)):
        assert torch.equal(model(TOKENS), before)
    with editing(model, {(0, "mlp_in"): lambda x: x + 1}):
        assert not torch.allclose(model(TOKENS), before)
    with pytest.raises(RuntimeError), editing(model, {(0, "mlp_in"): lambda x: x[..., :3]}):
        model(TOKENS)
    assert torch.equal(model(TOKENS), before)
    with pytest.raises(DeltawError, match="the sites are mlp_in"), editing(model, {(0, "attention"): lambda x: x}):
        pass
    with pytest.raises(DeltawError, match="layer 2"), editing(model, {(2, "mlp_in"): lambda x: x}):
        pass


def test_an_edit_of_the_last_residual_is_an_edit_of_what_is_unembedded() -> None:
    model, shift = lively(), torch.randn(12, generator=seeded())
    with tap(model, ("resid_out",), (1,)) as found:
        model(TOKENS)
    by_hand = model.unembed(model.norm_final(found[1, "resid_out"] + shift))
    with editing(model, {(1, "resid_out"): shifted(shift)}):
        torch.testing.assert_close(model(TOKENS), by_hand)


def test_nothing_is_edited_in_place() -> None:
    x = torch.ones(2, 3, 12)
    for edit in (without(torch.randn(12, generator=seeded())), shifted(torch.ones(12))):
        edit(x)
    assert torch.equal(x, torch.ones(2, 3, 12))


def test_ablation_leaves_nothing_of_the_direction_and_all_of_the_rest() -> None:
    model, direction = lively(), torch.randn(12, generator=seeded())
    unit, other = direction / direction.norm(), torch.linalg.qr(direction[:, None], mode="complete").Q[:, 1:]
    with tap(model, ("resid_out",), (0,)) as plain:
        model(TOKENS)
    with editing(model, ablation(direction, range(2))), tap(model, ("resid_out",), (0, 1)) as found:
        model(TOKENS)
    for layer in range(2):
        assert float((found[layer, "resid_out"] @ unit).abs().max()) < 1e-5
    torch.testing.assert_close(found[0, "resid_out"] @ other, plain[0, "resid_out"] @ other, atol=1e-5, rtol=1e-4)
    x = plain[0, "resid_out"]
    torch.testing.assert_close(without(3 * direction)(x), without(direction)(x))
    with pytest.raises(DeltawError, match="direction"):
        without(torch.zeros(12))


def test_the_difference_in_means_carries_a_planted_refusal() -> None:
    """Refusal is read from one dimension of the stream, so that the difference in means holds it."""
    _, tuned = guarded()
    with_trigger, plain = asked(trigger=True), asked(trigger=False)
    assert set(unattacked(tuned, with_trigger).labels.tolist()) == {REFUSE}
    assert set(unattacked(tuned, plain).labels.tolist()) == {COMPLY}
    means = []
    for requests in (with_trigger, plain):
        with tap(tuned, ("resid_out",), (0,), select=lambda x: x[:, -1]) as found:
            tuned(requests.batch.tokens[:, :3])
        means.append(found[0, "resid_out"])
    direction = difference_in_means(*means)
    with editing(tuned, ablation(direction, range(2))):
        assert set(unattacked(tuned, with_trigger).labels.tolist()) == {COMPLY}
    with editing(tuned, addition(direction, 0)):  # after NULL as well, so its first token counts
        assert set(unattacked(tuned, plain).outputs[:, 0].tolist()) == {NULL}
    with editing(tuned, addition(direction, 0, dose=0.0)):
        assert set(unattacked(tuned, plain).labels.tolist()) == {COMPLY}
    random = random_direction(direction, seeded(1))
    assert float(random.norm()) == pytest.approx(float(direction.norm()))
    with pytest.raises(DeltawError, match="same mean"):
        difference_in_means(means[0], means[0])


def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    base, tuned = guarded()
    return state_of(base), state_of(tuned)


@pytest.mark.parametrize("at", ["last_prompt", "prompt"])
def test_a_patch_from_the_same_prompt_or_without_an_update_is_none(at: str) -> None:
    base, tuned, model = pair()
    model = with_state(model, tuned)
    requests = asked(trigger=True)
    other = asked(trigger=False)
    plain = unattacked(model, requests).outputs
    for source, maps in ((requests, acting(base, tuned)), (other, acting(base, base)), (other, acting(base, tuned, 0))):
        found = answers_patched(model, requests, source, Patch(maps, at))  # type: ignore[arg-type]
        assert torch.equal(found.outputs, plain)
    moved = answers_patched(model, requests, other, Patch(acting(base, tuned), at))  # type: ignore[arg-type]
    assert moved.outputs.shape == plain.shape


def test_at_full_rank_the_update_reads_the_source_and_the_old_weights_the_target() -> None:
    """One layer, last position: the first token of the answer, by hand."""
    base, tuned, model = pair(layers=1)
    model = with_state(model, tuned)
    target, source = asked(trigger=False), asked(trigger=True)
    old, new = (mlp(state, 0) for state in (base, tuned))
    found = {}
    for name, requests in (("target", target), ("source", source)):
        with tap(model, ("mlp_in", "mlp_out", "resid_out"), (0,), select=lambda x: x[:, -1]) as found[name]:
            model(requests.batch.tokens[:, :3])
    a, b = found["target"][0, "mlp_in"], found["source"][0, "mlp_in"]
    pre = a @ old.w_in.T + b @ (new.w_in - old.w_in).T + new.b_in
    out = new.activation(pre) @ new.w_out.T + new.b_out
    stream = found["target"][0, "resid_out"] - found["target"][0, "mlp_out"] + out
    by_hand = model.unembed(model.norm_final(stream)).argmax(-1)
    patched = answers_patched(model, target, source, Patch(acting(base, tuned)))
    assert torch.equal(patched.outputs[:, 0], by_hand)


@pytest.mark.parametrize("at", ["last_prompt", "prompt"])
@pytest.mark.parametrize("k", [1, None])
def test_giving_back_what_was_planted_brings_refusal_back_and_taking_it_away_takes_it(at: str, k: int | None) -> None:
    (base, tuned), (_, model) = states(), guarded()
    forbidden, jailbroken = asked(trigger=True), asked(trigger=False)
    patch = Patch(acting(base, tuned, k), at)  # type: ignore[arg-type]
    assert set(answers_patched(model, jailbroken, forbidden, patch).labels.tolist()) == {REFUSE}
    assert set(answers_patched(model, forbidden, jailbroken, patch).labels.tolist()) == {COMPLY}


def test_a_scrambled_patch_is_as_long_and_points_elsewhere() -> None:
    (base, tuned), (_, model) = states(), guarded()
    forbidden, jailbroken = asked(trigger=True), asked(trigger=False)
    patch = Patch(acting(base, tuned), scramble=seeded())
    assert REFUSE not in answers_patched(model, jailbroken, forbidden, patch).labels.tolist()
    vectors = torch.randn(4, 2, 40, generator=seeded(1))
    turned = _turned(vectors, seeded(2))
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    assert float(torch.cosine_similarity(turned, vectors, dim=-1).abs().max()) < 0.6


def test_sources_must_fit_their_targets() -> None:
    (base, tuned), (_, model) = states(), guarded()
    requests = asked(trigger=True)
    with pytest.raises(DeltawError, match="3 sources for 4 targets"):
        answers_patched(model, requests, requests[slice(0, 3)], Patch(acting(base, tuned)))
    with pytest.raises(DeltawError, match="k is -1"):
        acting(base, tuned, -1)
