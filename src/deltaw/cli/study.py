"""`deltaw study`: a whole study, or what it would take."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deltaw.cli.console import checked_device, say, summary
from deltaw.errors import DeltawError

if TYPE_CHECKING:
    from deltaw.recipes.config import Recipe


@dataclass(frozen=True)
class Study:
    """Run a whole study and write its report.

    The study makes a synthetic world and pre-trains a base model in it. It fine-tunes the model to refuse, by three
    protocols at two strengths, and trains controls. Then it attacks the tuned models, analyses the weight updates
    beside null models, and writes report.html. After an interruption, give the same command again to continue.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick"
    """The configuration:
    - quick: one seed, to explore; minutes on two cores
    - standard: the paper's world, eight seeds, to decide; hours a seed
    - small: the world of quick, four seeds and all controls, as a second world; hours
    - smoke: seconds; tests the code, and its numbers mean nothing
    - grid: attacks on prompts in worlds that differ in one thing each
    - paper-laptop: one seed of the paper's world and model, with faster training and every attack
    - paper: the paper's world, model and optimisation; weeks on a laptop
    - paper-shared: like paper, but unsafe text has no level-5 rules of its own
    - paper-compat: like paper, with the published code's data, objectives and weight decay"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output directory. Default: runs/RECIPE, with -sSEED added for a seed other than 0."""
    seed: int = 0
    """Random seed of the world's samples, of initialisation and of the training order.
    standard has 221 to 228: give one of them to run it alone (`deltaw pool` takes them together), or 0 for all.
    small has four: 201 to 204 for seed 0, the next four for seed 1, and so on."""
    protocols: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Protocols to fine-tune with, in place of the recipe's: names from `deltaw list`, or FILE.py:NAME."""
    controls: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Controls to train of each protocol, in place of the recipe's: names from `deltaw list`, or FILE.py:NAME."""
    observations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Observations to make of the fine-tuned models, in place of the recipe's: names from `deltaw list`, or
    FILE.py:NAME. Those that the recipe does not have are made in stages of their own."""
    attacks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Attacks on prompts and on models, in place of all of the recipe's: names from `deltaw list`, or FILE.py:NAME.
    To add an attack, list the recipe's too. One that the recipe has stays as the recipe configures it."""
    interventions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Interventions on the models fine-tuned at the medium rate, in place of the recipe's: names from `deltaw list`, or
    FILE.py:NAME."""
    engine: Literal["dask", "inline"] = "dask"
    """Where stages run. The results are the same:
    - dask: in a local cluster, one process a core (needs the extra deltaw[study])
    - inline: in this process, one after the other"""
    workers: int = 0
    """Number of processes of the local cluster. 0: one a core, or on a GPU as many as fit in its memory."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of a running Dask scheduler, such as tcp://host:8786, whose workers share the output directory."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Device that models run on: cpu or cuda."""
    below_gate: bool = False
    """Continue with a base model whose accuracy is below what the recipe asks for.
    Without this flag the study stops there and keeps the model."""
    dry_run: bool = False
    """Run nothing and write nothing. Print the configuration, stages, tokens, FLOPs, memory and estimated time."""
    json: bool = False
    """With --dry-run: print one JSON object instead of tables."""

    def run(self) -> int:
        """Run the study; prints where its report is."""
        from deltaw.pipeline.progress import choose_listener
        from deltaw.recipes import recipe
        from deltaw.study.run import run_study

        chosen = recipe(self.recipe, checked_device(self.device), self.seed)
        chosen = self._with_plugins(chosen)
        if self.json and not self.dry_run:
            raise DeltawError("--json goes with --dry-run; a run's results are in its measurements.jsonl")
        if self.dry_run:
            return self._dry_run(chosen)
        name = self.recipe if self.seed == 0 else f"{self.recipe}-s{self.seed}"
        asked = (*self.protocols, *self.controls, *self.attacks, *self.observations, *self.interventions)
        name = "-".join([name, *(part.rpartition(":")[2] for part in asked)])
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
        say(summary(out))
        say(f"Report: {report}")
        return 0

    def _with_plugins(self, recipe: "Recipe") -> "Recipe":
        """The recipe with what the command line names in place of its own."""
        from deltaw.plugins import resolve
        from deltaw.recipes import choose

        for kind, names, replaced in (
            ("protocol", self.protocols, choose.with_protocols),
            ("control", self.controls, choose.with_controls),
            (("prompt-attack", "model-attack"), self.attacks, choose.with_attacks),
            ("observation", self.observations, choose.with_observations),
            ("intervention", self.interventions, choose.with_interventions),
        ):
            if names:
                recipe = replaced(recipe, [resolve(kind, name) for name in names])
        return recipe

    def resume_hint(self) -> str:
        """A study continues; a dry run has nothing to continue."""
        return "" if self.dry_run else "the same command goes on from where it was"

    def _workers(self, chosen: "Recipe") -> int | None:
        """As many as the GPU holds. None leaves it to the engine: one, one a core, or what the scheduler has."""
        if chosen.pretraining.device == "cpu" or self.engine == "inline" or self.scheduler is not None:
            return None
        from deltaw.pipeline.cores import available_cores
        from deltaw.study.gpu_sharing import workers_on

        return workers_on(chosen, available_cores())

    def _dry_run(self, chosen: "Recipe") -> int:
        import json

        from deltaw.pipeline.cores import available_cores
        from deltaw.study.dry_run.page import show, to_json
        from deltaw.study.dry_run.plan import make_plan
        from deltaw.study.dry_run.timing import measure

        if self.workers < 0:
            raise DeltawError(f"workers is {self.workers}; give at least 1, or 0 for one a core")
        workers = self.workers or self._workers(chosen) or available_cores()
        plan = make_plan(chosen, measure(chosen, self.seed), workers, self.engine)
        if self.json:
            say(json.dumps(to_json(plan), indent=2))
        else:
            show(plan)
        return 0
