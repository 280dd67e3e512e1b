"""A process uses the cores that its container allows, and a script without a guard runs once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deltaw.pipeline.cores import available_cores, cpu_quota
from deltaw.pipeline.main_script import is_guarded


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota
    machine = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path) == (machine if quota is None else min(machine, 2 if quota > 1 else 1))


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("print(1)\n", False),
        ("def run(): ...\n\nif __name__ == '__main__':\n    run()\n", True),
        ("# if __name__ == '__main__':\nprint(1)\n", False),
        ("not python(\n", True),
    ],
)
def test_what_a_guard_is(tmp_path: Path, text: str, guarded: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(text)
    assert is_guarded(script) == guarded


SCRIPT = """
import multiprocessing
from pathlib import Path
from deltaw.pipeline.main_script import not_run_again

{guard}
with open("runs", "a") as file:
    file.write("x")
if multiprocessing.current_process().name == "MainProcess":
    with not_run_again():
        child = multiprocessing.get_context("spawn").Process(target=print)
        child.start()
        child.join()
        assert child.exitcode == 0
assert __file__.endswith("script.py")
"""


@pytest.mark.parametrize(("guard", "runs"), [("", "x"), ("if __name__ == 'other': pass", "xx")])
def test_a_spawned_process_runs_no_unguarded_script(tmp_path: Path, guard: str, runs: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(guard=guard))
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "runs").read_text() == runs
