"""The whole study on a toy scale, by the command that users give: both engines, outputs, resuming, mistakes."""

import gzip
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import deltaw
from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.claims import STATEMENTS
from deltaw.errors import DeltawError
from deltaw.interventions import Interpolation, LayerSwaps, Sweep
from deltaw.models import export_gpt2
from deltaw.recipes import recipe
from deltaw.results.schema import MEASUREMENT_FIELDS
from deltaw.study.all_interventions import run_interventions
from deltaw.study.keep_results import publish
from deltaw.study.published_statistics import UPDATES
from deltaw.study.run import run_study

COMMAND = (sys.executable, "-m", "deltaw.cli")
WITHOUT_DASK = (
    sys.executable,
    str(Path(__file__).parents[1] / "blocked.py"),
    "distributed,dask,cryptography",
    "deltaw.cli",
)


Command = Callable[..., tuple[int, str, str]]
"""The fixture `run`: a command in this process; (exit status, standard output, standard error)."""


def in_a_process(*arguments: str, command: tuple[str, ...] = COMMAND) -> None:
    done = subprocess.run((*command, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study in one process, which needs nothing of the extra `study`."""
    out = tmp_path_factory.mktemp("smoke") / "inline"
    in_a_process("study", "--recipe", "smoke", "--engine", "inline", "--out", str(out), command=WITHOUT_DASK)
    return out


def manifest(run_dir: Path) -> dict[str, object]:
    return json.loads((run_dir / "manifest.json").read_text())  # type: ignore[no-any-return]


def test_the_outputs_are_all_there(inline: Path) -> None:
    found = manifest(inline)
    assert {"config", "components", "versions", "seeds", "stages", "processor", "models", "parameters"} <= found.keys()
    told = {(component["kind"], component["name"]) for component in found["components"]}  # type: ignore[attr-defined]
    assert {("protocol", name) for name in ("ssft", "dpo", "unlearn")} <= told
    for stage in found["stages"]:  # type: ignore[attr-defined]
        assert stage["seconds"] >= 0
        assert len(stage["digest"]) == 64
    for line in (inline / "measurements.jsonl").read_text().splitlines():
        assert tuple(json.loads(line)) == MEASUREMENT_FIELDS
    claims = json.loads((inline / "claims.json").read_text())
    wanted = {"id", "observation", "statement", "statistic", "value", "low", "high", "n", "nulls", "answers", "primary"}
    assert all(wanted <= claim.keys() and claim["exploratory"] for claim in claims)
    assert (inline / "report.html").stat().st_size > 10_000
    assert list((inline / "figures").glob("*.svg"))


def test_measurements_say_what_the_issue_of_them_is(inline: Path) -> None:
    results = deltaw.load(inline)
    rates = results.select(
        ["comply_rate", "refuse_rate", "neither_rate"], "ssft-medium", stage="behaviour", attack=None
    )
    assert {"allowed/conditional/safe", "forbidden/conditional/unsafe", "allowed/rest"} <= set(rates["set"])
    one = rates[rates["set"] == "allowed/rest"]
    assert one["value"].sum() == pytest.approx(1.0)
    assert (one["low"] <= one["value"]).all()
    assert (one["value"] <= one["high"]).all()
    energy = results.select("null_energy_left", "ssft-medium", step=8, layer=0)
    assert set(energy["null_kind"]) == {"row_sign_flip", "row_permutation", "rotation", "gaussian"}
    assert energy[energy["null_kind"] == "rotation"]["null_mean"].iloc[0] == pytest.approx(0.75)
    ceiling = results.select("bayes_accuracy")
    assert (ceiling["value"] > 0.99).all()
    ranks = results.select("rank_log_ratio", "ssft-medium", site="mlp_post", layer=None)
    assert set(ranks["step"]) == {4, 8}
    overlaps = results.select("output_overlap", "ssft-medium", module="mlp.out_proj", layer=None)
    assert {f"with={name}" for name in ("dpo-medium", "ssft-small", "other-ssft-medium")} <= set(overlaps["set"])
    assert len(results.select("probe_accuracy", "dpo-medium")) == 2 * 2 * 3
    behaviour = results.select("comply_rate", stage="behaviour")
    attacks = {"co_task", "co_text", "misgen_token", "misgen_text", "soft_weak", "prefill_1", "relearn_harmful_2"}
    assert attacks | {"left_out"} <= set(behaviour["attack"].dropna())
    left_out = behaviour[behaviour["attack"] == "left_out"]
    assert set(left_out["model"]) == {"base", "ssft-medium", "left-out-ssft-medium"}
    assert set(left_out["set"]) == {
        "allowed/conditional/safe", "forbidden/conditional/unsafe", "forbidden/never/safe", "forbidden/never/unsafe",
    }  # fmt: skip


def test_models_carry_their_meta_and_are_what_the_measurements_are_of(inline: Path) -> None:
    results = deltaw.load(inline)
    path = results.model("dpo-medium", step=4)
    meta = json.loads((path / "meta.json").read_text())
    assert {k: meta[k] for k in ("model", "protocol", "strength", "control", "seed", "step")} == {
        "model": "dpo-medium", "protocol": "dpo", "strength": "medium", "control": None, "seed": 0, "step": 4,
    }  # fmt: skip
    base, _ = deltaw.load_model(results.model("base"))
    tuned, _ = deltaw.load_model(results.model("ssft-medium"))
    old, new = deltaw.mlp(base, 0), deltaw.mlp(tuned, 0)
    relative = (new.w_in - old.w_in).norm() / old.w_in.norm()
    row = results.select("update_relative_norm", "ssft-medium", step=8, layer=0)
    assert float(row["value"].iloc[0]) == pytest.approx(float(relative), rel=1e-4)
    first, _ = deltaw.load_model(results.model("ssft-medium", step=0))
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), first.parameters(), strict=True))


@pytest.mark.usefixtures("without_drawing")
def test_two_exported_models_compare_as_the_study_measured_them(inline: Path, run: Command, tmp_path: Path) -> None:
    """As GPT-2 directories: the same logits in transformers, and the study's numbers by `deltaw compare`."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers: Any = importlib.import_module("transformers")
    results = deltaw.load(inline)
    tokens = torch.arange(24).reshape(2, 12)
    for label, name in (("base", "base"), ("tuned", "ssft-medium")):
        model, _ = deltaw.load_model(results.model(name))
        export_gpt2(model, tmp_path / label)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / label).eval()
        with torch.no_grad():
            np.testing.assert_allclose(model(tokens).numpy(), theirs(tokens).logits.numpy(), atol=1e-4)
    status, _, err = run("compare", "base", "tuned", "--out", "pair")
    assert status == 0, err
    pair = deltaw.load(tmp_path / "pair")
    shared = ("null_energy_left", "update_relative_norm", "stable_rank", "participation_ratio", "cosine_with_weight")
    last = results.models.query("name == 'ssft-medium'")["step"].max()
    for statistic in shared:
        ours = results.select(statistic, "ssft-medium", step=last, stage="analysis").drop_duplicates("layer")
        for row in ours.to_dict("records"):
            layer = None if pd.isna(row["layer"]) else int(row["layer"])
            name = "mlp.c_fc" if layer is None else f"transformer.h.{layer}.mlp.c_fc"
            theirs = pair.select(statistic, module=name)["value"]
            assert theirs.iloc[0] == pytest.approx(row["value"], rel=1e-6, abs=1e-9), (statistic, layer)
        assert len(ours) >= 2


def test_prompts_show_derivation_policy_and_answers(inline: Path) -> None:
    prompts = deltaw.load(inline).prompts
    assert {p["attack"] for p in prompts} == {None, "co_task", "co_text", "misgen_token", "misgen_text"}
    for prompt in prompts:
        assert {"base", "ssft-medium"} <= prompt["answers"].keys()
        assert prompt["letters"] in "".join(re.findall(r"\(([a-zA-D]{3})\)", prompt["derivation"]))
        assert prompt["expected"] == ("∅" * 20 + "." if not prompt["allowed"] else prompt["compliant"])


@pytest.mark.slow  # test_engine and test_scaling hold both engines together on smaller studies
def test_both_engines_make_the_same_artifacts(inline: Path, tmp_path: Path) -> None:
    in_a_process("study", "--recipe", "smoke", "--engine", "dask", "--workers", "2", "--out", str(tmp_path / "dask"))

    def digests(path: Path) -> dict[str, str]:
        return {stage["name"]: stage["digest"] for stage in manifest(path)["stages"]}  # type: ignore[attr-defined]

    assert digests(inline) == digests(tmp_path / "dask")
    for name in ("measurements.jsonl", "claims.json", "prompts.jsonl"):
        assert (inline / name).read_bytes() == (tmp_path / "dask" / name).read_bytes()


@pytest.fixture
def page_unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a report says is not asked, and making one takes longest: a line of text stands for it."""

    def write(run_dir: Path) -> Path:
        page = run_dir / "report.html"
        page.write_text("not made\n")
        return page

    monkeypatch.setattr("deltaw.study.run.write_report", write)


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What figures look like is not asked, and drawing them takes longest."""
    monkeypatch.setattr("vl_convert.vegalite_to_svg", lambda spec: '<svg class="marks" width="9" height="9"></svg>')


@pytest.mark.usefixtures("page_unmade")
def test_a_second_call_makes_nothing_anew_and_a_damaged_artifact_only(
    inline: Path, run: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(inline, copy)
    damaged = next(copy.glob("artifacts/tune-ssft-small-*/step-000004/model.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    status, _, err = run("study", "--recipe", "smoke", "--engine", "inline", "--out", str(copy))
    assert status == 0, err
    made = {stage["name"] for stage in manifest(copy)["stages"] if not stage["reused"]}  # type: ignore[attr-defined]
    assert made == {"tune-ssft-small-s0"}  # made again bit for bit, so what reads it is still good
    assert (copy / "measurements.jsonl").read_bytes() == (inline / "measurements.jsonl").read_bytes()


@pytest.mark.usefixtures("page_unmade")
def test_a_finished_run_is_written_anew_only_where_it_is_not_whole(inline: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(inline, copy)

    def again() -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in copy.iterdir() if path.is_file()}
        assert run_study(recipe("smoke"), copy, engine="inline") == copy / "report.html"
        return {path.name for path, time in before.items() if path.stat().st_mtime_ns != time} - {".lock"}

    assert again() == set()
    (copy / "claims.json").write_text("[]")
    assert {"claims.json", "report.html"} <= again()
    assert (copy / "claims.json").read_bytes() == (inline / "claims.json").read_bytes()
    assert again() == set()


def test_the_example_of_the_readme_runs(inline: Path, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[0]
    assert len(code.strip().splitlines()) <= 20
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quick").symlink_to(inline)
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.svg")) or list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("study", "--recipe", "nope"), "the recipes are quick, standard, small, smoke"),
        (("study", "--workers", "-1", "--recipe", "smoke"), "at least 1"),
        (("study", "--workers", "many"), "--workers"),
        (("study", "--seed", "-3"), "seed is -3"),
        (("study", "--engine", "steam"), "--engine"),
        (("study", "--device", "toaster"), "cpu, cuda or auto"),
        (("report", "--run", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_a_sentence_and_status_2(
    run: Command, arguments: tuple[str, ...], part: str, tmp_path: Path
) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert part in err
    assert "Traceback" not in err
    assert not any(
        path.is_file() and path.name != ".lock" and path.name != "study.json" for path in tmp_path.rglob("*")
    )


def test_directories_of_others_are_left_alone(inline: Path, run: Command, tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("a file")
    for out, part in ((foreign, "is not a study's"), (file, "is a file"), (inline, "another study")):
        before = sorted(path.name for path in out.iterdir()) if out.is_dir() else out.read_text()
        status, _, err = run("study", "--recipe", "quick", "--out", str(out))
        assert status == 2
        assert part in err
        assert (sorted(path.name for path in out.iterdir()) if out.is_dir() else out.read_text()) == before


def test_samples_show_what_a_model_answers(inline: Path, run: Command) -> None:
    model = str(deltaw.load(inline).model("ssft-medium"))
    options = ("sample", "--recipe", "smoke", "--model", model, "--count", "3", "--attacks")
    status, page, err = run(*options)
    assert status == 0, err
    assert page.count("\n  answer ") == 3
    assert page.count("\n    answer ") == 12
    for line in run(*options, "--json")[1].splitlines():
        sample = json.loads(line)
        for shown in (sample, *sample["attacks"].values()):
            assert shown["answer"]["behaviour"] in ("comply", "refuse", "neither")
            assert f"{shown['answer']['behaviour']:8}{shown['answer']['text']}" in page
    status, _, err = run("sample", "--recipe", "paper", "--model", model)
    assert status == 2
    assert "give the --recipe that made it" in err


@pytest.mark.parametrize("fault", ["truncated", "not safetensors", "another shape", "missing"])
def test_a_bad_checkpoint_is_a_sentence_and_status_2(inline: Path, run: Command, tmp_path: Path, fault: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(deltaw.load(inline).model("ssft-medium"), model)
    weights = model / "model.safetensors"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-200])
    elif fault == "not safetensors":
        weights.write_bytes(np.random.default_rng(0).bytes(2000))
    elif fault == "missing":
        weights.unlink()
    else:
        meta = json.loads((model / "meta.json").read_text())
        meta["config"]["width"] = 64
        (model / "meta.json").write_text(json.dumps(meta))
    status, _, err = run("sample", "--model", str(model))
    assert status == 2
    assert err.startswith("deltaw: ")
    assert len(err.strip().splitlines()) == 1
    assert str(model) in err


@pytest.mark.usefixtures("without_drawing")
def test_interventions_are_measured_and_the_exhaustive_sweep_makes_a_run_of_its_own(
    inline: Path, tmp_path: Path
) -> None:
    lines = deltaw.load(inline).measurements
    swept = lines[lines["stage"] == "intervention"]
    assert set(swept["model"]) == {"ssft-medium", "ssft-small", "other-ssft-medium"}
    assert {"interpolation", "null+rest", "truncated", "layers", "swap/dpo-medium", "restore", "add_direction"} <= set(
        swept["intervention"].dropna()
    )
    copy = tmp_path / "copy"
    shutil.copytree(inline, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}
    few = Sweep(prompts=4, few=2, draws=2, interventions=(Interpolation(alphas=(1.5,), scopes=()), LayerSwaps()))
    report = run_interventions(copy, few, engine="inline")
    assert report == copy / "interventions" / "report.html"
    assert all(path.read_bytes() == held for path, held in before.items()), "the study itself stays as it was"
    found = deltaw.load(copy / "interventions")
    assert found.manifest["sweep"]["prompts"] == 4
    assert all((found.path / stage["path"]).is_dir() for stage in found.manifest["stages"])
    new = found.measurements[found.measurements["stage"] == "intervention"]
    assert set(new["model"]) == {tuned.name for tuned in recipe("smoke").tunings}
    assert set(new["intervention"].dropna()) >= {"interpolation", "swap/dpo-medium", "swap/ssft-medium"}
    assert len(found.measurements) - len(new) == len(lines) - len(swept)
    assert found.model("base").is_dir()


def test_what_is_kept_of_a_study_reads_like_the_study(inline: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    publish(inline, out)
    whole, kept = deltaw.load(inline), deltaw.load(out)
    read = {query.statistic for claim in STATEMENTS for query in (claim.query, claim.against) if query is not None}
    over_layers = whole.measurements["layer"].isna() & whole.measurements["statistic"].isin(read)
    for statistic, rows in whole.measurements[over_layers].groupby("statistic"):
        same = kept.select(statistic)
        same = same[same["layer"].isna()].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, rows.reset_index(drop=True))
    assert len(kept.measurements) < len(whole.measurements) / 2
    pd.testing.assert_frame_equal(kept.claims, whole.claims)
    assert not list(out.rglob("*.safetensors"))
    told = [line for line in (out / "claims.md").read_text().splitlines() if line.startswith("| `")]
    assert len(told) >= sum(map(len, whole.claims["answers"]))
    records = json.loads((out / "published.json").read_text())
    assert {one["model"] for one in records} == {"base", "gaussian", "rows", *(t.name for t in recipe("smoke").tunings)}
    spaces = [(one["described"], one["chance"]) for one in records if one["model"] == "gaussian"]
    assert all(abs(described - chance) < 0.02 for described, chance in spaces), "noise is at chance"
    gains = {one["model"]: one["row_space"] for one in records}
    assert gains["rows"] == pytest.approx(gains["ssft-medium"]), "a gain does not see which neurons an update moves"
    assert len({str(one["shipped_row_space"]) for one in records if one["model"] in ("ssft-medium", *UPDATES)}) == 1
    hit = next(one["tau_attacked"] for one in records if one["model"] == "ssft-medium")
    assert set(hit) == {"allowed", "forbidden", *(attack.name for attack in ON_PROMPTS)}
    page = (out / "published.md").read_text()
    assert page.count("| `ssft-medium` |") == 3
    with gzip.open(out / "measurements.jsonl.gz", "ab") as file:
        file.write(b"{}\n")
    with pytest.raises(DeltawError, match=r"measurements.jsonl.gz"):
        deltaw.load(out)
    (out / "measurements.jsonl.gz").write_bytes(b"no such thing")
    with pytest.raises(DeltawError, match="is damaged"):
        deltaw.load(out)


def test_a_run_that_cannot_be_swept_is_a_sentence(inline: Path, tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match="no run at"):
        run_interventions(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(inline, copy)
    with pytest.raises(DeltawError, match="other tunings"):
        run_interventions(copy, chosen=replace(recipe("smoke"), tunings=recipe("smoke").tunings[:1]))
    shutil.rmtree(next(copy.glob("artifacts/tune-dpo-medium-*")))
    with pytest.raises(DeltawError, match="no models of tune-dpo-medium-s0"):
        run_interventions(copy)
    made = manifest(copy)
    (copy / "manifest.json").write_text(json.dumps({**made, "recipe": "mine"}))
    with pytest.raises(DeltawError, match="'mine', which is none of quick"):
        run_interventions(copy)
