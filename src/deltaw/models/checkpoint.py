"""A model on disk: `model.safetensors` and a readable `meta.json`, which appear together or not at all.

`meta.json` holds the model's shape (`config`), its `dtype` and `format`, and whatever the caller adds:
protocol, strength, seed, step. Nothing is unpickled.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models.transformer import ModelConfig, Transformer
from deltaw.results import whole_directory
from deltaw.results.parsing import parse_json

WEIGHTS, META = "model.safetensors", "meta.json"
FORMAT = "deltaw-model-1"
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors spells them
LARGEST_TABLE = 2**24
"""Entries of a table of sines and cosines, which is made and not read."""
_OURS = ("format", "config", "dtype")
_LATER = {"positions", "dead_norm", "masked_token"}  # an older checkpoint is what their defaults say


def save(model: Transformer, directory: Path | str, meta: Mapping[str, Any]) -> None:
    """Write `model` to `directory`, by renaming a finished directory: a reader never sees half a checkpoint.

    meta: JSON values, under keys other than `format`, `config` and `dtype`.
    DeltawError if `directory` exists and is not empty, or cannot be written, or a weight is not finite.
    """
    directory = Path(directory)
    taken = [key for key in _OURS if key in meta]
    if taken:
        raise ValueError(f"meta must not hold the key {taken[0]!r}: it describes the model")
    if directory.is_dir() and any(directory.iterdir()):
        raise DeltawError(f"{directory} is not empty; give another directory, or remove it first")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _require_finite(state, "the model to be saved")
    dtype = str(model.unembed.weight.dtype).removeprefix("torch.")
    text = json.dumps({"format": FORMAT, "config": asdict(model.config), "dtype": dtype, **meta}, indent=2)
    with whole_directory(directory) as partial:
        save_file(state, partial / WEIGHTS, metadata={"format": "pt"})
        (partial / META).write_text(text + "\n", encoding="utf-8")


def load(directory: Path | str) -> tuple[Transformer, dict[str, Any]]:
    """The model saved in `directory`, on the CPU, and its whole `meta.json`.

    DeltawError, one sentence each: missing or truncated file, not safetensors, unreadable meta, a tensor
    that is missing, unknown, of another shape or dtype, or not finite.
    """
    directory = Path(directory)
    meta = _read_meta(directory / META)
    config = _read_config(meta.get("config"), directory / META)
    dtype = {"float32": torch.float32, "float64": torch.float64}.get(str(meta.get("dtype")))
    if dtype is None:
        raise DeltawError(f"{directory / META}: dtype is {meta.get('dtype')!r}; expected float32 or float64")
    _require_size(config, directory / WEIGHTS)
    state = _read_weights(directory / WEIGHTS)
    model = Transformer(config, torch.Generator()).to(dtype)
    _require_same_tensors(state, model.state_dict(), directory / WEIGHTS)
    _require_finite(state, str(directory / WEIGHTS))
    model.load_state_dict(state)
    return model, meta


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeltawError(f"{path} does not exist; give a directory that holds {META} and {WEIGHTS}") from error
    except (OSError, ValueError) as error:
        raise DeltawError(f"{path} cannot be read as JSON ({error}); restore it, or make the model again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        format_name = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        later = re.fullmatch(r"deltaw-model-([0-9]{1,6})", str(format_name))
        if later and int(later[1]) > int(FORMAT.rpartition("-")[2]):
            raise DeltawError(
                f"{path} has the format {format_name!r} of a later deltaw; this one reads {FORMAT!r}, so update it"
            )
        raise DeltawError(f"{path} has the format {format_name!r}; expected {FORMAT!r}, as this version writes it")
    return meta


def _read_config(config: Any, path: Path) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    names = set(config) if isinstance(config, dict) else set()
    wrong = ", ".join(name or "''" for name in sorted((names - known) | (known - names - _LATER)))
    if wrong:
        raise DeltawError(f"{path}: the model's config lacks, or has in excess: {wrong}; restore the file")
    try:
        return ModelConfig(**config)
    except DeltawError as error:
        raise DeltawError(f"{path}: {error}") from error


def _require_size(config: ModelConfig, path: Path) -> None:
    """DeltawError, before anything of that size is made, if the file has not the sizes that `meta.json` says."""
    with _reading(path), safe_open(path, framework="pt") as file:
        sizes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dictionary)
        dtypes = {name: str(file.get_slice(name).get_dtype()) for name in sizes}
    strange = next((name for name, dtype in dtypes.items() if dtype not in FLOATS), None)
    if strange is not None:
        raise DeltawError(f"{path}: {strange} is stored as {dtypes[strange]}; expected one of {', '.join(FLOATS)}")
    width = config.width
    wanted: dict[str, tuple[int, ...]] = {
        "embed.weight": (config.vocabulary_size, width),
        "blocks.0.mlp.in_proj.weight": (config.mlp_ratio * width, width),
    }
    if config.positions == "learned":
        wanted["position.weight"] = (config.context, width)
    elif config.context * width > LARGEST_TABLE:
        raise DeltawError(f"{path.with_name(META)}: a context of {config.context} is too long; restore the file")
    for name, size in wanted.items():
        if sizes.get(name) != size:
            has = f"is {sizes[name]}" if name in sizes else "is missing"
            raise DeltawError(f"{path}: {name} {has}, but {META} says {size}; the two files do not belong together")
    blocks = len({name.split(".")[1] for name in sizes if name.startswith("blocks.")})
    if blocks < config.layers:
        raise DeltawError(
            f"{path} has {blocks} blocks, but {META} says {config.layers}; the two files do not belong together"
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    with _reading(path):
        return load_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say what is wrong with a file of weights."""
    try:
        yield
    except FileNotFoundError as error:
        raise DeltawError(f"{path} does not exist; restore it, or make the model again") from error
    except (SafetensorError, OSError) as error:
        raise DeltawError(
            f"{path} is truncated or not a safetensors file ({error}); restore it, or make the model again"
        ) from error


def _require_same_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing:
        raise DeltawError(f"{path} lacks {len(missing)} of {len(expected)} tensors, {missing[0]} among them")
    if unknown:
        raise DeltawError(f"{path} has {len(unknown)} tensors that the model lacks, {unknown[0]} among them")
    for name, tensor in expected.items():
        stored = state[name]
        if stored.shape != tensor.shape or stored.dtype != tensor.dtype:
            raise DeltawError(
                f"{path}: {name} is {tuple(stored.shape)} {stored.dtype}, but {META} says "
                f"{tuple(tensor.shape)} {tensor.dtype}; the two files do not belong together"
            )


def _require_finite(state: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise DeltawError(f"{source}: {name} holds NaN or infinite values; lower the learning rate, or restore it")
