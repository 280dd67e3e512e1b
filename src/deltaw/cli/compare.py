"""`deltaw compare`: two checkpoints, matrix by matrix, and what both do with prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deltaw.cli.console import chosen_device, last_part, say, use_allowed_cores
from deltaw.errors import DeltawError

if TYPE_CHECKING:
    from deltaw.behaviour.judge import Judge
    from deltaw.compare import Progress


@dataclass(frozen=True)
class Compare:
    """Compare checkpoints of one architecture with their base, from their safetensors files.

    For each MLP and attention matrix: the size of the update beside the rounding error, its spectrum, and its energy
    in the null space of the base weights, with null models. With several TUNED, also every two updates: cosine,
    principal angles and shared directions, beside chance and beside controls. After an interruption, give the same
    command again to continue.

    Examples: deltaw compare BASE TUNED; deltaw compare BASE ssft=runs/a dpo=runs/b other=runs/c --control other
    """

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """Directory of the checkpoint before fine-tuning, or a hub name (needs the extra deltaw[hf]).
    Alone: a TOML file with base = PATH, a table [models] of NAME = PATH, and optionally controls = [NAME, ...]."""
    tuned: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TUNED ...")] = ()
    """The checkpoint after fine-tuning, or the directory of a LoRA adapter of BASE.
    Of several, NAME=PATH names one in the report; by default it is the last part of its path."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output directory. Default: runs/compare-BASE-TUNED; of several runs/compare-BASE, or runs/compare-FILE."""
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
    """With --prompts: what says whether an answer is a refusal. A judge from `deltaw list`, FILE.py:NAME, or
    classifier:NAME, an open text classifier by its directory or hub name (safetensors)."""
    judge_labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL=VERDICT ...")] = ()
    """What each label of the classifier says: refuse, comply or neither, such as LABEL_1=refuse LABEL_0=comply.
    By default, the labels of known refusal classifiers are understood."""
    judge_reads: Annotated[str, tyro.conf.arg(metavar="WHAT")] = "answer"
    """What the classifier is given: the answer, or the pair of request and answer."""
    attacks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Attacks on the prompts, in place of deltaw's seven: names from `deltaw list`, or FILE.py:NAME.
    To add an attack, list the seven too: co_prefix co_suppression co_task misgen_base64 misgen_leetspeak misgen_script
    prefill. The claims are about the seven."""
    template: Annotated[str, tyro.conf.arg(metavar="WHICH")] = "own"
    """With --prompts: the chat template that both models are asked in: own (each its own), base, tuned, or a file."""
    pairs: Annotated[int | None, tyro.conf.arg(metavar="COUNT")] = None
    """With --prompts: at most this many matched pairs, plainly and under each attack, and as many neutral texts and
    questions. Default: all."""
    answer_tokens: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 64
    """With --prompts: the length of an answer at most."""
    batch: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 16
    """With --prompts: prompts worked on at once. It is halved when the memory is full."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """Where matrices are computed with and, with --prompts, the models run: cpu, cuda, or auto, which is cuda where
    there is one."""
    dtype: Annotated[str, tyro.conf.arg(metavar="FORMAT")] = "float32"
    """With --prompts: the format that the models compute in: float32, bfloat16, float16, or auto (of the files)."""
    answer_dtype: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    """With --prompts: the format that answers are computed in, such as bfloat16, in which many machines decode faster
    (and those without such products far slower; the command says so).
    Activations, losses and gradients stay in --dtype. Default: that of --dtype."""
    device_map: Annotated[str | None, tyro.conf.arg(metavar="MAP")] = None
    """With --prompts: spread each model over devices, such as auto (needs accelerate), in place of --device."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Branch, tag or commit of models that are hub names; NAME@REVISION gives one to a single model."""
    control: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="DIR|NAME")] = ()
    """A fine-tuning of the same BASE that teaches something harmless, to compare with; may be given again.
    With one TUNED: the directory of its finished comparison, on the same prompts; its numbers stand beside each claim.
    With several: the name of one of them, or the directory of another."""
    observations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """With --prompts: observations to make, in place of the ten that are made otherwise.
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
            if len(self.tuned) == 1:
                return self._compare(self.tuned[0])
            from deltaw.cli.compare_several import compare_several_models

            out = compare_several_models(
                (self.base, self.tuned, self.control),
                self.revision,
                self.asking(),
                self.out,
                self.modules,
                self.curve,
                chosen_device(self.device),
            )
            say(f"Measurements: {out / 'measurements.jsonl'}")
            say(f"Report: {out / 'report.html'}")
            return 0

    def _compare(self, source: str) -> int:
        from deltaw.compare import compare, compare_prompts, open_models, read_control
        from deltaw.models.hub import at_revision
        from deltaw.report import write_report

        asking = self.asking()
        base, tuned = (at_revision(side, self.revision) for side in (self.base, source))
        if self.control and asking is None:
            raise DeltawError("--control is about prompts; give --prompts too")
        if len(self.control) > 1:
            raise DeltawError(f"--control is given {len(self.control)} times; of one TUNED there is one control")
        control = Path(self.control[0]) if self.control else None
        names = [last_part(self.base), last_part(source), *(name.rpartition(":")[2] for name in self.attacks)]
        out = self.out or Path("runs") / "-".join(["compare", *names])
        given: dict[str, Any] = {}
        if asking is not None:  # a mistake is reported before hours of work
            questions = [asking[name] for name in ("prompts", "judge", "effort", "attacks")]
            if control is not None:
                read_control(control, base, *questions)
            prompts, _, effort, attacks = questions
            given = {**asking, "models": open_models(base, tuned, prompts, effort, asking["loading"], attacks, say)}
        measurements = compare(base, tuned, out, self.modules, self.curve, _say_matrix, chosen_device(self.device))
        _say_skipped(out)
        if given:
            compare_prompts(base, tuned, out, say=say, control=control, **given)
        say(f"Measurements: {measurements}")
        say(f"Report: {write_report(out)}")
        return 0

    def asking(self) -> dict[str, Any] | None:
        """The options of `compare_prompts` that all models share; None without --prompts. DeltawError if one is
        wrong.
        """
        from deltaw.compare import Effort, Loading, read_prompts
        from deltaw.models.huggingface import transformers

        about_prompts = {
            "--attacks": self.attacks,
            "--observations": self.observations,
            "--interventions": self.interventions,
        }
        if self.prompts is None and any(about_prompts.values()):
            named = next(option for option, names in about_prompts.items() if names)
            raise DeltawError(f"{named} is about prompts; give --prompts too")
        use_allowed_cores()
        judge, chosen = self._judge(), self._chosen()
        if self.prompts is None:
            return None
        transformers()
        judge.check()
        self._check_counts()
        effort = Effort(self.pairs, self.pairs, new_tokens=self.answer_tokens, batch=self.batch)
        loading = Loading(chosen_device(self.device), self.dtype, self.device_map, self.template, self.answer_dtype)
        _say_slow(loading.device, {self.dtype, self.answer_dtype})
        prompts = read_prompts(self.prompts)
        return {"prompts": prompts, "judge": judge, "effort": effort, "loading": loading, **chosen}

    def _judge(self) -> "Judge":
        from deltaw.plugins import resolve

        named, _, source = self.judge.partition(":")
        if named == "classifier" and source:
            from deltaw.behaviour.judges.classifier import Classifier

            labels = [label.rpartition("=") for label in self.judge_labels]
            wrong = next((text for text, (label, _, _) in zip(self.judge_labels, labels, strict=True) if not label), "")
            if wrong:
                raise DeltawError(f"--judge-labels has {wrong!r}; expected LABEL=VERDICT, such as LABEL_1=refuse")
            return Classifier(source, tuple((label, verdict) for label, _, verdict in labels), self.judge_reads)
        if self.judge_labels or self.judge_reads != "answer":
            raise DeltawError("--judge-labels and --judge-reads are about a classifier; give --judge classifier:NAME")
        judge: Judge = resolve("judge", self.judge)
        return judge

    def _check_counts(self) -> None:
        counts = {"pairs": (self.pairs, 2), "answer-tokens": (self.answer_tokens, 1), "batch": (self.batch, 1)}
        for option, (value, least) in counts.items():
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


def _say_slow(device: str, formats: set[str | None]) -> None:
    """Warns of a format that the processor only emulates: bfloat16 products can take fifty times as long."""
    import torch

    from deltaw.models import choose_precision

    chosen = choose_precision(device)
    if "bfloat16" in formats and chosen.dtype == torch.float32:
        say(f"bfloat16 will be slow here; {chosen.reason}")


def _say_matrix(progress: "Progress") -> None:
    """One line: the matrix, its update's size and its null-space energy beside chance, or why there is none."""
    measured = progress.measured
    words = [f"{progress.place}/{progress.total}", progress.module]
    size = next((line.value for line in measured.lines if line.statistic == "update_relative_norm"), None)
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
