"""Whose a run's directory is: claimed by one study, used by one process at a time."""

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import began, canonical, is_alive, plain
from deltaw.results.files import write_json_atomic
from deltaw.results.parsing import parse_json

STUDY = "study.json"
LOCK = ".lock"
LOCK_FILE = ".lock.held"
"""The lock where the file system has none: whoever creates this file holds it."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_SECONDS_TO_SETTLE = 0.5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BEFORE_A_CLAIM = re.compile(r"\.lock(\.held)?|\..+\.[0-9a-f]{12}\.tmp")
_AFTER_A_CLAIM = re.compile(
    r"artifacts|figures|interventions|manifest\.json|measurements\.jsonl|claims\.json|prompts\.jsonl|tables\.md"
    r"|report\.html|\.written\.json"
)


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
    # What an interrupted claim left is no reason to refuse the directory, nor is a study that lost only its study.json.
    foreign = _foreign(run_dir) if run_dir.is_dir() else []
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise DeltawError(
            f"{run_dir} is not empty and is not a study's directory (it holds {shown}). "
            "Name another output directory; nothing was changed."
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json_atomic(run_dir / STUDY, {"format": 1, "study": wanted, "sha256": _hash(wanted)})
    except OSError as error:
        raise DeltawError(
            f"{run_dir} cannot be written ({error.strerror}). Name an output directory that can be."
        ) from error
    return False


@contextmanager
def run_lock(run_dir: Path, notice: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Holds a run's directory for this process. DeltawError naming the process and machine that have it.

    The operating system drops the lock when its process ends, however it ends, so a lock never outlives its
    holder. Where a network file system keeps locks to each machine, the name written in the file is what
    keeps two machines apart. Where there are no locks at all, `notice` is told so and a file is the lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(run_dir, path) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            notice(
                f"the file system of {run_dir} has no locks ({os.strerror(error.errno)}); "
                f"the file {LOCK_FILE} keeps a second study out instead"
            )
            with _file_lock(run_dir):
                yield
            return
        file.seek(0)
        holder = _parse_holder(file.read())
        if holder and holder["host"] != socket.gethostname() and holder.get("boot") != _boot_id():
            raise _elsewhere(run_dir, path, holder)
        file.truncate(0)
        json.dump(_this_process(), file)
        file.flush()
        try:
            yield
        finally:
            # The file stays: removing it would let two processes hold locks on two files of the same name.
            with suppress(OSError):  # on a disk in trouble; a name that stays is an ended process's
                file.truncate(0)


@contextmanager
def _file_lock(run_dir: Path) -> Iterator[None]:
    """The same by a file that only one process can create. It outlives a killed holder, and is then taken over."""
    path, own = run_dir / LOCK_FILE, {**_this_process(), "token": secrets.token_hex(8)}
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        _take_over(run_dir, path, own)
    else:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(own, file)
    try:
        yield
    finally:
        with suppress(OSError):
            if _read_holder(path) == own:
                path.unlink()


def _take_over(run_dir: Path, path: Path, own: dict[str, Any]) -> None:
    holder = _read_holder(path)
    if holder is None:
        time.sleep(_SECONDS_TO_SETTLE)  # its creator may be about to write its name
        holder = _read_holder(path)
    if holder is None:
        raise DeltawError(
            f"{path} does not say which process holds {run_dir}. If none is at work there, remove {path}."
        )
    if not _has_ended(holder):
        if holder["host"] == socket.gethostname():
            raise _busy(run_dir, path)
        raise _elsewhere(run_dir, path, holder)
    # Of several that take over at once, the last to write its name holds the lock, and the others see that.
    write_json_atomic(path, own)
    time.sleep(_SECONDS_TO_SETTLE)
    if _read_holder(path) != own:
        raise _busy(run_dir, path)


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names has certainly ended."""
    if holder["host"] != socket.gethostname():
        return False
    if holder.get("boot") != _boot_id():
        return True
    pid = holder["pid"]
    if not isinstance(pid, int) or not (pid == os.getpid() or is_alive(pid)):
        return True
    return holder.get("began") != began(pid)  # another process has the number now


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot_id(), "began": began(os.getpid())}


def _busy(run_dir: Path, path: Path) -> DeltawError:
    return DeltawError(
        f"Another deltaw is at work in {run_dir} ({_holder(path)}). Wait for it, or name another output directory."
    )


def _elsewhere(run_dir: Path, path: Path, holder: dict[str, Any]) -> DeltawError:
    return DeltawError(
        f"{run_dir} is locked by process {holder['pid']} on {holder['host']}, another machine. "
        f"If that process has ended, remove {path} and try again."
    )


def _check_same(run_dir: Path, wanted: dict[str, Any]) -> None:
    path = run_dir / STUDY
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        recorded = record["study"]
        # Files that are older than their hash have none.
        intact = record.get("sha256") in (None, _hash(recorded)) and record.keys() <= {"format", "study", "sha256"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run_dir) from error
    if not intact:
        raise _damaged(run_dir)
    if recorded != wanted:
        raise DeltawError(
            f"{run_dir} belongs to another study ({differences(recorded, wanted)}). "
            "Name another output directory, or repeat that study's command."
        )


def _damaged(run_dir: Path) -> DeltawError:
    return DeltawError(
        f"{run_dir / STUDY} is damaged, so it cannot be told whose {run_dir} is. If it is this study's, remove "
        f"{run_dir / STUDY} and give the same command again: it goes on from what is there. Else name another "
        "output directory."
    )


def _hash(identity: Any) -> str:
    return sha256(canonical(identity).encode()).hexdigest()


def differences(recorded: Any, wanted: Any) -> str:
    """In what two plain values differ, three at most: `sizes.final is 400 there and 500 here; and 2 more`."""
    # What stands high and is short to say, such as the recipe's name, says most.
    lines = sorted(_differences(recorded, wanted), key=lambda line: (line.partition(" is ")[0].count("."), len(line)))
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more


def _differences(recorded: Any, wanted: Any, where: str = "") -> list[str]:
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        names = [*recorded, *(name for name in wanted if name not in recorded)]
        lines = []
        for name in names:
            path = f"{where}.{name}" if where else name
            lines += _differences(recorded.get(name, "nothing"), wanted.get(name, "nothing"), path)
        return lines
    return [] if recorded == wanted else [f"{where or 'study'} is {_short(recorded)} there and {_short(wanted)} here"]


def _short(value: Any, longest: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _check_writable(run_dir: Path) -> None:
    if not os.access(run_dir, os.W_OK | os.X_OK):
        raise DeltawError(f"{run_dir} cannot be written. Make it writable, or name another output directory.")


def _foreign(run_dir: Path) -> list[str]:
    """Names in a directory without a study.json that no study has written."""
    names = sorted(path.name for path in run_dir.iterdir() if not _BEFORE_A_CLAIM.fullmatch(path.name))
    # A comparison of two checkpoints writes some of the same names, but makes no artifacts.
    return [name for name in names if "artifacts" not in names or not _AFTER_A_CLAIM.fullmatch(name)]


def _holder(path: Path) -> str:
    holder = _read_holder(path)
    return f"process {holder['pid']} on {holder['host']}" if holder else "it does not say which"


def _read_holder(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return _parse_holder(path.read_text(encoding="utf-8"))
    return None


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
