"""What docs say of the kept runs is what today's code computes from their measurements: tables and claims."""

import json
import runpy
from pathlib import Path

import pytest

from deltaw.claims import decide
from deltaw.results import read_claims, read_measurements
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
    assert read_claims(kept / "claims.json") == decide(read_measurements(measurements_of(kept)), exploratory)
