"""`deltaw interventions`: every intervention on the models of a finished run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deltaw.cli.console import say


@dataclass(frozen=True)
class Interventions:
    """Run every intervention on the models of a finished study, and measure what the edited models do.

    Weight updates are scaled, split into null-space and column-space parts, cut to a lower rank, and applied to some
    layers only. Activations are patched, ablated and steered. Takes about 40 minutes on two cores for a run of quick.
    Results and a report go to RUN/interventions. After an interruption, give the same command again to continue.
    """

    run_dir: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")] = Path("runs/quick")
    """Directory of the finished run."""
    workers: int = 0
    """Number of processes of the local cluster. 0: one a core."""

    def run(self) -> int:
        """Run the interventions; prints where the report is."""
        from deltaw.pipeline.progress import choose_listener
        from deltaw.study.all_interventions import run_interventions

        report = run_interventions(self.run_dir, workers=self.workers or None, listener=choose_listener())
        say(f"Report: {report}")
        return 0

    def resume_hint(self) -> str:
        """Finished stages are kept."""
        return "the same command goes on from where it was"
