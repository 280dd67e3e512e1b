"""What is measured of one matrix before and after tuning: lines in the study's schema, and why what is absent is."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.gram_moments import (
    FactorNulls,
    factor_nulls,
    gaussian_moments,
    gaussian_ranks,
    gaussian_residual,
    permutation_moments,
    rotation_moments,
    row_facts,
    sign_flip_moments,
)
from deltaw.analysis.inputs import Absent
from deltaw.analysis.large_matrices import (
    After,
    Factor,
    LowRank,
    MatrixPair,
    Moments,
    factor,
    inside,
    low_rank_singular_values,
    moments,
    stacked,
    top_singular_values,
)
from deltaw.analysis.rounding import Rounding, Steps, identical, rounding, steps
from deltaw.analysis.spectrum import GaussianSpectrum
from deltaw.results import Measurement
from deltaw.statistics import Null

TOP, RESIDUAL_AT, CURVE_POINTS = 32, (1, 2, 4, 8, 16, 32), 17
CURVE_UP_TO = 2048
"""Matrices whose smaller side is at most this get their energy curve without being asked: eigenvectors take seconds."""
NEAR_FLOOR = 5.0
"""Sizes up to this many rounding floors have their share of rounding stated, and ρ_N corrected for it or withheld."""
TOLERANCE = 0.01
"""How far apart the corrections may lie for the least and the most that rounding can have added."""

StoredSteps = Sequence[tuple[Steps | None, Steps | None]]
"""Of each part before and after; None: those of the tensor's own format."""


@dataclass
class Found:
    """The lines of one matrix, and for each statistic that does not exist, why."""

    shared: dict[str, Any]
    lines: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, statistic: str, value: float, unit: str, nulls: Iterable[Null] = (), set: str | None = None) -> None:
        """One line for each null, or one without."""
        common: dict[str, Any] = {**self.shared, "statistic": statistic, "value": value, "unit": unit, "set": set}
        listed = list(nulls)
        for null in listed:
            band: dict[str, Any] = {"null_mean": null.mean, "null_low": null.low, "null_high": null.high}
            self.lines.append(Measurement(**common, null_kind=null.kind, **band))
        if not listed:
            self.lines.append(Measurement(**common))

    def value(self, statistic: str) -> float | None:
        """The first value of a statistic, None if it is absent."""
        return next((line.value for line in self.lines if line.statistic == statistic), None)


def measure(
    parts: Sequence[tuple[Tensor, After]],
    shared: dict[str, Any],
    curve: bool,
    seed: int = 0,
    stored: StoredSteps | None = None,
) -> Found:
    """All statistics of one matrix, from its parts (out, in) before and after. curve: at any size.

    seed: of the draws, with the module's name. stored: the steps of parts that were stored in another format.
    """
    out = Found(shared)
    generator = np.random.default_rng([seed, zlib.crc32(str(shared["module"]).encode())])
    m, n = sum(len(before) for before, _ in parts), parts[0][0].shape[1]
    pair = tall(parts)
    found = moments(pair)
    if found.energy == 0 or float(found.G.trace()) == 0:
        _add_nothing(out, found)
        _add_rounding(out, parts, found, stored)
        return out
    out.add("update_relative_norm", found.relative_norm, "share of norm")
    noise = _add_rounding(out, parts, found, stored)
    if "*" in out.absent:
        return out
    _add_spectrum(out, pair, found, generator)
    side = "left" if m >= n else "right"
    wants_curve = curve or pair.n <= CURVE_UP_TO
    _add_null_space(out, pair, found, side, wants_curve, square=m == n, noise=noise, generator=generator)
    return out


def tall(parts: Sequence[tuple[Tensor, After]]) -> MatrixPair:
    """The matrix whose parts (out, in) are stacked on each other, transposed if it is wide."""
    m, n = sum(len(before) for before, _ in parts), parts[0][0].shape[1]
    return MatrixPair(parts if m >= n else _transposed(parts))


def _transposed(parts: Sequence[tuple[Tensor, After]]) -> list[tuple[Tensor, After]]:
    if len(parts) == 1:
        return [(parts[0][0].T, parts[0][1].T)]
    before = torch.cat([before for before, _ in parts]).T
    factors = [after for _, after in parts if isinstance(after, LowRank)]
    if len(factors) == len(parts):
        return [(before, stacked(factors).T)]
    dense = [x.left @ x.right.T if isinstance(x, LowRank) else x for _, x in parts]
    return [(before, torch.cat(dense).T)]


