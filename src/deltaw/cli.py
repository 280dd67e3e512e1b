"""The command line: `deltaw study`, `deltaw sample`, `deltaw report`. A user's mistake is one sentence, status 2."""

import os

# Before numpy loads: its linear algebra on one thread, so that it computes the same bits on any machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deltaw.errors import DeltawError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deltaw.study.recipes import Recipe
    from deltaw.world import Prompts, World


@dataclass(frozen=True)
class Study:
    """Run a whole study, from nothing to a report.

    Makes the world, pre-trains a base model in it, safety-tunes it by three protocols at two strengths and trains the
    controls, attacks the results, analyses ΔW with null models, and writes report.html. A study that was stopped
    goes on from its last finished stage when the same command is given again.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick"
    """What to run: quick (minutes on two cores, explores), smoke (seconds, only tests the machinery), grid (attacks on
    prompts in worlds that differ in one thing each: minutes), paper (the published model and optimisation: days on a
    laptop) or paper-compat (its objectives and weight decay too)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go. Default: runs/RECIPE, with -sSEED added for a seed other than 0."""
    seed: int = 0
    """The seed of world sampling, initialisation and order."""
    engine: Literal["dask", "inline"] = "dask"
    """dask: a local cluster, one process a core. inline: everything in this process. The results are the same."""
    workers: int = 0
    """How many processes the local cluster has. 0: one a core."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of a running Dask scheduler, such as tcp://host:8786, whose workers share the output directory."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Where models are trained: cpu, or cuda."""
    dry_run: bool = False
    """Run nothing and write nothing: show configuration, stages, tokens, FLOPs, memory, and time from a few steps."""
    json: bool = False
    """With --dry-run: one JSON object in place of tables."""

    def run(self) -> int:
        """Run the study; prints where its report is."""
        from deltaw.study.progress import choose_listener
        from deltaw.study.recipes import recipe
        from deltaw.study.run import run_study

        chosen = recipe(self.recipe, _checked_device(self.device), self.seed)
        if self.json and not self.dry_run:
            raise DeltawError("--json goes with --dry-run; a run's results are in its measurements.jsonl")
        if self.dry_run:
            return self._dry_run(chosen)
        name = self.recipe if self.seed == 0 else f"{self.recipe}-s{self.seed}"
        out = self.out or Path("runs") / name
        report = run_study(
            chosen,
            out,
            engine=self.engine,
            workers=self.workers or None,
            scheduler=self.scheduler,
            listener=choose_listener(),
        )
        _say(_summary(out))
        _say(f"Report: {report}")
        return 0

    def _dry_run(self, chosen: "Recipe") -> int:
        import json

        from deltaw.study.cluster import available_cores
        from deltaw.study.pacing import measure
        from deltaw.study.plan import make_plan
        from deltaw.study.planpage import show, to_json

        if self.workers < 0:
            raise DeltawError(f"workers is {self.workers}; give at least 1, or 0 for one a core")
        plan = make_plan(chosen, measure(chosen, self.seed), self.workers or available_cores(), self.engine)
        if self.json:
            _say(json.dumps(to_json(plan), indent=2))
        else:
            show(plan)
        return 0


@dataclass(frozen=True)
class Sample:
    """Show prompts of the synthetic world, what the policy says of them, and what a model answers.

    One prompt a line: operators, text, the text's branch, the verdict, then the expected response. With --attack, the
    attacked version of each; with --model, a second line with the model's own greedy answer.
    """

    set: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tune"
    """A set or mixture of prompts, such as tune, pretrain, allowed/conditional/safe, forbidden/never/unsafe."""
    count: int = 8
    """How many prompts."""
    attack: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """co_task, co_text, misgen_token or misgen_text."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A model's directory (one with model.safetensors and meta.json) whose answers are shown."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "test"
    """train, or any other word for held-out prompts."""
    seed: int = 0
    """The seed of the draws."""

    def run(self) -> int:
        """Print the prompts."""
        from deltaw.world import World, attacked

        if self.count < 1:
            raise DeltawError(f"count is {self.count}; give a whole number of at least 1")
        world = World()
        answers = _answers(self.model, world) if self.model else None
        prompts = world.sample(self.set, range(self.count), self.split, self.seed)
        if self.attack:
            prompts = attacked(world, self.attack, prompts, self.split, self.seed)
        expected = world.layout.response_tokens(prompts, world.layout.expected(prompts))
        allowed, branch = world.layout.allowed(prompts), prompts.branch
        given = answers(prompts) if answers else []
        for row, spelled in enumerate(world.layout.spell(prompts)):
            verdict = "allowed  " if allowed[row] else "forbidden"
            name = ("safe", "unsafe", "mixed")[int(branch[row])]
            head = f"{spelled}  {name:6} {verdict}"
            _say(f"{head} > {world.vocabulary.spell(expected[row])}")
            if given:
                _say(f"{'answers':>{len(head)}} > {given[row]}")
        return 0


