"""`make gpu-check` without a GPU: it runs, loses nothing to a failing section, and times what `paper` does."""

import json
import os
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deltaw.recipes.paper import paper
from deltaw.study.dry_run.plan import Pace, make_plan
from deltaw.world import published_world

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
ONLY_TORCH_AND_NUMPY = """
import importlib.util, runpy, sys
absent = {"pandas", "safetensors", "scipy", "transformers", "tyro", "distributed", "dask", "altair", "rich", "jinja2"}
absent.add("cryptography")
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in absent else real(name, *rest)
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="gpu_check")


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run((sys.executable, *arguments), capture_output=True, text=True, env=environment, check=False)


def test_it_runs_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    """Every section gives numbers, on the screen and in the file."""
    done = call("-c", ONLY_TORCH_AND_NUMPY, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
    sections = {"environment", "sampling", "equality", "speed", "at_once", "scaled", "estimate"}
    sections |= {"matrices", "generation"}
    assert found.keys() == sections | {"seconds"}
    assert not any("error" in found[name] for name in sections)
    assert found["equality"]["two_runs_bit_identical"]
    assert found["equality"]["recorded_equals_plain"]
    assert found["equality"]["logits_float32"] == found["equality"]["updates_float32"] == 0.0
    assert all(found["equality"]["within_tolerance"].values())
    assert found["estimate"]["whole_minutes"] > 0
    assert "share of large product" in done.stdout
    assert found["matrices"] == {"left_out": "scipy is not installed"}
    assert found["generation"] == {"left_out": "transformers is not installed"}


def test_a_pair_of_checkpoints_is_timed_where_its_libraries_are(script: dict[str, Any]) -> None:
    """On the CPU, the device's numbers are the CPU's."""
    check = script["Check"]("cpu", True)
    found = script["matrices"](check, 10)
    assert found["difference_to_cpu"] == 0
    assert found["model_minutes"] > 0
    assert found["layer_seconds"] >= 4 * found["seconds"]["square"]
    pytest.importorskip("transformers")
    answered = script["generation"](check, 10)
    assert answered["tokens_per_second"] > 0


def test_it_times_the_shapes_of_llama_2_7b(script: dict[str, Any]) -> None:
    """Parameters of the whole model, by its published configuration."""
    layers, width, hidden = (script[name] for name in ("LAYERS", "WIDTH", "HIDDEN"))
    of_layer = 4 * width * width + 3 * width * hidden + 2 * width
    assert layers * of_layer + 2 * 32_000 * width + width == 6_738_415_616


def test_without_a_card_it_says_so(tmp_path: Path) -> None:
    """One sentence, status 2, no file."""
    done = call(str(SCRIPT), "--out", str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_check: no CUDA device was found")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_a_failing_section_is_one_line(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others go on, and what depends on it is left out."""

    def broken(check: Any, budget: float) -> dict[str, Any]:
        raise RuntimeError("out of\nmemory")

    run, check = script["run"], script["Check"]("cpu", True)
    run.__globals__["SECTIONS"] = ((broken, 10), (script["environment"], 10))
    found = run(check, tmp_path)
    assert found["broken"] == {"error": "RuntimeError: out of memory"}
    assert found["environment"]["device"] == "cpu"
    assert "estimate" not in found
    assert json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))["broken"] == found["broken"]
    assert "RuntimeError: out of memory" in capsys.readouterr().out


def test_it_times_the_recipe_paper(script: dict[str, Any]) -> None:
    """Its configurations and amounts of work, which it cannot import, are the recipe's."""
    whole = paper()
    assert whole.world == published_world()
    dtype = whole.pretraining.compute_dtype
    assert script["pretraining"]("cpu", dtype) == whole.pretraining
    by_name = {tuned.config.protocol.name: tuned.config for tuned in whole.tunings if tuned.strength == "medium"}
    for name in ("ssft", "unlearn"):
        assert replace(by_name[name], control=None) == script["tuning"](name, "cpu", dtype)
    dpo = next(tuned.config for tuned in whole.tunings if tuned.name == "dpo-medium")
    assert dpo == script["tuning"]("dpo", "cpu", dtype)
    nothing: dict[str, float] = defaultdict(float)
    plan = make_plan(whole, Pace(nothing, 0.0, 0.0, 0.0, nothing), 1)
    works = [stage.work for stage in plan.stages if stage.work]
    updates = Counter[str]()
    for work in works:
        if work.protocol and not work.kind.startswith("attacks"):
            updates[work.protocol] += work.updates
    assert updates == {"pretrain": script["STEPS"], **script["UPDATES"]}
    assert sum(work.references for work in works) == script["REFERENCES"]
    assert sum(work.decoded for work in works) == script["DECODED"]
