"""`compare` of several tuned models of one base: every two of their updates, and each model's own comparison.

OUT/several.jsonl        names the base that everything in the directory is about
OUT/models/KEY/          a model's own comparison with the base, as `compare` and `compare_prompts` make it
OUT/pairs/KEY.jsonl      two updates: a header that names them, then a line a finished matrix
OUT/measurements.jsonl   what is known of all the models asked for  } written at the end, whole or not at all;
OUT/manifest.json        names, keys, controls, what is absent      } `deltaw.load(OUT)` reads them

A key is a hash of the files of base and models and of the options, so that adding, removing or renaming a model
measures only what was never measured.
"""

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deltaw.analysis.large_matrices import LowRank, MatrixPair
from deltaw.analysis.rounding import steps
from deltaw.analysis.update_pairs import Directions, directions
from deltaw.compare import weights
from deltaw.compare.matrix import tall
from deltaw.compare.model_list import ListedModel, ModelList
from deltaw.compare.over_layers import kind_of
from deltaw.compare.pair_records import DIRECTIONS, lines_of, mean_lines, own_lines, record_of, whole_lines
from deltaw.compare.pairing import Matched, Pairing
from deltaw.compare.prompted import OBSERVED, compare_prompts, open_models
from deltaw.compare.questions import attack_key, questions_of
from deltaw.compare.two_models import asking_files
from deltaw.compare.weights import Progress, Sources, choose, compare, open_sources, parts_of, stored_steps
from deltaw.errors import DeltawError
from deltaw.models.architectures import Module, given_architecture
from deltaw.prompts.matched import Prompt
from deltaw.results import Measurement, read_measurements, write_claims, write_json_atomic, write_measurements
from deltaw.results.files import write_text_atomic
from deltaw.results.journal import Journal
from deltaw.results.records import CLAIMS, MANIFEST, MEASUREMENTS, PROMPTS, read_json

FORMAT, PAIRS = "deltaw-several-1", "deltaw-pairs-1"
UNRELATED = 0.5
"""A tuned matrix whose cosine with the base's is below this was not tuned from it."""
BEHAVIOUR = ("refuse_rate", "comply_rate", "neither_rate", "refuse_rate_gap")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asking:
    """What every model is asked."""

    prompts: Sequence[Prompt]
    options: Mapping[str, Any]
    """Of `compare_prompts`: judge, effort, loading, attacks, and observations and interventions if they are given."""

    def key(self, sources: Sources, control: str | None) -> str:
        """What names the questions, how they are asked, and what is looked at."""
        options = self.options
        return _key(
            questions_of(self.prompts, options["judge"], options["effort"]),
            [attack_key(attack) for attack in options["attacks"]],
            asking_files(sources, options["loading"]),
            [observation.recorded() for observation in options.get("observations", OBSERVED)],
            [intervention.recorded() for intervention in options.get("interventions", ())],
            control,
        )


@dataclass(frozen=True)
class Tuned:
    """A tuned model, opened: headers only."""

    listed: ListedModel
    sources: Sources
    pairing: Pairing
    key: str
    """Of its own comparison."""
    directory: Path
    """Where that is kept."""
    matched: Mapping[str, Matched] = field(default_factory=dict)
    """Its matrices by name."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.listed.name


@dataclass(frozen=True)
class Pair:
    """Two of the models, and what is finished of them."""

    first: Tuned
    second: Tuned
    journal: Journal

    @property
    def name(self) -> str:
        """For messages and the manifest."""
        return f"{self.first.name} and {self.second.name}"


def compare_several(
    models: ModelList,
    out: Path,
    patterns: Sequence[str] = (),
    curve: bool = False,
    asking: Asking | None = None,
    say: Say = lambda text: None,
    report: Callable[[Path], object] = lambda directory: None,
) -> Path:
    """Compare every model with the base, and every two updates with each other; the path of measurements.jsonl.

    patterns, curve: of `compare`. asking: prompts for every model. report: makes the page of a model's own comparison.
    DeltawError if a model is at fault, or `out` holds comparisons of another base; what is finished is kept.
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
        _compare_each(tuned, models.base, patterns, curve, asking, say, report)
        pairs = [_pair(first, second, out) for first, second in combinations(tuned, 2)]
        absent = {model.name: read_json(model.directory / MANIFEST)["absent"] for model in tuned}
        _compare_pairs(pairs, absent, say)
        _finish(out, models, tuned, pairs, asking, time.perf_counter() - started)
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
    key = _key(weights.FORMAT, version("deltaw"), sources.fingerprint(), options)
    matched = {x.module.name: x for x in pairing.matched}
    return Tuned(model, sources, pairing, key, out / "models" / key, matched)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


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
    patterns: Sequence[str],
    curve: bool,
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
            compare(base, model.listed.source, model.directory, patterns, curve, listener)
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
    return model.directory.parent / f"base-{_key(sources.base.fingerprint(), files, questions)}.jsonl"


def _is_asked(model: Tuned, key: str) -> bool:
    path = model.directory / "asked.json"
    return path.is_file() and bool(read_json(path).get("key") == key)


def _listener(of: str, say: Say) -> Callable[[Progress], None]:
    def listener(progress: Progress) -> None:
        say(f"{of}{progress.place}/{progress.total} {progress.module}")

    return listener


def _pair(first: Tuned, second: Tuned, out: Path) -> Pair:
    """In an order that does not depend on the command line's."""
    early, late = sorted((first, second), key=lambda model: model.key)
    header = {"format": PAIRS, "first": early.key, "second": late.key, "directions": list(DIRECTIONS)}
    return Pair(early, late, Journal.open(out / "pairs" / f"{_key(header)}.jsonl", header, "another pair"))


