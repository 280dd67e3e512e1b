"""Matrices of one kind: what they are called, those that claims are about, and their means over layers."""

import re
from collections.abc import Iterable, Mapping, Sequence

from deltaw.models.architectures import Module
from deltaw.observations.null_space.measure import AVERAGED, Averaged, write_means
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet, nulls_in


def kind_of(module: Module) -> str | None:
    """A module's name without its layer and what stands before it, such as mlp.gate_proj; None outside layers.

    All experts of a mixture are one kind, mlp.experts.gate_proj: the seventh of one layer is no kin of that of another.
    """
    if module.layer is None:
        return None
    return re.sub(r"(?<=\bexperts\.)\d+\.", "", module.name.partition(f".{module.layer}.")[2]) or None


def over_layers(modules: Iterable[Module], lines: Mapping[str, Sequence[Measurement]], sheet: Sheet) -> None:
    """Writes the means of each kind of matrix, without a layer; n counts the matrices that have the statistic.

    lines: of every module. Bands are those of means of independent nulls.
    """
    kinds: dict[str, list[Averaged]] = {}
    for module in modules:
        kind = kind_of(module)
        if kind is not None:
            kinds.setdefault(kind, []).append(_averaged(lines[module.name]))
    for kind, matrices in kinds.items():
        write_means(sheet.with_(module=kind), matrices, "matrix" if ".experts." in kind else "layer")


def _averaged(lines: Iterable[Measurement]) -> Averaged:
    """What `measure_matrix` gave for the mean, from the lines that it wrote."""
    of_statistic: dict[str, list[Measurement]] = {}
    for line in lines:
        if line.statistic in AVERAGED:
            of_statistic.setdefault(line.statistic, []).append(line)
    return {statistic: (written[0].value, nulls_in(written)) for statistic, written in of_statistic.items()}


def first_matrices(modules: Iterable[Module], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Kinds of MLP matrices with more outputs than inputs that are no part of another one: gate and up as one map.

    shapes: of the base model's tensors.
    """
    sizes: dict[str, tuple[set[str], int]] = {}
    for module in modules:
        kind, (outputs, inputs) = kind_of(module), module.shape(shapes)
        if module.kind == "mlp" and kind is not None and outputs > inputs:
            tensors = {piece.tensor.replace(f".{module.layer}.", ".") for piece in module.pieces}
            sizes.setdefault(kind, (tensors, outputs))
    return [
        kind
        for kind, (tensors, outputs) in sizes.items()
        if not any(tensors <= others and outputs < more for others, more in sizes.values())
    ]
