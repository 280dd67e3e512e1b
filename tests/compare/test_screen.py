"""Many adapters of one base: planted ones among random ones, against numpy, and what is said of bad folders."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deltaw.compare.screen import COLUMNS, rows_of, screen, write_screen
from deltaw.errors import DeltawError
from deltaw.results import read_measurements

LAYERS, WIDTH, HIDDEN, RANK = 4, 24, 64, 4


def write(directory: Path, seed: int, layers: Any = range(LAYERS), spiked: float = 0.0, **settings: Any) -> Path:
    """An adapter of random factors; spiked: with one direction of that size in every matrix."""
    generator = torch.Generator().manual_seed(seed)
    directory.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": "org/base", **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    state: dict[str, torch.Tensor] = {}
    for layer in layers:
        for module, (out, inputs) in {"up_proj": (HIDDEN, WIDTH), "down_proj": (WIDTH, HIDDEN)}.items():
            a = torch.randn(RANK, inputs, generator=generator)
            b = 0.1 * torch.randn(out, RANK, generator=generator)
            b[:, 0] *= 1 + spiked
            name = f"base_model.model.model.layers.{layer}.mlp.{module}"
            state |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_file(state, directory / "adapter_model.safetensors")
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(12):
        write(tmp_path / "all" / f"plain-{seed:02d}", seed)
    return tmp_path / "all"


def test_a_random_adapter_is_what_its_nulls_are_made_of(folder: Path) -> None:
    found = screen(folder)
    assert len(found.adapters) == 12
    inside = sum(x.top_excess_null.low <= x.top_excess <= x.top_excess_null.high for x in found.adapters)
    assert inside >= 10
    assert np.mean([x.top_excess for x in found.adapters]) == pytest.approx(1, abs=0.03)
    for x in found.adapters:
        assert x.stable_rank == pytest.approx(x.stable_rank_null.mean, rel=0.15)
        assert x.effective_layers == pytest.approx(LAYERS, rel=0.1)
        assert x.effective_layers_null is not None
        assert x.effective_layers_null.mean == pytest.approx(LAYERS)
        assert (x.rank, x.matrices, x.unread) == (RANK, 2 * LAYERS, 0)


def test_numbers_are_numpys(folder: Path) -> None:
    from safetensors.numpy import load_file

    x = next(x for x in screen(folder).adapters if x.name == "plain-03")
    state = load_file(folder / "plain-03" / "adapter_model.safetensors")
    updates = [
        8 / RANK * state[name.replace("lora_A", "lora_B")].astype(float) @ state[name].astype(float)
        for name in state
        if "lora_A" in name
    ]
    assert x.norm == pytest.approx(np.sqrt(sum(np.sum(d**2) for d in updates)))
    stable = [np.sum(d**2) / np.linalg.svd(d, compute_uv=False)[0] ** 2 for d in updates]
    assert x.stable_rank == pytest.approx(np.mean(stable))


def test_planted_adapters_come_first_and_are_called_unusual(folder: Path) -> None:
    write(folder / "spiked", 50, spiked=6.0)
    write(folder / "deep" / "one-layer", 51, layers=[2])
    write(folder / "large", 52, lora_alpha=80)
    found = screen(folder)
    assert found.adapters[0].name == "spiked"
    assert found.adapters[0].top_excess > found.adapters[0].top_excess_null.high
    marked = {name for name, score in found.unusual.items() if score > found.by_chance}
    assert marked == {"spiked", "deep/one-layer", "large"}
    by_name = {x.name: x for x in found.adapters}
    assert (by_name["deep/one-layer"].effective_layers, by_name["deep/one-layer"].peak_layer) == (1.0, 2)
    assert screen(folder, by="norm").adapters[0].name == "large"
    assert screen(folder, by="unusual").adapters[0].name in marked
    report = write_screen(found, folder, folder.parent / "out")
    assert "3 of 15 differ from the others" in report.read_text()
    assert (report.parent / "screen.svg").read_text().startswith("<svg")
    lines = read_measurements(report.parent / "measurements.jsonl")
    assert {x.model for x in lines} == by_name.keys()
    assert len(rows_of(found)[0]) == len(COLUMNS)


def test_random_adapters_are_seldom_called_unusual(tmp_path: Path) -> None:
    called = 0
    for trial in range(10):
        for seed in range(8):
            write(tmp_path / str(trial) / str(seed), 1000 * trial + seed)
        found = screen(tmp_path / str(trial))
        called += max(found.unusual.values()) > found.by_chance
    assert called <= 3


def test_with_the_base_norms_are_relative(tmp_path: Path) -> None:
    write(tmp_path / "all" / "one", 0)
    shapes = {"up_proj": (HIDDEN, WIDTH), "down_proj": (WIDTH, HIDDEN)}
    base = tmp_path / "base"
    base.mkdir()
    state = {
        f"model.layers.{layer}.mlp.{module}.weight": torch.full(shape, 0.5)
        for layer in range(LAYERS)
        for module, shape in shapes.items()
    }
    save_file(state, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (x,) = screen(tmp_path / "all", str(base)).adapters
    size = 0.5 * (2 * LAYERS * HIDDEN * WIDTH) ** 0.5
    assert x.relative_norm == pytest.approx(x.norm / size)


def test_what_cannot_be_read_is_named_and_the_rest_is_ranked(folder: Path) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "adapter_config.json").write_text("{}")
    write(folder / "dora", 70, use_dora=True)
    found = screen(folder)
    assert len(found.adapters) == 12
    assert "DoRA" in found.skipped["dora"]
    assert "adapter_model.safetensors" in found.skipped["broken"]
    report = write_screen(found, folder, folder.parent / "out").read_text()
    assert "- dora: " in report


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    for place, part in ((tmp_path / "nowhere", "no directory"), (tmp_path / "empty", "holds no LoRA adapter")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DeltawError, match=part):
            screen(place)
    write(tmp_path / "few" / "one", 0)
    with pytest.raises(DeltawError, match="too few"):
        screen(tmp_path / "few", by="unusual")
    write(folder / "stranger", 80, base_model_name_or_path="org/other")
    with pytest.raises(DeltawError, match=r"several base models: org/base \(12\), org/other \(1\)"):
        screen(folder)
    only = tmp_path / "only" / "dora"
    write(only, 70, use_dora=True)
    with pytest.raises(DeltawError, match="none of the 1 adapters"):
        screen(only.parent)


def test_the_command(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deltaw.cli", "screen", str(folder), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plain-00" in done.stdout
    assert (tmp_path / "out" / "report.md").is_file()
    done = subprocess.run([*command[:4], str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
