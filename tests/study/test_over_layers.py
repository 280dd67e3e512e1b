"""A null exchanges the same prompts in all layers, so the mean of layers that say the same has one layer's band."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from deltaw.analysis import Separation
from deltaw.study.stages.comparison import SITES, separate
from deltaw.study.stages.recorder import Sheet
from deltaw.study.stages.update_effect import write_positions

LAYERS = (0, 1, 2)


def alike(seed: int, shift: float) -> dict[tuple[int, str], torch.Tensor]:
    """The same activations (80, 12) at every layer and site."""
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((80, 12)))
    rows[:, 0] += shift
    return {(layer, site): rows for layer in LAYERS for site in SITES}


def at(**more: Any) -> Any:
    """What the functions read of a comparison."""
    return SimpleNamespace(
        layers=LAYERS, bootstrap=200, draws=200, generator=lambda *words: np.random.default_rng([0, *words]), **more
    )


def test_positions() -> None:
    sheet = Sheet(stage="analysis")
    write_positions(at(), "position", (alike(0, 3.0), alike(1, 0.0)), alike(2, 1.0), sheet)
    lines = [line for line in sheet.lines if line.site == SITES[0]]
    bands = {(line.null_low, line.null_high) for line in lines}
    assert len(lines) == len(LAYERS) + 1
    assert len({round(low, 9) for low, _ in bands if low is not None}) == 1


def test_clusters() -> None:
    places = alike(0, 1.0), alike(1, 0.0)
    found: list[Separation] = [separate(at(), places, 0, layer, 40, 10) for layer in LAYERS]
    draws = [one.nulls["tau_gap_relative"].draws for one in found]
    assert all(one is not None and np.array_equal(one, draws[0]) for one in draws)  # type: ignore[arg-type]
