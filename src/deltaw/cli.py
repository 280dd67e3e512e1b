"""The command line: `deltaw study`, `deltaw sample`, `deltaw report`. A user's mistake is one sentence, status 2."""

import os

# Before numpy or torch load: one thread a process, so that every engine and machine computes the same bits.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Literal  # noqa: E402

import tyro  # noqa: E402

from deltaw.errors import DeltawError  # noqa: E402


@dataclass(frozen=True)
class Study:
    """Run a whole study, from nothing to a report.

    Makes the world, pre-trains a base model in it, safety-tunes it by three protocols at two strengths and trains the
    controls, attacks the results, analyses ΔW with null models, and writes report.html. A study that was stopped
    goes on from its last finished stage when the same command is given again.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick"
    """What to run: quick (minutes on two cores, explores) or smoke (seconds, only tests the machinery)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go. Default: runs/RECIPE, with -sSEED added for a seed other than 0."""
    seed: int = 0
    """The seed of world sampling, initialisation and order."""
    engine: Literal["dask", "inline"] = "dask"
    """dask: a local cluster, one process a core. inline: everything in this process. The results are the same."""
    workers: int | None = None
    """How many processes the local cluster has. Default: one a core."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of a running Dask scheduler, such as tcp://host:8786, whose workers share the output directory."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Where models are trained: cpu, or cuda."""

    def run(self) -> int:
        """Run the study; prints where its report is."""
        from deltaw.study.progress import choose_listener
        from deltaw.study.recipes import recipe
        from deltaw.study.run import run_study

        chosen = recipe(self.recipe, _checked_device(self.device), self.seed)
        name = self.recipe if self.seed == 0 else f"{self.recipe}-s{self.seed}"
        out = self.out or Path("runs") / name
        report = run_study(
            chosen,
            out,
            engine=self.engine,
            workers=self.workers,
            scheduler=self.scheduler,
            listener=choose_listener(),
        )
        _say(_summary(out))
        _say(f"Report: {report}")
        return 0


@dataclass(frozen=True)
class Sample:
    """Show prompts of the synthetic world, and what the policy says of them.

    One prompt a line: operators, text, then the expected response. With --attack, the attacked version of each.
    """

    set: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tune"
    """A set or mixture of prompts, such as tune, pretrain, allowed/conditional/safe, forbidden/never/unsafe."""
    count: int = 8
    """How many prompts."""
    attack: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """co_task, co_text, misgen_token or misgen_text."""
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
        prompts = world.sample(self.set, range(self.count), self.split, self.seed)
        if self.attack:
            prompts = attacked(world, self.attack, prompts, self.split, self.seed)
        answers = world.layout.response_tokens(prompts, world.layout.expected(prompts))
        allowed, branch = world.layout.allowed(prompts), prompts.branch
        for row, spelled in enumerate(world.layout.spell(prompts)):
            verdict = "allowed  " if allowed[row] else "forbidden"
            name = ("safe", "unsafe", "mixed")[int(branch[row])]
            _say(f"{spelled}  {name:6} {verdict} > {world.vocabulary.spell(answers[row])}")
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
    command = tyro.cli(Command, prog="deltaw", description=DESCRIPTION, config=(tyro.conf.FlagConversionOff,))
    try:
        sys.exit(command.run())
    except DeltawError as error:
        print(f"deltaw: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("deltaw: stopped; the same command goes on from the last finished stage", file=sys.stderr)  # noqa: T201
        sys.exit(130)


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
    """The study's outcome in a few lines: the ceiling, then how many claims hold."""
    import deltaw

    results = deltaw.load(out)
    ceiling = results.select("bayes_accuracy")["value"].min()
    verdicts = results.claims["verdict"].value_counts().to_dict()
    kind = "exploratory verdicts" if results.manifest["exploratory"] else "verdicts"
    listed = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return f"Bayes ceiling on conditional operators: {ceiling:.4f}. {len(results.claims)} claims, {kind}: {listed}."
