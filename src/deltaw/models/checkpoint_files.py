"""A checkpoint on disk as names, shapes and single tensors: nothing is unpickled, no model is instantiated.

Headers are read at once; a tensor's bytes when it is asked for. Weights in 8-bit floats are given as numbers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models.checkpoint_directory import (
    CONFIGS,
    INDEX,
    damaged,
    find_directory,
    not_read,
    read_json_object,
    refuse_unfinished,
    refuse_unreadable,
    weight_files,
)
from deltaw.models.quantised import (
    EIGHT_BITS,
    block_size,
    dequantised,
    expanded_scale,
    refuse_quantised,
    scale_name,
)

DTYPES = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
"""Formats of numbers that are read, with the bits of their fractions."""
SAMPLED = 4096
"""Bytes of each tensor that tell a file from another."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies. dtype: as safetensors spells it, such as BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    own_name: str | None = None
    """In the file, where a checkpoint calls it otherwise."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors by name, and its configuration."""

    directory: Path
    tensors: Mapping[str, Stored]
    config: Mapping[str, Any]
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Files of other copies of the weights, and names that only a stale index has, with the reason."""

    @property
    def model_type(self) -> str:
        """What config.json calls the architecture; "deltaw" for deltaw's own models, "" if it says nothing."""
        if str(self.config.get("format", "")).startswith("deltaw-model"):
            return "deltaw"
        return str(self.config.get("model_type", ""))

    def read(self, name: str, expert: int | None = None) -> Tensor:
        """One tensor, as stored; of 8-bit floats with a scale, the numbers that they stand for, in float32.

        expert: its place on the first of three axes. DeltawError if it cannot be read or an entry is not finite.
        """
        stored = self.tensors[name]
        if stored.dtype in EIGHT_BITS:
            tensor = dequantised(*self.eight_bits(name, expert))
        elif stored.dtype in DTYPES:
            tensor = self._get(name, expert)
        else:
            raise DeltawError(
                f"{stored.file}: {name} is stored as {stored.dtype}; deltaw reads {', '.join((*DTYPES, *EIGHT_BITS))}, "
                "so save the checkpoint without quantisation"
            )
        for low in range(0, len(tensor), 1024) if tensor.ndim else ():
            if not bool(torch.isfinite(tensor[low : low + 1024]).all()):
                raise DeltawError(f"{stored.file}: {name} holds NaN or infinite values; restore the file")
        return tensor

    def eight_bits(self, name: str, expert: int | None = None) -> tuple[Tensor, Tensor]:
        """An 8-bit tensor as stored, and the scale of every entry. DeltawError if its scale is missing."""
        stored, scale = self.tensors[name], scale_name(name, self.tensors)
        if scale is None and "quantization_config" in self.config:
            raise DeltawError(
                f"{stored.file}: {name} is stored as {stored.dtype} without {name}_scale; restore the checkpoint"
            )
        whole = torch.ones(()) if scale is None else self._get(scale, None)
        every = expanded_scale(whole, stored.shape, block_size(self.config), name)
        return self._get(name, expert), every if expert is None else every[expert]

    def _get(self, name: str, expert: int | None) -> Tensor:
        stored = self.tensors[name]
        file_path, name = stored.file, stored.own_name or name
        try:
            with safe_open(file_path, framework="pt") as file:
                whole: Tensor = file.get_tensor(name) if expert is None else file.get_slice(name)[expert]
                return whole
        except (SafetensorError, OSError) as error:
            raise damaged(file_path, error) from error

    def fingerprint(self) -> list[list[Any]]:
        """What tells this checkpoint from another: a hash of its configuration; each file's name, size, time of change,
        and hash of its header and of how each tensor begins. Where files were unpacked, all can have one time.
        """
        settings = json.dumps(self.config, sort_keys=True).encode()
        rows: list[list[Any]] = [["config", hashlib.sha256(settings).hexdigest()[:16]]]
        for path in sorted({stored.file for stored in self.tensors.values()}):
            stat = path.stat()
            rows.append([path.name, stat.st_size, stat.st_mtime_ns, _sampled(path)])
        return rows


def open_checkpoint(source: str | Path) -> Checkpoint:
    """The checkpoint in a directory; or, if huggingface_hub is installed, of a hub name such as org/model.

    DeltawError, one sentence each: no such directory, no safetensors weights, a missing, empty or truncated shard, an
    unreadable index or config, a quantised format that is not read.
    """
    directory = find_directory(source)
    config_path = next((directory / name for name in CONFIGS if (directory / name).is_file()), None)
    if config_path is None:
        refuse_unreadable(directory)
        raise DeltawError(f"{directory} has no config.json; copy it from where the checkpoint came from")
    config = read_json_object(config_path)
    files = weight_files(directory, config)
    tensors = tensors_of(files)
    ignored = _promised_in_vain(directory, files, tensors, config) | not_read(directory, files)
    refuse_quantised(directory, {name: (stored.dtype, stored.shape) for name, stored in tensors.items()}, config)
    return Checkpoint(directory, tensors, config, ignored)


def _promised_in_vain(
    directory: Path,
    files: Mapping[Path, set[str] | None],
    tensors: Mapping[str, Stored],
    config: Mapping[str, Any],
) -> dict[str, str]:
    """Names that an index has and no file, which transformers makes itself. DeltawError if it cannot."""
    promised = {name: path for path, names in files.items() for name in names or ()}
    vain = sorted(promised.keys() - tensors.keys())
    for name in vain:
        tied = name.endswith(("lm_head.weight", "embed_out.weight")) and config.get("tie_word_embeddings") is not False
        if not tied and not name.endswith("rotary_emb.inv_freq"):
            raise DeltawError(f"{promised[name]} lacks {name}, which {INDEX} says it holds; restore both")
    return dict.fromkeys(vain, f"{INDEX} of {directory.name} names it and no file holds it")


def tensors_of(files: Mapping[Path, object]) -> dict[str, Stored]:
    """Every tensor of some safetensors files; of one that several hold, the last, as in transformers."""
    tensors: dict[str, Stored] = {}
    for path in files:
        try:
            if not path.is_file():
                refuse_unfinished(path.parent)
                raise DeltawError(f"the shard {path} is missing; restore it beside the other files of the checkpoint")
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    part = file.get_slice(name)
                    tensors[name] = Stored(path, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from error
    return tensors


def _sampled(path: Path) -> str:
    """A hash of the header and of the first bytes of every tensor."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        start, digest = file.tell(), hashlib.sha256(header)
        for name, entry in sorted(json.loads(header).items()):
            if name != "__metadata__":
                first, stop = entry["data_offsets"]
                file.seek(start + first)
                digest.update(file.read(min(stop - first, SAMPLED)))
    return digest.hexdigest()[:16]
