"""Artifacts: directories written once, named by the hash of what made them, and trusted only if their files
still match.

A directory is built under a temporary name beside its place and renamed when it is complete, so what stands
under an artifact's name is whole. `artifact.json` in it says what made it and lists its files with their
hashes.
"""

import json
import math
import numbers
import os
import re
import resource
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from deltaw.results.files import write_json_atomic
from deltaw.results.parsing import parse_json

RECORD = "artifact.json"
SCRATCH = ".resume-"
_PROCESSES = Path("/proc")
_building: set[str] = set()  # what the threads of this process are making
TEMPORARY = re.compile(r"\.building-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-")


def plain(value: object) -> Any:
    """A configuration as JSON values: dataclasses with their type's name, and the name and label that a plug-in has;
    enums by name, tuples as lists.

    TypeError naming what has no faithful JSON form (sets, functions, tensors); ValueError for NaN and
    infinities.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"a configuration cannot hold {value}")
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        called = {key: known for key in ("name", "label") if isinstance(known := getattr(value, key, None), str)}
        return {"type": type(value).__qualname__, **called, **own}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("the keys of a configuration must be strings")
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    raise TypeError(f"a configuration cannot hold a {type(value).__name__}: {value!r}")


def canonical(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, floats to the last bit."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_types(config: object) -> set[type]:
    """The dataclasses and enums that a configuration is made of, however deep."""
    if isinstance(config, Enum):
        return {type(config)}
    if is_dataclass(config) and not isinstance(config, type):
        inner = [getattr(config, field.name) for field in fields(config)]
        return {type(config)}.union(*map(config_types, inner))
    if isinstance(config, Mapping):
        return set().union(*map(config_types, config.values()))
    if isinstance(config, list | tuple):
        return set().union(*map(config_types, config))
    return set()


def versions() -> dict[str, str]:
    """The versions that numbers depend on: Python's minor version and the numerical libraries."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, **{name: version(name) for name in ("numpy", "scipy", "torch")}}


@dataclass(frozen=True)
class Provenance:
    """Everything that one artifact is made from. `made_from` is plain JSON; its canonical text is what `key`
    hashes.
    """

    name: str
    made_from: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """sha256 (hex) of everything that determines the artifact."""
        return sha256(canonical({"name": self.name, **self.made_from}).encode()).hexdigest()

    def path(self, run_dir: Path) -> Path:
        """The artifact's directory in a run."""
        return run_dir / "artifacts" / f"{self.name}-{self.key[:12]}"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: where it is, what it holds (`digest`, over the names and contents of its files),
    its cost.

    `seconds` is wall clock; `started` is UTC, ISO 8601; `peak_bytes` is the largest resident size that the
    process which made it had had until then.
    """

    path: Path
    key: str
    digest: str
    seconds: float
    started: str
    peak_bytes: int


def write_artifact(
    path: Path, provenance: Provenance, input_digests: Mapping[str, str], fill: Callable[[Path], None]
) -> Artifact:
    """Calls `fill` on an empty temporary directory, records what it wrote and renames the directory to
    `path`.

    Waits first for another process of this machine that still makes the same artifact, and returns what that made: a
    worker may outlive its scheduler and its driver. If `fill` raises, nothing is left behind. ValueError if it wrote
    nothing, or a link or a file of a reserved name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _wait_for_others(path):
        standing = read_artifact(path, provenance, input_digests)
        if isinstance(standing, Artifact):
            return standing
    started, clock = datetime.now(UTC), perf_counter()
    with _temporary_beside(path) as building:
        fill(building)
        files = _hash_files(building)
        if not files:
            raise ValueError(f"stage {provenance.name} wrote no file")
        seconds, peak = round(perf_counter() - clock, 3), _peak_bytes()
        artifact = Artifact(path, provenance.key, _digest(files), seconds, started.isoformat(timespec="seconds"), peak)
        record = {
            "name": provenance.name,
            "key": artifact.key,
            "digest": artifact.digest,
            "started": artifact.started,
            "seconds": seconds,
            "peak_bytes": peak,
            "input_digests": dict(input_digests),
            "made_from": provenance.made_from,
            "files": files,
        }
        write_json_atomic(building / RECORD, record | {"sha256": _record_hash(record)})
        try:
            building.rename(path)
        except OSError:
            # Another machine's worker, which cannot be waited for, may have made the same artifact meanwhile.
            standing = read_artifact(path, provenance, input_digests)
            if not isinstance(standing, Artifact):
                raise
            return standing
    return artifact


