"""Observations that test today's papers: planted truths, chance, controls, and what is drawn of them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deltaw.charts.tables import Tables
from deltaw.models import MlpWeights
from deltaw.observations.lens import BaseSide, Contrast, Effort, Lens, Prompts
from deltaw.observations.observation import Observation
from deltaw.observations.off_principal.figures import off_principal
from deltaw.observations.off_principal.measure import OffPrincipal
from deltaw.report.added import added
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet

LAYERS, WIDTH, HIDDEN = range(2), 16, 40


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def mlp(layer: int, w_in: Tensor | None = None, w_out: Tensor | None = None) -> MlpWeights:
    first = draw(layer, HIDDEN, WIDTH) if w_in is None else w_in
    second = draw(layer + 10, WIDTH, HIDDEN) if w_out is None else w_out
    return MlpWeights(first, torch.zeros(HIDDEN).double(), second, torch.zeros(WIDTH).double(), torch.relu)


class Planted:
    """A model of given MLPs, and of whatever else a test gives it."""

    def __init__(self, mlps: dict[int, MlpWeights], **more: Any) -> None:
        self.layers, self.light, self.mlps = LAYERS, True, mlps
        vars(self).update(more)

    def mlp(self, layer: int) -> MlpWeights:
        return self.mlps[layer]


def lens_of(base: Any, tuned: Any, contrasts: tuple[Contrast, ...] = (), draws: int = 60) -> Lens:
    return Lens(BaseSide(base, Prompts(contrasts), Effort(draws=draws, bootstrap=60), 0), tuned)


def measured(observation: Observation, lens: Lens, **shared: Any) -> list[Measurement]:
    fields = {"model": "tuned", "step": 1, "seed": 0, **shared}
    sheet = Sheet(stage="analysis", role="last_prompt", **fields)
    observation.measure(lens, sheet)
    declared = {(statistic.name, statistic.unit) for statistic in observation.statistics}
    assert {(line.statistic, line.unit) for line in sheet.lines} <= declared
    return sheet.lines


def one(lines: list[Measurement], statistic: str, **where: object) -> Measurement:
    chosen = [x for x in lines if x.statistic == statistic and all(getattr(x, k) == v for k, v in where.items())]
    assert len(chosen) == 1, (statistic, where, len(chosen))
    return chosen[0]


def tables_of(lines: list[Measurement]) -> Tables:
    import pandas as pd

    frame: Any = pd.DataFrame([vars(line) for line in lines]).convert_dtypes()
    results: Any = SimpleNamespace(measurements=frame, manifest={})
    return Tables(results)


def drawn(observation: Observation, lines: list[Measurement]) -> tuple[str, ...]:
    """Names of the figures that the report draws of a run with these lines."""
    (section,) = added({"observations": [observation.recorded()]}, tables_of(lines))
    assert section.missing == ""
    for figure in section.figures:
        assert figure.draw().inline.startswith("<svg")
    return tuple(figure.name for figure in section.figures)


def on_principal(layer: int, on: bool) -> MlpWeights:
    """An update on the strongest directions of W, or off them."""
    W = mlp(layer).w_in
    U, _, Vt = torch.linalg.svd(W)
    delta = U[:, :2] @ Vt[:2] if on else U[:, 12:14] @ Vt[12:14]
    return mlp(layer, W + 0.1 * delta)


@pytest.mark.parametrize("on", [True, False])
def test_off_principal_tells_an_update_on_the_principal_directions_from_one_off_them(on: bool) -> None:
    base = Planted({layer: mlp(layer) for layer in LAYERS})
    tuned = Planted({layer: on_principal(layer, on) for layer in LAYERS})
    lines = measured(OffPrincipal(directions=3), lens_of(base, tuned))
    for layer in LAYERS:
        for side in ("left", "right", "both"):
            line = one(lines, "principal_energy", layer=layer, set=side)
            assert line.value == pytest.approx(1.0 if on else 0.0, abs=1e-9)
            assert line.null_kind == "spectrum_matched"
            assert line.null_low is not None
            assert line.null_high is not None
            assert not line.null_low <= line.value <= line.null_high
        # neither kind turns them, as no random update of its spectrum would
        turned = one(lines, "principal_rotation", layer=layer, set="right")
        assert turned.null_low is not None
        assert turned.value < turned.null_low
        assert one(lines, "changed_share", layer=layer, null_kind="dense_update").set == "float64"
    assert one(lines, "principal_energy", layer=None, set="both").n == 2
    assert drawn(OffPrincipal(), lines) == ("off-principal", "changed-entries")
    assert off_principal(tables_of(lines))


def test_off_principal_of_no_update_says_so() -> None:
    base = Planted({layer: mlp(layer) for layer in LAYERS})
    lens = lens_of(base, base)
    assert {line.statistic for line in measured(OffPrincipal(), lens)} == {"changed_share"}
    assert "the update is zero" in lens.absent["principal_energy, layer 0"]
