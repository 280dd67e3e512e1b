"""`deltaw screen`: many LoRA adapters of one base, ranked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deltaw.cli.console import last_part, say

SHOWN = 20


@dataclass(frozen=True)
class Screen:
    """Rank the LoRA adapters in a folder by the spectra of their updates, each beside its chance level.

    Norm, stable rank, how far one direction stands out, and how many layers share the update. No model is loaded.
    Adapters that cannot be read are named with the reason. docs/questions.md says how to read the table.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder that holds the adapters, each in a folder of its own, as PEFT writes them."""
    base: Annotated[str | None, tyro.conf.arg(metavar="BASE")] = None
    """The base model's checkpoint: norms are then given relative to its weights, and names and shapes are checked."""
    by: Literal["top_excess", "norm", "effective_layers", "unusual"] = "top_excess"
    """What to rank by, the largest first. unusual: the distance from the other adapters; it needs eight."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output directory. Default: runs/screen-FOLDER."""

    def run(self) -> int:
        """Screen; prints the first of the ranking, what was not read, and where the report is."""
        from deltaw.compare.screen import COLUMNS, rows_of, screen, write_screen
        from deltaw.results.markdown import markdown_table

        ranking = screen(self.folder, self.base, self.by, say)
        report = write_screen(ranking, self.folder, self.out or Path("runs") / f"screen-{last_part(str(self.folder))}")
        say(markdown_table(COLUMNS, rows_of(ranking, SHOWN)))
        if len(ranking.adapters) > SHOWN:
            say(f"{len(ranking.adapters) - SHOWN} more are in the report.")
        for name, reason in ranking.skipped.items():
            say(f"Not read: {name}, because {reason}")
        say(f"Report: {report}")
        return 0

    def resume_hint(self) -> str:
        """An interrupted screening starts again."""
        return ""
