"""Runs of one recipe taken as one: a planted truth that only all seeds can show, and what cannot be pooled."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deltaw
from deltaw.errors import DeltawError
from deltaw.evidence import decide
from deltaw.results import Measurement, read_measurements, write_claims, write_measurements
from deltaw.study.pooling import pool
from deltaw.study.publishing import publish

CLAIM = "update-is-small/ssft-medium"  # of a statistic without nulls: less than 0.1
STEP = "artifacts/base/step-000008"
FIRST, SECOND = range(101, 107), range(107, 113)


def size(seed: int, value: float) -> Measurement:
    return Measurement(
        stage="analysis", model="ssft-medium", protocol="ssft", strength="medium", seed=seed, step=8,
        module="mlp.in_proj", statistic="update_relative_norm", value=value,
    )  # fmt: skip


def write(directory: Path, seeds: range, values: np.ndarray[Any, Any], config: Mapping[str, Any] | None = None) -> Path:
    """A finished run that measured one statistic in every seed."""
    directory.mkdir(parents=True)
    lines = [size(seed, float(value)) for seed, value in zip(seeds, values, strict=True)]
    write_measurements(directory / "measurements.jsonl", lines)
    write_claims(directory / "claims.json", [])
    (directory / "prompts.jsonl").write_text(json.dumps({"set": "allowed", "index": seeds[0]}) + "\n")
    model = {"name": "base", "path": STEP, "step": 8, "protocol": None, "strength": None}
    (directory / STEP).mkdir(parents=True)
    manifest = {
        "format": 1, "recipe": "standard", "exploratory": False, "seeds": list(seeds),
        "config": {"tunings": [], "sizes": {"final": 8}, **(config or {}), "seeds": list(seeds)},
        "finished": "2026-01-02T03:04:05+00:00", "versions": {"deltaw": "0.1.0"},
        "processor": {"name": f"of {seeds[0]}", "cores": 2}, "engine": {"name": "inline", "workers": 1},
        "seconds": {"this_call": 1.0, "all_stages": 2.0}, "peak_bytes": seeds[0],
        "stages": [{"name": f"base-s{seed}", "path": "artifacts/base", "seconds": 1.0} for seed in seeds],
        "models": [{**model, "seed": seed, "control": None} for seed in seeds],
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture
def values() -> np.ndarray[Any, Any]:
    """Of 12 seeds: less than 0.1 by 0.7 of their spread in each half, which takes more than six to be shown."""
    half = np.array([-1.6, -0.9, -0.2, 0.2, 0.9, 1.6])
    spread = 0.1
    return np.asarray(np.exp(np.log(0.1) + spread * (np.tile(half, 2) - 0.85)))


def test_all_seeds_decide_what_neither_run_does(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    before = {path: path.read_bytes() for run in runs for path in run.iterdir() if path.is_file()}
    for run in runs:
        alone = next(one for one in decide(read_measurements(run / "measurements.jsonl"), False) if one.id == CLAIM)
        assert alone.verdict == "undecided"
        assert alone.seeds_needed is not None
        assert alone.seeds_needed > 6
    report = pool(runs, tmp_path / "both")
    found = deltaw.load(tmp_path / "both")
    claim = found.claims.set_index("id").loc[CLAIM]
    assert (claim["verdict"], claim["n"], claim["n_unit"]) == ("holds", 12, "seed")
    assert claim["value"] == pytest.approx(np.exp(np.log(values).mean()))
    assert found.manifest["seeds"] == found.manifest["config"]["seeds"] == [*FIRST, *SECOND]
    assert [one["seeds"] for one in found.manifest["pooled"]] == [[*FIRST], [*SECOND]]
    assert found.manifest["processor"]["name"] == "of 101; of 107"
    assert found.manifest["seconds"]["all_stages"] == 4.0
    assert len(found.prompts) == 2
    assert found.model("base", seed=112).samefile(tmp_path / "b" / STEP)
    assert "2 runs, finished 2026-01-02, 2026-01-02" in report.read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in before} == before
    text = (tmp_path / "both" / "replication.md").read_text()
    row = next(line for line in text.splitlines() if f"`{CLAIM}`" in line).strip("| ").split(" | ")
    assert [cell.partition(",")[0] for cell in row[1:]] == ["undecided", "undecided", "holds"]
    assert "seeds 101 to 106 | seeds 107 to 112 | together" in text
    assert f"Of {len(found.claims)} claims {len(found.claims)} have the same verdict in every run; 0 hold" in text


def test_what_one_run_found_and_the_next_contradicts_is_counted(tmp_path: Path) -> None:
    spread = np.array([0.99, 1.0, 1.01, 0.99, 1.0, 1.01])
    runs = [write(tmp_path / "a", FIRST, 0.05 * spread), write(tmp_path / "b", SECOND, 0.2 * spread)]
    pool(runs, tmp_path / "both")
    text = (tmp_path / "both" / "replication.md").read_text()
    assert "1 hold in one and fail in another" in text
    publish(tmp_path / "both", tmp_path / "kept")
    assert (tmp_path / "kept" / "replication.md").read_text() == text
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {"claims.md", "claims.json", "replication.md", "figures"}
    assert f"`{CLAIM}`" in (tmp_path / "kept" / "claims.md").read_text()


def test_the_order_of_runs_does_not_matter_and_pooled_runs_can_be_pooled(
    tmp_path: Path, values: np.ndarray[Any, Any]
) -> None:
    third = write(tmp_path / "c", range(1, 7), values[:6])
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:]), third]
    pool(runs, tmp_path / "abc")
    pool(runs[:2], tmp_path / "ab")
    pool([third, tmp_path / "ab"], tmp_path / "c-ab")
    one, other = (deltaw.load(tmp_path / name) for name in ("abc", "c-ab"))
    first, second = (results.claims.set_index("id").loc[CLAIM] for results in (one, other))
    assert first["value"] == pytest.approx(second["value"])
    assert (first["verdict"], first["n"]) == (second["verdict"], second["n"]) == ("holds", 18)
    assert other.model("base", seed=104).samefile(one.model("base", seed=104))


def test_results_that_were_kept_without_models_are_pooled(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    for run in runs:
        plain = run / "measurements.jsonl"
        (run / "measurements.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    pool(runs, tmp_path / "both")
    assert len(deltaw.load(tmp_path / "both").measurements) == 12


def test_a_second_call_writes_the_same(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    pool(runs, tmp_path / "both")
    before = (tmp_path / "both" / "claims.json").read_bytes()
    pool(runs, tmp_path / "both")
    assert (tmp_path / "both" / "claims.json").read_bytes() == before


def test_what_cannot_be_pooled_is_a_sentence(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    first = write(tmp_path / "a", FIRST, values[:6])
    second = write(tmp_path / "b", SECOND, values[6:])
    out = tmp_path / "out"
    with pytest.raises(DeltawError, match="at least two"):
        pool([first], out)
    with pytest.raises(DeltawError, match="no run at"):
        pool([first, tmp_path / "nowhere"], out)
    with pytest.raises(DeltawError, match="seed 101 is in two"):
        pool([first, first], out)
    grid = write(tmp_path / "grid", SECOND, values[6:], {"cells": [1]})
    with pytest.raises(DeltawError, match="is a grid"):
        pool([first, grid], out)
    other = write(tmp_path / "other", SECOND, values[6:], {"sizes": {"final": 9}, "subspaces": None})
    with pytest.raises(DeltawError, match="differ in sizes, subspaces, not in seeds alone"):
        pool([first, other], out)
    (second / "claims.json").unlink()
    (second / "study.json").write_text("{}")
    with pytest.raises(DeltawError, match="not come to its end"):
        pool([first, second], out)
    pair = json.loads((first / "manifest.json").read_text())
    del pair["exploratory"]
    (first / "manifest.json").write_text(json.dumps(pair))
    with pytest.raises(DeltawError, match="not a study of seeds"):
        pool([first, other], out)
    assert not out.exists()
