import numpy as np
import pytest
import torch
from planted import draw, outside

from deltaw.analysis import Absent
from deltaw.analysis.published import (
    described_column_space,
    described_row_space,
    shipped_column_space,
    shipped_row_space,
    tau,
)
from deltaw.errors import DeltawError

W = draw(1, 768, 192) * torch.linspace(1.5, 0.3, 192).double()


def test_the_shipped_metric_tells_size_and_not_direction() -> None:
    x, lies_outside = draw(3, *W.shape), outside(W, 3)
    means = {}
    for name, update in (("inside", x - lies_outside), ("outside", lies_outside)):
        sizes = (share * W.norm() / update.norm() for share in (0.01, 0.1, 0.5))
        means[name] = [np.mean(shipped_column_space(W + size * update, W)) for size in sizes]
        assert means[name][0] < means[name][1] < means[name][2]
    assert means["inside"][1] > 0.5  # it should be 0, and less than for an update outside of C(W)
    assert means["inside"][1] > means["outside"][1]
    assert np.max(shipped_column_space(W, W)) < 1e-6


def test_the_described_metric_is_high_for_any_update() -> None:
    found = {name: described_column_space(update, W) for name, update in
             {"outside": outside(W, 3), "random": draw(4, *W.shape)}.items()}  # fmt: skip
    (outside_y, chance), (random_y, _) = (one for one in found.values() if not isinstance(one, Absent))
    assert 0.88 < chance < 0.93
    np.testing.assert_allclose(outside_y, 1, atol=1e-6)
    assert np.mean(random_y) == pytest.approx(chance, abs=0.005)
    assert isinstance(described_column_space(torch.zeros_like(W), W), Absent)


def test_tau_is_the_difference_of_the_distances_and_scales_with_the_activations() -> None:
    allowed, forbidden = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0])
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.5, 2.0]])
    np.testing.assert_allclose(tau(a, allowed, forbidden), [5, -5, 0])
    np.testing.assert_allclose(tau(40 * a, 40 * allowed, 40 * forbidden), [200, -200, 0])


def test_row_space_is_the_gain_and_forgets_directions_of_the_output() -> None:
    dW, a = draw(3, *W.shape), draw(4, 5, 192)
    found = described_row_space(a, dW)
    np.testing.assert_allclose(found, np.linalg.norm(a @ dW.T, axis=1) / np.linalg.norm(a, axis=1))
    np.testing.assert_allclose(described_row_space(7 * a, dW[torch.randperm(len(dW))]), found)


def test_the_shipped_row_space_sums_up_what_the_script_saves() -> None:
    a = draw(4, 5, 192)
    _, sigma, right = torch.linalg.svd(W - W.mean(0), full_matrices=False)
    saved = sigma * (a @ right.T) / a.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(shipped_row_space(a, W), saved.norm(dim=1))


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DeltawError, match="rows"):
        shipped_column_space(W[:5], W)
    with pytest.raises(DeltawError, match="columns"):
        described_row_space(draw(4, 5, 191), W)
    with pytest.raises(DeltawError, match="first singular value"):
        shipped_column_space(*(torch.outer(draw(5, 8), torch.ones(4)),) * 2)
