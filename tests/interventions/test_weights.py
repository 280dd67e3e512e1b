"""Edits of weights: ends are exact, parts add up, and the part that was planted is the one that is found."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from guarded import IN_COLUMN_SPACE, OUTSIDE, asked, guarded, lively, pair, some_tokens
from hypothesis import given
from hypothesis import strategies as st

from deltaw.attacks.models import unattacked
from deltaw.behaviour.exact import Behaviour
from deltaw.errors import DeltawError
from deltaw.interventions import (
    ENDS,
    SCOPES,
    State,
    coalition,
    decomposed,
    interpolated,
    leave_one_out,
    names_in,
    only_one,
    players_of,
    random_split,
    randomly_extrapolated,
    shapley_values,
    split_update,
    state_of,
    swapped,
    truncated,
    with_parts,
    with_state,
)
from deltaw.models import Transformer, mlp

TOKENS = some_tokens()


def logits(model: Transformer, state: State) -> torch.Tensor:
    with torch.no_grad():
        return with_state(model, state)(TOKENS)  # type: ignore[no-any-return]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refuses(model: Transformer, state: State, trigger: bool = True) -> bool:
    labels = unattacked(with_state(model, state), asked(trigger)).labels
    assert len(set(labels.tolist())) == 1
    assert int(labels[0]) in (int(Behaviour.COMPLY), int(Behaviour.REFUSE))
    return int(labels[0]) == int(Behaviour.REFUSE)


def test_alpha_one_is_the_tuned_model_and_zero_the_base_bit_by_bit() -> None:
    base, tuned, model = pair()
    assert torch.equal(logits(model, interpolated(base, tuned, 1.0)), logits(model, tuned))
    assert torch.equal(logits(model, interpolated(base, tuned, 0.0)), logits(model, base))
    assert torch.equal(logits(model, interpolated(base, tuned, 1.0, "mlp", rest=1.0)), logits(model, tuned))
    assert torch.equal(model(TOKENS), logits(model, base)), "the model that lends its shape stays as it is"


@given(st.floats(-2, 4))
def test_weights_lie_on_the_line(alpha: float) -> None:
    base, tuned, _ = pair(layers=1)
    for name, x in interpolated(base, tuned, alpha).items():
        line = base[name].double() + alpha * (tuned[name].double() - base[name].double())
        assert torch.allclose(x.double(), line, atol=1e-5)


@pytest.mark.parametrize("scope", [*SCOPES, "layer 1"])
def test_a_scope_moves_alone(scope: str) -> None:
    base, tuned, _ = pair()
    inside = names_in(scope, base)
    assert inside
    for name, x in interpolated(base, tuned, 1.0, scope).items():
        assert torch.equal(x, (tuned if name in inside else base)[name])


def test_modules_are_all_of_the_model_and_none_is_in_two() -> None:
    base, _, _ = pair()
    found = [names_in(scope, base) for scope in ("mlp", "attention", "norms", "embeddings")]
    assert sum(map(len, found)) == len(base)
    assert frozenset().union(*found) == base.keys()
    with pytest.raises(DeltawError, match=r"whole, mlp, .*layer 0, layer 1"):
        names_in("layer 2", base)


def test_models_of_two_shapes_have_no_update() -> None:
    with pytest.raises(DeltawError, match="differ in"):
        interpolated(pair(layers=1)[0], pair(layers=2)[1], 1.0)


def test_a_random_step_is_as_long_and_has_no_direction() -> None:
    base, tuned, model = pair()
    assert torch.equal(logits(model, randomly_extrapolated(base, tuned, 1.0, seeded())), logits(model, tuned))
    step = randomly_extrapolated(base, tuned, 3.0, seeded())
    cosines = []
    for name, x in step.items():
        moved, delta = x.double() - tuned[name].double(), tuned[name].double() - base[name].double()
        assert float(moved.norm()) == pytest.approx(2 * float(delta.norm()), rel=1e-4)
        if delta.numel() > 100:
            cosines.append(float((moved * delta).sum() / moved.norm() / delta.norm()))
    assert max(map(abs, cosines)) < 0.3


def test_null_and_column_part_add_up_and_are_what_they_are_called() -> None:
    base, tuned, model = pair()
    split = split_update(base, tuned)
    for layer in range(2):
        W, delta = mlp(base, layer).w_in.double(), mlp(tuned, layer).w_in.double() - mlp(base, layer).w_in.double()
        assert torch.allclose(split.null[layer] + split.column[layer], delta, atol=1e-12)
        assert float((W.T @ split.null[layer]).abs().max()) < 1e-10
        outside = split.column[layer] - W @ torch.linalg.lstsq(W, split.column[layer]).solution
        assert float(outside.abs().max()) < 1e-10
    whole = with_parts(base, tuned, [split.null, split.column], rest=True)
    assert torch.allclose(logits(model, whole), logits(model, tuned), atol=1e-4)
    assert torch.equal(logits(model, with_parts(base, tuned, [], rest=False)), logits(model, base))
    alone = with_parts(base, tuned, [split.null, split.column], rest=False)
    matrices = {f"blocks.{layer}.mlp.in_proj.weight" for layer in range(2)}
    for name, x in alone.items():
        assert torch.allclose(x, (tuned if name in matrices else base)[name], atol=1e-6)


def test_a_split_by_chance_matches_dimensions_and_norms() -> None:
    base, tuned, _ = pair()
    split = split_update(base, tuned)
    drawn, other = random_split(split, seeded(0)), random_split(split, seeded(1))
    for layer, k in split.kept.items():
        assert k == 12
        for one, two in ((drawn.null, split.null), (drawn.column, split.column)):
            assert float(one[layer].norm()) == pytest.approx(float(two[layer].norm()))
        assert float((drawn.null[layer].T @ drawn.column[layer]).abs().max()) < 1e-10
        assert int(torch.linalg.matrix_rank(drawn.column[layer])) <= k
        assert not torch.allclose(drawn.null[layer], other.null[layer])


@pytest.mark.parametrize("unit", [OUTSIDE, IN_COLUMN_SPACE])
def test_refusal_is_where_it_was_planted(unit: int) -> None:
    """Once in the null space of W, once in its column space: only that part of ΔW refuses, and only with a trigger."""
    base_model, tuned_model = guarded(unit)
    base, tuned = state_of(base_model), state_of(tuned_model)
    split = split_update(base, tuned)
    carrying, idle = (split.null, split.column) if unit == OUTSIDE else (split.column, split.null)
    assert all(float(part[0].norm()) > 0.5 for part in (carrying, idle))
    for rest in (False, True):
        assert refuses(tuned_model, with_parts(base, tuned, [carrying], rest))
        assert not refuses(tuned_model, with_parts(base, tuned, [carrying], rest), trigger=False)
        assert not refuses(tuned_model, with_parts(base, tuned, [idle], rest))
    assert refuses(tuned_model, tuned)
    assert not refuses(tuned_model, base)


def test_a_square_matrix_has_no_null_space_part() -> None:
    model = lively(0, 1)
    state = state_of(model)
    state["blocks.0.mlp.in_proj.weight"] = state["blocks.0.mlp.in_proj.weight"][:12].clone()
    with pytest.raises(DeltawError, match="layer 0"):
        split_update(state, state)


def test_full_rank_is_the_tuned_model_and_kept_and_removed_add_up() -> None:
    base, tuned, model = pair()
    found = decomposed(base, tuned)
    assert found.rank == 12
    assert torch.equal(logits(model, truncated(found, found.rank)), logits(model, tuned))
    assert torch.equal(logits(model, truncated(found, 0, removed=True)), logits(model, tuned))
    for k in (0, 3, found.rank):
        kept, removed = truncated(found, k), truncated(found, k, removed=True)
        for name, x in base.items():
            if x.ndim == 1:
                assert torch.equal(kept[name], tuned[name])
                continue
            delta = (tuned[name] - x).double().numpy()
            both = (kept[name] - x + removed[name] - x).double().numpy()
            np.testing.assert_allclose(both, delta, atol=1e-5)
            sigma = np.linalg.svd(delta, compute_uv=False)
            missing = np.linalg.norm(delta - (kept[name] - x).double().numpy())
            assert missing == pytest.approx(np.sqrt((sigma[k:] ** 2).sum()), abs=1e-4)
    with pytest.raises(DeltawError, match="rank is -1"):
        truncated(found, -1)


def test_the_planted_update_needs_one_direction() -> None:
    base_model, tuned_model = guarded()
    found = decomposed(state_of(base_model), state_of(tuned_model))
    assert refuses(tuned_model, truncated(found, 1))
    assert not refuses(tuned_model, truncated(found, 0))
    assert not refuses(tuned_model, truncated(found, 1, removed=True))


def test_players_are_all_tensors_and_coalitions_lead_from_base_to_tuned() -> None:
    base, tuned, model = pair()
    players = players_of(base)
    assert list(players) == ["layer 0", "layer 1", ENDS]
    assert sum(map(len, players.values())) == len(base)
    assert torch.equal(logits(model, coalition(base, tuned, 0)), logits(model, base))
    assert torch.equal(logits(model, coalition(base, tuned, 7)), logits(model, tuned))
    some = coalition(base, tuned, 0b101)
    for name, x in some.items():
        assert torch.equal(x, (base if name in players["layer 1"] else tuned)[name])
    with pytest.raises(DeltawError, match="coalition 8"):
        coalition(base, tuned, 8)


def test_swapped_takes_layers_from_the_first_and_the_rest_from_the_second() -> None:
    first, second, _ = pair()
    for name, x in swapped(first, second, [0]).items():
        assert torch.equal(x, (first if name.startswith("blocks.0.") else second)[name])


def by_permutations(values: Callable[[int], float], n: int) -> list[float]:
    """Shapley values as they are defined: the mean over all orders of what a player adds to those before it."""
    found = [0.0] * n
    for order in itertools.permutations(range(n)):
        number = 0
        for player in order:
            found[player] += values(number | 1 << player) - values(number)
            number |= 1 << player
    return [total / math.factorial(n) for total in found]


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.floats(-9, 9), min_size=2**n, max_size=2**n)))
def test_shapley_values_are_the_mean_over_all_orders_and_add_up(values: list[float]) -> None:
    table = np.array(values)
    n = len(values).bit_length() - 1
    found = shapley_values(table)
    assert found.tolist() == pytest.approx(by_permutations(lambda number: values[number], n), abs=1e-9)
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-9)


def test_in_an_additive_game_all_three_agree_and_prompts_stay_apart() -> None:
    worth = np.array([[0.5, 0.0], [0.25, 1.0], [0.0, 0.0]])  # (players, prompts)
    values = np.array([worth[[p for p in range(3) if number >> p & 1]].sum(0) for number in range(8)])
    for measured in (shapley_values, only_one, leave_one_out):
        np.testing.assert_allclose(measured(values), worth, atol=1e-12)
    with pytest.raises(DeltawError, match="6 values"):
        shapley_values(np.zeros(6))


def test_the_layer_that_refuses_has_the_whole_value() -> None:
    base_model, tuned_model = guarded()
    base, tuned = state_of(base_model), state_of(tuned_model)
    values = np.array([float(refuses(tuned_model, coalition(base, tuned, number))) for number in range(8)])
    assert shapley_values(values).tolist() == pytest.approx([1.0, 0.0, 0.0])
