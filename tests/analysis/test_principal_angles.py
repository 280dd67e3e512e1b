"""Principal angles: planted angles, SciPy's as an oracle, and nulls against simulation."""

import numpy as np
import pytest
import torch
from planted import anisotropic, draw, of_rank, orthogonal
from scipy.linalg import subspace_angles

from deltaw.analysis import (
    matched_overlap_null,
    pooled_root,
    rotation_angle_null,
    rotation_overlap_null,
    row_sign_overlap_null,
    subspace_overlap,
    top_left,
    top_right,
)
from deltaw.errors import DeltawError


def span(m: int, k: int, seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(draw(seed, m, k))
    out: torch.Tensor = q
    return out


def test_planted_angles_are_found() -> None:
    axes = orthogonal(9, 0)
    wanted = np.radians([1e-9, 20.0, 60.0])
    a = axes[:, :3]
    b = a * torch.from_numpy(np.cos(wanted)) + axes[:, 3:6] * torch.from_numpy(np.sin(wanted))
    found = subspace_overlap(a, b @ orthogonal(3, 5))
    assert found.angles == pytest.approx(np.degrees(wanted), abs=1e-6)
    assert found.overlap == pytest.approx(np.mean(np.cos(wanted) ** 2))


@pytest.mark.parametrize(("k", "other"), [(3, 3), (2, 5), (5, 2)])
def test_angles_are_those_of_scipy(k: int, other: int) -> None:
    a, b = span(12, k, 1), span(12, other, 2)
    known = np.degrees(np.sort(subspace_angles(a.numpy(), b.numpy())))
    assert subspace_overlap(a, b).angles == pytest.approx(known)
    assert subspace_overlap(a, a).overlap == pytest.approx(1)


@pytest.mark.parametrize(("m", "k", "other"), [(20, 3, 3), (16, 2, 6), (9, 1, 1)])
def test_the_closed_form_is_that_of_uniform_subspaces(m: int, k: int, other: int) -> None:
    null, a = rotation_overlap_null(m, k, other), span(m, k, 0)
    values = np.array([subspace_overlap(a, span(m, other, 10 + seed)).overlap for seed in range(1500)])
    assert values.mean() == pytest.approx(null.mean, abs=4 * values.std() / np.sqrt(1500))
    assert ((values >= null.low) & (values <= null.high)).mean() == pytest.approx(0.95, abs=0.025)
    angle = rotation_angle_null(m, k, other, np.random.default_rng(0), draws=800)
    angles = np.array([subspace_overlap(a, span(m, other, 5000 + seed)).angles[0] for seed in range(400)])
    assert angle.mean == pytest.approx(angles.mean(), abs=4 * angles.std() / np.sqrt(400) + 0.5)
    whole = rotation_overlap_null(m, m, other)
    assert (whole.mean, whole.low, whole.high) == (1, 1, 1)


def test_units_that_move_much_in_both_updates_are_chance_to_the_row_sign_null() -> None:
    """Two updates confined to the same 12 of 200 units, otherwise unrelated: beyond `rotation`, not `row_sign_flip`."""
    size = torch.full((200, 1), 0.01, dtype=torch.float64)
    size[:12] = 1
    one, other = (top_left(size * of_rank(200, 30, 8, seed), 4) for seed in (0, 50))
    value = subspace_overlap(one, other).overlap
    assert value > rotation_overlap_null(200, 4, 4).high
    null = row_sign_overlap_null(one, other, np.random.default_rng(0), 500)
    assert value in null
    draws = null.draws
    assert draws is not None
    assert draws.mean() == pytest.approx(null.mean, abs=4 * draws.std() / np.sqrt(500))
    shared = of_rank(200, 30, 4, 9)
    one, other = (top_left(size * (shared + 0.01 * draw(seed, 200, 30)), 4) for seed in (1, 2))
    assert subspace_overlap(one, other).overlap > row_sign_overlap_null(one, other, np.random.default_rng(0)).high


def test_updates_made_of_the_same_inputs_are_chance_to_the_matched_null() -> None:
    """ΔW = Σ δ aᵀ with random δ: input directions agree because the inputs are anisotropic, and for no other reason."""
    inputs = [anisotropic(300, 24, seed) for seed in (0, 1)]
    roots = [pooled_root((inputs[0], inputs[1]), centred) for centred in (False, True)]
    pool = torch.cat(inputs)
    inside = beyond = 0
    matched = matched_overlap_null((roots[0], roots[0]), (3, 3), np.random.default_rng(0), draws=400)
    for seed in range(40):
        spans = []
        for word in (0, 1):
            rows = pool[torch.from_numpy(np.random.default_rng([seed, word]).integers(0, len(pool), 3))]
            spans.append(top_right(draw(1000 + 2 * seed + word, 40, 3) @ rows, 3))
        value = subspace_overlap(*spans).overlap
        inside += value <= matched.high
        beyond += value > rotation_overlap_null(24, 3, 3).high
    assert beyond > 35
    assert inside > 33
    assert roots[1].shape[0] == 24
    middle = (inputs[0].mean(0) + inputs[1].mean(0)) / 2
    moment = sum(((x - middle).T @ (x - middle) / 600 for x in inputs), torch.zeros(24, 24, dtype=torch.float64))
    assert torch.allclose(roots[1] @ roots[1].T, moment)


def test_a_mistake_is_a_sentence() -> None:
    with pytest.raises(DeltawError, match="not orthonormal"):
        subspace_overlap(draw(0, 5, 2), span(5, 2, 1))
    with pytest.raises(DeltawError, match="same space"):
        subspace_overlap(span(5, 2, 1), span(6, 2, 1))
    with pytest.raises(DeltawError, match="do not fit"):
        rotation_overlap_null(4, 5, 2)
