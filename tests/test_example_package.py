"""examples/plugin: a package with a plug-in of each kind is installed in an environment of its own, and takes part."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deltaw
from deltaw.plugins import KINDS
from deltaw.results import Results

ROOT = Path(__file__).parents[1]
NAMES = {
    "protocol": "margin",
    "control": "letter",
    "judge": "opening",
    "architecture": "gptj",
    "observation": "top-neurons",
    "prompt-attack": "co_twice",
    "model-attack": "best_of_n",
    "intervention": "sparse",
}
STUDY = (
    "study --recipe smoke --engine inline --protocols ssft margin --controls other letter "
    "--attacks co_twice best_of_n co_text soft_prompts --observations clusters top-neurons --interventions alpha sparse"
)
TOLD = """
import json, sys
from deltaw.plugins import resolve
made = {kind: resolve(kind, name) for kind, name in json.loads(sys.argv[1]).items()}
judge, gptj = made["judge"], made["architecture"]
print(json.dumps({
    "components": [{"kind": kind, "name": one.name, "label": one.label, "sentence": one.sentence}
                   for kind, one in made.items()],
    "verdicts": [judge.verdict("How?", answer) for answer in sys.argv[2:]],
    "tensors": sorted(pattern.tensor for pattern in gptj.patterns()),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed package; a build leaves its files beside a copy of the sources."""
    place = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "examples" / "plugin", place / "plugin")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    called("-m", "pip", "install", *options, "--target", str(place / "site"), str(place / "plugin"))
    return place / "site"


@pytest.fixture(scope="module")
def told(installed: Path) -> dict[str, Any]:
    """What the plug-ins say of themselves."""
    answers = ("I’m sorry, but no.", "First, take a sheet of paper. I cannot say more.", "Hm.")
    found: dict[str, Any] = json.loads(called("-c", TOLD, json.dumps(NAMES), *answers, installed=installed))
    return found


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with all that a study can have of the package."""
    out = tmp_path_factory.mktemp("study") / "run"
    called("-m", "deltaw.cli", *STUDY.split(), "--out", str(out), installed=installed)
    return out


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return deltaw.load(run)


def called(*arguments: str, installed: Path | None = None) -> str:
    paths = (ROOT / "src", *(() if installed is None else (installed,)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        (sys.executable, *arguments), capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_are_listed_with_the_name_of_the_package(installed: Path) -> None:
    assert NAMES.keys() == KINDS.keys()
    listed = called("-m", "deltaw.cli", "list", installed=installed)
    mine = re.findall(r"^  (\S+)  .*\n(?: {4,}.*\n)*? +From deltaw-example$", listed, flags=re.MULTILINE)
    assert sorted(mine) == sorted(NAMES.values())
    assert "deltaw-example" not in called("-m", "deltaw.cli", "list")


def test_the_judge_judges(told: dict[str, Any]) -> None:
    assert told["verdicts"] == ["refuse", "comply", "neither"]


def test_the_architecture_names_the_six_matrices_of_a_block(told: dict[str, Any]) -> None:
    parts = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out")
    assert told["tensors"] == sorted(f"h.{{layer}}.{part}.weight" for part in parts)


def test_all_are_measured(results: Results) -> None:
    lines = results.measurements
    assert {"margin-medium", "letter-ssft-medium", "letter-margin-medium"} <= set(lines["model"].dropna())
    assert set(results.select("comply_rate", attack="co_twice")["set"]) == {
        "forbidden/conditional/unsafe",
        "allowed/conditional/safe",
    }
    assert {"best_of_1", "best_of_4"} <= set(lines["attack"].dropna())
    shares = results.select("top_neuron_share", model="letter-margin-medium", null_kind="gaussian")
    assert set(shares["layer"]) == {0, 1}
    assert shares["value"].between(0, 1).all()
    rates = results.select("refuse_rate", intervention="sparse")
    assert set(rates["dose"]) == {0.01, 0.1}
    assert set(rates["model"]) == {"ssft-medium", "margin-medium"}


def test_the_manifest_and_the_report_have_them(run: Path, results: Results, told: dict[str, Any]) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    studied = [one for one in told["components"] if one["kind"] not in ("judge", "architecture")]
    assert len(studied) == 6
    for one in studied:
        assert {**one, "origin": "deltaw-example 0.1.0"} in results.manifest["components"]
        for text in (one["name"], one["label"], one["sentence"]):
            assert f">{text}<" in page
    assert (run / "figures" / "top-neurons.svg").stat().st_size > 2000
    assert 'data-name="top-neurons"' in page
    assert "Share of the update in few neurons" in page
    assert re.search(r"<th scope=\"row\">[^<]*</th><td>sparse</td><td>0.1</td>", page)
