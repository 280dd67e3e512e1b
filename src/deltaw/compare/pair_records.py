"""What is kept of one matrix and two updates, and the lines of measurements that it gives.

A record says `first` and `second`; which model is which, and what the models are called, is said when lines are made,
so that a renamed model is measured no second time. A line is of `model`, and its `set` says with what: `with=dpo`, the
number of directions, `with=dpo/k=016`, and the principal angle, `with=dpo/k=016/angle=01`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deltaw.analysis.large_matrices import MatrixPair
from deltaw.analysis.update_pairs import Directions, compare_updates
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet, nulls_in
from deltaw.statistics import Null, mean_of_each_kind

STAGE = "several"
DIRECTIONS = (1, 4, 16)
"""How many of the strongest directions of two updates are compared."""
WIDTH = 1.959964
"""Of a normal law's 95 % band, in standard deviations."""
_OTHER_SIDE = {"rotation_of_outputs": "rotation_of_inputs", "rotation_of_inputs": "rotation_of_outputs"}


def record_of(
    first: MatrixPair, second: MatrixPair, a: Directions, b: Directions, wide: bool, base_rounding: float | None
) -> dict[str, Any]:
    """All numbers of two updates of one matrix, as JSON.

    wide: whether both are given transposed, so that their left directions are inputs. base_rounding: the energy that
    rounding of the stored base can have added to both updates alike; None if it added nothing.
    """
    result = compare_updates(first, second, a, b, DIRECTIONS)
    names = {"left": "input", "right": "output"} if wide else {"left": "output", "right": "input"}
    kinds = [null.kind for null in result.cosine_nulls]
    return {
        "shape": [first.n, first.m] if wide else [first.m, first.n],
        "energy": [a.energy, b.energy],
        "own": [
            {str(k): float(x.own[k - 1]) for k in DIRECTIONS if k <= min(len(x.own), first.n // 2)} for x in (a, b)
        ],
        "cosine": result.cosine,
        "cosine_nulls": [
            [_OTHER_SIDE.get(kind, kind) if wide else kind, *_band(null), spread]
            for kind, null, spread in zip(kinds, result.cosine_nulls, result.spreads, strict=True)
        ],
        "rounding": None if base_rounding is None else base_rounding / (a.energy * b.energy) ** 0.5,
        "shared": [
            {
                "side": names[part.side],
                "k": part.k,
                "overlap": [part.overlap, *_band(part.overlap_null)],
                "angles": [
                    [float(angle), *_band(null)] for angle, null in zip(part.angles, part.angle_nulls, strict=True)
                ],
                "energy": [[value, *_band(null)] for value, null in zip(part.energy, part.energy_nulls, strict=True)],
            }
            for part in result.shared
        ],
    }


def _band(null: Null) -> list[float]:
    return [null.mean, null.low, null.high]


def write_pair(names: tuple[str, str], record: Mapping[str, Any], sheet: Sheet) -> None:
    """The lines of one matrix. names: of the first and of the second model. sheet: shares the matrix."""
    together = sheet.with_(model=names[0], set=f"with={names[1]}")
    for kind, *band, spread in record["cosine_nulls"]:
        _write_cosine(together, record["cosine"], Null(kind, *band), spread)
    if record["rounding"] is not None:
        together.add("cosine_of_rounding", record["rounding"], unit="cosine")
    largest = max((part["k"] for part in record["shared"]), default=None)
    for part in record["shared"]:
        side, place = part["side"], f"k={part['k']:03d}"
        at_k = together.with_(set=f"with={names[1]}/{place}")
        _write(at_k, f"{side}_overlap", "squared cosine", part["overlap"])
        for model, other, values in zip(names, names[::-1], part["energy"], strict=True):
            of_model = sheet.with_(model=model, set=f"with={other}/{place}")
            _write(of_model, f"{side}_energy_shared", "share of energy", values)
        for number, values in enumerate(part["angles"], start=1) if part["k"] == largest else ():
            at_angle = together.with_(set=f"with={names[1]}/{place}/angle={number:02d}")
            _write(at_angle, f"{side}_angle", "degrees", values)


def _write(sheet: Sheet, statistic: str, unit: str, values: Sequence[float]) -> None:
    value, mean, low, high = values
    sheet.add(statistic, value, nulls=[Null("rotation", mean, low, high)], unit=unit)


def _write_cosine(sheet: Sheet, cosine: float, null: Null, spread: float) -> None:
    """The cosine beside one null, and in the null's standard deviations."""
    sheet.add("update_cosine", cosine, nulls=[null], unit="cosine")
    if spread > 0:
        in_spreads = Null(null.kind, 0.0, null.low / spread, null.high / spread)
        sheet.add("update_cosine_deviations", cosine / spread, nulls=[in_spreads], unit="standard deviations of chance")


def write_own(own: Mapping[str, float], sheet: Sheet) -> None:
    """The share of an update's energy in its own strongest directions, the most that another's can hold."""
    for k, value in own.items():
        sheet.add("energy_own", value, unit="share of energy", set=f"k={int(k):03d}")


def write_whole(names: tuple[str, str], records: Sequence[Mapping[str, Any]], sheet: Sheet) -> None:
    """The cosine of the two updates of all matrices as one vector. records: of matrices that share no entry."""
    first, second = (sum(record["energy"][place] for record in records) for place in (0, 1))
    sizes = [(record["energy"][0] * record["energy"][1]) ** 0.5 for record in records]
    scale = (first * second) ** 0.5
    cosine = sum(record["cosine"] * size for record, size in zip(records, sizes, strict=True)) / scale
    view = sheet.with_(model=names[0], set=f"with={names[1]}", n=len(records), n_unit="matrix")
    for number, (kind, *_) in enumerate(records[0]["cosine_nulls"]):
        spreads = [record["cosine_nulls"][number][4] * size for record, size in zip(records, sizes, strict=True)]
        spread = float(np.sqrt(np.sum(np.square(spreads)))) / scale
        half = min(1.0, WIDTH * spread)
        _write_cosine(view, min(1.0, max(-1.0, cosine)), Null(kind, 0.0, -half, half), spread)


def write_means(lines: Iterable[Measurement], kinds: Mapping[str, str], sheet: Sheet) -> None:
    """A mean over layers of each statistic, by kind of matrix. kinds: of the matrices, by name.

    A band is that of a mean of independent nulls. Deviations are of the mean cosine.
    """
    grouped: dict[tuple[Any, ...], list[Measurement]] = {}
    for line in lines:
        if line.module is not None and line.module in kinds and line.statistic != "cosine_of_rounding":
            key = (line.model, line.set, line.statistic, line.null_kind, kinds[line.module])
            grouped.setdefault(key, []).append(line)
    for (model, place, statistic, null_kind, kind), of_kind in grouped.items():
        value = float(np.mean([line.value for line in of_kind]))
        nulls = mean_of_each_kind([nulls_in([line]) for line in of_kind])
        if statistic == "update_cosine_deviations":
            cosines = {line.module: line for line in grouped[model, place, "update_cosine", null_kind, kind]}
            own = [(cosines[line.module].value, _spread(cosines[line.module], line)) for line in of_kind]
            value = sum(cosine for cosine, _ in own) / sum(spread**2 for _, spread in own) ** 0.5
            nulls = [Null(null_kind, 0.0, -WIDTH, WIDTH)]
        view = sheet.with_(model=model, module=kind, set=place, n=len(of_kind), n_unit="layer")
        view.add(statistic, value, nulls=nulls, unit=of_kind[0].unit)


def _spread(cosine: Measurement, deviations: Measurement) -> float:
    """The standard deviation of chance by which the one was divided to give the other: that of their bands."""
    return float(cosine.null_high or 0.0) / float(deviations.null_high or 1.0)
