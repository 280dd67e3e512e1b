"""What docs say of the kept runs is what today's code computes from their measurements: tables and claims."""

import json
import math
import runpy
from dataclasses import asdict
from pathlib import Path

import pytest

from deltaw.claims import decide
from deltaw.results import Claim, read_claims, read_measurements
from deltaw.results.store import measurements_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def test_the_page_has_the_tables_that_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "benchmarks" / "standard.py"), run_name="__main__")
    printed = capsys.readouterr().out.split("End of the page's tables")[0]
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    page = (ROOT / "docs" / "standard.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize("run", ["standard", "standard-s1", "standard-s2"])
def test_kept_claims_are_those_of_the_statements_of_today(run: str) -> None:
    kept = RESULTS / run
    exploratory = json.loads((kept / "manifest.json").read_text(encoding="utf-8"))["exploratory"]
    decided = decide(read_measurements(measurements_of(kept)), exploratory)
    pairs = zip(leaves(read_claims(kept / "claims.json")), leaves(decided), strict=True)
    assert len(decided) > 50
    assert [(a, b) for a, b in pairs if not same(a, b)] == []


def leaves(claims: list[Claim]) -> list[tuple[str, object]]:
    """Every value of every claim, by its place."""

    def within(value: object, place: str) -> list[tuple[str, object]]:
        if isinstance(value, dict):
            return [leaf for key, part in value.items() for leaf in within(part, f"{place}.{key}")]
        if isinstance(value, list | tuple):
            return [leaf for number, part in enumerate(value) for leaf in within(part, f"{place}.{number}")]
        return [(place, value)]

    return [leaf for claim in claims for leaf in within(asdict(claim), claim.id)]


def same(a: tuple[str, object], b: tuple[str, object]) -> bool:
    """Equal; numbers to rounding, since processors add in different orders."""
    if isinstance(a[1], float) and isinstance(b[1], float):
        return a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=1e-9)
    return a == b
