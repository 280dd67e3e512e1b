"""Which files are the checkpoint: those that transformers loads; everything else is called what it is."""

import fnmatch
import importlib
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import config, tensors, write
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltaw.compare import compare, open_checkpoint
from deltaw.errors import DeltawError
from deltaw.results import read_measurements

PROJ = "model.layers.0.mlp.up_proj.weight"


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("model-*.safetensors"))


def test_the_single_file_wins_over_an_index_as_in_transformers(tmp_path: Path) -> None:
    transformers: Any = importlib.import_module("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
             "vocab_size": 20}  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    model.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    other = {name: x + 1 for name, x in load_file(path).items()}
    save_file(other, tmp_path / "m" / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    save_file(other, tmp_path / "m" / "consolidated.safetensors", metadata={"format": "pt"})
    table = dict.fromkeys(other, "model-00001-of-00001.safetensors")
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").state_dict()
    checkpoint = open_checkpoint(tmp_path / "m")
    for name in checkpoint.tensors:
        assert torch.equal(checkpoint.read(name), loaded[name])
    assert set(checkpoint.ignored) == {"consolidated.safetensors", "model-00001-of-00001.safetensors"}


def test_a_tensor_that_the_index_puts_into_another_shard_is_read(tmp_path: Path) -> None:
    state = tensors("llama")
    directory = write(tmp_path / "a", state, config("llama"), shards=2)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][PROJ] = next(x.name for x in shards(directory) if x.name != index["weight_map"][PROJ])
    path.write_text(json.dumps(index))
    assert torch.equal(open_checkpoint(directory).read(PROJ), state[PROJ])


def test_a_tied_head_that_only_the_index_names(tmp_path: Path) -> None:
    directory = write(tmp_path / "a", tensors("llama"), {**config("llama"), "tie_word_embeddings": True}, shards=2)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = shards(directory)[0].name
    path.write_text(json.dumps(index))
    assert "no file holds it" in open_checkpoint(directory).ignored["lm_head.weight"]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


