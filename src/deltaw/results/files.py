"""Files and directories that appear whole or not at all: written next to their destination, then renamed; files are
flushed to the disk before.
"""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)
# Its errors carry the system's number in their text only, by version in one of two ways.
_OF_SAFETENSORS = re.compile(r"\b(?:code:|os error) (\d+)\b")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


class DiskTrouble(DeltawError):
    """The disk is full, may not be written, or fails: whatever else is tried there will fail as well."""


def disk_trouble(error: BaseException, directory: Path | None = None) -> DiskTrouble | None:
    """What is wrong with the disk and what to do, if that is what `error` is about; else None.

    directory: what was being written, for errors that do not name a file.
    """
    if isinstance(error, DiskTrouble):
        return error
    number, file = _error_number(error), getattr(error, "filename", None)
    where = str(directory or file or "the output directory")
    if number in _FULL:
        return DiskTrouble(
            f"the disk of {where} is full ({os.strerror(number)}). Free some space and give the same command again."
        )
    if number in _REFUSED:
        return DiskTrouble(
            f"{file or where} cannot be written ({os.strerror(number)}). "
            "Make it writable and give the same command again."
        )
    if number in _FAILING:
        return DiskTrouble(
            f"the disk of {where} fails ({os.strerror(number)}). "
            "Mend it, or copy the directory to another, and give the same command again."
        )
    return None


@contextmanager
def disk_trouble_said(directory: Path) -> Iterator[None]:
    """Within this context an error about the disk is raised as DiskTrouble."""
    try:
        yield
    except OSError as error:
        trouble = disk_trouble(error, directory)
        if trouble is None:
            raise
        raise trouble from error


def remove_unfinished(directory: Path) -> None:
    """Removes the temporary files of writers that were killed. For who alone writes in `directory`."""
    for path in directory.glob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _error_number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    match = _OF_SAFETENSORS.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match[1]) if match else None


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `directory`, absent or empty until then, when the context ends well.

    After an error nothing is left. DeltawError if `directory` cannot be written.
    """
    partial = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if directory.is_dir():
            directory.rmdir()
        partial.replace(directory)
    except Exception as error:
        trouble = disk_trouble(error, directory.parent)
        if trouble is not None:
            raise trouble from error
        if isinstance(error, OSError):
            raise DeltawError(f"{directory} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(directory: Path) -> None:
    """DeltawError if `directory`, absent or empty, cannot be written: for work that writes at its end only."""
    if directory.exists() and not directory.is_dir():
        raise DeltawError(f"{directory} is a file; name another directory")
    existing = next(part for part in (directory, *directory.absolute().parents) if part.exists())
    probe = existing / f".deltaw.{secrets.token_hex(6)}.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise disk_trouble(error, existing) or DeltawError(
            f"{directory} cannot be written: {error.strerror or error}; name another directory"
        ) from error


def write_text_atomic(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path`: a reader sees the old file or the new one, never a part.

    OSError if the folder does not exist or cannot be written; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    # Not tempfile's: its files are private, and results are for everybody whom the folder's owner lets in.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # on a disk in trouble this fails too, and the first error is the one to hear of
            temporary.unlink()
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON. ValueError if it holds NaN or an infinity, TypeError if it is not
    JSON.
    """
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_jsonl_atomic(path: Path, records: Iterable[Any]) -> None:
    """Writes one JSON value a line. ValueError if one holds NaN or an infinity, TypeError if one is not
    JSON.
    """
    lines = [json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n" for record in records]
    write_text_atomic(path, "".join(lines))
