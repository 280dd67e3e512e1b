"""Which files of a directory are a checkpoint's weights: those that transformers would load.

A directory holds `model.safetensors`, or shards that `model.safetensors.index.json` names; the single file wins, as it
does in transformers, and any other copy of the weights is named and not read. What is no readable checkpoint (a git-lfs
pointer, an unfinished download, pickled files, GGUF) is called what it is.
"""

import importlib
import importlib.util
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.results.parsing import parse_json

SINGLE, INDEX, CONFIGS = "model.safetensors", "model.safetensors.index.json", ("config.json", "meta.json")
PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")
OF_TRAINING = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "optimizer.bin", "scheduler.bin")
"""Pickled files of a trainer, which are no weights."""
UNFINISHED = ("*.incomplete", "*.part", "*.partial", "*.crdownload", "*.aria2", "*.download", "*.tmp")
OTHER_FORMATS = {
    "*.gguf": "GGUF, llama.cpp's format",
    "*.h5": "TensorFlow's format",
    "*.msgpack": "Flax's format",
    "*.onnx": "ONNX",
    "*.npz": "NumPy's format",
    "consolidated*.safetensors": "the weights in Mistral's or Meta's own names",
}
WORDS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "additional_chat_templates/*")
"""What a hub download fetches beside the weights: configurations, and everything that a tokenizer is read from."""
ELSEWHERE = ("consolidated*", "original/*", "onnx/*", "*.onnx", "*/*.safetensors", "*/*.json", "*.bin.index.json")
"""Second copies of the weights, which it does not fetch."""
LFS, LARGEST_POINTER = b"version https://git-lfs", 1024


def find_directory(source: str | Path) -> Path:
    """The directory itself, or that of a hub name. DeltawError if there is neither."""
    directory = Path(source)
    try:
        if directory.is_dir():
            return directory
        exists = directory.exists()
    except OSError as error:
        raise DeltawError(
            f"{source} cannot be opened ({error.strerror}); give the directory of a checkpoint"
        ) from error
    if exists:
        kind = next((f" in {text}" for name, text in OTHER_FORMATS.items() if directory.match(name)), "")
        kind = " of pickled weights" if any(directory.match(name) for name in PICKLED) else kind
        raise DeltawError(f"{source} is a file{kind}; give the directory that holds config.json and {SINGLE}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(source)):
        raise DeltawError(f"{source} does not exist; give a directory that holds config.json and {SINGLE}")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise DeltawError(
            f"{source} is not a directory; to fetch it from the Hugging Face hub, install the extra: "
            "pip install 'deltaw[hf]'"
        )
    hub = importlib.import_module("huggingface_hub")
    try:
        small = Path(hub.snapshot_download(str(source), allow_patterns=[*WORDS], ignore_patterns=[*ELSEWHERE]))
        wanted = _weights_to_fetch(small)
        return Path(hub.snapshot_download(str(source), allow_patterns=[*WORDS, *wanted], ignore_patterns=[*ELSEWHERE]))
    except DeltawError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())  # in one line
        raise DeltawError(
            f"{source} is no directory, and cannot be fetched from the hub either ({type(error).__name__}: {why})"
        ) from error


def _weights_to_fetch(directory: Path) -> list[str]:
    """One copy of the weights of a repository whose small files are in a directory."""
    if (directory / INDEX).is_file():
        table = read_json_object(directory / INDEX).get("weight_map")
        if isinstance(table, dict):
            return sorted({str(file) for file in table.values()})
    return [SINGLE, "adapter_model.safetensors"]


def weight_files(directory: Path, config: Mapping[str, Any]) -> dict[Path, set[str] | None]:
    """Files, in the order in which transformers reads them, and the names that an index promises there (None: all)."""
    given = config.get("transformers_weights")
    name = given if isinstance(given, str) else SINGLE if (directory / SINGLE).is_file() else INDEX
    if Path(name).name != name:
        raise DeltawError(
            f"config.json of {directory} names the weights {name!r}, which is no file beside it; restore it"
        )
    if name.endswith(".index.json"):
        if (directory / name).is_file():
            return _shards(directory / name)
        refuse_unreadable(directory)
        raise DeltawError(f"{directory} has neither {SINGLE} nor {INDEX}; give a directory that holds a checkpoint")
    return {directory / name: None}