def _add_nothing(out: Found, found: Moments) -> None:
    if found.energy == 0:
        out.add("update_relative_norm", 0.0, "share of norm")
        out.absent["*"] = "the update is zero, so it has no direction"
    else:
        out.absent["*"] = "the matrix was zero before, so nothing is relative to it"


@dataclass(frozen=True)
class Noise:
    """The share of ‖ΔW‖² that rounding added, between these two."""

    least: float
    """If the stored base was the start of the tuning, so that only the tuned side was rounded."""
    most: float
    """If both sides were rounded from one matrix."""

    def corrected(self, value: float, of_noise: float) -> float | None:
        """A share of energy without that of rounding, whose own share is of_noise. None if it cannot be known."""
        if self.most > 0.5:
            return None
        ends = [(value - share * of_noise) / (1 - share) for share in (self.least, self.most)]
        return None if abs(ends[0] - ends[1]) > TOLERANCE else min(1.0, max(0.0, sum(ends) / 2))

    def moved(self, value: float, of_noise: float) -> float:
        """The same of an end of a null's band."""
        share = (self.least + self.most) / 2
        return (value - share * of_noise) / (1 - share)

    def why(self) -> str:
        """Why a share of energy is withheld."""
        return (
            f"{self.least:.0%} to {self.most:.0%} of the update's energy is rounding, too much to correct this share "
            "for it"
        )


def _add_rounding(
    out: Found, parts: Sequence[tuple[Tensor, After]], found: Moments, stored: StoredSteps | None
) -> Noise | None:
    """The rounding floor, identical entries and rounding's share; that share if the update lies near the floor.

    An update below the floor leaves a reason for everything absent.
    """
    dense = [(before, after) for before, after in parts if isinstance(after, Tensor)]
    if len(dense) < len(parts):
        out.absent["rounding_floor"] = "the update is given by exact factors, so nothing of it was rounded away"
        return None
    size = sum(before.numel() for before, _ in dense)
    same = sum(identical(before, after) * before.numel() for before, after in dense) / size
    out.add("identical_share", same, "share of entries")
    weight = float(found.G.trace())
    if weight == 0:
        return None
    sides = _rounding(dense, stored)
    floor = float((sides.limit / weight) ** 0.5)
    out.add("rounding_floor", floor, "share of norm")
    if 0 < found.relative_norm < floor:
        out.absent["*"] = (
            f"the update, {found.relative_norm:.2g} of ‖W‖, is below the rounding floor of {sides.format}, {floor:.2g}"
            f": rounding alone could have made it, so it is not interpreted ({same:.1%} of entries are identical)"
        )
    if not floor <= found.relative_norm < NEAR_FLOOR * floor:
        return None
    noise = Noise(min(1.0, sides.after / found.energy), min(1.0, sides.expected / found.energy))
    out.add("rounding_share", noise.most, "share of energy")
    return noise


def _rounding(dense: Sequence[tuple[Tensor, Tensor]], stored: StoredSteps | None) -> Rounding:
    given = stored or [(None, None)] * len(dense)
    before = [known or steps(tensor) for (tensor, _), (known, _) in zip(dense, given, strict=True)]
    after = [known or steps(tensor) for (_, tensor), (_, known) in zip(dense, given, strict=True)]
    return rounding(before, after)


def _add_spectrum(out: Found, pair: MatrixPair, found: Moments, generator: np.random.Generator) -> None:
    factors, shape = pair.low_rank, (pair.m, pair.n)
    if factors is not None:
        sigma = low_rank_singular_values(factors)
    else:
        sigma = top_singular_values(found.S, TOP, generator)
    ks = [k for k in RESIDUAL_AT if k <= len(sigma)]
    nulls, kind, beyond = _spectrum_nulls(shape, factors, ks, generator)
    out.add("stable_rank", max(1.0, found.energy / sigma[0] ** 2), "dimensions", [nulls.stable_rank])
    out.add("participation_ratio", 1 / found.concentration, "dimensions", [nulls.participation_ratio])
    for number, value in enumerate(sigma[:TOP], start=1):
        out.add("singular_value", float(value), "weight", set=f"vector={number:03d}")
    for k, mean in zip(ks, beyond, strict=True):
        left = 1 - float((sigma[:k] ** 2).sum()) / found.energy
        null = Null(kind, mean, mean, mean)
        out.add("residual_energy", max(0.0, left), "share of energy", [null], set=f"k={k:03d}")
    band = 1.959964 / (pair.m * pair.n) ** 0.5
    out.add("cosine_with_weight", found.cosine, "cosine", [Null("gaussian", 0.0, -band, band)])


