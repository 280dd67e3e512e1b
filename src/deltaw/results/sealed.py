"""Directories that say whether they are still what was written: each holds the hashes of its files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path

from deltaw.results.files import whole_directory, write_json_atomic

SEAL = "seal.json"


@contextmanager
def sealed_directory(directory: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `directory`, absent or empty until then, with the hashes of its files.

    After an error nothing is left. DeltawError if `directory` cannot be written.
    """
    with whole_directory(directory) as partial:
        yield partial
        write_json_atomic(partial / SEAL, _hashes(partial))


def is_intact(directory: Path) -> bool:
    """Whether a sealed directory is there, and holds the same files with the same contents as when it was sealed."""
    try:
        return bool(json.loads((directory / SEAL).read_text(encoding="utf-8")) == _hashes(directory))
    except (OSError, ValueError, RecursionError):
        return False


def _hashes(directory: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != SEAL:
            with path.open("rb") as file:
                hashes[path.relative_to(directory).as_posix()] = file_digest(file, "sha256").hexdigest()
    return hashes
