"""Whole stages on a device that is not the CPU, where every tensor must have been put on purpose (`far_device`)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from far_device import FAR, apart, far_device

from deltaw.models import Transformer, load, save
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage, device_of
from deltaw.recipes import recipe
from deltaw.recipes.config import Recipe
from deltaw.recipes.observed import subspaces
from deltaw.recipes.paper import paper
from deltaw.recipes.sizes import Sizes
from deltaw.recipes.smoke import smoke
from deltaw.results import read_measurements
from deltaw.study.gpu_sharing import stage_bytes, workers_on
from deltaw.study.graph import stages
from deltaw.training.pretraining import PretrainingConfig, new_model
from deltaw.world import World


def tiny(device: str) -> Recipe:
    """`smoke` with one tuning and few prompts, in float32."""
    whole = smoke(device)
    tunings = tuple(
        replace(tuned, config=replace(
            tuned.config, compute_dtype="float32", batch=8,
            optimiser=replace(tuned.config.optimiser, steps=2, warmup=1, decay_end=2)))
        for tuned in whole.tunings if tuned.name == "dpo-medium"
    )  # fmt: skip
    optimiser = replace(whole.pretraining.optimiser, steps=2, warmup=1, decay_end=2)
    return replace(
        whole,
        pretraining=replace(whole.pretraining, batch=8, optimiser=optimiser, compute_dtype="float32"),
        tunings=tunings,
        left_out=None,
        checkpoints=(0, 2),
        base_checkpoints=(0, 2),
        sizes=Sizes(final=2, checkpoint=2, attacked=6, contrast=8, draws=8, bootstrap=20, ceiling=4, shown=1),
        model_attacks=replace(whole.model_attacks, models=("dpo-medium",), controls=(), prompts=8),
        subspaces=subspaces(directions=4, probed=64, permutations=3),
        interventions=(),
    )


def made(device: str, run_dir: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    """The stages whose names begin with one of `wanted`, by name."""
    graph = [stage for stage in stages(tiny(device)) if stage.name.startswith(wanted)]
    return {record.name: record.path for record in execute(graph, run_dir, "inline")}


def made_far(run_dir: Path, wanted: tuple[str, ...] = ("",)) -> dict[str, Path]:
    with far_device():
        return made(FAR, run_dir, wanted)


def same_numbers(near: Path, far: Path) -> None:
    """Equal lines, with values within the rounding of another order of sums."""
    expected, found = (read_measurements(path / "measurements.jsonl") for path in (near, far))
    for line, other in zip(found, expected, strict=True):
        assert (line.statistic, line.set, line.step) == (other.statistic, other.set, other.step)
        assert line.value == pytest.approx(other.value, rel=1e-4, abs=1e-5), other


TRAINING = ("base", "reference", "tune")


def test_training_and_answers_on_another_device(tmp_path: Path) -> None:
    """They run there, and the numbers and weights are the CPU's."""
    near = made("cpu", tmp_path / "near", TRAINING)
    far = apart(made_far, tmp_path / "far", TRAINING)
    for name in ("base-s0", "tune-dpo-medium-s0"):
        same_numbers(near[name], far[name])
    one, other = (load(paths["tune-dpo-medium-s0"] / "step-000002")[0] for paths in (near, far))
    for (name, weight), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_every_stage_runs_on_another_device(tmp_path: Path) -> None:
    """Attacks and analyses too: no tensor is where it was not put."""
    far = apart(made_far, tmp_path)
    assert {name.partition("-")[0] for name in far} >= {"attacks", "analysis", "behaviour", "tune"}


def test_the_device_refuses_what_a_card_refuses() -> None:
    """Mixed devices, CPU generators, NumPy: else the tests above would show nothing."""
    apart(refusals)


def refusals() -> None:
    with far_device():
        far = torch.ones(3, device=FAR)
        with pytest.raises(RuntimeError, match="same device"):
            far + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device=FAR, generator=torch.Generator())
        with pytest.raises(TypeError):
            far.numpy()
        assert (far * 2).cpu().tolist() == [2.0, 2.0, 2.0]


def test_checkpoints_travel_between_devices(tmp_path: Path) -> None:
    """What was saved on a device is on the CPU when it is loaded, bit for bit."""
    apart(saved_far, tmp_path / "model")
    loaded, _ = load(tmp_path / "model")
    expected = small_model().state_dict()
    assert all(tensor.device.type == "cpu" for tensor in loaded.state_dict().values())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def small_model() -> Transformer:
    return new_model(World(), PretrainingConfig(layers=1, heads=1, width=8), 0)


def saved_far(directory: Path) -> None:
    with far_device():
        model = small_model().to(FAR)
        assert {tensor.device.type for tensor in model.state_dict().values()} == {FAR}
        save(model, directory, {})
        again = load(directory)[0].to(FAR).state_dict()
        assert all(torch.equal(again[name].cpu(), tensor) for name, tensor in small_model().state_dict().items())


def test_a_stage_on_a_card_is_known_by_its_configuration() -> None:
    """Determinism is set for a stage that computes on a card, wherever its configuration says so."""

    def devices(graph: list[Stage]) -> dict[str, str]:
        return {stage.name.partition("-")[0]: device_of(stage.config) for stage in graph}

    assert set(devices(stages(recipe("smoke"))).values()) == {"cpu"}
    on_card = replace(smoke(), left_out=None, pretraining=replace(smoke().pretraining, device="cuda:0"))
    tunings = tuple(replace(tuned, config=replace(tuned.config, device="cuda")) for tuned in on_card.tunings)
    found = devices(stages(replace(on_card, tunings=tunings)))
    assert {name for name, device in found.items() if device == "cpu"} == {"world"}


def test_a_card_gets_as_many_workers_as_it_holds() -> None:
    """By its free memory, at most one a core, at least one."""
    whole = paper()
    needed = stage_bytes(whole)
    assert workers_on(whole, 16, free_bytes=int(needed * 3 / 0.9) + 1) == 3
    assert workers_on(whole, 16, free_bytes=int(140e9)) > 4
    assert workers_on(whole, 2, free_bytes=int(140e9)) == 2
    assert workers_on(whole, 16, free_bytes=0) == 1
    assert workers_on(whole, 16) == 16
