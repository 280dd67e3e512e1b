"""The share of entries that changed, beside simulated rounding and planted sparse updates."""

import numpy as np
import pytest
import torch
from torch import Tensor

from deltaw.analysis.changed_entries import changed_entries, stored_format


def draw(seed: int, scale: float, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape or (300, 200))) * scale


def stored(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()


@pytest.mark.parametrize("size", [1e-5, 1e-4, 1e-3, 0.02])
def test_a_dense_update_of_any_size_lies_in_its_band(size: float) -> None:
    W = stored(draw(0, 0.02))
    changed = changed_entries(W, stored(W + draw(1, size)))
    alone, dense = changed.nulls
    assert changed.format == "bfloat16"
    assert (alone.kind, alone.high) == ("rounding_alone", 0.0)
    # The numbers just below a power of two lie closer: a few thousandths that the null leaves out.
    assert dense.low - 0.01 < changed.share < dense.high + 0.01
    assert 0 < changed.share < 1


def test_a_sparse_update_lies_far_below_the_dense_one() -> None:
    W = stored(draw(0, 0.02))
    where = torch.from_numpy(np.random.default_rng(3).random(tuple(W.shape)) < 0.1)
    changed = changed_entries(W, stored(W + where * draw(1, 1e-3)))
    assert 0.08 < changed.share < 0.11
    assert changed.nulls[1].low > 3 * changed.share


def test_rounding_alone_changes_what_the_tuned_format_does_not_hold() -> None:
    W = draw(0, 0.02)
    changed = changed_entries(W, stored(W))
    expected = float(np.mean(stored(W).numpy() != W.numpy()))
    assert changed.share == changed.nulls[0].mean == expected > 0.9
    assert changed.nulls[1].mean == pytest.approx(expected, abs=0.01)


def test_in_a_fine_format_a_dense_update_changes_every_entry() -> None:
    W = draw(0, 0.02)
    changed = changed_entries(W, W + draw(1, 1e-4))
    assert changed.format == "float64"
    assert changed.share == 1.0
    assert changed.nulls[1].low == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_format_is_seen_through_an_upcast(dtype: torch.dtype) -> None:
    assert stored_format(draw(0, 0.02).to(dtype).double()) == dtype


def test_no_update_changes_nothing() -> None:
    W = stored(draw(0, 0.02))
    changed = changed_entries(W, W)
    assert [changed.share, *(null.high for null in changed.nulls)] == [0.0, 0.0, 0.0]
