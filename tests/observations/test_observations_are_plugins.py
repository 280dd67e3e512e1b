"""Observations as plug-ins: what they declare, what they are made of, and what becomes of one that fails."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deltaw.attacks.prompts.defaults import ON_PROMPTS
from deltaw.component import plugin_named
from deltaw.errors import DeltawError, PluginError
from deltaw.models import Transformer, save
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.pipeline.scheduler import _plan
from deltaw.pipeline.stage import StageContext
from deltaw.plugins import plugins, resolve
from deltaw.recipes import recipe
from deltaw.recipes.choose import with_observations
from deltaw.recipes.config import Recipe
from deltaw.recipes.observed import OBSERVED
from deltaw.results import read_measurements
from deltaw.results.recorder import Sheet
from deltaw.study.graph import stages
from deltaw.study.stages.analysis import AddedConfig, measure_added
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.shared import SeedConfig
from deltaw.training.pretraining import model_config
from deltaw.world import World

SMOKE = recipe("smoke")
WORLD = World(SMOKE.world)
SIZES = replace(SMOKE.sizes, contrast=16, draws=20, bootstrap=30)
NAMES = [plugin.name for plugin in plugins() if plugin.kind == "observation"]


@dataclass(frozen=True)
class UpdateNorm(Observation):
    """How long the update is, layer by layer."""

    name = "update-norm"
    label = "length of the update"
    statistics = (Statistic("update_norm", "norm", "‖ΔW‖ of the MLP's first matrix."),)
    every_checkpoint = False

    value: float | None = None
    failing: bool = False

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """The norm, or what a test asks for."""
        if self.failing:
            raise KeyError("nothing")
        for layer in lens.layers:
            delta, _ = lens.update(layer)
            sheet.add("update_norm", float(delta.norm()) if self.value is None else self.value, unit="norm")


def model(seed: int) -> Transformer:
    found = Transformer(model_config(WORLD, SMOKE.pretraining), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(2)
    return found


def test_all_are_listed() -> None:
    assert set(NAMES) >= {
        "activation-view", "attacked_prompts", "clusters", "dose_response", "gain", "null_space", "overlap", "probe",
        "ranks", "refusal_direction", "sensitivity", "update_effect",
    }  # fmt: skip


def keys(study: Recipe) -> dict[str, str]:
    return {name: made.key for name, made in _plan(stages(study)).provenances.items()}


def test_one_more_observation_makes_nothing_else_again() -> None:
    names = [observation.name for observation in OBSERVED]
    own = ["ranks", "refusal_direction", "probe", "overlap", "dose_response"]
    whole = [resolve("observation", name) for name in (*names, *own)]
    before = keys(SMOKE)
    assert keys(with_observations(SMOKE, whole)) == before, "all of the recipe's own are the recipe"
    after = keys(with_observations(SMOKE, [*whole, UpdateNorm()]))
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        f"observe-update-norm-{tuned.name}-s0" for tuned in SMOKE.tunings if not tuned.curve_only
    }
    other = keys(with_observations(SMOKE, [*whole, UpdateNorm(value=1.0)]))
    assert {name for name in after if after[name] != other[name]} == after.keys() - before.keys()


def test_the_named_ones_are_measured_in_place_of_the_recipes() -> None:
    chosen = with_observations(SMOKE, [resolve("observation", "clusters"), UpdateNorm()])
    graph = {stage.name: stage for stage in stages(chosen)}
    assert [part.name for part in graph["analysis-ssft-medium-s0"].config.observations] == ["clusters"]
    assert "observe-update-norm-ssft-medium-s0" in graph
    assert not any("subspaces" in name or "doses" in name or "angles" in name for name in graph)
    ranks = with_observations(SMOKE, [resolve("observation", "ranks")])
    names = {stage.name for stage in stages(ranks)}
    assert "analysis-subspaces-ssft-medium-s0" in names
    assert "analysis-ssft-medium-s0" not in names
    assert keys(chosen)["tune-ssft-medium-s0"] == keys(SMOKE)["tune-ssft-medium-s0"]
    with pytest.raises(DeltawError, match="give each once"):
        with_observations(SMOKE, [UpdateNorm(), UpdateNorm()])
    with pytest.raises(DeltawError, match="is a grid"):
        with_observations(recipe("grid"), [UpdateNorm()])


def test_a_stage_measures_it_and_a_failure_is_one_sentence(tmp_path: Path) -> None:
    inputs = {"base": tmp_path / "base", "tuned": tmp_path / "tuned"}
    for number, path in enumerate(inputs.values()):
        for step in (4, 8):
            save(model(number), step_directory(path, step), {"step": step})
    tuned = SMOKE.tunings[0]

    def made(observation: Observation, name: str) -> list[Any]:
        (tmp_path / name).mkdir()
        config = AddedConfig(SeedConfig(SMOKE.world, SIZES, 0), tuned, (0, 4, 8), observation, ON_PROMPTS, 16)
        measure_added(StageContext(config, inputs, tmp_path / name, lambda *_: None, tmp_path / "scratch"))
        return read_measurements(tmp_path / name / "measurements.jsonl")

    found = made(UpdateNorm(), "norm")
    assert {(line.statistic, line.model, line.step) for line in found} == {("update_norm", tuned.name, 8)}
    assert all(line.value > 0 for line in found)
    module = UpdateNorm.__module__
    with pytest.raises(PluginError, match=f"the observation update-norm raised KeyError: 'nothing'; mend {module}"):
        made(UpdateNorm(failing=True), "failing")
    said = f"update-norm wrote what is no number: update_norm of {tuned.name} came out as nan; mend {module}"
    with pytest.raises(PluginError, match=said):
        made(UpdateNorm(value=float("nan")), "nan")
    with pytest.raises(PluginError, match="raised TypeError"):
        made(UpdateNorm(value="three"), "text")  # type: ignore[arg-type]


def test_deltaws_own_errors_stay_what_they_are() -> None:
    with pytest.raises(KeyError), plugin_named(OBSERVED[0], "observation"):
        raise KeyError("ours")
    with pytest.raises(DeltawError, match="a reason"), plugin_named(UpdateNorm(), "observation"):
        raise DeltawError("a reason")


def test_what_a_manifest_says_of_it_is_json() -> None:
    record = UpdateNorm().recorded()
    assert json.loads(json.dumps(record)) == record
    assert record["sentence"] == "How long the update is, layer by layer."
    assert record["statistics"][0]["name"] == "update_norm"
    assert UpdateNorm.figures == ""
