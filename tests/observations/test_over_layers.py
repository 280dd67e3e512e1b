"""A null exchanges the same prompts in all layers, so the mean of layers that say the same has one layer's band."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from deltaw.analysis import Separation
from deltaw.observations.attacked_prompts.measure import write_positions
from deltaw.observations.clusters.measure import separate
from deltaw.observations.lens import SITES, BaseSide, Contrast, Effort, Lens, Prompts
from deltaw.results.recorder import Sheet

LAYERS = range(3)


def alike(seed: int, shift: float) -> dict[tuple[int, str], torch.Tensor]:
    """The same activations (80, 12) at every layer and site."""
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((80, 12)))
    rows[:, 0] += shift
    return {(layer, site): rows for layer in LAYERS for site in SITES}


def lens() -> Lens:
    """A lens without models, of one contrast."""
    nobody: Any = SimpleNamespace(layers=LAYERS, light=True)
    prompts = Prompts((Contrast("pairs", range(80), range(80)),))
    return Lens(BaseSide(nobody, prompts, Effort(draws=200, bootstrap=200), 0), nobody)


def test_positions() -> None:
    sheet = Sheet(stage="analysis")
    write_positions(lens(), "position", (alike(0, 3.0), alike(1, 0.0)), alike(2, 1.0), sheet)
    lines = [line for line in sheet.lines if line.site == SITES[0]]
    bands = {(line.null_low, line.null_high) for line in lines}
    assert len(lines) == len(LAYERS) + 1
    assert len({round(low, 9) for low, _ in bands if low is not None}) == 1


def test_clusters() -> None:
    places = alike(0, 1.0), alike(1, 0.0)
    separations: list[Separation] = [separate(lens(), "pairs", places, SITES[0], layer) for layer in LAYERS]
    draws = [separation.nulls["tau_gap_relative"].draws for separation in separations]
    assert draws[0] is not None
    assert all(other is not None and np.array_equal(other, draws[0]) for other in draws)
