"""Files and directories that appear whole or not at all: written beside their destination, then renamed; files are
flushed to the disk before.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError


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
    except OSError as error:
        raise DeltawError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        temporary.unlink(missing_ok=True)
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