def replaced(content: bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(content)

    return change


def moved(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (directory / "model.safetensors").rename(path)

    return change


def pointer_config(directory: Path) -> None:
    (directory / "config.json").write_bytes(POINTER)


CASES: list[tuple[str, Callable[[Path], None], str]] = [
    ("pointer", replaced(POINTER), "git-lfs pointer"),
    ("pointer config", pointer_config, "git-lfs pointer"),
    ("web page", replaced(b"<!DOCTYPE html><html></html>"), "web page"),
    ("gguf renamed", replaced(b"GGUF" + b"\0" * 99), "GGUF"),
    ("pickle renamed", replaced(b"PK\x03\x04" + b"\0" * 99), "pickled"),
    ("incomplete", moved("model.safetensors.incomplete"), "unfinished download"),
    ("part", moved("model.safetensors.part"), "unfinished download"),
    ("cache", moved(".cache/huggingface/download/abc.incomplete"), "unfinished download"),
    ("gguf", moved("model-q4.gguf"), "GGUF"),
    ("consolidated", moved("consolidated.safetensors"), "Mistral's or Meta's own"),
    ("bin", moved("pytorch_model.bin"), "pickled"),
    ("pth", moved("consolidated.00.pth"), "pickled"),
    ("cut", replaced(struct.pack("<Q", 10**6) + b"{}"), "truncated"),
]


@pytest.mark.parametrize(("what", "change", "said"), CASES, ids=[case[0] for case in CASES])
def test_what_is_no_checkpoint_is_called_what_it_is(
    tmp_path: Path, what: str, change: Callable[[Path], None], said: str
) -> None:
    directory = write(tmp_path / "a", tensors("llama"), config("llama"))
    (directory / "training_args.bin").write_bytes(b"")
    change(directory)
    with pytest.raises(DeltawError, match=said) as error:
        open_checkpoint(directory)
    assert "training_args" not in str(error.value)


REPOSITORY = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "merges.txt",
    "vocab.txt", "chat_template.jinja", "special_tokens_map.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json", "consolidated.safetensors",
    "original/consolidated.00.pth", "original/params.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "onnx/model.onnx", "onnx/config.json", "model-q4.gguf", "README.md", "other-lora/adapter_model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("sharded", [True, False])
def test_a_download_fetches_the_tokenizer_and_one_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    single = [x for x in REPOSITORY if not x.startswith("model")] + ["model.safetensors"]
    listed = REPOSITORY if sharded else single
    fetched: set[str] = set()
    source = write(tmp_path / "a", tensors("llama"), config("llama"), shards=2 if sharded else 1)

    def snapshot_download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        for file in listed:
            allowed = any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns)
            if allowed and not any(fnmatch.fnmatch(file, pattern) for pattern in ignore_patterns):
                fetched.add(file)
        return str(source)

    hub = SimpleNamespace(snapshot_download=snapshot_download, __spec__=1)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    open_checkpoint("org/model")
    weights = {x for x in listed if x.startswith("model") and x.endswith(".safetensors")}
    assert {x for x in fetched if x.endswith((".safetensors", ".bin", ".pth", ".gguf", ".onnx"))} == weights
    assert {"tokenizer.model", "merges.txt", "vocab.txt", "chat_template.jinja", "tokenizer.json"} <= fetched
    assert not any("/" in x for x in fetched)


# 8-bit floats and other formats


def scaled(x: Tensor, kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that store a matrix in 8 bits, and the numbers that they stand for, by numpy's hand."""
    rows, columns = x.shape
    side = 128
    if kind == "tensor":
        scale = (x.abs().max() / 448).reshape(())
        full = scale.expand(rows, columns)
    elif kind == "channel":
        scale = x.abs().amax(1, keepdim=True) / 448
        full = scale.expand(rows, columns)
    elif kind == "channel flat":
        scale = x.abs().amax(1) / 448
        full = scale[:, None].expand(rows, columns)
    else:
        blocks = [
            [x[i : i + side, j : j + side].abs().max() / 448 for j in range(0, columns, side)]
            for i in range(0, rows, side)
        ]
        scale = torch.tensor(blocks)
        full = scale.repeat_interleave(side, 0)[:rows].repeat_interleave(side, 1)[:, :columns]
    stored = (x / full).to(torch.float8_e4m3fn)
    ending = "_scale_inv" if kind == "block" else "_scale"
    return {"": stored, ending: scale}, stored.double() * full.double()


@pytest.mark.parametrize("kind", ["tensor", "channel", "channel flat", "block"])
def test_8_bit_floats_are_the_numbers_that_they_stand_for(tmp_path: Path, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.02 * torch.randn(300, 200, generator=generator)
    y = x + 0.01 * torch.randn(300, 200, generator=generator)
    settings = {**config("opt"), "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    name = "model.decoder.layers.0.fc1.weight"
    parts, numbers = scaled(x, kind)
    base = {**tensors("opt"), **{name + ending: part for ending, part in parts.items()}}
    a = write(tmp_path / "a", base, settings if kind == "block" else config("opt"))
    b = write(tmp_path / "b", {**tensors("opt", 1), name: y}, config("opt"))
    torch.testing.assert_close(open_checkpoint(a).read(name).double(), numbers, rtol=1e-6, atol=0)
    compare(a, b, tmp_path / "out")
    every = read_measurements(tmp_path / "out" / "measurements.jsonl")
    lines = [z for z in every if z.module == name.removesuffix(".weight")]
    (value,) = [z.value for z in lines if z.statistic == "update_relative_norm"]
    assert value == pytest.approx(float((y.double() - numbers).norm() / numbers.norm()), rel=1e-6)
    (floor,) = [z.value for z in lines if z.statistic == "rounding_floor"]
    assert floor > 0.9 * float((x.double() - numbers).norm() / numbers.norm())


def test_an_8_bit_weight_without_its_scale_is_refused(tmp_path: Path) -> None:
    name = "model.decoder.layers.0.fc1.weight"
    state = {**tensors("opt"), name: tensors("opt")[name].to(torch.float8_e4m3fn)}
    a = write(tmp_path / "a", state, {**config("opt"), "quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(DeltawError, match=r"without .*_scale"):
        compare(a, a, tmp_path / "out")


QUANTISED: list[tuple[str, str, dict[str, Tensor], str]] = [
    ("gptq", ".qweight", {".qweight": torch.ones(2, 4, dtype=torch.int32), ".scales": torch.ones(4)}, "GPTQ"),
    ("awq", ".qweight", {".qweight": torch.ones(2, 4, dtype=torch.int32), ".qzeros": torch.ones(4)}, "AWQ"),
    ("bitsandbytes", "", {".weight": torch.ones(9, 1, dtype=torch.uint8), ".weight.absmax": torch.ones(4)}, "bitsandb"),
    ("bitsandbytes", "", {".weight": torch.ones(9, 8, dtype=torch.int8), ".SCB": torch.ones(4)}, "bitsandb"),
    ("compressed-tensors", "", {".weight_packed": torch.ones(9, 2, dtype=torch.int32)}, "compressed-tensors"),
    ("mxfp4", "", {"_blocks": torch.ones(9, 2, dtype=torch.uint8), "_scales": torch.ones(9)}, "MXFP4"),
    ("hqq", "", {".W_q": torch.ones(9, 2, dtype=torch.uint8)}, "HQQ"),
    ("torchao", "", {".weight": torch.ones(9, 2, dtype=torch.int8)}, "torchao"),
]


@pytest.mark.parametrize(("method", "_", "parts", "said"), QUANTISED)
def test_other_formats_are_named(tmp_path: Path, method: str, _: str, parts: dict[str, Tensor], said: str) -> None:
    stem = "model.layers.0.mlp.up_proj"
    state = {name: x for name, x in tensors("llama").items() if name != PROJ}
    settings = {**config("llama"), "quantization_config": {"quant_method": method}}
    a = write(tmp_path / "a", {**state, **{stem + ending: x for ending, x in parts.items()}}, settings)
    b = write(tmp_path / "b", tensors("llama"), config("llama"))
    for sides in ((a, b), (b, a)):
        with pytest.raises(DeltawError, match=rf"quantised by {said}"):
            compare(*sides, tmp_path / "out")
    assert not (tmp_path / "out").exists()
