"""Whose a run's directory is: claimed by one study, used by one process at a time."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.results.files import write_json_atomic
from deltaw.results.parsing import parse_json
from deltaw.study.artifacts import canonical, plain

STUDY = "study.json"
LOCK = ".lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def claim_directory(run_dir: Path, identity: Mapping[str, Any]) -> bool:
    """Makes `run_dir` the directory of the study that `identity` describes, or checks that it already is.

    identity: what tells this study from others (the recipe's name, the resolved configuration), JSON-able.
    Returns True if an earlier run of the same study is taken up again. DeltawError, with nothing changed, if
    the directory belongs to another study, holds files that are not a study's, or cannot be written.
    """
    wanted = json.loads(canonical(plain(identity)))
    if run_dir.exists() and not run_dir.is_dir():
        raise DeltawError(f"{run_dir} is a file, not a directory. Name another output directory.")
    if (run_dir / STUDY).exists():
        _check_same(run_dir, wanted)
        _check_writable(run_dir)
        return True
    # What an interrupted claim left (a hidden temporary file, the lock) is no reason to refuse the directory.
    foreign = sorted(path.name for path in run_dir.iterdir() if not _is_ours(path)) if run_dir.is_dir() else []
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise DeltawError(
            f"{run_dir} is not empty and is not a study's directory (it holds {shown}). "
            "Name another output directory; nothing was changed."
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json_atomic(run_dir / STUDY, {"format": 1, "study": wanted})
    except OSError as error:
        raise DeltawError(
            f"{run_dir} cannot be written ({error.strerror}). Name an output directory that can be."
        ) from error
    return False


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Holds a run's directory for this process. DeltawError naming the process and machine that have it.

    The operating system drops the lock when its process ends, however it ends, so a lock never outlives its
    holder. Where a network file system keeps locks to each machine, the name written in the file is what
    keeps two machines apart.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeltawError(
                f"Another deltaw is at work in {run_dir} ({_holder(path)}). "
                "Wait for it, or name another output directory."
            ) from None
        file.seek(0)
        holder = _parse_holder(file.read())
        if holder and holder["host"] != socket.gethostname() and holder.get("boot") != _boot_id():
            raise DeltawError(
                f"{run_dir} is locked by process {holder['pid']} on {holder['host']}, another machine. "
                f"If that process has ended, remove {path} and try again."
            )
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot_id()}, file)
        file.flush()
        try:
            yield
        finally:
            # The file stays: removing it would let two processes hold locks on two files of the same name.
            file.truncate(0)


def _check_same(run_dir: Path, wanted: dict[str, Any]) -> None:
    path = run_dir / STUDY
    try:
        found = parse_json(path.read_text(encoding="utf-8"))["study"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeltawError(
            f"{path} is damaged, so it cannot be told whose {run_dir} is. Name another output directory."
        ) from error
    if found != wanted:
        raise DeltawError(
            f"{run_dir} belongs to another study ({differences(found, wanted)}). "
            "Name another output directory, or repeat that study's command."
        )


def differences(found: Any, wanted: Any) -> str:
    """In what two plain values differ, three at most: `sizes.final is 400 there and 500 here; and 2 more`."""
    # What stands high and is short to say, such as the recipe's name, says most.
    lines = sorted(_differences(found, wanted), key=lambda line: (line.partition(" is ")[0].count("."), len(line)))
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more


def _differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = [*found, *(name for name in wanted if name not in found)]
        lines = []
        for name in names:
            path = f"{where}.{name}" if where else name
            lines += _differences(found.get(name, "nothing"), wanted.get(name, "nothing"), path)
        return lines
    return [] if found == wanted else [f"{where or 'study'} is {_short(found)} there and {_short(wanted)} here"]


def _short(value: Any, longest: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _check_writable(run_dir: Path) -> None:
    if not os.access(run_dir, os.W_OK | os.X_OK):
        raise DeltawError(f"{run_dir} cannot be written. Make it writable, or name another output directory.")


def _is_ours(path: Path) -> bool:
    return path.name == LOCK or (path.name.startswith(f".{STUDY}.") and path.suffix == ".tmp")


def _holder(path: Path) -> str:
    holder = None
    with suppress(OSError):
        holder = _parse_holder(path.read_text(encoding="utf-8"))
    return f"process {holder['pid']} on {holder['host']}" if holder else "it does not say which"


def _parse_holder(text: str) -> dict[str, Any] | None:
    try:
        holder = json.loads(text)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and {"pid", "host"} <= holder.keys() else None


def _boot_id() -> str | None:
    """What containers on one machine share, though each has its own host name."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return None
