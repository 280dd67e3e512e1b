"""The view of activations: planted classes lie apart in it, noise does not, and base and tuned share its axes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from deltaw.observations.activation_view.measure import ActivationView, Plane
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.prompts import Contrast, Effort, Prompts
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet

PAIRS, WIDTH = 40, 32


class Planted:
    """A model whose activations are given by (side of the contrast): shifted along one axis in layer 1."""

    def __init__(self, shift: float, seed: int) -> None:
        self.layers, self.light, self.shift, self.seed = range(2), True, shift, seed

    def activations(self, prompts: list[tuple[str, int]], sites: tuple[str, ...] = ()) -> dict[tuple[int, str], Tensor]:
        rows = []
        for side, number in prompts:
            generator = torch.Generator().manual_seed(1000 * self.seed + 2 * number + (side == "forbidden"))
            row = torch.randn(2, WIDTH, generator=generator, dtype=torch.float64)
            row[1, 3] += self.shift * (1 if side == "forbidden" else -1)
            rows.append(row)
        both = torch.stack(rows)
        return {(layer, "mlp_post"): both[:, layer] for layer in self.layers}


def viewed(shift: float) -> list[Measurement]:
    sides = ([("allowed", n) for n in range(PAIRS)], [("forbidden", n) for n in range(PAIRS)])
    before = BaseSide(Planted(0.0, 1), Prompts((Contrast("pairs", *sides),)), Effort(), 0)  # type: ignore[arg-type]
    sheet = Sheet(stage="analysis", model="tuned", seed=0, step=9)
    ActivationView(pairs=10).measure(Lens(before, Planted(shift, 1)), sheet)  # type: ignore[arg-type]
    return sheet.lines


def places(lines: list[Measurement], statistic: str, side: str, layer: int | None = None) -> np.ndarray:
    values = [
        line.value
        for line in lines
        if line.statistic == statistic and f"/{side}/" in (line.set or "") and line.layer == layer
    ]
    assert len(values) == 10
    return np.array(values)


def test_what_is_apart_is_shown_apart_in_its_layer_and_only_after_tuning() -> None:
    lines = viewed(4.0)
    assert {line.layer for line in lines} == {0, 1, None}
    for statistic in ("view_across", "view_beside", "view_across_base"):
        assert (places(lines, statistic, "forbidden") == places(lines, statistic, "forbidden", layer=1)).all()
    earlier = places(lines, "view_across", "forbidden", 0).mean() - places(lines, "view_across", "allowed", 0).mean()
    assert abs(earlier) < 1.5
    assert places(lines, "view_across", "forbidden").min() > places(lines, "view_across", "allowed").max()
    gap = places(lines, "view_across_base", "forbidden").mean() - places(lines, "view_across_base", "allowed").mean()
    assert abs(gap) < 1.5
    beside = places(lines, "view_beside", "forbidden").mean() - places(lines, "view_beside", "allowed").mean()
    assert abs(beside) < 1.5


def test_noise_is_not_shown_apart() -> None:
    """In 32 dimensions 20 pairs would lie apart on the line that is fitted to them; others do not."""
    lines = viewed(0.0)
    gap = places(lines, "view_across", "forbidden").mean() - places(lines, "view_across", "allowed").mean()
    assert abs(gap) < 1.5


def test_the_plane_is_orthogonal_and_does_not_depend_on_the_activations_scale() -> None:
    rng = torch.Generator().manual_seed(0)
    allowed, forbidden = (torch.randn(12, 6, generator=rng, dtype=torch.float64) + place for place in (0.0, 1.0))
    plane = Plane.of(allowed, forbidden)
    assert torch.allclose(plane.directions @ plane.directions.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    scaled = Plane.of(40 * allowed, 40 * forbidden)
    assert np.abs(np.array(scaled.place(40 * allowed))) == pytest.approx(np.abs(np.array(plane.place(allowed))))


def test_too_few_pairs_are_told() -> None:
    sides = ([("allowed", 0), ("allowed", 1)], [("forbidden", 0), ("forbidden", 1)])
    before = BaseSide(Planted(0.0, 1), Prompts((Contrast("pairs", *sides),)), Effort(), 0)  # type: ignore[arg-type]
    lens, sheet = Lens(before, Planted(1.0, 1)), Sheet(stage="analysis", model="tuned", seed=0, step=9)  # type: ignore[arg-type]
    ActivationView().measure(lens, sheet)
    assert sheet.lines == []
    assert "2 pairs" in lens.absent["view, pairs"]
