"""Every two updates, matrix by matrix: what several comparisons of one base measure of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from deltaw.analysis.large_matrices import MatrixPair, tall
from deltaw.analysis.rounding import steps
from deltaw.analysis.update_pairs import Directions, directions
from deltaw.compare.pair_records import DIRECTIONS, STAGE, record_of, write_own, write_pair, write_whole
from deltaw.compare.tuned_models import Pair, Tuned
from deltaw.compare.weights import computed_on, matrix_generator, parts_of, stored_steps
from deltaw.errors import DeltawError
from deltaw.models.architectures import Module
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet
from deltaw.results.records import MANIFEST, read_json

Say = Callable[[str], None]


def left_out_of(model: Tuned) -> dict[str, str]:
    """Matrices of which nothing is said, and why, from the model's own comparison."""
    path = model.directory / MANIFEST
    try:
        return {module: str(why["*"]) for module, why in read_json(path)["absent"].items() if "*" in why}
    except (KeyError, TypeError, AttributeError) as error:
        raise DeltawError(f"{path} is damaged; remove {model.directory} to compare {model.name} again") from error


def compare_pairs(
    pairs: Sequence[Pair], absent: Mapping[str, Mapping[str, str]], say: Say, device: str = "cpu"
) -> None:
    """Every matrix of every two models that no earlier run has finished; matrix by matrix: each is read once."""
    modules = list(dict.fromkeys(name for pair in pairs for name in pair.first.matched if name in pair.second.matched))
    for place, module in enumerate(modules, start=1):
        updates = _Updates(module, device)
        fresh = 0
        for pair in pairs:
            both = module in pair.first.matched and module in pair.second.matched
            if not both or module in pair.journal.parts:
                continue
            reasons = [
                f"{model.name}: {absent[model.name][module]}"
                for model in (pair.first, pair.second)
                if module in absent[model.name]
            ]
            record = {"absent": reasons[0]} if reasons else updates.record(pair)
            pair.journal.part(module, partial(dict, record))
            fresh += 1
        if fresh:
            say(f"pairs of updates: {place}/{len(modules)} {module}, {fresh} of {len(pairs)}")


class _Updates:
    """The updates of one matrix, each read once. Memory: a Gram matrix a model."""

    def __init__(self, module: str, device: str) -> None:
        self.module = module
        self._begin(device)

    def _begin(self, device: str) -> None:
        self.device = device
        self.read: dict[str, tuple[MatrixPair, Directions]] = {}
        self.before: list[torch.Tensor] = []
        self.rounding = 0.0
        self.wide = False

    def record(self, pair: Pair) -> dict[str, Any]:
        """What is kept of two of them."""
        with torch.no_grad():
            return computed_on(self.device, partial(self._record, pair))

    def _record(self, pair: Pair, device: str) -> dict[str, Any]:
        if device != self.device:  # which had too little memory
            self._begin(device)
        (first, a), (second, b) = self._of(pair.first), self._of(pair.second)
        dense = first.low_rank is None and second.low_rank is None
        return record_of(first, second, a, b, self.wide, self.rounding if dense else None)

    def _of(self, model: Tuned) -> tuple[MatrixPair, Directions]:
        if model.key not in self.read:
            matched = model.matched[self.module]
            parts = parts_of(model.sources, matched, self.device)
            if not self.before:
                self.before = [before for before, _ in parts]
                self.wide = sum(map(len, self.before)) < self.before[0].shape[1]
                for before, piece in zip(self.before, matched.module.pieces, strict=True):
                    self.rounding += (stored_steps(model.sources.base, piece) or steps(before)).squares
            # All models share one copy of the base's matrix.
            update = tall([(before, after) for before, (_, after) in zip(self.before, parts, strict=True)])
            strongest = directions(update, max(DIRECTIONS), matrix_generator(self.module))
            self.read[model.key] = update, strongest
        return self.read[model.key]


def pair_lines(
    pair: Pair, order: Sequence[str], modules: Mapping[str, Module], missing: dict[str, dict[str, str]]
) -> list[Measurement]:
    """The lines of two models, in the order in which they are named. missing: gets what was not compared, and why."""
    turned = order.index(pair.first.key) > order.index(pair.second.key)
    first, second = (pair.second, pair.first) if turned else (pair.first, pair.second)
    records = {name: _turned(pair.journal.parts[name], turned) for name in modules if name in pair.journal.parts}
    missing[f"{first.name} and {second.name}"] = {
        name: str(record["absent"]) for name, record in records.items() if "absent" in record
    }
    records = {name: record for name, record in records.items() if "absent" not in record}
    sheet, names = Sheet(stage=STAGE), (first.name, second.name)
    for name, record in records.items():
        view = sheet.with_(module=name, layer=modules[name].layer)
        write_pair(names, record, view)
        for model, shares in zip(names, record["own"], strict=True):
            write_own(shares, view.with_(model=model))
    apart = _without_parts([modules[name] for name in records])
    if apart:
        write_whole(names, [records[name] for name in apart], sheet)
    return sheet.lines


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
