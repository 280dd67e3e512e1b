"""What a stage of a study is, and what its function is given.

Apart from the engine that runs it: a stage's code counts in the name of its artifact, the engine's does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol


class Report(Protocol):
    """How a stage says how far it is: `report(done, total, note)`, as often as it likes."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """So much of `total` is done; `note` is a few words for the screen."""


@dataclass(frozen=True)
class StageContext:
    """What a stage's function is given."""

    config: Any
    """The stage's configuration, as given."""
    inputs: Mapping[str, Path]
    """The directory of each input's artifact, by its local name."""
    out: Path
    """An empty directory to write into; it becomes the artifact when the function returns."""
    report: Report
    """How the stage says how far it is."""
    scratch: Path
    """Where the stage keeps what it goes on from if its process dies. It need not exist, and is removed when the
    artifact is finished."""


@dataclass(frozen=True)
class Stage:
    """One step of a study.

    name: unique, fit for a file name. run: a module-level function that reads `context.inputs` and fills
    `context.out`. config: everything else that determines the output, JSON-able or frozen dataclasses.
    inputs: local name → the name of the stage that makes it. threads: torch threads. weight: about how long
    it takes, in any unit, so that the longest chain starts first. device: the kind that it computes on, `cpu`
    or `cuda`; where a scheduler's workers say that they have GPUs, only those get stages of `cuda`. gate: reads the
    finished artifact and gives, in a sentence, what it falls short of, or None; stages that take it are then not made.
    """

    name: str
    run: Callable[[StageContext], None]
    config: Any = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    weight: float = 1.0
    device: str = "cpu"
    gate: Callable[[Path], str | None] | None = None


def device_of(config: object) -> str:
    """The first device but the CPU that any part of a stage's configuration names, however deep; else `cpu`."""
    parts: tuple[object, ...] = config if isinstance(config, tuple) else ()
    if is_dataclass(config) and not isinstance(config, type):
        named = {part.name: getattr(config, part.name) for part in fields(config)}
        if named.get("device", "cpu") != "cpu":
            return str(named["device"])
        parts = tuple(named.values())
    return next((device for device in map(device_of, parts) if device != "cpu"), "cpu")
