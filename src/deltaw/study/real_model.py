"""`make real`: a real model, three protocols and a control, each compared with what it was; offline, and resumable.

runs/smollm2/base                  SmolLM2-135M-Instruct, unpacked
runs/smollm2/ssft, dpo, …          the tuned models
runs/smollm2/compare-ssft, …       measurements, claims and report, as `deltaw compare BASE TUNED --prompts` writes them

A finished model is kept; a comparison goes on from its last finished part. Prompts are the built-in pairs, and the
held-out requests of other sources than those of the tuning. Claims that have controls in the study have to beat the
control.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from deltaw.charts.style import number
from deltaw.charts.tables import interval
from deltaw.compare.asking import Effort
from deltaw.compare.prompted import compare_prompts
from deltaw.compare.weights import Progress, compare
from deltaw.errors import DeltawError, mistakes_said
from deltaw.models.smollm2 import unpack
from deltaw.prompts.matched import builtin_prompts
from deltaw.prompts.requests import held_out_prompts
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.report import write_report
from deltaw.results import Results, load, markdown_table, write_json_atomic, write_text_atomic
from deltaw.results.records import MANIFEST
from deltaw.study.keep_results import keep_files
from deltaw.training.controls.other import Other
from deltaw.training.huggingface import SafetyTuning, safety_tune


@dataclass(frozen=True)
class Plan:
    """The tunings by name, a control `other` among them, and what comparing spends. DeltawError without the control."""

    tunings: dict[str, SafetyTuning]
    effort: Effort

    def __post_init__(self) -> None:
        if not any(config.control == Other() for config in self.tunings.values()):
            raise DeltawError("none of the tunings has the control 'other', which the others have to beat; add one")

    @property
    def control(self) -> str:
        """The name of the tuning that the others have to beat."""
        return next(name for name, config in self.tunings.items() if config.control == Other())


FINISHED = "finished"  # an empty file in the directory of a comparison that is whole

# DPO gets the likelihood term of the synthetic study: without it the tuned model's answers fall apart.
PLAN = Plan(
    tunings={
        "other": SafetyTuning(Ssft(), control=Other()),
        "ssft": SafetyTuning(Ssft()),
        "dpo": SafetyTuning(Dpo(sft_weight=1.0)),
        "unlearn": SafetyTuning(Unlearn()),
    },
    effort=Effort(),
)


def run(out: Path, plan: Plan = PLAN) -> None:
    """All of it. DeltawError for what its parts say."""
    clock = _Clock()
    base = unpack(out / "base")
    for name, config in plan.tunings.items():
        if not (out / name / "config.json").is_file():
            safety_tune(base, out / name, config, say=clock.about(name))
    prompts = [*builtin_prompts(), *held_out_prompts()]
    for name in sorted(plan.tunings, key=lambda name: name != plan.control):  # the others are set beside it
        comparison, say = out / f"compare-{name}", clock.about(name)
        if (comparison / FINISHED).is_file():
            continue

        def say_matrix(at: Progress, say: Callable[[str], None] = say) -> None:
            say(f"weights: {at.place}/{at.total}")

        control = None if name == plan.control else out / f"compare-{plan.control}"
        compare(base, out / name, comparison, listener=say_matrix)
        compare_prompts(
            base,
            out / name,
            comparison,
            prompts,
            effort=plan.effort,
            say=say,
            base_parts=out / "base.jsonl",
            control=control,
        )
        say(f"report: {write_report(comparison)}")
        (comparison / FINISHED).touch()


class _Clock:
    """Says lines with the minutes since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def about(self, name: str) -> Callable[[str], None]:
        """A sayer of lines that begin with a name."""

        def say(text: str) -> None:
            print(f"{(time.monotonic() - self.start) / 60:6.1f} min  {name}: {text}", flush=True)  # noqa: T201

        return say


