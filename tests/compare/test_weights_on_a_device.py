"""Comparisons of weights compute on the device that is asked for (`far_device`), or on the CPU if that is full."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoints import config, tensors, write
from far_device import FAR, apart, far_device

from deltaw.analysis.large_matrices import MatrixPair
from deltaw.compare import compare
from deltaw.compare.model_list import ListedModel, ModelList
from deltaw.compare.several import compare_several
from deltaw.results import Measurement, read_measurements


@pytest.fixture
def models(tmp_path: Path) -> Path:
    base = tensors("llama", 0)
    write(tmp_path / "base", base, config("llama"))
    for seed in (1, 2):
        noise = tensors("llama", seed)
        write(tmp_path / f"tuned{seed}", {k: x + 0.1 * noise[k] for k, x in base.items()}, config("llama"))
    return tmp_path


def of_one(models: Path, out: Path, device: str) -> list[Measurement]:
    return read_measurements(compare(str(models / "base"), str(models / "tuned1"), out, device=device))


def of_two(models: Path, out: Path, device: str) -> list[Measurement]:
    listed = tuple(ListedModel(name, str(models / name)) for name in ("tuned1", "tuned2"))
    return read_measurements(compare_several(ModelList(str(models / "base"), listed), out, device=device))


@contextmanager
def watched(room: bool) -> Iterator[list[str]]:
    """The device of every block of rows that is computed with; without room, the far device is full at the third."""
    blocks, devices = MatrixPair.blocks, list[str]()

    def watch(pair: MatrixPair) -> object:
        for number, block in enumerate(blocks(pair)):
            devices.append(block[1].device.type)
            if not room and devices[-1] == FAR and devices.count(FAR) % 3 == 0:
                raise torch.OutOfMemoryError(f"block {number}")
            yield block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MatrixPair, "blocks", watch)
        yield devices


Measure = Callable[[Path, Path, str], list[Measurement]]


def made_far(measure: Measure, models: Path, out: Path, room: bool) -> tuple[list[Measurement], set[str]]:
    with far_device(), watched(room) as devices:
        return measure(models, out, FAR), set(devices)


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("measure", [of_one, of_two])
def test_the_numbers_are_those_of_the_cpu(models: Path, tmp_path: Path, measure: Measure, room: bool) -> None:
    here = measure(models, tmp_path / "here", "cpu")
    there, devices = apart(made_far, measure, models, tmp_path / "there", room)
    assert devices == ({FAR} if room else {FAR, "cpu"})
    assert len(there) == len(here) > 0
    for line, expected in zip(there, here, strict=True):
        assert line.statistic == expected.statistic
        assert line.value == pytest.approx(expected.value, rel=1e-9, abs=1e-12)
        assert (line.null_mean or 0) == pytest.approx(expected.null_mean or 0, rel=1e-9, abs=1e-12)
