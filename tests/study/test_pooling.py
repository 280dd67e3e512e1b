"""Runs of one recipe taken as one: a planted truth that only all seeds can show, and what cannot be pooled."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deltaw
from deltaw.claims import decide
from deltaw.errors import DeltawError
from deltaw.results import Answer, Claim, Measurement, read_measurements, write_claims, write_measurements
from deltaw.study.keep_results import by_model, publish
from deltaw.study.pool import pool, replication

CLAIM = "update-is-small/ssft-medium"  # of a statistic without nulls: less than 0.1
STEP = "artifacts/base/step-000008"
FIRST, SECOND = range(101, 107), range(107, 113)
CELL = {
    "name": "a", "axis": None, "attack": None, "base": None,
    "world": {"alias_rate": None, "n_operators": 1, "grammars": [{"always": [0], "aliases": None}]},
}  # fmt: skip


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
    """Of 12 seeds: less than 0.1 by about their spread, which takes more than six to be shown."""
    half = np.array([-1.6, -0.9, -0.2, 0.2, 0.9, 1.6])
    return np.asarray(np.exp(np.log(0.1) + 0.27 * np.tile(half, 2) - 0.3))


def test_all_seeds_decide_what_neither_run_does(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    before = {path: path.read_bytes() for run in runs for path in run.iterdir() if path.is_file()}
    for run in runs:
        alone = next(one for one in decide(read_measurements(run / "measurements.jsonl"), False) if one.id == CLAIM)
        (answer,) = alone.answers
        assert answer.word == "unclear"
        assert answer.seeds_needed is not None
        assert answer.seeds_needed > 6
    report = pool(runs, tmp_path / "both")
    found = deltaw.load(tmp_path / "both")
    claim = found.claims.set_index("id").loc[CLAIM]
    assert ([one["word"] for one in claim["answers"]], claim["n"], claim["n_unit"]) == (["seen"], 12, "seed")
    assert claim["value"] == pytest.approx(np.exp(np.log(values).mean()))
    assert found.manifest["seeds"] == found.manifest["config"]["seeds"] == [*FIRST, *SECOND]
    assert [one["seeds"] for one in found.manifest["pooled"]] == [[*FIRST], [*SECOND]]
    assert found.manifest["processor"]["name"] == "of 101; of 107"
    assert found.manifest["seconds"] == {"all_stages": 4.0}
    assert [tmp_path / "both" / one["path"] for one in found.manifest["pooled"]] == [
        tmp_path / "both" / ".." / name for name in "ab"
    ]
    assert len(found.prompts) == 2
    assert found.model("base", seed=112).samefile(tmp_path / "b" / STEP)
    assert "2 runs, finished 2026-01-02, 2026-01-02" in report.read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in before} == before
    text = (tmp_path / "both" / "replication.md").read_text()
    row = next(line for line in text.splitlines() if f"`{CLAIM}`" in line).strip("| ").split(" | ")
    assert [cell.partition(",")[0] for cell in row[2:]] == ["unclear", "unclear", "seen"]
    assert "seeds 101 to 106 | seeds 107 to 112 | together" in text


def test_what_one_run_found_and_the_next_contradicts_is_shown(tmp_path: Path) -> None:
    spread = np.array([0.99, 1.0, 1.01, 0.99, 1.0, 1.01])
    runs = [write(tmp_path / "a", FIRST, 0.05 * spread), write(tmp_path / "b", SECOND, 0.2 * spread)]
    pool(runs, tmp_path / "both")
    text = (tmp_path / "both" / "replication.md").read_text()
    (row,) = [line.strip("| ").split(" | ") for line in text.splitlines() if f"`{CLAIM}`" in line]
    assert [cell.partition(",")[0] for cell in row[2:]] == ["seen", "opposite", "unclear"]
    assert "unknown ones" in (tmp_path / "both" / "report.html").read_text(), "of no run is the code known"
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "prompts.jsonl").write_text("of another run")
    publish(tmp_path / "both", tmp_path / "kept")
    assert (tmp_path / "kept" / "replication.md").read_text() == text
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {"claims.md", "claims.json", "manifest.json", "models.md", "replication.md"}
    assert f"`{CLAIM}`" in (tmp_path / "kept" / "claims.md").read_text()
    with pytest.raises(DeltawError, match="only the claims of pooled runs"):
        deltaw.load(tmp_path / "kept")


def test_every_model_s_mean_has_its_interval_over_seeds() -> None:
    lines = [size(seed, value) for seed, value in zip(FIRST, (0.1, 0.2, 0.4, 0.1, 0.2, 0.4), strict=True)]
    lines += [replace(size(101, 0.3), model="other-ssft-medium")]  # one seed has no interval over seeds
    text = by_model(lines, ["ssft-medium", "other-ssft-medium"])
    (row,) = [line.strip("| ").split(" | ") for line in text.splitlines() if "medium" in line]
    assert row[0] == "`ssft-medium`"
    assert row[1:] == ["0.2", "0.104 to 0.383", "6"]  # the geometric mean, for the claim is on a log scale


def test_a_question_that_no_run_has_words_for_shows_its_numbers() -> None:
    def claims(word: str | None) -> list[Claim]:
        answer = Answer(question="other", word=word, value=0.5, low=0.25, high=0.75, n=2)
        return [
            Claim(id="a", observation=1, statement="s", statistic="x", exploratory=False, value=1.0, answers=(answer,)),
            Claim(id="never", observation=1, statement="s", statistic="x", exploratory=False),
        ]

    text = replication(["a", "b"], [claims(None), claims("unclear")], claims("more"))
    assert "| `a` | other | 0.5 [0.25, 0.75] | unclear, 0.5 [0.25, 0.75] | more, 0.5 [0.25, 0.75] |" in text
    assert "never" not in text


def test_the_order_of_runs_does_not_matter_and_pooled_runs_can_be_pooled(
    tmp_path: Path, values: np.ndarray[Any, Any]
) -> None:
    third = write(tmp_path / "c", range(113, 119), values[:6])
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:]), third]
    pool(runs, tmp_path / "abc")
    pool(runs[:2], tmp_path / "ab")
    pool([third, tmp_path / "ab"], tmp_path / "c-ab")
    pool(runs[::-1], tmp_path / "abc")  # the same pool, named otherwise
    one, other = (deltaw.load(tmp_path / name) for name in ("abc", "c-ab"))
    assert one.manifest["seeds"] == other.manifest["seeds"]
    assert len(one.manifest["pooled"]) == len(other.manifest["pooled"]) == 3
    for part in other.manifest["pooled"]:
        assert (tmp_path / "c-ab" / part["path"] / "manifest.json").is_file()
    first, second = (results.claims.set_index("id").loc[CLAIM] for results in (one, other))
    assert first["value"] == pytest.approx(second["value"])
    for claim in (first, second):
        assert ([answer["word"] for answer in claim["answers"]], claim["n"]) == (["seen"], 18)
    assert other.model("base", seed=104).samefile(one.model("base", seed=104))


def test_results_that_were_kept_without_models_are_pooled(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    for run in runs:
        plain = run / "measurements.jsonl"
        (run / "measurements.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    pool(runs, tmp_path / "both")
    found = deltaw.load(tmp_path / "both")
    claim = found.claims.set_index("id").loc[CLAIM]
    assert [answer["word"] for answer in claim["answers"]] == ["seen"]


def test_models_are_found_through_links(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    pool(runs, tmp_path / "link" / "both")
    assert deltaw.load(tmp_path / "link" / "both").model("base", seed=107).samefile(tmp_path / "b" / STEP)


def test_a_null_that_half_of_the_seeds_have_is_no_null(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    name = "null-space/ssft-medium"
    nulls = ("rotation", "row_permutation", "row_sign_flip")

    def energies(seeds: range, kinds: tuple[str, ...]) -> list[Measurement]:
        models = ("ssft-medium", "other-ssft-medium", "operators-ssft-medium", "constant-ssft-medium")
        return [
            replace(
                size(seed, 0.9 if model == models[0] else 0.7), model=model, statistic="null_energy_left",
                null_kind=kind, null_mean=0.75, null_low=0.74, null_high=0.76,
            )
            for seed in seeds for model in models for kind in kinds
        ]  # fmt: skip

    runs = [write(tmp_path / "a", FIRST, values[:6]), write(tmp_path / "b", SECOND, values[6:])]
    for kinds, word in ((nulls, "more"), (nulls[:2], None)):
        write_measurements(runs[0] / "measurements.jsonl", energies(FIRST, nulls))
        write_measurements(runs[1] / "measurements.jsonl", energies(SECOND, kinds))
        pool(runs, tmp_path / "both")
        claim = deltaw.load(tmp_path / "both").claims.set_index("id").loc[name]
        answer = next(answer for answer in claim["answers"] if answer["question"] == "shape")
        assert (answer["word"], claim["n"]) == (word, 12)
    assert "6 of 12 seeds" in answer["why"]


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
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "sweep": {"prompts": 256}}))
    with pytest.raises(DeltawError, match="sweep"):
        pool([first, second], out)
    grid = write(tmp_path / "grid", SECOND, values[6:], {"cells": [CELL]})
    with pytest.raises(DeltawError, match="is a grid"):
        pool([first, grid], out)
    other = write(tmp_path / "other", SECOND, values[6:], {"sizes": {"final": 9}, "subspaces": None})
    with pytest.raises(DeltawError, match=r"more than seeds: subspaces is .*; sizes.final is 8 there and 9 here"):
        pool([first, other], out)
    (second / "claims.json").unlink()
    (second / "study.json").write_text("{}")
    with pytest.raises(DeltawError, match="not finished"):
        pool([first, second], out)
    pair = json.loads((first / "manifest.json").read_text())
    del pair["exploratory"]
    (first / "manifest.json").write_text(json.dumps(pair))
    with pytest.raises(DeltawError, match="not a study of seeds"):
        pool([first, other], out)
    assert not out.exists()