def not_read(directory: Path, files: Mapping[Path, object]) -> dict[str, str]:
    """Other copies of weights in the directory, and why they are not read."""
    read = {path.name for path in files}
    unread = sorted(path.name for path in directory.glob("*.safetensors") if path.name not in read)
    # an index beside a single file is another copy's
    return dict.fromkeys(unread, f"transformers reads {min(read)}{' and the other shards' if len(read) > 1 else ''}")


def _shards(index: Path) -> dict[Path, set[str] | None]:
    table = read_json_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise DeltawError(f"{index} has no weight_map; restore the file")
    wanted: dict[Path, set[str]] = {}
    for name, file in table.items():
        if Path(str(file)).name != file:
            raise DeltawError(f"{index} names {file!r}, which is not a file beside it; restore the file")
        wanted.setdefault(index.parent / str(file), set()).add(str(name))
    return {path: wanted[path] for path in sorted(wanted)}


def refuse_unreadable(directory: Path) -> None:
    """DeltawError, saying what the directory holds in place of safetensors weights, if it is something known."""
    refuse_unfinished(directory)
    refuse_pickled(directory)
    for pattern, kind in OTHER_FORMATS.items():
        names = sorted(path.name for path in directory.glob(pattern))
        if names:
            raise DeltawError(
                f"{directory} holds {kind} ({names[0]}), which deltaw does not read; give the checkpoint as "
                "transformers saves it, in safetensors"
            )


def refuse_unfinished(directory: Path) -> None:
    """DeltawError if a download into the directory was not finished."""
    for folder in (directory, directory / ".cache" / "huggingface" / "download"):
        unfinished = sorted(path.name for pattern in UNFINISHED for path in folder.glob(pattern))
        if unfinished:
            raise DeltawError(
                f"{directory} holds an unfinished download ({unfinished[0]}); finish it, or fetch it again"
            )


def refuse_pickled(directory: Path) -> None:
    """DeltawError, with what to do, if the directory's weights are pickled."""
    paths = (path for pattern in PICKLED for path in directory.glob(pattern))
    pickled = sorted(path.name for path in paths if path.name not in OF_TRAINING)
    if pickled:
        raise DeltawError(
            f"{directory} holds pickled weights ({pickled[0]}), which can run code when they are read; save them as "
            "safetensors where you trust them: model.save_pretrained(directory, safe_serialization=True)"
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object. DeltawError if there is none, or the file cannot be read."""
    try:
        if is_pointer(path):
            raise DeltawError(f"{path} is a git-lfs pointer, not the file itself; run git lfs pull there")
        value = parse_json(path.read_text(encoding="utf-8"), foreign=True)
    except FileNotFoundError as error:
        raise DeltawError(f"{path} does not exist; restore it") from error
    except (OSError, ValueError) as error:
        raise DeltawError(f"{path} cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise DeltawError(f"{path} holds a {type(value).__name__}; expected a JSON object, so restore the file")
    return value


def is_pointer(path: Path) -> bool:
    """Whether a file is what git keeps in place of a large one."""
    with path.open("rb") as file:
        return file.read(len(LFS)) == LFS


def damaged(path: Path, error: Exception) -> DeltawError:
    """What is wrong with a file that is not readable as safetensors."""
    fault = f"is truncated or not a safetensors file ({error}); fetch or save it again"
    with suppress(OSError):  # the name itself may be at fault
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LARGEST_POINTER)
        if size == 0:
            fault = "is empty; fetch or save it again"
        elif start.startswith(LFS):
            fault = "is a git-lfs pointer, not the file itself; run git lfs pull there"
        elif start.startswith(b"GGUF"):
            fault = "is a GGUF file under another name, which deltaw does not read; give the checkpoint in safetensors"
        elif start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
            fault = "is a pickled file under another name; save the checkpoint as safetensors where you trust it"
        elif start.lstrip()[:1] == b"<" and b"html" in start.lower():
            fault = "is a web page, not the file that was to be fetched; fetch it again, signed in if it needs to be"
    return DeltawError(f"{path} {fault}")