@dataclass(frozen=True)
class Report:
    """Write report.html and figures/*.svg of a finished run again."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")] = Path("runs/quick")
    """The directory of a finished run."""

    def run(self) -> int:
        """Write the report; prints where it is."""
        from deltaw.report import write_report

        _say(f"Report: {write_report(self.run_dir)}")
        return 0


Command = (
    Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)

DESCRIPTION = "deltaw: how does safety fine-tuning change a language model, and how do jailbreaks get past the change?"


def main() -> None:
    """Entry point. Exit status 0, or 2 after a user's mistake, or 130 after an interruption."""
    command = tyro.cli(Command, prog="deltaw", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
    try:
        sys.exit(command.run())
    except DeltawError as error:
        print(f"deltaw: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("deltaw: stopped; the same command goes on from the last finished stage", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _answers(directory: Path, world: "World") -> "Callable[[Prompts], list[str]]":
    """What a model answers to prompts of a world, spelled. DeltawError if the model is not one of this world's."""
    from deltaw.model import load
    from deltaw.study.making import answers_to

    model, _ = load(directory)
    if model.config.vocabulary_size != world.vocabulary.size or model.config.context < world.layout.length:
        raise DeltawError(
            f"the model in {directory} has {model.config.vocabulary_size} tokens and a context of "
            f"{model.config.context}; this world needs {world.vocabulary.size} and {world.layout.length}"
        )

    def answer(prompts: "Prompts") -> list[str]:
        _, outputs = answers_to(model, world, prompts)
        return [world.vocabulary.spell(row) for row in outputs.tolist()]

    return answer


def _say(text: str) -> None:
    print(text)  # noqa: T201


def _checked_device(name: str) -> str:
    import torch

    from deltaw.model import choose_precision

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeltawError(f"device is '{name}'; it can be cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise DeltawError(f"device is '{name}'; it can be cpu or cuda")
    choose_precision(device)  # says so if there is no such device
    return name


def _summary(out: Path) -> str:
    """The study's outcome in a few lines: every tuned model beside the Bayes ceiling, then how many claims hold."""
    import deltaw

    results = deltaw.load(out)
    ceiling = results.select("bayes_accuracy")["value"].min()
    redrawn = results.select("redrawn_share")["value"].mean()
    rates = results.select(["comply_rate", "refuse_rate"], stage="behaviour", attack=None)
    lines = [
        f"{redrawn:.2%} of tuning windows were redrawn for an ambiguous branch.",
        "",
        f"{'conditional operators':26} {'complies (safe)':>16} {'refuses (unsafe)':>17} {'Bayes ceiling':>14}",
    ]
    for name in rates["model"].unique():
        own = rates[rates["model"] == name]
        comply = own[(own["statistic"] == "comply_rate") & (own["set"] == "allowed/conditional/safe")]["value"].mean()
        refuse = own[(own["statistic"] == "refuse_rate") & (own["set"] == "forbidden/conditional/unsafe")][
            "value"
        ].mean()
        lines.append(f"{name:26} {comply:16.3f} {refuse:17.3f} {ceiling:14.4f}")
    if results.claims.empty:
        return "\n".join(lines)
    verdicts = results.claims["verdict"].value_counts().to_dict()
    kind = "exploratory verdicts" if results.manifest["exploratory"] else "verdicts"
    listed = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return "\n".join([*lines, "", f"{len(results.claims)} claims, {kind}: {listed}."])


if __name__ == "__main__":
    main()
