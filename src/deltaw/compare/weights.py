"""`compare`: two checkpoints of one architecture, matrix by matrix, into a directory that a stopped run goes on from.

OUT/tensors.jsonl       a header that names the pair, then one line a finished matrix, appended and flushed
OUT/measurements.jsonl  all measurements in the study's schema       } written at the end, whole or not at all;
OUT/claims.json         the study's claims about weights             } `deltaw.load(OUT)` reads them
OUT/manifest.json       what was compared, skipped, absent           }
"""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from deltaw.analysis.large_matrices import After
from deltaw.analysis.rounding import Steps, scaled_steps
from deltaw.analysis.streamed_update import streamed_update
from deltaw.analysis.weight_update import WeightUpdate
from deltaw.compare.claims import Lines, weight_claims
from deltaw.compare.other_tensors import measure_others
from deltaw.compare.over_layers import first_matrices, over_layers
from deltaw.compare.pairing import Matched, Pairing, pair_up
from deltaw.errors import DeltawError
from deltaw.models.architectures import Piece, decoder_type, given_architecture
from deltaw.models.architectures.tensor_names import grouped
from deltaw.models.checkpoint_directory import find_directory
from deltaw.models.checkpoint_files import Checkpoint, open_checkpoint
from deltaw.models.loaded_names import as_loaded
from deltaw.models.lora import Adapter, is_adapter, open_adapter
from deltaw.models.quantised import EIGHT_BITS
from deltaw.observations.null_space.measure import ALL, measure_matrix
from deltaw.results import Measurement, write_claims, write_json_atomic, write_measurements, write_text_atomic
from deltaw.results.journal import Journal
from deltaw.results.recorder import Sheet
from deltaw.results.schema import MEASUREMENT_FIELDS

FORMAT, JOURNAL = "deltaw-compare-4", "tensors.jsonl"
STAGE = "compare"
Computed = TypeVar("Computed")


@dataclass(frozen=True)
class Measured:
    """One finished matrix."""

    lines: list[Measurement]
    """What was measured."""
    absent: dict[str, str]
    """By statistic, why there is none; `ALL` stands for every one."""


@dataclass(frozen=True)
class Progress:
    """One finished matrix: its place (from 1) among all, its lines and what is absent."""

    place: int
    total: int
    module: str
    measured: Measured


@dataclass(frozen=True)
class Sources:
    """The two sides. after: a checkpoint, or an adapter on the base. names: what the two are called."""

    base: Checkpoint
    after: Checkpoint | Adapter
    names: tuple[str, str]

    @property
    def directory(self) -> Path:
        """Where the tuned side lies."""
        return (self.after.checkpoint if isinstance(self.after, Adapter) else self.after).directory

    def fingerprint(self) -> dict[str, Any]:
        """What names the pair by its files."""
        after = self.after.checkpoint if isinstance(self.after, Adapter) else self.after
        return {"base": self.base.fingerprint(), "tuned": after.fingerprint()}


def open_sources(base: str | Path, tuned: str | Path) -> Sources:
    """Both sides, headers only. DeltawError if one cannot be read, or if they are of different architectures."""
    first, second = find_directory(base), find_directory(tuned)
    names = _name(base, first), _name(tuned, second)
    names = (names[0], names[1] if names[1] not in ("", "base") else "tuned")  # `base` is the other one in results
    if is_adapter(first):
        raise DeltawError(f"{base} is an adapter; give the checkpoint that it was made for first, then the adapter")
    before = open_checkpoint(first)
    if is_adapter(second):
        return Sources(*_with_adapter(before, second), names)
    after = open_checkpoint(second)
    kinds = [decoder_type(side.config, side.model_type) for side in (before, after)]
    if kinds[0] != kinds[1]:
        raise DeltawError(
            f"{base} is of the architecture {before.model_type!r} and {tuned} of {after.model_type!r}; give two "
            "checkpoints of one architecture"
        )
    return Sources(*_as_agreed(before, after), names)


def _with_adapter(before: Checkpoint, directory: Path) -> tuple[Checkpoint, Adapter]:
    """An adapter has the names of the loaded model, which the base's file need not have."""
    try:
        return before, open_adapter(directory, before.tensors)
    except DeltawError:
        loaded = as_loaded(before)
        if loaded.tensors.keys() == before.tensors.keys():
            raise
        return loaded, open_adapter(directory, loaded.tensors)


