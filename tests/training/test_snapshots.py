"""A training run that dies and goes on gives the bits of one that did not, whatever was damaged in between."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG, counting, small_model
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models import Transformer
from deltaw.models.batch import Batch
from deltaw.protocols import Loss
from deltaw.training import OptimiserConfig, Snapshots, TrainingLog, next_token, train
from deltaw.training.snapshots import EVERY, TENSORS

MUON = replace(CONFIG, method="muon", decay="linear")


class Died(Exception):
    """The process is gone."""


def go(
    directory: Path | None,
    config: OptimiserConfig = CONFIG,
    dies_at: int | None = None,
    seen: list[int] | None = None,
    noise: bool = False,
) -> tuple[Transformer, TrainingLog]:
    """Train with a snapshot after every update, until `dies_at`."""
    model = small_model()
    steps: list[int] = [] if seen is None else seen

    def batches(step: int) -> Batch:
        if step == dies_at:
            raise Died
        steps.append(step)
        return counting(step)

    def loss(model: Transformer, batch: Batch) -> Loss:
        value = next_token(model, batch).value
        return Loss(value * (1 + 0.1 * torch.rand(()) if noise else 1.0), {"nll": value.detach()})

    kept = None if directory is None else Snapshots(directory, every=0.0)
    return model, train(model, batches, loss, config, compute_dtype=torch.bfloat16, report_every=7, snapshots=kept)


def same(a: Transformer, b: Transformer) -> bool:
    return all(torch.equal(parameter, b.get_parameter(name)) for name, parameter in a.named_parameters())


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("dies_at", [1, 23, 59])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, config: OptimiserConfig, dies_at: int) -> None:
    whole, log = go(None, config)
    with pytest.raises(Died):
        go(tmp_path, config, dies_at)
    seen: list[int] = []
    again, log_again = go(tmp_path, config, seen=seen)
    assert seen == list(range(dies_at, 60)), "no update is made twice"
    assert same(whole, again)
    assert log == log_again


def test_random_state_is_part_of_it(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole, _ = go(None, noise=True)
    torch.manual_seed(3)
    with pytest.raises(Died):
        go(tmp_path, noise=True, dies_at=31)
    torch.manual_seed(4)
    assert same(whole, go(tmp_path, noise=True)[0])


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    whole, _ = go(None)
    with pytest.raises(Died):
        go(tmp_path, dies_at=40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-00000039", "update-00000040"]
    damages: list[Callable[[Path], object]] = [_flip, _truncate, shutil.rmtree]
    for number, damage in enumerate(damages):
        copy = tmp_path.with_name(f"copy-{number}")
        shutil.copytree(tmp_path, copy)
        damage(copy / "update-00000040")
        seen: list[int] = []
        again, _ = go(copy, seen=seen)
        assert seen[0] == 39
        assert same(whole, again)
    for path in tmp_path.iterdir():
        _flip(path)
    seen = []
    assert same(whole, go(tmp_path, seen=seen)[0])
    assert seen[0] == 0


def _flip(directory: Path) -> None:
    file = directory / TENSORS
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _truncate(directory: Path) -> None:
    file = directory / TENSORS
    file.write_bytes(file.read_bytes()[:-5])


def test_a_snapshot_is_not_used_if_what_its_checkpoints_left_is_gone(tmp_path: Path) -> None:
    with pytest.raises(Died):
        go(tmp_path, dies_at=40)
    reached: list[int] = []
    train(
        small_model(),
        counting,
        next_token,
        CONFIG,
        checkpoints=[0, 20, 60],
        on_checkpoint=lambda step, _: reached.append(step),
        snapshots=Snapshots(tmp_path, every=1e9, usable_at=lambda step: step < 40),
    )
    assert reached == [60], "from the snapshot after 39 updates"


def test_a_state_that_is_not_finite_is_never_kept(tmp_path: Path) -> None:
    def broken(model: Transformer, batch: Batch) -> Loss:
        value: Tensor = next_token(model, batch).value
        return Loss(value * float("nan") if broken_at[0] == 0 else value, {})

    broken_at = [10]

    def batches(step: int) -> Batch:
        broken_at[0] = 10 - step
        return counting(step)

    with pytest.raises(DeltawError, match="diverged at step 10"):
        train(small_model(), batches, broken, CONFIG, snapshots=Snapshots(tmp_path, every=0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-00000009", "update-00000010"]


def test_how_often_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Snapshots(tmp_path).every == 120
    monkeypatch.setenv(EVERY, "0.5")
    assert Snapshots(tmp_path).every == 0.5
    monkeypatch.setenv(EVERY, "soon")
    with pytest.raises(DeltawError, match="'soon'; give a number of seconds"):
        Snapshots(tmp_path)