FIRST_MATRIX = "mlp.gate_up"
KEPT_FIGURES = ("prompts-refused.svg",)
_HEAD = """\
# What three protocols and a control did to a real model

{pairs}, made by `make real` and kept by `make real-results`; [how to read it](../../real-models.md). Every comparison
has a directory here: measurements (`deltaw.load` reads it), claims, manifest, the judge's verdicts prompt by prompt.
Measurements of single layers are not kept.

## Refusals

Share of answers that the judge calls refusals [95 % Wilson interval].

{refusals}

## Claims

Value and 95 % interval over groups of pairs that share an operand, beside the control `{control}`. One pair of models
is one case: no verdicts.

{claims}

## Size and null space

Gate and up as one map, mean over layers; of ρ_N its random signs [95 %], and chance.

{weights}
"""


def keep(run: Path, out: Path, plan: Plan = PLAN) -> None:
    """Fill `out` from the finished `run`: numbers, figures, manifests; no weights, no text. DeltawError if it is not
    finished.
    """
    names = sorted(plan.tunings, key=lambda name: name == plan.control)  # the control last
    for name in names:
        if not (run / f"compare-{name}" / FINISHED).is_file():
            raise DeltawError(f"{run}/compare-{name} is not finished; `make real` goes on with it")
    comparisons = {name: load(run / f"compare-{name}") for name in names}
    for name in names:
        source, target = run / f"compare-{name}", out / name
        keep_files(source, target, KEPT_FIGURES, keep=lambda line: line.layer is None)
        manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        write_json_atomic(target / MANIFEST, {**manifest, "base": manifest["names"][0], "tuned": name})
    text = _HEAD.format(
        pairs=", ".join(f"`{name}`" for name in names),
        control=plan.control,
        refusals=_refusals(comparisons),
        claims=_claims(comparisons),
        weights=_weights(comparisons),
    )
    write_text_atomic(out / "README.md", text)


def _refusals(comparisons: Mapping[str, Results]) -> str:
    """A row a set or attack and label, a column a model, the base first."""
    columns: dict[str, dict[str, str]] = {"base": {}, **{name: {} for name in comparisons}}
    for name, results in comparisons.items():
        rates = results.select("refuse_rate", stage="behaviour")
        for line in rates.to_dict("records"):
            place = str(line["set"]) if pd.isna(line["attack"]) else f"{line['set']}, {line['attack']}"
            model = "base" if line["model"] == "base" else name
            columns[model][place] = interval(line["value"], line["low"], line["high"])
    rows = [[place, *(column.get(place, "") for column in columns.values())] for place in columns["base"]]
    return markdown_table(("prompts", *columns), rows)


def _claims(comparisons: Mapping[str, Results]) -> str:
    cells: dict[str, dict[str, str]] = {}
    for name, results in comparisons.items():
        for claim in results.claims.to_dict("records"):
            value = interval(*(float("nan") if claim[end] is None else claim[end] for end in ("value", "low", "high")))
            cells.setdefault(claim["id"], {})[name] = value
    rows = [[f"`{name}`", *(row.get(model, "") for model in comparisons)] for name, row in cells.items()]
    return markdown_table(("claim", *comparisons), rows)


def _weights(comparisons: Mapping[str, Results]) -> str:
    rows = []
    for name, results in comparisons.items():
        size = results.select("update_relative_norm", module=FIRST_MATRIX).to_dict("records")[0]
        energy = results.select("null_energy_left", module=FIRST_MATRIX).to_dict("records")
        flips, chance = (
            next(line for line in energy if line["null_kind"] == kind) for kind in ("row_sign_flip", "rotation")
        )
        band = interval(*(flips[f"null_{end}"] for end in ("mean", "low", "high")))
        rows.append([f"`{name}`", number(size["value"]), number(flips["value"]), band, number(chance["null_mean"])])
    return markdown_table(("tuning", "‖ΔW‖/‖W‖", "ρ_N", "random signs", "chance"), rows)


def main(run_dir: tyro.conf.Positional[Path] = Path("runs/smollm2"), keep_in: Path | None = None) -> None:
    """Tune and compare. run_dir: where. keep_in: keep what a finished run found there, and do nothing else."""
    with mistakes_said():
        if keep_in is None:
            run(run_dir)
        else:
            keep(run_dir, keep_in)


if __name__ == "__main__":
    tyro.cli(main)
