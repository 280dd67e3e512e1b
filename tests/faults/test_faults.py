"""A few of the faults of `make faults`, by the same program."""

import json
import subprocess
import sys
from pathlib import Path

from faulttable import BEGIN, END, replace_table
from run_faults import Result

PROGRAM = Path(__file__).with_name("run_faults.py")
CHOSEN = (
    "kill:world", "term:doses", "worker:doses", "scheduler:world", "flip:study.json", "truncate:claims.json", "full",
    "read-only", "nan:world",
)  # fmt: skip


def test_a_few_faults(tmp_path: Path) -> None:
    log, page = tmp_path / "log.jsonl", tmp_path / "page.md"
    page.write_text(f"above\n\n{BEGIN}\nold\n{END}\n\nbelow\n")
    words = ["--rounds", "1", "--seed", "ci", "--log", str(log), "--table", str(page), "--only", *CHOSEN]
    done = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rounds) == len(CHOSEN)
    assert "| world | 1 of 1 |" in page.read_text()


def test_the_table_counts_what_failed_and_says_what_was_not_tried(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    results = [
        Result("kill", "SIGKILL", "base", 0, "went on in the next run", True),
        Result("kill", "SIGKILL", "base", 1, "other hashes", False),
        Result("full", "the disk runs full", "any", 0, "only root can mount a file system", None),
    ]
    replace_table(page, results, 2, "0")
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    assert "1 of 2 rounds ended with the same hashes" in text
    assert "| base | 1 of 2 |" in text
    assert "| the disk runs full | 0 | | not tried: only root can mount a file system |" in text
