"""`compare` of several tuned models of one base: every two of their updates, and each model's own comparison.

OUT/several.jsonl        names the base that everything in the directory is about
OUT/models/KEY/          a model's own comparison with the base, as `compare` and `compare_prompts` make it
OUT/pairs/KEY.jsonl      two updates: a header that names them, then a line a finished matrix
OUT/measurements.jsonl   what is known of all the models asked for  } written at the end, whole or not at all;
OUT/manifest.json        names, keys, controls, what is absent      } `deltaw.load(OUT)` reads them

A key is a hash of the files of base and models and of the options, so that adding, removing or renaming a model
measures only what was never measured.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from deltaw.analysis.large_matrices import LowRank
from deltaw.compare import weights
from deltaw.compare.measured_pairs import compare_pairs, left_out_of, pair_lines
from deltaw.compare.model_list import ListedModel, ModelList
from deltaw.compare.over_layers import kind_of
from deltaw.compare.pair_records import DIRECTIONS, STAGE, write_means
from deltaw.compare.prompted import compare_prompts, open_models
from deltaw.compare.questions import questions_of
from deltaw.compare.tuned_models import Asking, Pair, Tuned, key_of
from deltaw.compare.two_models import asking_files
from deltaw.compare.weights import Progress, choose, compare, open_sources, parts_of
from deltaw.errors import DeltawError
from deltaw.models.architectures import given_architecture
from deltaw.observations.capability.measure import Capability
from deltaw.results import Measurement, read_measurements, write_claims, write_json_atomic, write_measurements
from deltaw.results.files import write_text_atomic
from deltaw.results.journal import Journal
from deltaw.results.recorder import Sheet
from deltaw.results.records import CLAIMS, MANIFEST, MEASUREMENTS, PROMPTS, read_json

FORMAT, PAIRS = "deltaw-several-1", "deltaw-pairs-1"
UNRELATED = 0.5
"""A tuned matrix whose cosine with the base's is below this was not tuned from it."""
BEHAVIOUR = ("refuse_rate", "refuse_rate_corrected", "comply_rate", "neither_rate", "refuse_rate_gap")
CAPABLE = frozenset(statistic.name for statistic in Capability.statistics)
Say = Callable[[str], None]


def compare_several(
    models: ModelList,
    out: Path,
    patterns: Sequence[str] = (),
    curve: bool = False,
    asking: Asking | None = None,
    say: Say = lambda text: None,
    report: Callable[[Path], object] = lambda directory: None,
    device: str = "cpu",
) -> Path:
    """Compare every model with the base, and every two updates with each other; the path of measurements.jsonl.

    patterns, curve, device: of `compare`. asking: prompts for every model. report: makes the page of a model's own
    comparison. DeltawError if a model is at fault, or `out` holds comparisons of another base; what is finished is
    kept.
    """
    started = time.perf_counter()
    tuned = [_open(model, models.base, out, patterns, curve) for model in models.models]
    _check_apart(tuned)
    try:
        if out.is_dir() and any(out.iterdir()) and not (out / "several.jsonl").exists():
            raise DeltawError(f"{out} is not empty and holds no report on several models; give another one with --out")
        for directory in (out / "models", out / "pairs"):
            directory.mkdir(parents=True, exist_ok=True)
        header = {"format": FORMAT, "base": tuned[0].sources.base.fingerprint()}
        Journal.open(out / "several.jsonl", header, "comparisons of another base model")
        for model in tuned:
            _check_related(model, models.base)
        weights_alone = partial(compare, patterns=patterns, curve=curve, device=device)
        _compare_each(tuned, models.base, weights_alone, asking, say, report)
        pairs = [_pair(first, second, out) for first, second in combinations(tuned, 2)]
        absent = {model.name: left_out_of(model) for model in tuned}
        compare_pairs(pairs, absent, say, device)
        _finish(out, tuned, pairs, asking, time.perf_counter() - started)
    except OSError as error:
        raise DeltawError(
            f"{out} cannot be written ({error.strerror or error}); what is finished is kept, and the same command goes "
            "on from it"
        ) from error
    return out / MEASUREMENTS