def _spectrum_nulls(
    shape: tuple[int, int], factors: LowRank | None, ks: Sequence[int], generator: np.random.Generator
) -> tuple[GaussianSpectrum | FactorNulls, str, list[float]]:
    """The nulls of both ranks, their kind, and the mean residual energy beyond each of `ks` directions."""
    if factors is None:
        return gaussian_ranks(shape), "gaussian", gaussian_residual(shape, ks).tolist()
    nulls = factor_nulls(shape, min(int(factors.left.shape[1]), *shape), generator)
    return nulls, "gaussian_factors", [float(nulls.residual[k]) for k in ks]


def _add_null_space(
    out: Found,
    pair: MatrixPair,
    found: Moments,
    side: str,
    curve: bool,
    square: bool,
    noise: Noise | None,
    generator: np.random.Generator,
) -> None:
    F = factor(found.G, pair.m, curve)
    within = inside(found, F)
    out.add("weight_rank", float(F.k), "dimensions")
    other = "right" if side == "left" else "left"
    if F.k < pair.m:
        _add_null_energy(out, pair, found, F, within.rho, side, noise, generator)
    else:
        out.absent[f"null_energy_{side}"] = (
            f"W is {pair.m} × {pair.m} of full rank, so it has no null space on either side"
        )
    if square and F.k < pair.n:
        turned = MatrixPair(_transposed(pair.parts))
        again = moments(turned)
        F_turned = factor(again.G, turned.m, curve)
        rho_turned = inside(again, F_turned).rho
        _add_null_energy(out, turned, again, F_turned, rho_turned, other, noise, generator)
    elif square:
        out.absent[f"null_energy_{other}"] = out.absent[f"null_energy_{side}"]
    else:
        shape = f"{pair.m} × {pair.n}" if side == "left" else f"{pair.n} × {pair.m}"
        out.absent[f"null_energy_{other}"] = (
            f"W is {shape}, so its {other} null space is {{0}}, or its weakest directions"
        )
    name = "null_energy_curve" if side == "left" else "null_energy_curve_right"
    ks = np.unique(np.linspace(0, F.k, CURVE_POINTS).round().astype(int)).tolist()
    rho = within.curve(ks)
    if isinstance(rho, Absent):
        out.absent[name] = (
            f"the smaller side is above {CURVE_UP_TO}: --curve computes it, at half a minute or more a matrix"
        )
        return
    if noise is not None:
        pure = [noise.corrected(float(value), 1 - k / pair.m) for k, value in zip(ks, rho, strict=True)]
        known = [value for value in pure if value is not None]
        if len(known) < len(ks):
            out.absent[name] = noise.why()
            return
        rho = np.array(known)
    for k, value in zip(ks, rho, strict=True):
        chance = 1 - k / pair.m
        out.add(name, float(value), "share of energy", [Null("rotation", chance, chance, chance)], set=f"k={k:03d}")


def _add_null_energy(
    out: Found,
    pair: MatrixPair,
    found: Moments,
    F: Factor,
    rho: float,
    side: str,
    noise: Noise | None,
    generator: np.random.Generator,
) -> None:
    facts = row_facts(pair, found, F, generator)
    nulls = [
        sign_flip_moments(facts, found.energy),
        permutation_moments(facts, F.k, found.energy, generator),
        rotation_moments(found.concentration, pair.m, F.k),
    ]
    if pair.low_rank is None:  # entries of an update of low rank are not independent
        nulls.append(gaussian_moments((pair.m, pair.n), F.k))
    if side == "right":  # the rows of the transposed matrix are its columns
        nulls = [Null(null.kind.replace("row_", "column_"), null.mean, null.low, null.high) for null in nulls]
    if noise is not None:
        of_noise = _null_energy_of_rounding(pair, facts.h)
        pure = noise.corrected(rho, of_noise)
        if pure is None:
            out.absent[f"null_energy_{side}"] = noise.why()
            return
        rho, nulls = pure, [_without(null, noise, of_noise) for null in nulls]
    out.add(f"null_energy_{side}", rho, "share of energy", nulls)


def _null_energy_of_rounding(pair: MatrixPair, leverages: Tensor) -> float:
    """ρ_N of errors that are independent of each other, and in each row as large as its entries."""
    sizes = torch.cat([w.square().sum(1) for _, w, _ in pair.blocks()])
    return 1 - float((sizes * leverages).sum() / sizes.sum())


def _without(null: Null, noise: Noise, of_noise: float) -> Null:
    """The null of the same update without rounding: it moves as the value does."""
    mean, low, high = (noise.moved(end, of_noise) for end in (null.mean, null.low, null.high))
    return Null(null.kind, mean, low, high)
