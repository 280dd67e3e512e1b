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
from deltaw.statistics import Null

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


def lines_of(
    names: tuple[str, str], module: str, layer: int | None, record: Mapping[str, Any]
) -> Iterable[Measurement]:
    """The lines of one matrix. names: of the first and of the second model."""
    common: dict[str, Any] = {"stage": STAGE, "model": names[0], "module": module, "layer": layer}
    together = {**common, "set": f"with={names[1]}"}
    for kind, mean, low, high, spread in record["cosine_nulls"]:
        yield from _cosine(together, record["cosine"], (kind, mean, low, high), spread)
    if record["rounding"] is not None:
        yield Measurement(**together, statistic="cosine_of_rounding", unit="cosine", value=record["rounding"])
    for part in record["shared"]:
        side, largest = part["side"], max(x["k"] for x in record["shared"])
        at_k = {**common, "set": f"with={names[1]}/k={part['k']:03d}"}
        yield _beside(at_k, f"{side}_overlap", "squared cosine", part["overlap"])
        for model, other, values in zip(names, names[::-1], part["energy"], strict=True):
            of_model = {**at_k, "model": model, "set": f"with={other}/k={part['k']:03d}"}
            yield _beside(of_model, f"{side}_energy_shared", "share of energy", values)
        for number, values in enumerate(part["angles"], start=1) if part["k"] == largest else ():
            of_angle = {**at_k, "set": f"{at_k['set']}/angle={number:02d}"}
            yield _beside(of_angle, f"{side}_angle", "degrees", values)


def _cosine(
    place: dict[str, Any], cosine: float, null: tuple[str, float, float, float], spread: float
) -> Iterable[Measurement]:
    """The cosine beside one null, and in the null's standard deviations."""
    kind, mean, low, high = null
    band: dict[str, Any] = {"null_mean": mean, "null_low": low, "null_high": high}
    yield Measurement(**place, statistic="update_cosine", unit="cosine", value=cosine, null_kind=kind, **band)
    if spread > 0:
        yield Measurement(
            **place,
            statistic="update_cosine_deviations",
            unit="standard deviations of chance",
            value=cosine / spread,
            null_kind=kind,
            null_mean=0.0,
            null_low=low / spread,
            null_high=high / spread,
        )


def _beside(place: dict[str, Any], statistic: str, unit: str, values: Sequence[float]) -> Measurement:
    value, mean, low, high = values
    return Measurement(
        **place,
        statistic=statistic,
        unit=unit,
        value=value,
        null_kind="rotation",
        null_mean=mean,
        null_low=low,
        null_high=high,
    )


def own_lines(name: str, module: str, layer: int | None, own: Mapping[str, float]) -> Iterable[Measurement]:
    """The share of an update's energy in its own strongest directions, the most that another's can hold."""
    for k, value in own.items():
        yield Measurement(
            stage=STAGE,
            model=name,
            module=module,
            layer=layer,
            set=f"k={int(k):03d}",
            statistic="energy_own",
            unit="share of energy",
            value=value,
        )


def mean_lines(lines: Iterable[Measurement], kinds: Mapping[str, str]) -> list[Measurement]:
    """A mean over layers of each statistic, by kind of matrix. kinds: of the matrices, by name.

    A band is that of a mean of independent nulls. Deviations are of the mean cosine.
    """
    grouped: dict[tuple[Any, ...], list[Measurement]] = {}
    for line in lines:
        if line.module is not None and line.module in kinds and line.statistic != "cosine_of_rounding":
            key = (line.model, line.set, line.statistic, line.null_kind, kinds[line.module])
            grouped.setdefault(key, []).append(line)
    return [_mean(key[-1], each, grouped) for key, each in grouped.items()]


def _mean(kind: str, lines: Sequence[Measurement], grouped: Mapping[tuple[Any, ...], list[Measurement]]) -> Measurement:
    first, values = lines[0], np.array([line.value for line in lines])
    value, null = float(values.mean()), dict[str, Any]()
    if first.null_kind is not None:
        ends = {
            end: np.array([getattr(line, f"null_{end}") for line in lines], dtype=np.float64)
            for end in ("mean", "low", "high")
        }
        mean = float(ends["mean"].mean())
        below, above = (float(np.sqrt(((ends[end] - ends["mean"]) ** 2).sum()) / len(lines)) for end in ("low", "high"))
        if first.statistic == "update_cosine_deviations":
            cosines = {x.module: x for x in grouped[first.model, first.set, "update_cosine", first.null_kind, kind]}
            own = [(cosines[line.module].value, _spread(cosines[line.module], line)) for line in lines]
            value = sum(cosine for cosine, _ in own) / sum(spread**2 for _, spread in own) ** 0.5
            below = above = WIDTH
        null = {
            "null_kind": first.null_kind,
            "null_mean": mean,
            "null_low": mean - below,
            "null_high": mean + above,
        }
    return Measurement(
        stage=STAGE,
        model=first.model,
        module=kind,
        set=first.set,
        statistic=first.statistic,
        unit=first.unit,
        value=value,
        n=len(lines),
        n_unit="layer",
        **null,
    )


def _spread(cosine: Measurement, deviations: Measurement) -> float:
    """The standard deviation of chance by which the one was divided to give the other: that of their bands."""
    return float(cosine.null_high or 0.0) / float(deviations.null_high or 1.0)


def whole_lines(names: tuple[str, str], records: Sequence[Mapping[str, Any]]) -> Iterable[Measurement]:
    """The cosine of the two updates of all matrices as one vector. records: of matrices that share no entry."""
    first, second = (sum(record["energy"][place] for record in records) for place in (0, 1))
    sizes = [(record["energy"][0] * record["energy"][1]) ** 0.5 for record in records]
    scale = (first * second) ** 0.5
    cosine = sum(record["cosine"] * size for record, size in zip(records, sizes, strict=True)) / scale
    place: dict[str, Any] = {
        "stage": STAGE,
        "model": names[0],
        "set": f"with={names[1]}",
        "n": len(records),
        "n_unit": "matrix",
    }
    for number, (kind, *_) in enumerate(records[0]["cosine_nulls"]):
        spreads = [record["cosine_nulls"][number][4] * size for record, size in zip(records, sizes, strict=True)]
        spread = float(np.sqrt(np.sum(np.square(spreads)))) / scale
        half = min(1.0, WIDTH * spread)
        yield from _cosine(place, min(1.0, max(-1.0, cosine)), (kind, 0.0, -half, half), spread)
