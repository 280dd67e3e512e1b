"""Loading a run, and what is said when there is none."""

import json
import os
from pathlib import Path

import pytest

from deltaw.errors import DeltawError
from deltaw.results import (
    Claim,
    Measurement,
    ModelEntry,
    Results,
    load,
    write_claims,
    write_json_atomic,
    write_jsonl_atomic,
    write_measurements,
)

MODELS = [
    ModelEntry(name="base", path="models/base", step=0, seed=1),
    ModelEntry(name="ssft-medium", path="models/a-100", step=100, seed=1, protocol="ssft", strength="medium"),
    ModelEntry(name="ssft-medium", path="models/a-800", step=800, seed=1, protocol="ssft", strength="medium"),
    ModelEntry(name="dpo-small", path="models/b-1", step=800, seed=1, protocol="dpo", strength="small"),
    ModelEntry(name="dpo-small", path="models/b-2", step=800, seed=2, protocol="dpo", strength="small"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "quick"
    run.mkdir(parents=True)
    for entry in MODELS[:-1]:
        (run / entry.path).mkdir(parents=True)
    write_json_atomic(run / "manifest.json", {"recipe": "quick", "models": [entry.to_json() for entry in MODELS]})
    measurements = [
        Measurement(
            stage="b",
            model="base",
            statistic="comply_rate",
            set="allowed/all",
            value=1.0,
            n=5,
            n_unit="prompts",
        ),
        Measurement(stage="b", model="ssft-medium", statistic="comply_rate", set="forbidden/all", value=0.1, layer=0),
        Measurement(stage="b", model="ssft-medium", statistic="refuse_rate", attack="co_text", value=0.5, layer=1),
    ]
    write_measurements(run / "measurements.jsonl", measurements)
    claim = Claim(
        id="c",
        observation=1,
        statement="s",
        statistic="t",
        value=1.0,
        exploratory=True,
    )
    write_claims(run / "claims.json", [claim])
    write_jsonl_atomic(run / "prompts.jsonl", [{"text": "abc\u2028"}, {"text": "é"}])
    return run


@pytest.fixture
def results(run: Path) -> Results:
    return load(run)


def test_a_run_is_read_as_tidy_tables(results: Results) -> None:
    table = results.measurements
    assert len(table) == 3
    types = {name: str(dtype) for name, dtype in table.dtypes.items()}
    assert (types["model"], types["layer"], types["low"], types["value"]) == (
        "string",
        "Int64",
        "float64",
        "float64",
    )
    assert types["attack"] == types["null_kind"] == "string", "an empty column has its type all the same"
    assert table["layer"].tolist()[1:] == [0, 1]
    assert results.claims["nulls"].tolist() == [[]]
    assert results.claims["exploratory"].dtype == bool
    assert results.prompts == [{"text": "abc\u2028"}, {"text": "é"}]
    assert results.manifest["recipe"] == "quick"


def test_select(results: Results) -> None:
    assert results.select("comply_rate")["value"].tolist() == [1.0, 0.1]
    assert results.select("comply_rate", "base")["value"].tolist() == [1.0]
    assert results.select(statistic=["comply_rate", "refuse_rate"], attack=None)["value"].tolist() == [
        1.0,
        0.1,
    ]
    assert results.select(layer=[1, None])["value"].tolist() == [1.0, 0.5]
    assert results.select("refuse_rate", "base").empty
    assert len(results.select()) == 3
    with pytest.raises(DeltawError, match=r"no column 'sett'; the columns are .*set, attack"):
        results.select(sett="x")
    with pytest.raises(DeltawError, match="statistic comply; there is comply_rate, refuse_rate"):
        results.select("comply")
    with pytest.raises(DeltawError, match="null_kind rotation; there is no values"):
        results.select(null_kind="rotation")


def test_models(results: Results, run: Path) -> None:
    assert results.model("base") == run / "models/base"
    assert results.model("ssft-medium") == run / "models/a-800"
    assert results.model("ssft-medium", step=100) == run / "models/a-100"
    assert results.model("dpo-small", seed=1) == run / "models/b-1"
    with pytest.raises(DeltawError, match="no model 'npo'; it has base, ssft-medium, dpo-small"):
        results.model("npo")
    with pytest.raises(DeltawError, match="no step 5; it has 100, 800"):
        results.model("ssft-medium", step=5)
    with pytest.raises(DeltawError, match="seeds 1, 2"):
        results.model("dpo-small")
    with pytest.raises(DeltawError, match="is gone"):
        results.model("dpo-small", seed=2)


def test_a_run_without_measurements_or_models_still_loads(run: Path) -> None:
    write_measurements(run / "measurements.jsonl", [])
    write_json_atomic(run / "manifest.json", {})
    write_claims(run / "claims.json", [])
    write_jsonl_atomic(run / "prompts.jsonl", [])
    results = load(str(run))
    assert len(results.measurements) == len(results.claims) == len(results.models) == len(results.prompts) == 0


def test_what_is_missing_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match=r"no run at .*/qick; .*has the runs quick"):
        load(run.parent / "qick")
    with pytest.raises(DeltawError, match="no finished run"):
        load(tmp_path / "elsewhere" / "quick")
    with pytest.raises(DeltawError, match="not a run of deltaw"):
        load(run.parent)
    (run / "claims.json").unlink()
    with pytest.raises(DeltawError, match=r"not finished \(claims.json missing\)"):
        load(run)
    empty = run.parent / "started"
    empty.mkdir()
    (empty / "study.json").write_text("{}")
    with pytest.raises(DeltawError, match="again to continue it"):
        load(empty)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("manifest.json", "{", "is damaged"),
        ("manifest.json", "[]", "is not a study's manifest"),
        ("manifest.json", '{"models": [{"name": "a"}]}', "model 1: missing field path"),
        ("prompts.jsonl", '{"a": 1}\n3\n', "prompts.jsonl, line 2"),
        ("measurements.jsonl", "\udcff", "not UTF-8"),
    ],
)
def test_a_damaged_file_is_named(run: Path, file: str, text: str, message: str) -> None:
    (run / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DeltawError, match=message):
        load(run)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, {"old": 1})
    with pytest.raises(ValueError):
        write_json_atomic(path, {"new": float("nan")})

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_json_atomic(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
