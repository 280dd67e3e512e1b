"""A file of finished parts: a header that names the work, then a line a part, so that a stopped run goes on."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.results.parsing import parse_json


@dataclass
class Journal:
    """Parts by name. A line that was not written to its end is cut off when the file is opened."""

    path: Path
    parts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, header: Mapping[str, Any], work: str = "other work") -> "Journal":
        """The journal at `path`, begun if there is none. DeltawError if it belongs to other work, or is damaged.

        work: what a journal with another header belongs to, in the message.
        """
        header = json.loads(json.dumps(header))  # as it will be read back
        journal = cls(path)
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            with path.open("r+b") as file:
                file.truncate(len(kept))
        try:
            records = [parse_json(line) for line in kept.decode("utf-8").split("\n")[:-1]]
            if not records:
                journal._append(header)
                return journal
            if records[0] != header:
                differs = [key for key in header if records[0].get(key) != header[key]]
                raise DeltawError(
                    f"{path} belongs to {work} (its {', '.join(differs) or 'header'} differ); give another "
                    "directory with --out, or remove this file"
                )
            journal.parts = {record["part"]: record["value"] for record in records[1:]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DeltawError(f"{path} is damaged ({error}); remove it to do the work again") from error
        return journal

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """A finished part's value, or what `make` gives, written down before it is used. It must be JSON."""
        if name not in self.parts:
            value = make()
            self._append({"part": name, "value": value})
            self.parts[name] = value
        return self.parts[name]

    def _append(self, record: Mapping[str, Any]) -> None:
        line = (json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            if file.write(line) != len(line):
                raise OSError(None, "the disk is full")
            os.fsync(file.fileno())