def _as_agreed(before: Checkpoint, after: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Both sides as they are, or under the names of loaded models if more of their matrices agree then."""
    matched, complete = _agreement(before, after)
    if complete:
        return before, after
    loaded = as_loaded(before), as_loaded(after)
    return loaded if _agreement(*loaded)[0] > matched else (before, after)


def _agreement(before: Checkpoint, after: Checkpoint) -> tuple[int, bool]:
    """How many matrices both sides have, and whether neither has a tensor of its own."""
    try:
        pairing = pair_up(before, after)
    except DeltawError:  # said when the pair is compared
        return 0, False
    return len(pairing.matched), not any(why.startswith("only the") for why in pairing.skipped.values())


def _name(source: str | Path, directory: Path) -> str:
    """A directory's own name, or a hub name as it was given."""
    return directory.resolve().name if Path(source).is_dir() else str(source)


def choose(sources: Sources, patterns: Sequence[str] = ()) -> Pairing:
    """The matrices that both sides have, and everything else by name."""
    return pair_up(sources.base, sources.after, patterns)


def compare(
    base: str | Path,
    tuned: str | Path,
    out: Path,
    patterns: Sequence[str] = (),
    curve: bool = False,
    listener: Callable[[Progress], None] | None = None,
    device: str = "cpu",
) -> Path:
    """Compare two checkpoints (or a base and an adapter); returns the path of measurements.jsonl.

    patterns: names of matrices instead of the family's. curve: energy curves of the largest matrices too. device: where
    matrices are computed with, one after the other.
    DeltawError if a side is at fault, or `out` holds another comparison or cannot be written; finished lines are kept.
    """
    started = time.perf_counter()
    sources = open_sources(base, tuned)
    pairing = choose(sources, patterns)
    given = given_architecture()
    header = {
        "format": FORMAT,
        "pair": sources.fingerprint(),
        "patterns": list(patterns),
        **({} if given is None else {"architecture": given.described()}),
        "curve": curve,
        "version": version("deltaw"),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        journal, done = _open_journal(out / JOURNAL, header)
        for place, matched in enumerate(pairing.matched, start=1):
            name = matched.module.name
            if name not in done:
                done[name] = _measured(journal.part(name, partial(_compare_one, sources, matched, curve, device)))
            if listener is not None:
                listener(Progress(place, len(pairing.matched), name, done[name]))
        _finish(out, sources, pairing, done, header, time.perf_counter() - started)
    except OSError as error:
        raise DeltawError(
            f"{out} cannot be written ({error.strerror or error}); the matrices finished so far are kept, and the same "
            "command goes on from them"
        ) from error
    return out / "measurements.jsonl"


@torch.no_grad()
def _compare_one(sources: Sources, matched: Matched, curve: bool, device: str) -> dict[str, Any]:
    """The record of a matrix in the journal."""
    module, pieces = matched.module, zip(matched.module.pieces, matched.after, strict=True)
    stored = [(stored_steps(sources.base, before), stored_steps(sources.after, after)) for before, after in pieces]
    sheet = Sheet(stage=STAGE, model=sources.names[1], module=module.name, layer=module.layer)
    absent: dict[str, str] = {}

    def update_there(place: str) -> WeightUpdate:
        return streamed_update(parts_of(sources, matched, place), matrix_generator(module.name), curve, stored)

    update = computed_on(device, update_there)
    measure_matrix(update, sheet, absent)
    written = [[(name, getattr(line, name)) for name in MEASUREMENT_FIELDS] for line in sheet.lines]
    lines = [{name: value for name, value in line if value is not None} for line in written]
    return {"absent": absent, "measurements": lines}


def computed_on(device: str, compute: Callable[[str], Computed]) -> Computed:
    """What `compute` gives on the device, or on the CPU where that has too little memory."""
    try:
        return compute(device)
    except torch.OutOfMemoryError:
        if device == "cpu":
            raise
    return compute("cpu")


def matrix_generator(name: str) -> np.random.Generator:
    """Equal draws for equal matrices, whatever else is compared."""
    return np.random.default_rng([0, zlib.crc32(name.encode())])


def parts_of(sources: Sources, matched: Matched, device: str = "cpu") -> list[tuple[torch.Tensor, After]]:
    """A matrix (out, in) before and after, on the device, in the parts that are stacked on each other. DeltawError if
    they differ.
    """
    pieces = zip(matched.module.pieces, matched.after, strict=True)
    parts = (_part(sources, before, after) for before, after in pieces)
    return [(before.to(device), after.to(device)) for before, after in parts]


def _part(sources: Sources, piece: Piece, tuned: Piece) -> tuple[torch.Tensor, After]:
    stored = sources.base.read(piece.tensor, piece.expert)
    before = piece.view(stored)
    if not isinstance(sources.after, Adapter):
        return before, tuned.view(sources.after.read(tuned.tensor, tuned.expert))
    if piece.tensor in sources.after.whole:
        return before, piece.view(sources.after.after(piece.tensor, stored, piece.transposed))
    after = sources.after.update_of(piece)
    if after.shape != tuple(before.shape):
        raise DeltawError(
            f"{sources.directory}: the update of {piece.tensor} is {after.shape[0]} × {after.shape[1]}, the matrix "
            f"{before.shape[0]} × {before.shape[1]}; give the base model that the adapter was made for"
        )
    return before, after


def stored_steps(side: Checkpoint | Adapter, piece: Piece) -> Steps | None:
    """The steps of a piece in 8-bit floats; None: its own format says them."""
    if isinstance(side, Adapter) or side.tensors[piece.tensor].dtype not in EIGHT_BITS:
        return None
    stored, scale = side.eight_bits(piece.tensor, piece.expert)
    return scaled_steps(piece.view(stored), piece.view(scale))


def _open_journal(path: Path, header: Mapping[str, Any]) -> tuple[Journal, dict[str, Measured]]:
    """The journal, and what an earlier run finished."""
    if path.parent.is_dir() and any(path.parent.iterdir()) and not path.exists():
        raise DeltawError(f"{path.parent} is not empty and holds no comparison; give another directory with --out")
    journal = Journal.open(path, header, "another comparison")
    try:
        return journal, {name: _measured(value) for name, value in journal.parts.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeltawError(f"{path} is damaged ({error}); remove it to compare anew") from error


def _measured(record: Mapping[str, Any]) -> Measured:
    return Measured([Measurement(**line) for line in record["measurements"]], dict(record["absent"]))


def _finish(
    out: Path,
    sources: Sources,
    pairing: Pairing,
    done: Mapping[str, Measured],
    header: Mapping[str, Any],
    seconds: float,
) -> None:
    modules = [matched.module for matched in pairing.matched]
    measured = {module.name: done[module.name] for module in modules}
    sheet = Sheet(stage=STAGE, model=sources.names[1])
    over_layers(modules, {name: of_matrix.lines for name, of_matrix in measured.items()}, sheet)
    averages = list(sheet.lines)
    measure_others(sources.base, sources.after, pairing.others, sheet)
    matrix_lines = [line for of_matrix in measured.values() for line in of_matrix.lines]
    write_measurements(out / "measurements.jsonl", [*matrix_lines, *sheet.lines])
    changed = [module for module in modules if ALL not in measured[module.name].absent]
    shapes = {name: stored.shape for name, stored in sources.base.tensors.items()}
    write_claims(out / "claims.json", weight_claims(first_matrices(changed, shapes), Lines(averages)))
    write_text_atomic(out / "prompts.jsonl", "")
    absent = {name: of_matrix.absent for name, of_matrix in measured.items() if of_matrix.absent}
    manifest = {
        "format": 1,
        "recipe": "compare",
        "exploratory": True,
        "seeds": [],
        "models": [],
        "base": str(sources.base.directory.resolve()),
        "tuned": str(sources.directory.resolve()),
        "adapter": isinstance(sources.after, Adapter),
        "names": list(sources.names),
        "model_type": sources.base.model_type,
        "comparison": dict(header),
        "matrices": len(measured),
        "skipped": dict(pairing.skipped),
        "others": grouped(pairing.others),
        "absent": absent,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {"this_call": round(seconds, 1)},
    }
    write_json_atomic(out / "manifest.json", manifest)
