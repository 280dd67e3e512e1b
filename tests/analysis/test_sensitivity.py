"""Exact sensitivities against a planted linear map, torch's own Jacobian and hand-computed changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import draw
from torch import Tensor

from deltaw.analysis import Absent, SensitivityChange, joined, sensitivity, sensitivity_change
from deltaw.errors import DeltawError

B, T, D, V = 3, 5, 4, 7


def blocks_of(*lengths: int) -> dict[str, Tensor]:
    """Operators first, then text, then the last prompt position; a row of length n has n positions."""
    place, ends = torch.arange(T)[None, :], torch.tensor(lengths)[:, None]
    return {"operators": place.expand(len(lengths), T) < 2, "text": (place >= 2) & (place < ends - 1),
            "last": place == ends - 1}  # fmt: skip


def linear(seed: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A map (V, T, D) and the readout of logits that it is the Jacobian of."""
    A = draw(seed, V, T, D)
    return A, lambda E: torch.einsum("vtd,btd->bv", A, E)


def curved(seed: int) -> Callable[[Tensor], Tensor]:
    """A readout with a Jacobian of its own at each point, that mixes positions."""
    A, W = draw(seed, V, 11), draw(seed + 1, 11, T * D) / 3
    return lambda E: torch.tanh(E.flatten(1) @ W.T) @ A.T


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_linear_map_has_its_own_singular_values(seed: int) -> None:
    A, readout = linear(seed)
    E, blocks = draw(seed + 1, B, T, D) * 0.2, blocks_of(5, 4, 5)
    found = sensitivity(readout, E, blocks, "last")
    for row in range(B):
        f = torch.log_softmax(readout(E)[row], 0)
        p = f.exp()
        every = torch.stack(list(blocks.values()))[:, row].any(0)
        centre = torch.eye(V, dtype=p.dtype) - torch.ones(V, 1, dtype=p.dtype) @ p[None]
        J = (A * every[None, :, None]).flatten(1)
        values = torch.linalg.svdvals(centre @ J)
        F = torch.diag(p) - torch.outer(p, p)
        assert found.spectral[row] == pytest.approx(float(values[0]), rel=1e-9)
        assert found.frobenius[row] == pytest.approx(float(values.norm()), rel=1e-9)
        assert found.fisher[row] == pytest.approx(float(torch.linalg.eigvalsh(J.T @ F @ J)[-1]), rel=1e-8)
        top = int(readout(E)[row].argmax())
        inside = every & ~blocks["last"][row]
        assert found.max_logit[row] == pytest.approx(float(A[top, every].norm()), rel=1e-9)
        assert found.max_logit_published[row] == pytest.approx(float(A[top, inside].norm()), rel=1e-9)
        size = float((E[row] * every[:, None]).norm())
        assert found.relative[row] == pytest.approx(float(values[0]) * size / float((f - f.mean()).norm()), rel=1e-9)


def test_a_curved_map_agrees_with_torchs_jacobian_block_by_block() -> None:
    readout, E, blocks = curved(3), draw(5, B, T, D), blocks_of(5, 5, 4)
    found = sensitivity(readout, E, blocks, "last")
    for row in range(B):

        def f(e: Tensor) -> Tensor:
            return torch.log_softmax(readout(e[None])[0], 0)

        J = torch.func.jacrev(f)(E[row])
        for name, where in blocks.items():
            part = J[:, where[row]].flatten(1)
            assert found.block_spectral[name][row] == pytest.approx(float(torch.linalg.svdvals(part)[0]), rel=1e-8)
            assert found.block_frobenius[name][row] == pytest.approx(float(part.norm()), rel=1e-8)
    squares = sum(x**2 for x in found.block_frobenius.values())
    np.testing.assert_allclose(squares, found.frobenius**2, rtol=1e-9)
    np.testing.assert_array_equal(found.positions, [5, 5, 4])


def test_only_the_published_statistic_changes_when_a_function_is_added_to_all_logits() -> None:
    readout, E, blocks = curved(3), draw(5, B, T, D), blocks_of(5, 5, 4)
    shift = draw(9, T, D)
    before = sensitivity(readout, E, blocks, "last")
    after = sensitivity(lambda e: readout(e) + (e * shift).sum((1, 2))[:, None], E, blocks, "last")
    for name in ("spectral", "frobenius", "fisher", "relative"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-6, err_msg=name)
    assert (np.abs(after.max_logit / before.max_logit - 1) > 0.05).all()


