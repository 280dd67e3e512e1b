"""Matrices of checkpoints are compared on the device that they are on (`far_device`), with the numbers of the CPU."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from far_device import FAR, apart, far_device
from planted import draw, of_rank
from torch import Tensor

from deltaw.analysis import streamed_update
from deltaw.analysis.large_matrices import LowRank, tall
from deltaw.analysis.update_pairs import compare_updates, directions
from deltaw.observations.null_space.measure import measure_matrix
from deltaw.results.recorder import Sheet

M, N = 1100, 24  # more rows than are all taken for the band of signs
W, D = draw(0, M, N), 0.1 * draw(1, M, N)
DEFICIENT = of_rank(N, N, 9, 0)
CASES: dict[str, Callable[[], tuple[Tensor, Tensor | LowRank]]] = {
    "tall": lambda: (W, W + D),
    "wide, stored as bfloat16": lambda: (W.T.to(torch.bfloat16), (W + D).T.to(torch.bfloat16)),
    "near the rounding floor": lambda: (W.to(torch.bfloat16), (W + 0.04 * D).to(torch.bfloat16)),
    "square": lambda: (W[:N], (W + D)[:N]),
    "square, not of full rank": lambda: (DEFICIENT, DEFICIENT + D[:N]),
    "by factors": lambda: (W, LowRank(draw(2, M, 3), draw(3, N, 3))),
}


def lines_of(before: Tensor, after: Tensor | LowRank) -> tuple[list[Any], dict[str, str]]:
    sheet, absent = Sheet(stage="compare", model="tuned", module="mlp.up"), dict[str, str]()
    with torch.no_grad():
        measure_matrix(
            streamed_update.streamed_update([(before, after)], np.random.default_rng(0), points=5), sheet, absent
        )
    return sheet.lines, absent


def all_lines(device: str, curve: bool) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_update, "CURVE_UP_TO", N if curve else 0)
        pairs = {name: make() for name, make in CASES.items()}
        return {name: lines_of(before.to(device), after.to(device)) for name, (before, after) in pairs.items()}


def all_lines_far() -> Any:
    with far_device():
        return {curve: all_lines(FAR, curve) for curve in (True, False)}


@pytest.fixture(scope="module")
def everything() -> Any:
    return apart(all_lines_far), {curve: all_lines("cpu", curve) for curve in (True, False)}


@pytest.mark.parametrize("curve", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_an_update_there_has_the_numbers_of_the_cpu(name: str, curve: bool, everything: Any) -> None:
    there, here = (lines[curve][name] for lines in everything)
    assert there[1] == here[1]
    assert here[0]
    for line, expected in zip(there[0], here[0], strict=True):
        for name, value in asdict(expected).items():
            close = pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
            assert getattr(line, name) == close, (name, expected)


def compared(device: str) -> Any:
    base, *tuned = (model.to(device) for model in (W, W + D, W + 0.1 * draw(4, M, N)))
    first, second = (tall([(base, after)]) for after in tuned)
    a, b = (directions(pair, 4, np.random.default_rng(0)) for pair in (first, second))
    return compare_updates(first, second, a, b, (1, 4))


def compared_far() -> Any:
    with far_device():
        return compared(FAR)


def test_two_updates_there_have_the_numbers_of_the_cpu() -> None:
    there, here = apart(compared_far), compared("cpu")
    assert (there.cosine, *there.spreads) == pytest.approx((here.cosine, *here.spreads), rel=1e-9)
    for name in ("overlap", "energy", "angles"):
        found, expected = (np.hstack([getattr(part, name) for part in x.shared]) for x in (there, here))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
