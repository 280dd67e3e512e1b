"""Matrices of one kind, over layers: the means that the study's claims are about, and those claims of one pair."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deltaw.claims import STATEMENTS
from deltaw.compare.matrix import Found
from deltaw.models.architectures import Module
from deltaw.results import Claim, Measurement
from deltaw.results import Null as ClaimNull

AVERAGED = ("update_relative_norm", "null_energy_left", "null_energy_right")
CLAIMED = {"update-is-small": "update_relative_norm", "null-space": "null_energy_left"}
"""Claims of the study about weights alone, with their statistics."""


def kind_of(module: Module) -> str | None:
    """A module's name without its layer and what stands before it, such as mlp.gate_proj; None outside layers.

    All experts of a mixture are one kind, mlp.experts.gate_proj: the seventh of one layer is no kin of that of another.
    """
    if module.layer is None:
        return None
    return re.sub(r"(?<=\bexperts\.)\d+\.", "", module.name.partition(f".{module.layer}.")[2]) or None


def over_layers(modules: Iterable[Module], found: Mapping[str, Found]) -> list[Measurement]:
    """One line a kind of matrix, statistic and null, without a layer; n counts the matrices that have the statistic.

    Sizes have a geometric mean over layers that changed, shares an arithmetic one. Bands are those of a mean of
    independent nulls: the root of the summed squares of their half widths, over n.
    """
    lines: dict[tuple[str, str, str | None], list[Measurement]] = {}
    for module in modules:
        kind = kind_of(module)
        if kind is None or module.name not in found:
            continue
        for line in found[module.name].lines:
            if line.statistic in AVERAGED and line.set is None and line.value > 0:
                lines.setdefault((kind, line.statistic, line.null_kind), []).append(line)
    return [_mean(kind, layers) for (kind, _, _), layers in lines.items()]


def _mean(kind: str, layers: Sequence[Measurement]) -> Measurement:
    values = np.array([line.value for line in layers])
    first = layers[0]
    geometric = first.statistic == "update_relative_norm"
    value = float(np.exp(np.log(values).mean()) if geometric else values.mean())
    null: dict[str, Any] = {}
    if first.null_kind is not None:
        means, lows, highs = (
            np.array([getattr(line, f"null_{end}") for line in layers], dtype=np.float64)
            for end in ("mean", "low", "high")
        )
        mean = float(means.mean())
        below, above = (float(np.sqrt(((edge - means) ** 2).sum()) / len(layers)) for edge in (lows, highs))
        null = {"null_kind": first.null_kind, "null_mean": mean, "null_low": mean - below, "null_high": mean + above}
    return Measurement(
        stage=first.stage, model=first.model, module=kind, statistic=first.statistic, unit=first.unit, value=value,
        n=len(layers), n_unit="matrix" if ".experts." in str(first.module) else "layer", **null,
    )  # fmt: skip


def weight_claims(
    modules: Sequence[Module],
    shapes: Mapping[str, tuple[int, ...]],
    averages: Iterable[Measurement],
    found: Mapping[str, Found],
) -> list[Claim]:
    """The study's claims about weights, asked of each kind of first MLP matrix: tall ones, gate and up as one map.

    shapes: of the base model's tensors. Nothing is claimed of a kind that rounding alone could have changed. One pair
    has no interval, and no word.
    """
    modules = [module for module in modules if module.name in found and "*" not in found[module.name].absent]
    lines = list(averages)
    claims = []
    for kind in _first_matrices(modules, shapes):
        for name, statistic in CLAIMED.items():
            own = [line for line in lines if (line.module, line.statistic) == (kind, statistic)]
            if own:
                claims.append(_claim(name, kind, own))
    return claims


def _first_matrices(modules: Sequence[Module], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Kinds of MLP matrices with more outputs than inputs that are no part of another one."""
    sizes: dict[str, tuple[set[str], int]] = {}
    for module in modules:
        kind, (outputs, inputs) = kind_of(module), module.shape(shapes)
        if module.kind == "mlp" and kind is not None and outputs > inputs:
            sizes.setdefault(
                kind, ({piece.tensor.replace(f".{module.layer}.", ".") for piece in module.pieces}, outputs)
            )
    return [
        kind
        for kind, (tensors, outputs) in sizes.items()
        if not any(tensors <= others and outputs < more for others, more in sizes.values())
    ]


def _claim(name: str, kind: str, lines: Sequence[Measurement]) -> Claim:
    statement = next(one for one in STATEMENTS if one.id.startswith(f"{name}/"))
    first = lines[0]
    nulls = [
        ClaimNull(kind=line.null_kind, mean=line.null_mean, low=line.null_low, high=line.null_high)
        for line in lines
        if line.null_kind in statement.nulls and line.null_mean is not None
    ]
    return Claim(
        id=f"{name}/{kind}", observation=statement.observation, statement=_text(name), statistic=first.statistic,
        site=f"{kind}, mean over layers", smallest_effect=statement.smallest_effect, margin=statement.margin,
        direction=statement.direction, scale=statement.scale, value=first.value, n=1, n_unit="pair", nulls=tuple(nulls),
        exploratory=True,
    )  # fmt: skip


def _text(name: str) -> str:
    return {
        "update-is-small": "The update is smaller than a tenth of the weights",
        "null-space": "The update lies more in the left null space of W than in its column space",
    }[name]
