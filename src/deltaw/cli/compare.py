"""`deltaw compare`: two checkpoints, matrix by matrix, and what both do with prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deltaw.cli.console import last_part, say
from deltaw.errors import DeltawError

if TYPE_CHECKING:
    from deltaw.compare import Progress


@dataclass(frozen=True)
class Compare:
    """Compare two checkpoints of one architecture, from their safetensors files.

    For each MLP and attention matrix: the size of the update beside the rounding error, its spectrum, and its energy
    in the null space of the base weights, with null models. After an interruption, give the same command again to
    continue.
    """

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """Directory of the checkpoint before fine-tuning, or a hub name (needs the extra deltaw[hf])."""
    tuned: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TUNED")]
    """The checkpoint after fine-tuning, or the directory of a LoRA adapter of BASE."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output directory. Default: runs/compare-BASE-TUNED."""
    modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...")] = ()
    """Names of the matrices of an unknown architecture, such as blocks.{layer}.ffn.w1.
    Write NAME:transposed for a matrix stored as (inputs, outputs)."""
    curve: bool = False
    """Also compute energy curves of matrices larger than 2048 on both sides; half a minute or more each."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also give both models these prompts and compare their answers and activations (needs the extra deltaw[hf]).
    A JSONL file with prompt and label (allowed or forbidden) in each line, and optionally pair and attack.
    Or the word builtin."""
    control: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A finished comparison of the same BASE, on the same prompts, with a fine-tuning that teaches something harmless.
    A claim that has a control in the study holds only if it exceeds this control."""
    observations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """With --prompts: observations to make, in place of the nine that are made otherwise.
    Names from `deltaw list`, or FILE.py:NAME."""
    interventions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """With --prompts: interventions on the tuned model, none by default: names from `deltaw list`, or FILE.py:NAME.
    One that needs more than 4000 answers of edited models is left out, and the report says so."""

    def run(self) -> int:
        """Compare; prints a line a matrix, what was skipped, and where measurements and report are."""
        from deltaw.compare import compare, compare_prompts, read_control, read_prompts
        from deltaw.models.huggingface import transformers
        from deltaw.report import write_report

        if self.prompts is None and (self.observations or self.interventions):
            raise DeltawError("--observations and --interventions are about prompts; give --prompts too")
        chosen = self._chosen() if self.prompts is not None else {}
        asked = None
        if self.control is not None and self.prompts is None:
            raise DeltawError("--control is about prompts; give --prompts too")
        if self.prompts is not None:  # a mistake is reported before hours of work
            transformers()
            asked = read_prompts(self.prompts)
            if self.control is not None:
                read_control(self.control, self.base, asked)
        out = self.out or Path("runs") / f"compare-{last_part(self.base)}-{last_part(self.tuned)}"
        measurements = compare(self.base, self.tuned, out, self.modules, self.curve, _say_matrix)
        _say_skipped(out)
        if asked is not None:
            compare_prompts(self.base, self.tuned, out, asked, say=say, control=self.control, **chosen)
        say(f"Measurements: {measurements}")
        say(f"Report: {write_report(out)}")
        return 0

    def _chosen(self) -> dict[str, Any]:
        """The observations and interventions that were named."""
        from deltaw.plugins import resolve

        named = {"observation": self.observations, "intervention": self.interventions}
        for kind, names in named.items():
            if len(set(names)) < len(names):
                raise DeltawError(f"--{kind}s has a name twice: {', '.join(names)}; give each once")
        return {f"{kind}s": [resolve(kind, name) for name in names] for kind, names in named.items() if names}

    def resume_hint(self) -> str:
        """Finished matrices are kept."""
        return "the same command goes on from the last finished matrix"


def _say_matrix(progress: "Progress") -> None:
    """One line: the matrix, its update's size and its null-space energy beside chance, or why there is none."""
    measured = progress.found
    words = [f"{progress.place}/{progress.total}", progress.module]
    size = measured.value("update_relative_norm")
    if size is not None:
        words.append(f"‖ΔW‖/‖W‖ {size:.3g}")
    words += [
        f"{line.statistic} {line.value:.3f} (chance {line.null_mean:.3f})"
        for line in measured.lines
        if line.statistic.startswith("null_energy_") and line.null_kind == "rotation" and line.set is None
    ]
    if "*" in measured.absent:
        words.append(measured.absent["*"])
    say("  ".join(words))


def _say_skipped(out: Path, most: int = 20) -> None:
    """A line for each tensor that was skipped, with the reason."""
    import json

    skipped = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["skipped"]
    for name, reason in list(skipped.items())[:most]:
        say(f"Skipped: {name}, because {reason}")
    if len(skipped) > most:
        say(f"Skipped: {len(skipped) - most} more, named in {out / 'manifest.json'}")
