"""`make real`: a real model, three protocols and a control, each compared with what it was; offline, and resumable.

runs/smollm2/base                  SmolLM2-135M-Instruct, unpacked
runs/smollm2/ssft, dpo, …          the tuned models
runs/smollm2/compare-ssft, …       measurements, claims and report, as `deltaw compare BASE TUNED --prompts` writes them

A finished model is kept; a comparison goes on from its last finished part. Prompts are the built-in pairs, and the
held-out requests of other sources than those of the tuning. Claims about the others have to beat the control.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deltaw.errors import DeltawError
from deltaw.pairs.asking import Effort
from deltaw.pairs.compare import Progress, compare
from deltaw.pairs.prompted import compare_prompts
from deltaw.pairs.prompts import builtin_prompts
from deltaw.pairs.requests import held_out_prompts
from deltaw.pairs.smollm2 import unpack
from deltaw.pairs.tuning import SafetyTuning, safety_tune
from deltaw.report import write_report


@dataclass(frozen=True)
class Plan:
    """The tunings by name, a control `other` among them, and what comparing spends."""

    tunings: dict[str, SafetyTuning]
    effort: Effort

    @property
    def control(self) -> str:
        """The name of the tuning that the others have to beat."""
        return next(name for name, config in self.tunings.items() if config.control == "other")


# DPO gets the likelihood term of the synthetic study: without it the tuned model's answers fall apart.
PLAN = Plan(
    tunings={
        "other": SafetyTuning("ssft", control="other"),
        "ssft": SafetyTuning("ssft"),
        "dpo": SafetyTuning("dpo", options={"sft_weight": 1.0}),
        "unlearn": SafetyTuning("unlearn"),
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
        where, say = out / f"compare-{name}", clock.about(name)
        if (where / "finished").is_file():
            continue

        def say_matrix(at: Progress, say: Callable[[str], None] = say) -> None:
            say(f"weights: {at.place}/{at.total}")

        control = None if name == plan.control else out / f"compare-{plan.control}"
        compare(base, out / name, where, listener=say_matrix)
        compare_prompts(
            base, out / name, where, prompts, effort=plan.effort, say=say, base_parts=out / "base.jsonl",
            control=control,
        )  # fmt: skip
        say(f"report: {write_report(where)}")
        (where / "finished").touch()


class _Clock:
    """Says lines with the minutes since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def about(self, name: str) -> Callable[[str], None]:
        """A sayer of lines that begin with a name."""

        def say(text: str) -> None:
            print(f"{(time.monotonic() - self.start) / 60:6.1f} min  {name}: {text}", flush=True)  # noqa: T201

        return say


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/smollm2"))
    except DeltawError as problem:
        print(f"deltaw: {problem}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
