"""Without the extra `study`: weights are compared, and a study says what to install before it writes anything."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import config, tensors, write

TESTS = Path(__file__).parents[1]
WITHOUT_DASK = (sys.executable, str(TESTS / "blocked.py"), "distributed,dask,cryptography", "deltaw.cli")


def call(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
    return subprocess.run((*WITHOUT_DASK, *arguments), capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the packages of the extra cannot be found."""
    for name in ("distributed", "dask", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    "arguments",
    [("study", "--recipe", "smoke"), ("study", "--recipe", "smoke", "--scheduler", "tcp://127.0.0.1:1")],
)
def test_a_study_says_what_to_install(
    run: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err == (
        "deltaw: the engine dask needs packages that are not installed (dask, distributed, cryptography); install the "
        "extra, pip install 'deltaw[study]', or give deltaw study --engine inline\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("absent")
def test_interventions_say_so_too(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, _, err = run("interventions", "--run", ".")
    assert status == 2
    assert "pip install 'deltaw[study]'" in err
    assert not list(tmp_path.iterdir())


def test_weights_are_compared(tmp_path: Path) -> None:
    base = tensors("llama")
    tuned = {name: tensor + 0.01 * torch.ones_like(tensor) for name, tensor in base.items()}
    write(tmp_path / "base", base, config("llama"))
    write(tmp_path / "tuned", tuned, config("llama"))
    done = call("compare", "base", "tuned", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "measurements.jsonl").is_file()
