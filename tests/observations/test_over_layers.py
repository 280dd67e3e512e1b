"""A null exchanges the same prompts in all layers, so the mean of layers that say the same has one layer's band."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deltaw.analysis import Separation
from deltaw.models import MlpWeights
from deltaw.observations.attacked_prompts.measure import AttackedPrompts, write_gain_ratios, write_positions
from deltaw.observations.clusters.measure import ClusterSeparation, separate
from deltaw.observations.lens import READ, SITES, BaseSide, Lens
from deltaw.observations.prompts import Contrast, Effort, Prompts
from deltaw.results.recorder import Sheet

LAYERS = range(3)


def alike(seed: int, shift: float) -> dict[tuple[int, str], torch.Tensor]:
    """The same activations (80, 12) at every layer and site."""
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((80, 12)))
    rows[:, 0] += shift
    return {(layer, site): rows for layer in LAYERS for site in SITES}


def lens() -> Lens:
    """A lens without models, of one contrast."""
    nobody: Any = SimpleNamespace(layers=LAYERS, light=True, sites=READ)
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


def gains(at: Lens, suffix: str, sizes: tuple[float, ...]) -> list[Any]:
    """What is written of attacked prompts whose inputs are so many times as long as their sources' in each layer."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((80, 12)))
    forbidden = {(layer, "mlp_in"): rows for layer in LAYERS}
    noise = np.exp(0.1 * np.random.default_rng(1).standard_normal((80, 1)))
    attacked = {(layer, "mlp_in"): size * rows * torch.from_numpy(noise) for layer, size in enumerate(sizes)}
    sheet = Sheet(stage="analysis")
    write_gain_ratios(at, "pairs", attacked, forbidden, sheet, suffix)
    return sheet.lines


def updated(clusters: Any = None) -> Lens:
    """A lens of one contrast, whose MLPs have a large bias that tuning leaves as it is."""
    weight = torch.from_numpy(np.random.default_rng(2).standard_normal((6, 12)))
    zero = torch.zeros(12, 6, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    bias = 100 * torch.ones(6, dtype=torch.float64)
    sides: list[Any] = [
        SimpleNamespace(layers=LAYERS, light=True, mlp=lambda layer, w=w: MlpWeights(w, bias, *zero, torch.relu))
        for w in (weight, 1.5 * weight)
    ]
    prompts = Prompts((Contrast("pairs", range(80), range(80), clusters),))
    return Lens(BaseSide(sides[0], prompts, Effort(draws=200, bootstrap=200), 0), sides[1])


def test_attacked_prompts_have_a_lowest_layer_at_the_tuned_models_inputs() -> None:
    """A large bias makes the gain proportional to the input's length: the log ratio is the log of the length."""
    lines = gains(updated(), "_in_situ", (1.0, 0.25, 1.0))
    by_layer = [line.value for line in lines if line.statistic == "gain_log_ratio_to_forbidden_in_situ"]
    assert np.array(by_layer) == pytest.approx([0, np.log(0.25), 0, np.log(0.25) / 3], abs=0.05)
    (peak,) = (line for line in lines if line.statistic == "gain_log_ratio_to_forbidden_in_situ_peak")
    assert peak.value == pytest.approx(np.log(0.25), abs=0.05)
    assert peak.null_kind == "exchangeable_with_source"
    assert peak.null_low is not None
    assert peak.value < peak.null_low
    assert peak.unit == "log ratio"
    assert not [line for line in gains(updated(), "", (1.0, 0.25, 1.0)) if line.statistic.endswith("_peak")]


def test_earlier_checkpoints_have_the_contrasts_that_say_so() -> None:
    nobody: Any = SimpleNamespace(layers=LAYERS, light=True)
    flags = {"first": False, "second": True, "third": False}
    found = [Contrast(name, range(80), range(80), every_checkpoint=flag) for name, flag in flags.items()]
    side = BaseSide(nobody, Prompts(tuple(found)), Effort(), 0)
    assert Lens(side, nobody).names == ("first", "second", "third")
    assert Lens(side, nobody, last=False).names == ("first", "second")


def test_sites_are_an_option_of_what_is_measured_at_sites() -> None:
    """The report, claims and checks of both sides read them from the observation."""
    assert ClusterSeparation().sites == AttackedPrompts().sites == SITES
    at = lens()
    places = alike(0, 3.0), alike(1, 0.0)
    at._after["pairs"] = places
    at.before.contrast = lambda name: places  # type: ignore[method-assign]
    sheet = Sheet(stage="analysis")
    ClusterSeparation(sites=("resid_out",)).measure(at, sheet)
    assert {line.site for line in sheet.lines} == {"resid_out"}
    peaks = {line.statistic: line for line in sheet.lines if "_peak" in line.statistic}
    assert peaks.keys() == {
        "d_prime_change_peak",
        "auroc_change_peak",
        "tau_gap_relative_change_peak",
        "tau_gap_relative_change_peak_layer",
    }
    assert all(line.value == 0 for line in peaks.values())  # a model beside itself; the first of equal layers
