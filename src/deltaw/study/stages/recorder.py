"""The study's `Sheet`, and what it leaves out."""

from typing import Any

from deltaw.analysis import Absent
from deltaw.results.recorder import Sheet
from deltaw.results.records import MEASUREMENTS

__all__ = ["MEASUREMENTS", "Sheet", "present"]


def present(value: Any) -> Any:
    """The value, or None where an analysis says that the question has no answer."""
    return None if isinstance(value, Absent) else value
