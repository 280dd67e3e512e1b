"""`compare --prompts --interventions` on small models: rates, what is left out, resuming, and the page."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from test_prompted import EFFORT, FEW, by_words, pair_of

from deltaw.compare import compare, compare_prompts
from deltaw.errors import PluginError
from deltaw.interventions import (
    Interpolation,
    Intervention,
    LayerCoalitions,
    LayerSwaps,
    MeanDifference,
    Patches,
    RankCut,
    Subject,
    SubspaceParts,
    SweepSize,
)
from deltaw.report import write_report
from deltaw.results import read_measurements
from deltaw.results.records import read_json

pytest.importorskip("transformers")
SMALL = replace(EFFORT, intervened=4, intervention_draws=2, answers=400)
MADE: tuple[Intervention, ...] = (
    Interpolation(alphas=(0.0, 1.0, 2.0), scopes=()),
    SubspaceParts(),
    RankCut(ranks=(1,), removed=(1,)),
    LayerSwaps(),
    Patches(ks=(0,), everywhere=False),
    MeanDifference(),
)


@dataclass(frozen=True)
class Failing(Intervention):
    """Fails."""

    name = "failing"
    label = "failing"

    def measure(self, subject: Subject) -> None:
        """Fail."""
        raise RuntimeError("no such place")

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """None."""
        return 0


def test_interventions_run_on_two_checkpoints_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = pair_of(tmp_path)
    out = tmp_path / "out"
    compare(base, tuned, out)
    with pytest.raises(PluginError, match="the intervention failing raised RuntimeError: no such place; mend "):
        compare_prompts(base, tuned, out, FEW, by_words, SMALL, observations=(), interventions=(MADE[0], Failing()))
    said: list[str] = []
    compare_prompts(
        base,
        tuned,
        out,
        FEW,
        by_words,
        SMALL,
        say=said.append,
        observations=(),
        interventions=(*MADE, LayerCoalitions()),
    )
    assert not any("along ΔW" in text for text in said), "what was finished is in the journal"
    lines = [line for line in read_measurements(out / "measurements.jsonl") if line.stage == "intervention"]
    assert {"interpolation", "null", "truncated", "ablate_direction", "unpatched"} <= {x.intervention for x in lines}
    assert {line.set for line in lines if line.statistic == "refuse_rate"} == {"operand/allowed", "operand/forbidden"}
    rates = {
        (line.dose, line.statistic): line.value
        for line in lines
        if line.intervention == "interpolation" and line.set == "operand/forbidden"
    }
    own = [x for x in lines if x.intervention == "null+column+rest" and x.set == "operand/forbidden"]
    assert {x.value for x in own if x.statistic == "refuse_rate"} == {rates[1.0, "refuse_rate"]}
    assert {x.value for x in own if x.statistic == "as_tuned_rate"} == {1.0}
    manifest = read_json(out / "manifest.json")["prompts"]
    assert [made["name"] for made in manifest["interventions"]][-1] == "layers"
    assert "no other tuning" in manifest["absent"]["intervention: swaps"]
    bounded = replace(SMALL, answers=20)
    compare_prompts(base, tuned, out, FEW, by_words, bounded, observations=(), interventions=MADE[:1])
    manifest = read_json(out / "manifest.json")["prompts"]
    assert "answers, and the effort allows 20" in manifest["absent"]["intervention: along ΔW"]
    compare_prompts(base, tuned, out, FEW, by_words, SMALL, observations=(), interventions=MADE)
    page = write_report(out).read_text(encoding="utf-8")
    assert "capability of the whole model along its update" in page
