"""A model on disk: `model.safetensors` and a readable `meta.json`, which appear together or not at all.

`meta.json` holds the model's shape (`config`), its `dtype` and `format`, and whatever the caller adds:
protocol, strength, seed, step. Nothing is unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.model.transformer import ModelConfig, Transformer
from deltaw.results import whole_directory

WEIGHTS, META = "model.safetensors", "meta.json"
FORMAT = "deltaw-model-1"
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
    state = _read_weights(directory / WEIGHTS)
    model = Transformer(config, torch.Generator()).to(dtype)
    _require_same_tensors(state, model.state_dict(), directory / WEIGHTS)
    _require_finite(state, str(directory / WEIGHTS))
    model.load_state_dict(state)
    return model, meta


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeltawError(f"{path} does not exist; give a directory that holds {META} and {WEIGHTS}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DeltawError(f"{path} cannot be read as JSON ({error}); restore it, or make the model again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise DeltawError(f"{path} has the format {found!r}; expected {FORMAT!r}, as this version writes it")
    return meta


def _read_config(config: Any, path: Path) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    found = set(config) if isinstance(config, dict) else set()
    wrong = ", ".join(sorted((found - known) | (known - found - _LATER)))
    if wrong:
        raise DeltawError(f"{path}: the model's config lacks, or has in excess: {wrong}; restore the file")
    try:
        return ModelConfig(**config)
    except DeltawError as error:
        raise DeltawError(f"{path}: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
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
        found = state[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise DeltawError(
                f"{path}: {name} is {tuple(found.shape)} {found.dtype}, but {META} says "
                f"{tuple(tensor.shape)} {tensor.dtype}; the two files do not belong together"
            )


def _require_finite(state: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise DeltawError(f"{source}: {name} holds NaN or infinite values; lower the learning rate, or restore it")
