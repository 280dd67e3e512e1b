"""A checkpoint on disk as names, shapes and single tensors: nothing is unpickled, no model is instantiated.

A checkpoint is a directory with `model.safetensors`, or shards that `model.safetensors.index.json` names, and a
`config.json` (or deltaw's `meta.json`). Headers are read at once; a tensor's bytes when it is asked for.
"""

import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.results.parsing import parse_json

SINGLE, INDEX, CONFIGS = "model.safetensors", "model.safetensors.index.json", ("config.json", "meta.json")
PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
"""Formats of numbers that are read, with the bits of their fractions."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies. dtype: as safetensors spells it, such as BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors by name, and its configuration."""

    directory: Path
    tensors: Mapping[str, Stored]
    config: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        """What config.json calls the architecture; "deltaw" for deltaw's own models, "" if it says nothing."""
        if str(self.config.get("format", "")).startswith("deltaw-model"):
            return "deltaw"
        return str(self.config.get("model_type", ""))

    def read(self, name: str) -> Tensor:
        """One tensor, as stored. DeltawError if it cannot be read or an entry is not finite."""
        stored = self.tensors[name]
        if stored.dtype not in DTYPES:
            raise DeltawError(
                f"{stored.file}: {name} is stored as {stored.dtype}; deltaw reads {', '.join(DTYPES)}, so save the "
                "checkpoint without quantisation"
            )
        try:
            with safe_open(stored.file, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(stored.file, error) from error
        for low in range(0, len(tensor), 1024) if tensor.ndim else ():
            if not bool(torch.isfinite(tensor[low : low + 1024]).all()):
                raise DeltawError(f"{stored.file}: {name} holds NaN or infinite values; restore the file")
        return tensor

    def fingerprint(self) -> list[list[Any]]:
        """What tells this checkpoint from another: each file's name, size, time of change and hash of its header; and
        a hash of its configuration.
        """
        settings = json.dumps(self.config, sort_keys=True).encode()
        rows: list[list[Any]] = [["config", hashlib.sha256(settings).hexdigest()[:16]]]
        for path in sorted({stored.file for stored in self.tensors.values()}):
            stat = path.stat()
            rows.append([path.name, stat.st_size, stat.st_mtime_ns, hashlib.sha256(_header(path)).hexdigest()[:16]])
        return rows


def open_checkpoint(source: str | Path) -> Checkpoint:
    """The checkpoint in a directory; or, if huggingface_hub is installed, of a hub name such as org/model.

    DeltawError, one sentence each: no such directory, pickled weights only, a missing, empty or truncated shard, an
    unreadable index or config.
    """
    directory = find_directory(source)
    config_path = next((directory / name for name in CONFIGS if (directory / name).is_file()), None)
    if config_path is None:
        raise DeltawError(f"{directory} has no config.json; copy it from where the checkpoint came from")
    config = read_json_object(config_path)
    return Checkpoint(directory, tensors_of(_shards(directory)), config)


def find_directory(source: str | Path) -> Path:
    """The directory itself, or that of a hub name. DeltawError if there is neither."""
    directory = Path(source)
    try:
        if directory.is_dir():
            return directory
        there = directory.exists()
    except OSError as error:
        raise DeltawError(
            f"{source} cannot be opened ({error.strerror}); give the directory of a checkpoint"
        ) from error
    if there:
        raise DeltawError(f"{source} is a file; give the directory that holds config.json and {SINGLE}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(source)):
        raise DeltawError(f"{source} does not exist; give a directory that holds config.json and {SINGLE}")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise DeltawError(
            f"{source} is not a directory; to fetch it from the Hugging Face hub, install the extra: "
            "pip install 'deltaw[hf]'"
        )
    hub = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(str(source), allow_patterns=["*.safetensors", "*.json", "*.jinja"]))
    except Exception as error:
        why = " ".join(str(error).split())  # in one line
        raise DeltawError(
            f"{source} is no directory, and cannot be fetched from the hub either ({type(error).__name__}: {why})"
        ) from error


def tensors_of(files: Mapping[Path, set[str] | None]) -> dict[str, Stored]:
    """Every tensor of some safetensors files. files: path -> names that an index promises there, None for all."""
    found: dict[str, Stored] = {}
    for path, promised in files.items():
        try:
            if not path.is_file():
                raise DeltawError(f"the shard {path} is missing; restore it beside the other files of the checkpoint")
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                lacking = sorted((promised or set()) - names)
                if lacking:
                    raise DeltawError(f"{path} lacks {lacking[0]}, which {INDEX} says it holds; restore both")
                for name in sorted(names):
                    part = file.get_slice(name)
                    found[name] = Stored(path, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from error
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object. DeltawError if there is none, or the file cannot be read."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"), foreign=True)
    except FileNotFoundError as error:
        raise DeltawError(f"{path} does not exist; restore it") from error
    except (OSError, ValueError) as error:
        raise DeltawError(f"{path} cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise DeltawError(f"{path} holds a {type(value).__name__}; expected a JSON object, so restore the file")
    return value


def _shards(directory: Path) -> dict[Path, set[str] | None]:
    if (directory / INDEX).is_file():
        table = read_json_object(directory / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise DeltawError(f"{directory / INDEX} has no weight_map; restore the file")
        wanted: dict[Path, set[str] | None] = {}
        for name, file in table.items():
            if Path(str(file)).name != file:
                raise DeltawError(
                    f"{directory / INDEX} names {file!r}, which is not a file beside it; restore the file"
                )
            names = wanted.setdefault(directory / str(file), set())
            if names is not None:
                names.add(str(name))
        return wanted
    if (directory / SINGLE).is_file():
        return {directory / SINGLE: None}
    refuse_pickled(directory)
    raise DeltawError(f"{directory} has neither {SINGLE} nor {INDEX}; give a directory that holds a checkpoint")


def refuse_pickled(directory: Path) -> None:
    """DeltawError, with what to do, if the directory's weights are pickled."""
    pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickled:
        raise DeltawError(
            f"{directory} holds pickled weights ({pickled[0]}), which can run code when they are read; save them as "
            "safetensors where you trust them: model.save_pretrained(directory, safe_serialization=True)"
        )


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def _damaged(path: Path, error: Exception) -> DeltawError:
    empty = False
    with suppress(OSError):  # the name itself may be at fault
        empty = path.is_file() and path.stat().st_size == 0
    how = "is empty" if empty else f"is truncated or not a safetensors file ({error})"
    return DeltawError(f"{path} {how}; fetch or save it again")
