"""docs/plugins.md: every example is a plug-in, and every flag and base class in its table exists."""

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from deltaw import cli
from deltaw.behaviour.judge import Judge, Verdict
from deltaw.models.architectures import Architecture
from deltaw.plugins import KINDS, read, resolve
from deltaw.protocols import Protocol, TuningBatch
from deltaw.training.controls import Control, Reply
from deltaw.training.controls.control import responses_taught
from deltaw.training.finetuning import TuningConfig, tuning_pairs
from deltaw.training.pretraining import PretrainingConfig, new_model
from deltaw.world import Response, World

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.fixture
def examples(tmp_path: Path) -> Iterator[dict[str, object]]:
    """The page's plug-ins, each from a file, by kind."""
    before = list(sys.path)
    made = {}
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        file = tmp_path / f"page_example_{number}.py"
        file.write_text(code, encoding="utf-8")
        (told,) = read(file, file.stem, "the page")
        made[told.kind] = resolve(told.kind, f"{file}:{told.attribute}")
    yield made
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("page_example_")]:
        del sys.modules[name]


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
