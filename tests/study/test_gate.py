"""A base model that has not learned the task: it is kept, nothing is made of it, and the study says what is short."""

from pathlib import Path

import pytest
import toy_stages

from deltaw.errors import DeltawError
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage
from deltaw.recipes import recipe
from deltaw.results.recorder import Sheet
from deltaw.results.records import MEASUREMENTS
from deltaw.study.graph import stages
from deltaw.study.stages.pretrain import BaseGate


def too_short(artifact: Path) -> str | None:
    return f"{(artifact / 'draws.txt').name} is too short"


def graph(gate: bool) -> list[Stage]:
    return [
        Stage("first", toy_stages.source, {"value": 3}, gate=too_short if gate else None),
        Stage("after", toy_stages.join, inputs={"first": "first"}),
        Stage("beside", toy_stages.source, {"value": 4}),
    ]


@pytest.mark.parametrize("engine", ["inline", "dask"])
def test_what_falls_short_is_kept_and_nothing_is_made_of_it(tmp_path: Path, engine: str) -> None:
    for _ in range(2):  # made, and reused
        with pytest.raises(DeltawError, match=r"^first: draws\.txt is too short$"):
            execute(graph(True), tmp_path, engine, workers=1)
        assert sorted(p.name.rpartition("-")[0] for p in (tmp_path / "artifacts").iterdir()) == ["beside", "first"]
    records = execute(graph(False), tmp_path, engine, workers=1)
    assert [record.reused for record in records] == [True, False, True], "a gate is no part of what makes an artifact"


def test_a_base_model_must_pass_in_every_stratum_and_grammar(tmp_path: Path) -> None:
    sheet = Sheet(stage="pretrain", model="base", seed=0, unit="share")
    for step, low in ((0, 0.0), (100, 0.985)):
        for name, rate in (("pretrain/alias", 1.0), ("pretrain/alias/grammar-3", low), ("pretrain/one_identity", 0.99)):
            sheet.add("comply_rate", rate, set=name, step=step)
            sheet.add("refuse_rate", 0.0, set=name, step=step)
    sheet.write(tmp_path)
    assert (tmp_path / MEASUREMENTS).exists()
    message = BaseGate(0.99)(tmp_path)
    assert message is not None
    assert "pretrain/alias/grammar-3 0.9850 of 1 sets below 0.99." in message
    assert str(tmp_path) in message
    assert "--below-gate" in message
    assert BaseGate(0.98)(tmp_path) is None


def test_only_the_base_model_of_a_recipe_with_a_gate_has_one() -> None:
    gated = {stage.name for stage in stages(recipe("paper-laptop")) if stage.gate is not None}
    assert gated == {"base-s0"}
    assert not any(stage.gate for stage in stages(recipe("quick")))
