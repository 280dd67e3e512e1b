"""`make real`: a real model, four protocols and two controls in three tunings each, compared in one report; offline,
and resumable.

runs/smollm2/base                SmolLM2-135M-Instruct, unpacked
runs/smollm2/ssft-0, dpo-0, …    the tuned models, with the seed of the tuning
runs/smollm2/compare             what `deltaw compare BASE ssft-0 dpo-0 … --control other-0 … --prompts` writes

A finished model is kept, and the comparison goes on from its last finished part. Prompts are the built-in pairs, and
the held-out requests of other sources than those of the tuning. It describes one small model; it decides nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from deltaw.attacks.prompts import ON_REQUESTS
from deltaw.behaviour.judges.rules import RULES
from deltaw.compare.asking import Effort
from deltaw.compare.model_list import ListedModel, ModelList
from deltaw.compare.several import compare_several
from deltaw.compare.tuned_models import Asking
from deltaw.compare.two_models import Loading
from deltaw.errors import DeltawError, mistakes_said
from deltaw.models import choose_precision
from deltaw.models.smollm2 import unpack
from deltaw.prompts.matched import builtin_prompts
from deltaw.prompts.requests import held_out_prompts
from deltaw.protocols.circuit_breakers import CircuitBreakers
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.report import write_report
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.other import Other
from deltaw.training.huggingface import OwnAnswers, SafetyTuning, safety_tune

COMPARISON = "compare"


def _answer_dtype() -> str | None:
    """bfloat16 where the processor multiplies it; where it does not, answers would take many times as long."""
    return "bfloat16" if choose_precision("cpu").dtype == torch.bfloat16 else None


@dataclass(frozen=True)
class Plan:
    """What is tuned and what comparing spends. DeltawError without a control."""

    tunings: dict[str, SafetyTuning]
    """By name; their seeds are the plan's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the tunings: which requests, in which order, with which refusals."""
    effort: Effort = field(default_factory=lambda: Effort(batch=64))
    loading: Loading = field(default_factory=lambda: Loading(answer_dtype=_answer_dtype()))

    def __post_init__(self) -> None:
        if not self.controls:
            raise DeltawError("none of the tunings is a control, which the others are read beside; add one")

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of the tunings that teach something harmless."""
        return tuple(name for name, config in self.tunings.items() if config.control is not None)

    def models(self) -> dict[str, SafetyTuning]:
        """Every model by name, one seed after the other."""
        return {
            f"{name}-{seed}": replace(config, seed=seed) for seed in self.seeds for name, config in self.tunings.items()
        }


# DPO gets a likelihood term, as in the synthetic study: without it the tuned model's answers fall apart.
PLAN = Plan(
    tunings={
        "ssft": SafetyTuning(Ssft()),
        "dpo": SafetyTuning(Dpo(sft_weight=1.0)),
        "unlearn": SafetyTuning(Unlearn()),
        "circuit-breakers": SafetyTuning(CircuitBreakers()),
        "other": SafetyTuning(Ssft(), control=Other()),
        "constant": SafetyTuning(Ssft(), control=Constant()),
    },
)


def run(out: Path, plan: Plan = PLAN) -> None:
    """All of it. DeltawError for what its parts say."""
    clock, own_answers = _Clock(), OwnAnswers()
    base = unpack(out / "base")
    listed = []
    for name, config in plan.models().items():
        if not (out / name / "config.json").is_file():
            safety_tune(base, out / name, config, say=clock.about(name), own_answers=own_answers)
        listed.append(ListedModel(name, str(out / name), control=config.control is not None))
    prompts = [*builtin_prompts(), *held_out_prompts()]
    options = {"judge": RULES, "effort": plan.effort, "loading": plan.loading, "attacks": list(ON_REQUESTS)}
    say, comparison = clock.about(COMPARISON), out / COMPARISON
    models = ModelList(str(base), tuple(listed))
    compare_several(models, comparison, asking=Asking(prompts, options), say=say, report=write_report)
    say(f"report: {write_report(comparison)}")


class _Clock:
    """Says lines with the minutes since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def about(self, name: str) -> Callable[[str], None]:
        """A sayer of lines that begin with a name."""

        def say(text: str) -> None:
            print(f"{(time.monotonic() - self.start) / 60:6.1f} min  {name}: {text}", flush=True)  # noqa: T201

        return say


def main(run_dir: tyro.conf.Positional[Path] = Path("runs/smollm2")) -> None:
    """Tune and compare. run_dir: where."""
    with mistakes_said():
        run(run_dir)


if __name__ == "__main__":
    tyro.cli(main)
