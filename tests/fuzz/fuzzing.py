"""`make fuzz`: thousands of inputs of each kind that are nearly right; deltaw takes each, or refuses it in a sentence.

A fault is any other exception (a traceback, for whoever runs the command), an input that takes longer than `LIMIT`, a
message that is not one line, or a file changed outside the directory that the input is read in. The input is then saved
and named with what makes it again. The exit status is 1 if there was a fault.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from kinds import KINDS, Input
from watching import watch

from deltaw.errors import LONGEST, DeltawError

LIMIT = 10.0
"""Seconds for one input."""


class Hang(BaseException):
    """An input took too long."""


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    kind: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)
    messages: set[str] = field(default_factory=set)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_: int, __: FrameType | None) -> None:
        raise Hang(f"no answer after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _listing(directory: Path, but: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file outside the directory `but`."""
    files = (path for path in directory.rglob("*") if path != but and but not in path.parents)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def fuzz(kind: str, count: int, seed: int, save: Path, only: int | None = None, enough: int = 20) -> Tally:
    """`count` inputs of a kind, or just number `only`. Stops early after `enough` faults."""
    tally, clock = Tally(kind), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="deltaw-fuzz-") as folder:
        parent = Path(folder).resolve()
        inside = parent / "a" / "b" / "inside"
        inside.mkdir(parents=True)
        (parent / "outside.txt").write_text("untouched")
        (parent / "a" / "x").write_text("untouched")  # what ../../x would hit
        before = _listing(parent, inside)
        draw, read = KINDS[kind](inside)
        for number in range(count) if only is None else (only,):
            files = draw(Random(f"{seed}/{kind}/{number}"))
            tally.inputs += 1
            started = time.perf_counter()
            try:
                with _alarm(LIMIT), watch.within(inside):
                    read(files)
                tally.accepted += 1
                fault = None
            except DeltawError as error:
                tally.refused += 1
                tally.messages.add(str(error)[:80])
                fault = _not_a_sentence(str(error))
            except (Hang, Exception, RecursionError, SystemExit):
                fault = traceback.format_exc()
            tally.slowest = max(tally.slowest, time.perf_counter() - started)
            if watch.outside:
                fault = f"{fault or ''}outside the directory: {watch.outside}"
                watch.outside = []
            if fault is not None:
                where = _saved(save, kind, number, files)
                tally.faults.append(f"{kind}, number {number} of seed {seed} ({where}): {fault}")
                if len(tally.faults) >= enough:
                    break
        if _listing(parent, inside) != before:
            tally.faults.append(f"{kind}: something outside the directory changed")
    tally.seconds = time.perf_counter() - clock
    return tally


def _not_a_sentence(text: str) -> str | None:
    if text.strip() and text.isprintable() and len(text) <= LONGEST + len("deltaw: ") and "Traceback" not in text:
        return None
    return f"the message is no sentence: {text!r}"


def _saved(save: Path, kind: str, number: int, files: Input) -> Path:
    where = save / f"{kind.replace(' ', '-')}-{number}"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    for name, data in files.items():
        (where / name.replace("/", "-")).write_bytes(data)
    return where


def table(tallies: list[Tally]) -> str:
    """The tallies as Markdown."""
    lines = [
        "| kind | inputs | accepted | refused with a sentence | faults | seconds | slowest |",
        "|---|" + "--:|" * 6,
    ]
    for one in tallies:
        times = f"{one.seconds:.0f}", f"{one.slowest:.2f} s"
        numbers = (one.inputs, one.accepted, one.refused, len(one.faults), *times)
        lines.append(f"| {one.kind} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind")
    parser.add_argument("--only", type=int, help="only the input of this number")
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), help="where inputs that show a fault go")
    chosen = parser.parse_args()
    warnings.simplefilter("error")
    tallies = []
    for kind in [chosen.kind] if chosen.kind else KINDS:
        tally = fuzz(kind, chosen.inputs, chosen.seed, chosen.save, chosen.only)
        tallies.append(tally)
        print(table([tally]).splitlines()[-1], flush=True)  # at once, so that a stopped run has shown what it did
        for fault in tally.faults:
            print(fault, flush=True)
    print(f"\n{table(tallies)}")
    return int(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
