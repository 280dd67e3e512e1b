"""`deltaw compare BASE TUNED TUNED …`: several tuned models of one base in one report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltaw.cli.console import last_part, say
from deltaw.errors import DeltawError

if TYPE_CHECKING:
    from deltaw.compare.model_list import ModelList

Named = tuple[str, Sequence[str], Sequence[str]]
"""BASE, or a TOML file alone; TUNED ...; what was given as --control."""


def compare_several_models(
    named: Named,
    revision: str | None,
    asking: dict[str, Any] | None,
    out: Path | None,
    patterns: Sequence[str],
    curve: bool,
    device: str,
) -> Path:
    """Compare, write the reports, and print how far it is and a line for every two models; the output directory.

    asking: prompts and further options of `compare_prompts`. out: None for one named after the base or the file.
    """
    from deltaw.compare.several import compare_several
    from deltaw.compare.tuned_models import Asking
    from deltaw.report import write_report

    models, name = _models(named, revision)
    questions = None if asking is None else Asking(asking.pop("prompts"), asking)
    directory = out or Path("runs") / f"compare-{name}"
    compare_several(models, directory, patterns, curve, questions, say, write_report, device)
    for line in summary(directory):
        say(line)
    write_report(directory)
    return directory


def _models(named: Named, revision: str | None) -> "tuple[ModelList, str]":
    """The models, and a name for the output directory."""
    from deltaw.compare.model_list import from_arguments, from_file
    from deltaw.models.hub import at_revision

    base, tuned, controls = named
    file = Path(base)
    if tuned and file.suffix == ".toml" and not file.is_dir():
        raise DeltawError(f"{file} names the models already; give the file alone, or BASE TUNED …")
    if not tuned and file.suffix != ".toml":
        raise DeltawError(f"there is no TUNED beside {file}; give BASE TUNED, or a TOML file of names and paths")
    if tuned:
        models, name = from_arguments(base, tuned, controls), last_part(base)
    else:
        models, name = from_file(file, controls), file.stem
    listed = tuple(replace(x, source=at_revision(x.source, revision)) for x in models.models)
    return replace(models, base=at_revision(models.base, revision), models=listed), name


def summary(out: Path) -> list[str]:
    """A line for every two models: the cosine of their whole updates in standard deviations of chance, and the overlap
    of their strongest directions beside chance.
    """
    from deltaw.charts.style import number
    from deltaw.report.pages.several import Several, over_matrices, whole
    from deltaw.results import load

    several, lines = Several(load(out)), []
    for pair in several.pairs:
        cosine, deviations = (whole(several, pair, f"update_cosine{x}") for x in ("", "_deviations"))
        words = [f"{pair.label} ({pair.group}): "]
        if cosine is not None and deviations is not None:
            words.append(f"cosine {number(cosine['value'])}, {number(deviations['value'])} SDs of chance")
        for side, what in (("output", "write"), ("input", "read")):
            overlap = over_matrices(several, pair, f"{side}_overlap")
            if overlap is not None:
                words.append(f"; {what} overlap {number(overlap['value'])} (chance {number(overlap['null_mean'])})")
        lines.append("".join(words) if len(words) > 1 else f"{words[0]}no matrix was compared; the report says why")
    return lines
