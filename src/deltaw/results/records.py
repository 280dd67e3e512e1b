"""The files of a run, their names, readers and writers.

A run's directory holds manifest.json, measurements.jsonl, claims.json, prompts.jsonl and the models'
directories. Errors name the file and its line.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from deltaw.errors import DeltawError
from deltaw.results.claim import Claim
from deltaw.results.files import write_json_atomic, write_text_atomic
from deltaw.results.parsing import parse_json
from deltaw.results.schema import Measurement, parse_each, parse_lines

MANIFEST = "manifest.json"
MEASUREMENTS = "measurements.jsonl"
PACKED = f"{MEASUREMENTS}.gz"  # of a run that is kept without its models
CLAIMS = "claims.json"
PROMPTS = "prompts.jsonl"

_Record = TypeVar("_Record")


def write_measurements(path: Path, measurements: Iterable[Measurement]) -> None:
    """Writes one line per measurement, in the order given. The file appears whole or not at all."""
    write_text_atomic(path, "".join(measurement.to_line() + "\n" for measurement in measurements))


def read_measurements(path: Path) -> list[Measurement]:
    """The measurements of a file, which may be packed (.gz). DeltawError names the file and its first bad line."""
    return read_lines(path, Measurement.from_line)


def write_claims(path: Path, claims: Iterable[Claim]) -> None:
    """Writes claims.json, in the order given. The file appears whole or not at all."""
    write_json_atomic(path, [claim.to_json() for claim in claims])


def read_claims(path: Path) -> list[Claim]:
    """The entries of claims.json. DeltawError names the file and the first bad entry (from 1)."""
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DeltawError(f"{path} must hold a list of claims, found {type(entries).__name__}.")
    return read_entries(entries, Claim.from_json, f"{path}, claim")


def _read_text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes()).decode("utf-8")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DeltawError(f"{path} is damaged: it is not UTF-8 text ({error.reason}, byte {error.start}).") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DeltawError(f"{path} is damaged: {error}.") from error
    except OSError as error:
        raise DeltawError(f"{path} cannot be read: {error.strerror}.") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. DeltawError names a file that is damaged or cannot be read."""
    try:
        return parse_json(_read_text(path))
    except ValueError as error:
        raise DeltawError(f"{path} is damaged: {error}. Run the study again to write it again.") from error


def read_lines(path: Path, parse: Callable[[str], _Record]) -> list[_Record]:
    """The records of a file of lines, which may be packed (.gz). DeltawError as for `read_measurements`."""
    # Not splitlines(): it also splits at separators that JSON allows inside a string.
    lines = _read_text(path).removesuffix("\n").split("\n")
    try:
        return parse_lines(lines if lines != [""] else [], parse, str(path))
    except ValueError as error:
        raise DeltawError(f"{error}. Run the study again to write the file again.") from error


def read_entries(entries: list[Any], parse: Callable[[object], _Record], where: str) -> list[_Record]:
    """The records of a parsed list. DeltawError gives `where` and the number (from 1) of the first bad entry."""
    try:
        return parse_each(entries, parse, where)
    except ValueError as error:
        raise DeltawError(f"{error}. Run the study again to write the file again.") from error