def read_artifact(path: Path, provenance: Provenance, input_digests: Mapping[str, str]) -> Artifact | str | None:
    """The artifact at `path` if it may be reused; None if there is none; else what is wrong with it, in
    words.
    """
    if not path.exists():
        return None
    try:
        record = parse_json((path / RECORD).read_text(encoding="utf-8"))
        key, digest, files = str(record["key"]), str(record["digest"]), dict(record["files"])
        seconds, started, peak = float(record["seconds"]), str(record["started"]), int(record["peak_bytes"])
        recorded_inputs = dict(record["input_digests"])
        # Records that are older than their hash have none.
        intact = record.pop("sha256", None) in (None, _record_hash(record))
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {RECORD} is missing or damaged"
    if not intact:
        return f"its {RECORD} is damaged"
    if key != provenance.key:
        return "it was made from something else"
    if recorded_inputs != dict(input_digests):
        return "what it was made from has been made anew with another content"
    try:
        hashes = _hash_files(path)
    except (OSError, ValueError) as error:
        return f"its files cannot be read ({error})"
    changed = sorted(name for name in files.keys() | hashes.keys() if files.get(name) != hashes.get(name))
    if changed or _digest(files) != digest:
        return f"{', '.join(changed[:3]) or RECORD} changed since it was written"
    return Artifact(path, key, digest, seconds, started, peak)


def scratch_beside(path: Path) -> Path:
    """Where the stage that makes the artifact at `path` keeps what it goes on from if its process dies."""
    return path.with_name(f"{SCRATCH}{path.name}")


def is_alive(pid: int) -> bool:
    """Whether another process with this id runs on this machine."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return began(pid) is not None if (_PROCESSES / "self" / "stat").exists() else True


def began(pid: int) -> str | None:
    """When a process of this machine began, in its kernel's own count, which no clock changes; None if it has ended, or
    the machine does not say.
    """
    with suppress(OSError, IndexError):
        status = (_PROCESSES / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = status.rpartition(")")[2].split()  # the program's name, in parentheses, may hold anything
        # One that has ended keeps its number until its parent asks, which in a container nobody may do.
        return None if fields[0] in "ZX" else fields[19]
    return None


def _wait_for_others(path: Path) -> bool:
    """Whether others were making the artifact at `path`, of which none is left at the return."""
    waited = False
    while any(_is_making(other) for other in path.parent.glob(f".building-{host_mark()}-*-{path.name}")):
        waited = True
        sleep(0.1)
    return waited


def _is_making(building: Path) -> bool:
    match = TEMPORARY.match(building.name)
    return building.name in _building or (match is not None and is_alive(int(match["pid"])))


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """An empty directory on the same file system as `path`; whatever is still under its name at the end is
    removed.
    """
    mark = f".building-{host_mark()}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    building = path.with_name(mark)
    building.mkdir()
    _building.add(mark)
    try:
        yield building
    finally:
        _building.remove(mark)
        with suppress(OSError):  # on a disk in trouble this fails too; what stays is removed by the next run
            shutil.rmtree(building)


def host_mark() -> str:
    """What names this machine in the name of a directory that is being built."""
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


def _hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256 and size of every file below `folder` but its record, by relative name. Hidden files are not
    content.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"{name} is a link; an artifact holds its own files")
        if path.is_dir() or name == RECORD or path.name.startswith("."):
            continue
        with path.open("rb") as file:
            files[name] = {"sha256": file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
    return files


def _digest(files: Mapping[str, Any]) -> str:
    return sha256(canonical({name: entry["sha256"] for name, entry in files.items()}).encode()).hexdigest()


def _record_hash(record: Mapping[str, Any]) -> str:
    return sha256(canonical(record).encode()).hexdigest()


def _peak_bytes() -> int:
    # Linux counts kilobytes, macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