def test_elasticity_does_not_see_the_unit_of_embeddings() -> None:
    readout, E, blocks = curved(3), draw(5, B, T, D), blocks_of(5, 5, 4)
    before = sensitivity(readout, E, blocks, "last")
    after = sensitivity(lambda e: readout(e / 10), 10 * E, blocks, "last")
    np.testing.assert_allclose(after.relative, before.relative, rtol=1e-9)
    np.testing.assert_allclose(after.spectral, before.spectral / 10, rtol=1e-9)


def test_batches_join_in_order() -> None:
    readout, E, blocks = curved(3), draw(5, B, T, D), blocks_of(5, 5, 4)
    whole = sensitivity(readout, E, blocks, "last")
    parts = [sensitivity(readout, E[i : i + 2], {n: b[i : i + 2] for n, b in blocks.items()}, "last") for i in (0, 2)]
    np.testing.assert_allclose(joined(parts).spectral, whole.spectral)
    np.testing.assert_allclose(joined(parts).block_spectral["text"], whole.block_spectral["text"])


def test_what_cannot_be_measured_is_said() -> None:
    E, blocks = draw(5, B, T, D), blocks_of(5, 5, 5)
    with pytest.raises(DeltawError, match="overlap"):
        sensitivity(curved(3), E, {**blocks, "more": blocks["last"]}, "last")
    with pytest.raises(DeltawError, match="no block 'end'"):
        sensitivity(curved(3), E, blocks, "end")
    with pytest.raises(DeltawError, match="no_grad"):
        sensitivity(lambda e: curved(3)(e).detach(), E, blocks, "last")
    with pytest.raises(DeltawError, match="NaN"):
        sensitivity(lambda e: curved(3)(e) * torch.nan, E, blocks, "last")
    with pytest.raises(DeltawError, match="expected"):
        sensitivity(lambda e: curved(3)(e)[0], E, blocks, "last")
    with pytest.raises(DeltawError, match="fit"):
        sensitivity(curved(3), E[:, :3], blocks, "last")


def test_a_planted_change_is_found_with_its_parts() -> None:
    noise = np.random.default_rng(1)
    base = (np.exp(noise.normal(size=64)), np.exp(noise.normal(size=64)))  # prompts differ far more than the change
    factors = [np.exp(shift + 0.05 * noise.normal(size=64)) for shift in (0.3, -0.5)]
    tuned = (base[0] * factors[0], base[1] * factors[1])
    found = sensitivity_change(base, tuned, np.random.default_rng(0))
    assert isinstance(found, SensitivityChange)
    for change, truth in ((found.allowed, 0.3), (found.forbidden, -0.5), (found.difference, -0.8)):
        assert change.value == pytest.approx(truth, abs=0.03)
        assert change.interval.low < truth < change.interval.high
        assert change.interval.width < 0.1
        assert change.null.low < 0 < change.null.high < abs(truth)
    assert (found.allowed.null.kind, found.difference.null.kind) == ("model_swap", "label_permutation")
    np.testing.assert_allclose(found.difference.values, found.forbidden.values - found.allowed.values)
    apart = sensitivity_change(base, (tuned[0], tuned[1]), np.random.default_rng(0), paired=False)
    assert isinstance(apart, SensitivityChange)
    assert apart.difference.value == pytest.approx(found.difference.value)
    assert apart.difference.null.high < 0.3


@pytest.mark.parametrize("paired", [True, False])
def test_the_nulls_keep_their_level(paired: bool) -> None:
    """Where both models, and both verdicts, are exchangeable, the bands miss as often as they say: 5 %."""
    noise, misses, repeats = np.random.default_rng(2), np.zeros(3), 300
    for _ in range(repeats):
        base, tuned = ([np.exp(noise.normal(size=24)) for _ in range(2)] for _ in range(2))
        found = sensitivity_change((base[0], base[1]), (tuned[0], tuned[1]), noise, paired=paired, draws=200)
        assert isinstance(found, SensitivityChange)
        changes = (found.allowed, found.forbidden, found.difference)
        misses += [not change.null.low <= change.value <= change.null.high for change in changes]
    # Binomial(300, 0.05): 4 to 30 has 99.99 %, and room for 200 draws' rounding.
    assert ((misses >= 4) & (misses <= 32)).all(), misses


def test_changes_need_the_same_prompts_and_positive_numbers() -> None:
    one, two = np.ones(4), np.ones(5)
    with pytest.raises(DeltawError, match="make no pairs"):
        sensitivity_change((one, two), (one, two), np.random.default_rng(0))
    with pytest.raises(DeltawError, match="same prompts"):
        sensitivity_change((one, one), (two, one), np.random.default_rng(0))
    assert isinstance(sensitivity_change((one, one), (one, 0 * one), np.random.default_rng(0)), Absent)
