"""Do two runs of one recipe, by code before and after a change, say the same? One table, by statistic.

    python benchmarks/same_numbers.py RUN_BEFORE RUN_AFTER [--all]

Lines are matched by all fields that say what was measured. Of each statistic: how many lines there are in both runs,
how many in one only, the largest difference of values (relative to their size, at least 1e-9), and the share of values
that lie in the other run's 95 % interval, where that has one.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

NUMBERS = ("value", "low", "high", "null_mean", "null_low", "null_high")


def lines_of(run: Path) -> dict[str, dict[str, Any]]:
    """The lines of a run by what they measure."""
    path = run / "measurements.jsonl" if run.is_dir() else run
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {json.dumps({k: v for k, v in line.items() if k not in NUMBERS}, sort_keys=True): line for line in lines}


def difference(before: float | None, after: float | None) -> float:
    """|after − before|, relative where they are large."""
    if before is None or after is None:
        return 0.0 if before == after else math.inf
    return abs(after - before) / max(1e-3, abs(before))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--all", action="store_true", help="also statistics whose every number is equal")
    arguments = parser.parse_args()
    before, after = lines_of(arguments.before), lines_of(arguments.after)
    groups: dict[str, list[tuple[dict[str, Any] | None, dict[str, Any] | None]]] = defaultdict(list)
    for key in before.keys() | after.keys():
        pair = before.get(key), after.get(key)
        groups[(pair[0] or pair[1] or {})["statistic"]].append(pair)
    print("| statistic | in both | only before | only after | largest difference of values | of bands | within |")
    print("|---|---|---|---|---|---|---|")
    equal = 0
    for statistic, pairs in sorted(groups.items()):
        both = [(old, new) for old, new in pairs if old is not None and new is not None]
        lost, gained = sum(new is None for _, new in pairs), sum(old is None for old, _ in pairs)
        values = max((difference(old["value"], new["value"]) for old, new in both), default=0.0)
        bands = max((difference(old.get(k), new.get(k)) for old, new in both for k in NUMBERS[1:]), default=0.0)
        if values == bands == 0 and not lost and not gained and not arguments.all:
            equal += 1
            continue
        banded = [(old, new) for old, new in both if old.get("low") is not None]
        within = sum(old["low"] <= new["value"] <= old["high"] for old, new in banded)
        share = f"{within / len(banded):.3f}" if banded else ""
        print(f"| {statistic} | {len(both)} | {lost} | {gained} | {values:.1e} | {bands:.1e} | {share} |")
    print(f"\n{equal} of {len(groups)} statistics are equal in every number of every line.")


if __name__ == "__main__":
    main()
