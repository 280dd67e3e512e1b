"""docs/plugins.md: every example is a plug-in, and every flag and base class in its table exists."""

import importlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from deltaw import cli
from deltaw.attacks.models import Cost, ModelAttack
from deltaw.attacks.models.attack import cost_of
from deltaw.attacks.prompts import PromptAttack, attacked
from deltaw.behaviour.judge import Judge, Verdict
from deltaw.charts.tables import Tables
from deltaw.interventions import Intervention, Subject, Sweep, measure_interventions
from deltaw.models.architectures import Architecture
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, observe
from deltaw.plugins import KINDS, read, resolve
from deltaw.protocols import Protocol, TuningBatch
from deltaw.recipes.sizes import Sizes
from deltaw.results import Measurement, load, write_claims, write_measurements
from deltaw.results.recorder import Sheet
from deltaw.study.stages.intervene import asked
from deltaw.study.stages.lens import SyntheticModel, synthetic_side
from deltaw.training.controls import Control, Reply
from deltaw.training.controls.control import responses_taught
from deltaw.training.finetuning import TuningConfig, tuning_pairs
from deltaw.training.pretraining import PretrainingConfig, new_model
from deltaw.world import Response, World

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.fixture
def examples(tmp_path: Path, path_as_before: None) -> dict[str, object]:
    """The page's plug-ins, each from a file, by kind."""
    made = {}
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        file = tmp_path / f"page_example_{number}.py"
        file.write_text(code, encoding="utf-8")
        (told,) = read(file, file.stem, "the page")
        made[told.kind] = resolve(told.kind, f"{file}:{told.attribute}")
    return made


def test_the_examples_work(examples: dict[str, object]) -> None:
    world = World()
    protocol, control, judge, architecture = (
        examples[kind] for kind in ("protocol", "control", "judge", "architecture")
    )
    assert isinstance(protocol, Protocol)
    assert isinstance(control, Control)
    assert isinstance(judge, Judge)
    assert isinstance(architecture, Architecture)
    model = new_model(world, PretrainingConfig(layers=1, heads=2, width=16, batch=16, compute_dtype="float32"), 0)
    pair = tuning_pairs(world, range(8), TuningConfig(control=control, protocol=protocol, batch=8), 0)
    assert torch.isfinite(protocol.loss(model, TuningBatch(pair)).value)
    taught = responses_taught(control, world, world.sample("tune", range(8), "train"), 0)
    assert (taught == np.where(np.arange(8) % 2 == 0, control.instead, Response.COMPLY)).all()
    assert control.on_request(True, 0.2) == Reply.SMALL_TALK
    assert judge.verdict("", "Sorry, no.") == Verdict.REFUSE
    assert architecture.layers_of(["net.blocks.3.ffn.gate.weight"]) == {3}


def test_the_examples_of_attacks_and_measurements_work(examples: dict[str, object]) -> None:
    on_prompts, on_models, observation, intervention = (
        examples[kind] for kind in ("prompt-attack", "model-attack", "observation", "intervention")
    )
    assert isinstance(on_prompts, PromptAttack)
    assert isinstance(on_models, ModelAttack)
    assert isinstance(observation, Observation)
    assert isinstance(intervention, Intervention)
    assert examples.keys() == KINDS.keys()
    world = World()
    prompts = world.sample("forbidden/conditional/unsafe", range(4))
    assert (attacked(world, on_prompts, prompts).operators == prompts.operators[..., ::-1]).all()
    assert on_prompts.on_request("Explain.").text == "Please. Explain."
    assert cost_of(on_models, 8) == Cost(answered=8)
    models = [
        SyntheticModel(new_model(world, PretrainingConfig(layers=2, heads=2, width=16, batch=16), seed), world)
        for seed in (0, 1)
    ]
    base = models[0].model
    side = synthetic_side(base, world, Sizes(contrast=8, attacked=4, draws=4, bootstrap=4), 0, (on_prompts,))
    lens, sheet = Lens(side, models[1]), Sheet(stage="analysis", model="tuned", seed=0)
    observe(observation, lens, sheet)
    assert [(line.statistic, line.layer) for line in sheet.lines] == [("update_norm", 0), ("update_norm", 1)]
    assert all(line.value > 0 for line in sheet.lines)
    size = Sweep(prompts=4, few=2, draws=2, interventions=(intervention,))
    asked_again = Sheet(stage="interventions", model="tuned", seed=0)
    subject = Subject(lens, asked(world, size, 0), size, asked_again)
    measure_interventions((intervention,), subject)
    assert {line.intervention for line in asked_again.lines} == {"half-way"}
    assert intervention.answered(size, 2, 1) == 8


def test_the_example_figure_draws(examples: dict[str, object], tmp_path: Path) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, "my_figures.py", "exec"), space)
    line = Measurement(
        stage="analysis", model="ssft-medium", protocol="ssft", strength="medium", seed=0, step=8, layer=0,
        statistic="update_norm", value=1.0, unit="norm",
    )  # fmt: skip
    lines = [replace(line, layer=layer, value=1.0 + layer) for layer in (0, 1)]
    write_measurements(tmp_path / "measurements.jsonl", lines)
    write_claims(tmp_path / "claims.json", [])
    (tmp_path / "prompts.jsonl").write_text("")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "recipe": "mine", "seeds": [0], "models": []}))
    (figure,) = space["update_norms"](Tables(load(tmp_path)))
    assert "Length of the update" in figure.draw().file


def test_the_table_is_true() -> None:
    options = {
        get_args(command)[1].name: {field.name.replace("_", "-") for field in fields(get_args(command)[0])}
        for command in get_args(cli.Command)
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    told = {row[0]: row[1:] for row in rows[2:]}
    assert told.keys() <= KINDS.keys()
    for kind, (base, module, _, flags) in told.items():
        assert base.strip("`") == KINDS[kind].base
        linked = re.fullmatch(r"\[`([\w.]+)`\]\(\.\./(src/[\w/]+\.py)\)", module)
        assert linked
        assert hasattr(importlib.import_module(linked[1]), base.strip("`"))
        assert f"class {base.strip('`')}(" in (ROOT / linked[2]).read_text(encoding="utf-8")
        for command, flag in re.findall(r"`([\w-]+) --([\w-]+)`", flags):
            assert flag in options[command]