def _compare_pairs(pairs: Sequence[Pair], absent: Mapping[str, Mapping[str, Mapping[str, str]]], say: Say) -> None:
    """Every matrix of every two models that no earlier run has finished; matrix by matrix: each is read once."""
    modules = list(dict.fromkeys(name for pair in pairs for name in pair.first.matched if name in pair.second.matched))
    for place, module in enumerate(modules, start=1):
        updates = _Updates(module)
        fresh = 0
        for pair in pairs:
            both = module in pair.first.matched and module in pair.second.matched
            if not both or module in pair.journal.parts:
                continue
            reasons = [
                f"{model.name}: {absent[model.name][module]['*']}"
                for model in (pair.first, pair.second)
                if "*" in absent[model.name].get(module, {})
            ]
            record = {"absent": reasons[0]} if reasons else updates.record(pair)
            pair.journal.part(module, partial(dict, record))
            fresh += 1
        if fresh:
            say(f"pairs of updates: {place}/{len(modules)} {module}, {fresh} of {len(pairs)}")


class _Updates:
    """The updates of one matrix, each read once. Memory: a Gram matrix a model."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.read: dict[str, tuple[MatrixPair, Directions]] = {}
        self.before: list[torch.Tensor] = []
        self.rounding = 0.0
        self.wide = False

    def record(self, pair: Pair) -> dict[str, Any]:
        """What is kept of two of them."""
        with torch.no_grad():
            (first, a), (second, b) = self._of(pair.first), self._of(pair.second)
            dense = first.low_rank is None and second.low_rank is None
            return record_of(first, second, a, b, self.wide, self.rounding if dense else None)

    def _of(self, model: Tuned) -> tuple[MatrixPair, Directions]:
        if model.key not in self.read:
            matched = model.matched[self.module]
            parts = parts_of(model.sources, matched)
            if not self.before:
                self.before = [before for before, _ in parts]
                self.wide = sum(map(len, self.before)) < self.before[0].shape[1]
                for before, piece in zip(self.before, matched.module.pieces, strict=True):
                    self.rounding += (stored_steps(model.sources.base, piece) or steps(before)).squares
            # All models share one copy of the base's matrix.
            update = tall([(before, after) for before, (_, after) in zip(self.before, parts, strict=True)])
            generator = np.random.default_rng([0, zlib.crc32(self.module.encode())])
            self.read[model.key] = update, directions(update, max(DIRECTIONS), generator)
        return self.read[model.key]


def _finish(
    out: Path, models: ModelList, tuned: Sequence[Tuned], pairs: Sequence[Pair], asking: Asking | None, seconds: float
) -> None:
    modules = {name: x.module for model in tuned for name, x in model.matched.items()}
    kinds = {name: kind for name, module in modules.items() if (kind := kind_of(module)) is not None}
    order = [model.key for model in tuned]
    lines: list[Measurement] = []
    missing: dict[str, dict[str, str]] = {}
    own: dict[tuple[str, str], list[Measurement]] = {}
    for pair in pairs:
        turned = order.index(pair.first.key) > order.index(pair.second.key)
        first, second = (pair.second, pair.first) if turned else (pair.first, pair.second)
        records = {name: _turned(pair.journal.parts[name], turned) for name in modules if name in pair.journal.parts}
        missing[f"{first.name} and {second.name}"] = {
            name: record["absent"] for name, record in records.items() if "absent" in record
        }
        records = {name: record for name, record in records.items() if "absent" not in record}
        for name, record in records.items():
            lines += lines_of((first.name, second.name), name, modules[name].layer, record)
            for model, shares in zip((first, second), record["own"], strict=True):
                own.setdefault((model.name, name), list(own_lines(model.name, name, modules[name].layer, shares)))
        apart = _without_parts([modules[name] for name in records])
        if apart:
            lines += whole_lines((first.name, second.name), [records[name] for name in apart])
    lines += [line for listed in own.values() for line in listed]
    averages = mean_lines(lines, kinds)
    write_measurements(out / MEASUREMENTS, [*lines, *averages, *(_behaviour(tuned) if asking is not None else ())])
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


def _turned(record: dict[str, Any], turned: bool) -> dict[str, Any]:
    """The record with its two models exchanged, if they are to be."""
    if not turned or "absent" in record:
        return record
    shared = [{**part, "energy": part["energy"][::-1]} for part in record["shared"]]
    return {**record, "energy": record["energy"][::-1], "own": record["own"][::-1], "shared": shared}


def _without_parts(modules: Sequence[Module]) -> list[str]:
    """Names of matrices that share no entry: of a whole and its parts, only the parts or the whole."""
    chosen: list[str] = []
    covered: set[tuple[str, int | None]] = set()
    for module in sorted(modules, key=lambda x: len(x.pieces)):
        tensors = {(piece.tensor, piece.expert) for piece in module.pieces}
        whole = all(piece.rows is None for piece in module.pieces)
        if not whole or tensors & covered:
            continue
        chosen.append(module.name)
        covered |= tensors
    for module in modules:  # parts of tensors that are no matrix as a whole
        tensors = {(piece.tensor, piece.expert) for piece in module.pieces}
        if not tensors & covered and len(module.pieces) == 1:
            chosen.append(module.name)
    return chosen


def _behaviour(tuned: Sequence[Tuned]) -> Iterator[Measurement]:
    """Rates of the base model, once, and of every model under its name here."""
    for place, model in enumerate(tuned):
        for line in read_measurements(model.directory / MEASUREMENTS):
            if line.stage == "behaviour" and line.statistic in BEHAVIOUR and (line.model != "base" or place == 0):
                yield line if line.model == "base" else replace(line, model=model.name)
