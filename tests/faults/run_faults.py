"""`make faults`: strikes a small study in every way there is, and checks that it ends with the same bytes.

python tests/faults/run_faults.py --rounds 10 --seed 0 --table docs/reliability.md
python tests/faults/run_faults.py --only kill:base:3 --keep    # one round, as it was drawn, with its directory
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench import Bench

TRIES = 6
"""How often a round is drawn again whose study had ended before it was struck."""


@dataclass(frozen=True)
class Result:
    """How one round came out."""

    fault: str
    title: str
    subject: str
    round: int
    ending: str
    """One of the endings of `faults`; else what went wrong, or why it could not be tried."""
    passed: bool | None
    """None: it could not be tried."""


def main() -> int:
    """Runs the rounds; status 1 if one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each fault at each kind of stage or file")
    parser.add_argument("--seed", default="0", help="what the moments and places are drawn from")
    parser.add_argument("--only", nargs="*", default=[], metavar="FAULT[:SUBJECT[:ROUND]]", help="only these")
    parser.add_argument("--table", type=Path, help="the page whose tables are replaced")
    parser.add_argument("--log", type=Path, help="a JSON line of every round; what passed there is not run again")
    parser.add_argument("--keep", action="store_true", help="keep all directories, not only those of failures")
    arguments = parser.parse_args()
    _own_mounts()
    from bench import Bench, load_everything

    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="deltaw-faults-"))
    load_everything()
    bench = Bench(folder, random.Random(0))
    bench.make_reference()
    print(f"{time.monotonic() - began:.0f} s: the undisturbed study is made", flush=True)
    results = _passed(arguments.log)
    done = {(result.fault, result.subject, result.round) for result in results}
    try:
        for result in _rounds(bench, arguments.rounds, arguments.seed, arguments.only, done, arguments.keep):
            results.append(result)
            if arguments.log:
                with arguments.log.open("a") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
    finally:
        if not arguments.keep and all(result.passed is not False for result in results):
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.table:
        from faulttable import replace_table

        replace_table(arguments.table, results, arguments.rounds, arguments.seed)
    counts = Counter(result.passed for result in results)
    print(f"{time.monotonic() - began:.0f} s: {counts[True]} rounds passed, {counts[False]} failed, "
          f"{counts[None]} could not be tried")  # fmt: skip
    return 1 if counts[False] or not counts[True] else 0


def _own_mounts() -> None:
    """Starts this program again with a table of mounts of its own, so that nothing it mounts outlives it."""
    marker = "DELTAW_FAULTS_UNSHARED"
    if os.geteuid() == 0 and marker not in os.environ and shutil.which("unshare"):
        os.environ[marker] = "1"
        if os.spawnlp(os.P_WAIT, "unshare", "unshare", "-m", "true") == 0:
            os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])


def _passed(log: Path | None) -> list[Result]:
    if log is None or not log.exists():
        return []
    rounds = [Result(**json.loads(line)) for line in log.read_text().splitlines()]
    return [result for result in rounds if result.passed]


def _rounds(
    bench: "Bench", count: int, seed: str, only: list[str], done: set[tuple[str, str, int]], keep: bool
) -> Iterator[Result]:
    from bench import Wrong
    from processes import Hung

    from faults import Impossible, Missed, all_faults

    for fault in all_faults(bench.reference):
        for subject in fault.subjects:
            endings: Counter[str] = Counter()
            began = time.monotonic()
            for number in range(count):
                if (fault.name, subject, number) in done:
                    continue
                if only and not any(_selects(word, fault.name, subject, number) for word in only):
                    continue
                passed: bool | None = False
                ending = f"the study had always ended before it was struck ({TRIES} tries)"
                for attempt in range(TRIES):
                    bench.chance = random.Random(f"{seed}/{fault.name}/{subject}/{number}/{attempt}")
                    before = set(bench.folder.iterdir())
                    try:
                        ending, passed = fault.strike(bench, subject), True
                    except Missed:
                        _clear(bench.folder, before)
                        continue
                    except Impossible as reason:
                        ending, passed = str(reason), None
                    except (Wrong, Hung) as error:
                        ending, passed = str(error), False
                    break
                if passed is False:
                    print(f"FAILED {fault.name}:{subject}:{number}: {ending}\n  in {bench.folder}", flush=True)
                if passed is not False and not keep:
                    _clear(bench.folder, before)
                endings[ending if passed else "FAILED" if passed is False else ending] += 1
                yield Result(fault.name, fault.title, subject, number, ending, passed)
            if endings:
                said = ", ".join(f"{number} {ending}" for ending, number in endings.items())
                print(f"{time.monotonic() - began:4.0f} s {fault.name}:{subject}: {said}", flush=True)


def _selects(word: str, *names: object) -> bool:
    return all(part == str(name) for part, name in zip(word.split(":"), names, strict=False))


def _clear(folder: Path, before: set[Path]) -> None:
    for path in set(folder.iterdir()) - before:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
