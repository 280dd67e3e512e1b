"""The example of a second world, and every command and snippet of the page on making one's own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deltaw

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-own-world.md").read_text(encoding="utf-8")


def run(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        (sys.executable, *arguments), capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands() -> list[list[str]]:
    """The page's shell commands, without their comments."""
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line.split("#")[0].split() for line in block.splitlines()]


def write_snippets(to: Path) -> list[str]:
    """The page's files; returns its two scripts that use them: one looks, one runs a study."""
    (grammar,) = re.findall(r"```grammar\n(.*?)```", PAGE, flags=re.DOTALL)
    world, look, study = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (to / "tea.grammar").write_text(grammar, encoding="utf-8")
    (to / "tea.py").write_text(world, encoding="utf-8")
    return [look, study]


def test_the_kitchen_shows_its_prompts_and_what_can_be_known() -> None:
    first, _ = commands()
    shown = run(*first[1:], cwd=ROOT)
    assert shown.count("\n  text ") == 5
    assert "left_out/conditional/unsafe" in shown
    assert re.search(r"tells the branch of (99|100)\.\d\d% of 2000 tuning windows", shown)
    cue = re.search(r"of (\d\d\.\d\d)% \(it counts", shown)
    assert cue
    assert float(cue[1]) < 75


def test_a_study_runs_in_a_world_of_ones_own(tmp_path: Path) -> None:
    _, second = commands()
    assert second[-1] == "runs/k"
    run(*second[1:-1], str(tmp_path / "k"), cwd=ROOT)
    results = deltaw.load(tmp_path / "k")
    assert results.manifest["config"]["world"]["alphabet"] == 22
    (ceiling,) = set(results.select("bayes_accuracy")["value"])
    assert ceiling > 0.99
    prompts = [json.loads(line) for line in (tmp_path / "k" / "prompts.jsonl").read_text().splitlines()]
    assert {len(prompt["operators"]) for prompt in prompts} == {4}
    assert all("∅∅∅." in prompt["expected"] for prompt in prompts if not prompt["allowed"])
    assert (tmp_path / "k" / "report.html").stat().st_size > 10_000


def test_the_page_makes_a_world_that_asks_something(tmp_path: Path) -> None:
    look, _ = write_snippets(tmp_path)
    shown = run("-c", look, cwd=tmp_path).splitlines()
    accuracy = re.search(r"accuracy=([\d.]+)", shown[-2])
    assert accuracy
    assert float(accuracy[1]) > 0.99
    assert float(shown[-1]) < 0.75


@pytest.mark.slow
def test_the_study_of_the_page_runs(tmp_path: Path) -> None:
    _, study = write_snippets(tmp_path)
    run("-c", study, cwd=tmp_path)
    (command,) = re.findall(r"`deltaw (report [^`]*)`", PAGE)
    assert "runs/tea/report.html" in run("-m", "deltaw.cli", *command.split(), cwd=tmp_path)
