"""`deltaw compare`: two checkpoints, matrix by matrix, and what both do with prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deltaw.cli.console import chosen_device, last_part, say, use_allowed_cores
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
    architecture: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Read both checkpoints by this architecture, whatever config.json calls theirs: from `deltaw list`, or
    FILE.py:NAME."""
    curve: bool = False
    """Also compute energy curves of matrices larger than 2048 on both sides; half a minute or more each."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also give both models these prompts and compare their answers and activations (needs the extra deltaw[hf]).
    A JSONL file with prompt and label (allowed or forbidden) in each line, and optionally pair and attack.
    Or the word builtin."""
    judge: Annotated[str, tyro.conf.arg(metavar="NAME")] = "rules"
    """With --prompts: what says whether an answer is a refusal. A judge from `deltaw list`, or FILE.py:NAME."""
    attacks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Attacks on the prompts, in place of deltaw's seven: names from `deltaw list`, or FILE.py:NAME.
    To add an attack, list the seven too: co_prefix co_suppression co_task misgen_base64 misgen_leetspeak misgen_script
    prefill. The claims are about the seven."""
    template: Annotated[str, tyro.conf.arg(metavar="WHICH")] = "own"
    """With --prompts: the chat template that both models are asked in: own (each its own), base, tuned, or a file."""
    pairs: Annotated[int | None, tyro.conf.arg(metavar="COUNT")] = None
    """With --prompts: at most this many matched pairs, plainly and under each attack. Default: all."""
    answer_tokens: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 64
    """With --prompts: the length of an answer at most."""
    batch: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 16
    """With --prompts: prompts worked on at once. It is halved when the memory is full."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """With --prompts: where the models run: cpu, cuda, or auto, which is cuda where there is one."""
    dtype: Annotated[str, tyro.conf.arg(metavar="FORMAT")] = "float32"
    """With --prompts: the format that the models compute in: float32, bfloat16, float16, or auto (of the files)."""
    device_map: Annotated[str | None, tyro.conf.arg(metavar="MAP")] = None
    """With --prompts: spread each model over devices, such as auto (needs accelerate), in place of --device."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Branch, tag or commit of models that are hub names; NAME@REVISION gives one to a single model."""
    control: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A finished comparison of the same BASE, on the same prompts, with a fine-tuning that teaches something harmless.
    Its numbers stand beside those of each claim."""
    observations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """With --prompts: observations to make, in place of the nine that are made otherwise.
    Names from `deltaw list`, or FILE.py:NAME."""
    interventions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """With --prompts: interventions on the tuned model, none by default: names from `deltaw list`, or FILE.py:NAME.
    One that needs more than 4000 answers of edited models is left out, and the report says so."""

    def run(self) -> int:
        """Compare; prints a line a matrix, what was skipped, and where measurements and report are."""
        from deltaw.models.architectures import reading_by
        from deltaw.plugins import resolve

        if self.modules and self.architecture is not None:
            raise DeltawError("--modules and --architecture both name the matrices; give one of them")
        given = None if self.architecture is None else resolve("architecture", self.architecture)
        with reading_by(given):
            return self._compare()

    def _compare(self) -> int:
        from deltaw.compare import Effort, Loading, compare, compare_prompts, open_models, read_control, read_prompts
        from deltaw.models.hub import at_revision
        from deltaw.models.huggingface import transformers
        from deltaw.plugins import resolve
        from deltaw.report import write_report

        about_prompts = {
            "--attacks": self.attacks, "--observations": self.observations, "--interventions": self.interventions,
        }  # fmt: skip
        if self.prompts is None and any(about_prompts.values()):
            named = next(option for option, names in about_prompts.items() if names)
            raise DeltawError(f"{named} is about prompts; give --prompts too")
        use_allowed_cores()
        judge, chosen = resolve("judge", self.judge), self._chosen()
        base, tuned = (at_revision(source, self.revision) for source in (self.base, self.tuned))
        if self.control is not None and self.prompts is None:
            raise DeltawError("--control is about prompts; give --prompts too")
        names = [last_part(self.base), last_part(self.tuned), *(name.rpartition(":")[2] for name in self.attacks)]
        out = self.out or Path("runs") / "-".join(["compare", *names])
        given: dict[str, Any] = {}
        if self.prompts is not None:  # a mistake is reported before hours of work
            transformers()
            self._check_counts()
            asked = read_prompts(self.prompts)
            effort = Effort(self.pairs, self.pairs, new_tokens=self.answer_tokens, batch=self.batch)
            loading = Loading(chosen_device(self.device), self.dtype, self.device_map, self.template)
            if self.control is not None:
                read_control(self.control, base, asked, judge, effort, chosen["attacks"])
            models = open_models(base, tuned, asked, effort, loading, chosen["attacks"], say)
            given = {"prompts": asked, "judge": judge, "effort": effort, "loading": loading, "models": models}
        measurements = compare(base, tuned, out, self.modules, self.curve, _say_matrix)
        _say_skipped(out)
        if given:
            compare_prompts(base, tuned, out, say=say, control=self.control, **given, **chosen)
        say(f"Measurements: {measurements}")
        say(f"Report: {write_report(out)}")
        return 0

    def _check_counts(self) -> None:
        for option, value, least in (
            ("pairs", self.pairs, 2), ("answer-tokens", self.answer_tokens, 1), ("batch", self.batch, 1),
        ):  # fmt: skip
            if value is not None and value < least:
                raise DeltawError(f"--{option} is {value}; expected at least {least}")

    def _chosen(self) -> dict[str, Any]:
        """The attacks, observations and interventions that were named. DeltawError if an attack is not on requests."""
        from deltaw.attacks.prompts.defaults import ON_REQUESTS
        from deltaw.attacks.prompts.requests import check_requests
        from deltaw.plugins import resolve

        kinds: dict[str, tuple[str | tuple[str, ...], tuple[str, ...]]] = {
            "attacks": (("prompt-attack", "model-attack"), self.attacks),
            "observations": ("observation", self.observations),
            "interventions": ("intervention", self.interventions),
        }
        for option, (_, names) in kinds.items():
            if len(set(names)) < len(names):
                raise DeltawError(f"--{option} has a name twice: {', '.join(names)}; give each once")
        chosen = {option: [resolve(kind, name) for name in names] for option, (kind, names) in kinds.items() if names}
        chosen.setdefault("attacks", list(ON_REQUESTS))
        check_requests(chosen["attacks"])
        return chosen

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
