"""`deltaw report`: the report of a run or a comparison, written again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deltaw.cli.console import say


@dataclass(frozen=True)
class Report:
    """Write report.html and figures/*.svg of a finished run or comparison again."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run", metavar="DIR")] = Path("runs/quick")
    """Directory of the finished run or comparison."""

    def run(self) -> int:
        """Write the report; prints where it is."""
        from deltaw.report import write_report

        say(f"Report: {write_report(self.run_dir)}")
        return 0

    def resume_hint(self) -> str:
        """An interrupted report starts again."""
        return ""
