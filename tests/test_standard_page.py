"""The tables of docs/standard.md are what `benchmarks/standard.py` computes from the kept measurements."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_page_has_the_tables_that_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "benchmarks" / "standard.py"), run_name="__main__")
    printed = capsys.readouterr().out.split("End of the page's tables")[0]
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    page = (ROOT / "docs" / "standard.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in page] == []