def _open(model: ListedModel, base: str, out: Path, patterns: Sequence[str], curve: bool) -> Tuned:
    sources = open_sources(base, model.source)
    pairing, given = choose(sources, patterns), given_architecture()
    options = [list(patterns), None if given is None else given.described(), curve]
    key = key_of(weights.FORMAT, version("deltaw"), sources.fingerprint(), options)
    matched = {x.module.name: x for x in pairing.matched}
    return Tuned(model, sources, pairing, key, out / "models" / key, matched)


def _check_apart(tuned: Sequence[Tuned]) -> None:
    for first, second in combinations(tuned, 2):
        if first.key == second.key:
            raise DeltawError(
                f"{first.name} ({first.listed.source}) and {second.name} ({second.listed.source}) are the same files; "
                "give each model once"
            )


@torch.no_grad()
def _check_related(model: Tuned, base: str) -> None:
    """Reads three matrices. DeltawError if they do not fit the base, or were not tuned from it."""
    matched = model.pairing.matched
    cosines = []
    for place in sorted({0, len(matched) // 2, len(matched) - 1}) if matched else ():
        for before, after in parts_of(model.sources, matched[place]):
            if not isinstance(after, LowRank):
                w, x = before.double(), after.double()
                scale = float(w.norm() * x.norm())
                cosines.append(float((w * x).sum()) / scale if scale else 1.0)
    if cosines and float(np.median(cosines)) < UNRELATED:
        what = "the control " if model.listed.control else ""
        raise DeltawError(
            f"{what}{model.name} ({model.listed.source}) was not tuned from {base}: the cosine of their weights is "
            f"{np.median(cosines):.2f}, and after a tuning it is near 1; give a model that was tuned from this base"
        )


def _compare_each(
    tuned: Sequence[Tuned],
    base: str,
    weights_alone: Callable[..., Path],
    asking: Asking | None,
    say: Say,
    report: Callable[[Path], object],
) -> None:
    """Each model's own comparison, the first control's before all others, which are compared with it."""
    ordered = sorted(tuned, key=lambda model: not model.listed.control)
    control = ordered[0] if ordered[0].listed.control else None
    to_ask = {}
    if asking is not None:  # a mistake is reported before hours of work
        for model in ordered:
            if not _is_asked(model, asking.key(model.sources, _beside(model, control))):
                say(f"{model.name}: {model.listed.source}")
                options = (asking.options["effort"], asking.options["loading"], asking.options["attacks"])
                to_ask[model.key] = open_models(base, model.listed.source, asking.prompts, *options, say)
    for place, model in enumerate(ordered, start=1):
        of, fresh = f"{place}/{len(ordered)} {model.name}", not (model.directory / MANIFEST).is_file()
        if fresh:
            listener = _listener(f"{of}: ", say)
            weights_alone(base, model.listed.source, model.directory, listener=listener)
        if asking is not None and model.key in to_ask:
            beside = _beside(model, control)
            compare_prompts(
                base,
                model.listed.source,
                model.directory,
                asking.prompts,
                say=lambda text, of=of: say(f"{of}: {text}"),  # type: ignore[misc]
                base_parts=_base_parts(model, asking),
                control=None if beside is None else model.directory.parent / beside,
                models=to_ask[model.key],
                **asking.options,
            )
            write_json_atomic(model.directory / "asked.json", {"key": asking.key(model.sources, beside)})
        if fresh or model.key in to_ask or not (model.directory / "report.html").is_file():
            report(model.directory)
        say(f"{of}: {'compared' if fresh else 'kept'} in {model.directory}")


def _beside(model: Tuned, control: Tuned | None) -> str | None:
    """The key of the control that a model is compared with."""
    return None if control is None or model is control else control.key


def _base_parts(model: Tuned, asking: Asking) -> Path:
    """The file of the base model's own answers, which all models share that are asked alike."""
    options, sources = asking.options, model.sources
    files = asking_files(sources, options["loading"])["base"]
    questions = questions_of(asking.prompts, options["judge"], options["effort"])
    return model.directory.parent / f"base-{key_of(sources.base.fingerprint(), files, questions)}.jsonl"


def _is_asked(model: Tuned, key: str) -> bool:
    path = model.directory / "asked.json"
    return path.is_file() and bool(read_json(path) == {"key": key})


def _listener(of: str, say: Say) -> Callable[[Progress], None]:
    def listener(progress: Progress) -> None:
        say(f"{of}{progress.place}/{progress.total} {progress.module}")

    return listener


def _pair(first: Tuned, second: Tuned, out: Path) -> Pair:
    """In an order that does not depend on the command line's."""
    early, late = sorted((first, second), key=lambda model: model.key)
    header = {"format": PAIRS, "first": early.key, "second": late.key, "directions": list(DIRECTIONS)}
    return Pair(early, late, Journal.open(out / "pairs" / f"{key_of(header)}.jsonl", header, "another pair"))


def _finish(out: Path, tuned: Sequence[Tuned], pairs: Sequence[Pair], asking: Asking | None, seconds: float) -> None:
    modules = {name: x.module for model in tuned for name, x in model.matched.items()}
    kinds = {name: kind for name, module in modules.items() if (kind := kind_of(module)) is not None}
    lines: dict[tuple[str | None, ...], Measurement] = {}
    missing: dict[str, dict[str, str]] = {}
    for pair in pairs:
        try:
            for line in pair_lines(pair, [model.key for model in tuned], modules, missing):
                place = (line.statistic, line.model, line.set, line.module, line.null_kind)
                lines.setdefault(place, line)  # what an update has of its own is in each of its pairs
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
            raise DeltawError(
                f"{pair.journal.path} is damaged ({type(error).__name__}: {error}); remove it to compare {pair.name} "
                "again"
            ) from error
    averages = Sheet(stage=STAGE)
    write_means(lines.values(), kinds, averages)
    write_measurements(
        out / MEASUREMENTS, [*lines.values(), *averages.lines, *(_behaviour(tuned) if asking is not None else ())]
    )
    write_claims(out / CLAIMS, [])
    write_text_atomic(out / PROMPTS, "")
    manifest = {
        "format": 1,
        "recipe": "compare",
        "exploratory": True,
        "seeds": [],
        "models": [],
        "base": str(tuned[0].sources.base.directory.resolve()),
        "model_type": tuned[0].sources.base.model_type,
        "several": {
            "version": version("deltaw"),
            "base": tuned[0].sources.names[0],
            "directions": list(DIRECTIONS),
            "asked": asking is not None,
            "models": [
                {
                    "name": model.name,
                    "path": str(model.sources.directory.resolve()),
                    "control": model.listed.control,
                    "kept": str(model.directory.relative_to(out)),
                }
                for model in tuned
            ],
        },
        "absent": missing,
        "skipped": {f"{model.name}: {what}": why for model in tuned for what, why in model.pairing.skipped.items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {"this_call": round(seconds, 1)},
    }
    write_json_atomic(out / MANIFEST, manifest)


def _behaviour(tuned: Sequence[Tuned]) -> Iterator[Measurement]:
    """Rates of the base model, once, and of every model under its name here, with what it can still do."""
    for place, model in enumerate(tuned):
        for line in read_measurements(model.directory / MEASUREMENTS):
            behaviour = line.stage == "behaviour" and line.statistic in BEHAVIOUR
            if behaviour and line.model == "base":
                if place == 0:
                    yield line
            elif behaviour or line.statistic in CAPABLE:
                yield replace(line, model=model.name)
