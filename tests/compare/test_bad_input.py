"""What is wrong with a checkpoint is said in one sentence; what was finished is kept."""

import errno
import importlib.util
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import config, tensors, write

from deltaw import cli
from deltaw.compare import compare
from deltaw.errors import DeltawError

Damage = Callable[[Path], None]


def first_shard(directory: Path) -> Path:
    return min(directory.glob("model-*.safetensors"))


def truncate(directory: Path) -> None:
    path = first_shard(directory)
    path.write_bytes(path.read_bytes()[:-9])


def truncate_header(directory: Path) -> None:
    first_shard(directory).write_bytes(struct.pack("<Q", 10**9) + b"{}")


def wrong_header(directory: Path) -> None:
    first_shard(directory).write_bytes(struct.pack("<Q", 8) + b"not json" + b"0" * 64)


def empty(directory: Path) -> None:
    first_shard(directory).write_bytes(b"")


def missing(directory: Path) -> None:
    first_shard(directory).unlink()


def not_in_shard(directory: Path) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost.weight"] = first_shard(directory).name
    path.write_text(json.dumps(index))


def outside(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')


def no_map(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text("{}")


def broken_index(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text('{"weight')


def broken_config(directory: Path) -> None:
    (directory / "config.json").write_bytes(b"\xff{")


def list_config(directory: Path) -> None:
    (directory / "config.json").write_text("[]")


def no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def pickled(directory: Path) -> None:
    for path in directory.glob("model*"):
        path.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x02.")


def nothing(directory: Path) -> None:
    for path in directory.glob("model*"):
        path.unlink()


def other_architecture(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "opt"}')


CASES: list[tuple[Damage, str]] = [
    (truncate, "is truncated or not a safetensors file"),
    (truncate_header, "is truncated or not a safetensors file"),
    (wrong_header, "is truncated or not a safetensors file"),
    (empty, "is empty; fetch or save it again"),
    (missing, "is missing; restore it beside"),
    (not_in_shard, "lacks ghost.weight, which model.safetensors.index.json says it holds"),
    (outside, "names '../a.safetensors', which is not a file beside it"),
    (no_map, "has no weight_map"),
    (broken_index, "cannot be read as JSON"),
    (broken_config, "cannot be read as JSON"),
    (list_config, "holds a list; expected a JSON object"),
    (no_config, "has no config.json"),
    (pickled, "safe_serialization=True"),
    (nothing, "neither model.safetensors nor"),
    (other_architecture, "of one architecture"),
]


@pytest.mark.parametrize(("damage", "part"), CASES, ids=[damage.__name__ for damage, _ in CASES])
def test_a_damaged_checkpoint_is_a_sentence_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: Damage, part: str
) -> None:
    a = write(tmp_path / "a", tensors("llama"), config("llama"), shards=3)
    b = write(tmp_path / "b", tensors("llama", 1), config("llama"), shards=3)
    damage(b)
    monkeypatch.setattr(sys, "argv", ["deltaw", "compare", str(a), str(b), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    err = capsys.readouterr().err
    assert exit.value.code == 2
    assert part in err
    assert err.startswith("deltaw: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "measurements.jsonl").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_late_layer_keeps_the_earlier_ones(tmp_path: Path, value: float) -> None:
    after = tensors("llama", 1)
    name = "model.layers.1.mlp.down_proj.weight"
    good = after[name].clone()
    after[name][2, 3] = value
    a, b = write(tmp_path / "a", tensors("llama"), config("llama")), write(tmp_path / "b", after, config("llama"))
    with pytest.raises(DeltawError, match=rf"{name} holds NaN or infinite values"):
        compare(a, b, tmp_path / "out")
    kept = (tmp_path / "out" / "tensors.jsonl").read_text().splitlines()
    assert len(kept) == 1 + 8
    assert torch.isfinite(good).all()


def test_a_full_disk_keeps_the_finished_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path / "a", tensors("opt"), config("opt"))
    b = write(tmp_path / "b", tensors("opt", 1), config("opt"))
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DeltawError, match=r"cannot be written \(No space left on device\).*are kept"):
            compare(a, b, tmp_path / "out")
    before = (tmp_path / "out" / "tensors.jsonl").read_bytes()
    compare(a, b, tmp_path / "out")
    assert (tmp_path / "out" / "tensors.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("no/such/place", "does not exist"),
        ("org/model", "pip install 'deltaw\\[hf\\]'"),
    ],
)
def test_a_place_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, part: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeltawError, match=part):
        compare(source, source, tmp_path / "out")


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    state = tensors("opt")
    name = "model.decoder.layers.0.fc1.weight"
    a = write(tmp_path / "a", {**state, name: state[name].to(torch.int8)}, config("opt"))
    with pytest.raises(DeltawError, match=f"{name} is stored as I8; .* without quantisation"):
        compare(a, a, tmp_path / "out")


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    a = write(tmp_path / "a", tensors("opt"), config("opt"))
    b = write(tmp_path / "b", tensors("opt", 1), config("opt"))
    compare(a, b, tmp_path / "out")
    journal = tmp_path / "out" / "tensors.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b"{}\n" + b"".join(lines[2:]))
    with pytest.raises(DeltawError, match=r"tensors.jsonl is damaged .* remove it"):
        compare(a, b, tmp_path / "out")


def test_heads_that_do_not_fit_are_said(tmp_path: Path) -> None:
    a = write(tmp_path / "a", tensors("gpt_neox"), {"model_type": "gpt_neox", "num_attention_heads": 5})
    with pytest.raises(DeltawError, match=r"of 5 heads; check config.json"):
        compare(a, a, tmp_path / "out")
    b = write(tmp_path / "b", tensors("gpt_neox"), {"model_type": "gpt_neox"})
    with pytest.raises(DeltawError, match="num_attention_heads = None"):
        compare(b, b, tmp_path / "out")
