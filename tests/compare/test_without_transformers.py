"""Without the extra `hf`, what needs a model in memory says which extra to install, before any work is done."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from checkpoints import config, tensors, write

from deltaw import cli
from deltaw.compare import SafetyTuning, safety_tune
from deltaw.errors import DeltawError
from deltaw.prompts.requests import Requests
from deltaw.protocols.ssft import Ssft


@pytest.fixture(autouse=True)
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "transformers" else known(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_tuning_says_so(tmp_path: Path) -> None:
    base = write(tmp_path / "base", tensors("llama"), config("llama"))
    with pytest.raises(DeltawError, match=r"deltaw\[hf\]"):
        safety_tune(base, tmp_path / "out", SafetyTuning(Ssft()), Requests(("a",), ("b",)))
    assert not (tmp_path / "out").exists()


def test_comparing_says_so_before_it_reads_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write(tmp_path / "base", tensors("llama"), config("llama"))
    monkeypatch.setattr(sys, "argv", ["deltaw", "compare", str(base), str(base), "--prompts", "builtin"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
