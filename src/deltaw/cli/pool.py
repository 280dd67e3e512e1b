"""`deltaw pool`: several runs of one recipe as one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deltaw.cli.console import last_part, say, summary


@dataclass(frozen=True)
class Pool:
    """Pool finished runs of one recipe, decide the claims over all their seeds, and write a report.

    An unclear answer shows how many seeds would decide it. To add seeds, run the recipe with another --seed, on a
    device with the same number format, then pool again. replication.md lists each run's answers beside the pooled
    ones.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Directories of the runs, or of their results as kept in docs/results. They are only read."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output directory. Default: runs/FIRST-pooled-N, where N is the number of runs."""

    def run(self) -> int:
        """Pool; prints what the models do, and where the answers of each run and the report are."""
        from deltaw.study.pool import REPLICATION, pool

        first = last_part(str(self.runs[0])) if self.runs else ""
        out = self.out or Path("runs") / f"{first}-pooled-{len(self.runs)}"
        report = pool(self.runs, out)
        say(summary(out))
        say(f"Run by run: {report.with_name(REPLICATION)}")
        say(f"Report: {report}")
        return 0

    def resume_hint(self) -> str:
        """An interrupted pooling starts again."""
        return ""
