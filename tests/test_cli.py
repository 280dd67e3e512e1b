"""The command line: its options are frozen here, and `--dry-run` leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest

from deltaw import cli
from deltaw.errors import DeltawError
from deltaw.plugins import KINDS, plugins
from independent import mistakes

Outcome = tuple[int, str, str]
"""Exit status, standard output, standard error."""


def surface() -> dict[str, dict[str, object]]:
    """Every option of every command with its default."""
    found: dict[str, dict[str, object]] = {}
    for command in get_args(cli.Command):
        kind = get_args(command)[0]
        options = {}
        for field in fields(kind):
            default = "required" if field.default is MISSING else field.default
            options[field.name] = str(default) if isinstance(default, Path) else default
        found[kind.__name__.lower()] = options
    return found


def test_the_options_are_these_and_no_others() -> None:
    """One dial, `--recipe`, sets the rest: a new option should be a decision, made here too."""
    assert surface() == {
        "study": {
            "recipe": "quick",
            "out": None,
            "seed": 0,
            "protocols": (),
            "observations": (),
            "attacks": (),
            "controls": (),
            "interventions": (),
            "engine": "dask",
            "workers": 0,
            "scheduler": None,
            "device": "cpu",
            "below_gate": False,
            "dry_run": False,
            "json": False,
        },
        "sample": {
            "recipe": "quick",
            "split": "tune",
            "count": 8,
            "attacks": False,
            "tree": False,
            "model": None,
            "json": False,
            "seed": 0,
        },
        "report": {"run_dir": "runs/quick"},
        "interventions": {"run_dir": "runs/quick", "workers": 0},
        "pool": {"runs": "required", "out": None},
        "compare": {
            "base": "required",
            "tuned": (),
            "out": None,
            "modules": (),
            "architecture": None,
            "curve": False,
            "prompts": None,
            "judge": "rules",
            "judge_labels": (),
            "judge_reads": "answer",
            "attacks": (),
            "observations": (),
            "interventions": (),
            "control": (),
            "template": "own",
            "pairs": None,
            "answer_tokens": 64,
            "batch": 16,
            "device": "auto",
            "dtype": "float32",
            "answer_dtype": None,
            "device_map": None,
            "revision": None,
        },
        "safetytune": {
            "model": "required",
            "protocol": "ssft",
            "control": None,
            "lora": None,
            "steps": 120,
            "batch": 8,
            "requests": 120,
            "learning_rate": None,
            "out": None,
            "device": "cpu",
            "seed": 0,
        },
        "screen": {"folder": "required", "base": None, "out": None, "by": "top_excess"},
        "list": {"kind": None},
    }


def test_a_dry_run_says_what_the_study_is_and_writes_nothing(run: Callable[..., Outcome], tmp_path: Path) -> None:
    status, out, err = run("study", "--recipe", "smoke", "--dry-run", "--json", "--workers", "3")
    assert status == 0, err
    found = json.loads(out)
    assert found["recipe"] == "smoke"
    assert found["engine"]["workers"] == 3
    assert found["not_estimated"] == []
    assert all(stage["seconds"] > 0 for stage in found["stages"])
    assert found["seconds"]["longest_chain"] <= found["seconds"]["wall"] <= found["seconds"]["all_stages"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("study", "--json"), "--dry-run"),
        (("study", "--dry-run", "--workers", "-1"), "workers is -1"),
        (
            ("study", "--dry-run", "--recipe", "nope"),
            "the recipes are quick, standard, small, smoke, grid, paper-laptop, paper, paper-shared, paper-compat",
        ),
        (("study", "--no-dry-run"), "--no-dry-run"),
        (
            ("sample", "--recipe", "nope"),
            "the recipes are quick, standard, small, smoke, grid, paper-laptop, paper, paper-shared",
        ),
        (("sample", "--split", "nope"), "there are train, test, pretrain, tune, "),
        (("sample", "--split", "tune/valid"), "/train or /test"),
        (("sample", "--split", "co_text"), "--attacks"),
        (("sample", "--split", "left_out/never/safe"), "there is no split"),
        (("sample", "--count", "0"), "count is 0"),
        (("sample", "--seed", "-2"), "seed is -2"),
        (("sample", "--json", "--tree"), "give one of them"),
        (("sample", "--model", "nowhere"), "nowhere"),
        (("sample", "--attack", "nope"), "--attack"),
    ],
)
def test_a_mistake_is_a_sentence_and_status_2(
    run: Callable[..., Outcome], arguments: tuple[str, ...], part: str, tmp_path: Path
) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert part in err
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_samples_are_lines_that_a_program_can_check(run: Callable[..., Outcome], recipe: str) -> None:
    status, out, err = run("sample", "--recipe", recipe, "--split", "train", "--count", "200", "--json", "--attacks")
    assert status == 0, err
    lines = out.splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(200))
    assert mistakes(lines) == []


def test_a_closed_pipe_ends_samples_quietly() -> None:
    command = (sys.executable, "-m", "deltaw.cli", "sample", "--count", "100000")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for environment, options in ((buffered, ("--json",)), ({**buffered, "PYTHONUNBUFFERED": "1"}, ())):
        with subprocess.Popen(
            (*command, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout
            assert process.stderr
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(60) == 0
            assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("study", "--recipe", "smoke"), "; the same command goes on from where it was"),
        (("study", "--recipe", "smoke", "--dry-run"), ""),
        (("interventions",), "; the same command goes on from where it was"),
        (("report",), ""),
    ],
)
def test_an_interruption_says_whether_the_same_command_goes_on(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], hint: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in (
        "deltaw.study.run.run_study",
        "deltaw.study.dry_run.timing.measure",
        "deltaw.study.all_interventions.run_interventions",
        "deltaw.report.write_report",
    ):
        monkeypatch.setattr(name, stop)
    assert run(*command) == (130, "", f"deltaw: stopped{hint}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("becomes", [ValueError("no shape"), DeltawError("the file is truncated"), OSError(5, "I/O")])
def test_a_signal_that_comes_out_of_c_code_as_another_error_ends_tidily(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, number: int, becomes: Exception
) -> None:
    """safetensors, interrupted, says that it cannot tell the shape of a tensor."""

    def stop(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except KeyboardInterrupt:
            raise becomes from None

    monkeypatch.setattr("deltaw.study.run.run_study", stop)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        hint = "the same command goes on from where it was"
        assert run("study", "--recipe", "smoke") == (128 + number, "", f"deltaw: stopped; {hint}\n")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_what_nobody_foresaw_is_raised(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a mistake of deltaw's own")

    monkeypatch.setattr("deltaw.study.run.run_study", fail)
    with pytest.raises(ValueError, match="of deltaw's own"):
        run("study", "--recipe", "smoke")


def test_each_command_has_a_file_of_its_own_and_help_of_its_own(run: Callable[..., Outcome]) -> None:
    for command in get_args(cli.Command):
        kind, subcommand = get_args(command)
        file = {"sample": "sample.command"}.get(subcommand.name, subcommand.name.replace("-", "_"))
        assert kind.__module__ == f"deltaw.cli.{file}"
        status, out, err = run(subcommand.name, "--help")
        assert (status, err) == (0, "")
        options = [field for field in fields(kind) if field.name not in ("runs", "base", "tuned", "run_dir")]
        for field in options:
            bare = (kind.__name__, field.name) in (("SafetyTune", "model"), ("Screen", "folder"))
            flag = field.name.upper() if bare else None
            assert (flag or f"--{field.name.replace('_', '-')}") in out


def test_the_list_is_by_kind_aligned_and_whole(run: Callable[..., Outcome]) -> None:
    status, out, err = run("list")
    assert (status, err) == (0, "")
    headings = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert headings == [f"{kind.replace('-', ' ')}s".capitalize() for kind in KINDS]
    for plugin in plugins():
        assert f"  {plugin.name} " in out
    for block in out.split("\n\n"):
        named = [line for line in block.splitlines()[1:] if not line.startswith("   ")]
        assert len({len(line) - len(line[2:].partition(" ")[2].lstrip()) for line in named}) == 1
    assert "Options: beta = 0.1" in out
    status, only, _ = run("list", "--kind", "judge")
    assert (status, only.splitlines()[0]) == (0, "Judges")
    assert "ssft" not in only
    status, _, err = run("list", "--kind", "jugde")
    assert (status, err.count("\n")) == (2, 1)
    assert "there is no kind of plug-in 'jugde'; there are protocol, control" in err


def test_a_user_without_a_home_can_draw_figures(tmp_path: Path) -> None:
    """As in a container whose user has no entry anywhere; altair asks for a home when it is imported."""
    script = (
        "import os, sys\n"
        "os.environ.pop('HOME', None)\n"
        "os.getuid = lambda: 54321\n"
        "from deltaw import cli\n"
        "sys.argv = ['deltaw', 'list', '--kind', 'nothing']\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit:\n"
        "    import altair\n"
    )
    environment = {**os.environ, "LANG": "C", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("deltaw: ")
