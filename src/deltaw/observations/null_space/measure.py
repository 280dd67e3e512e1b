"""Observation 2: does ΔW write where W could not? And how large is ΔW, in how many directions, in which modules?

What is known of a matrix without prompts is measured by `measure_matrix` alone: of the first matrix of each MLP through
a lens, and of every matrix of two checkpoints, file by file, where there is no lens (`compare.weights`).

    update_relative_norm      ‖ΔW‖ / ‖W‖; of files, beside what storing them did to it
    stable_rank, participation_ratio, residual_energy, cosine_with_weight
    null_energy_left          ρ_N, the share of ‖ΔW‖² in the left null space of W, with its nulls
    null_profile              ‖P_N u‖ of ΔW's strongest output directions u, beside `singular_value`
    null_energy_curve         ρ_N beyond the first k directions of W; `set` says which k
    update_share              of ‖Δθ‖² by kind of module, beside `parameter_share`

A matrix with more columns than rows has the same on its right side: null_energy_right, and so on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltaw.analysis import Absent, module_budget
from deltaw.analysis.rounding import Storage
from deltaw.analysis.weight_update import CURVE_POINTS, VECTORS, UpdateDirections, WeightUpdate
from deltaw.observations.by_layer import write_mean
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null

STATISTICS = (
    Statistic("update_relative_norm", "share of norm", "‖ΔW‖ over ‖W‖."),
    Statistic("identical_share", "share of entries", "The share of entries that both files store alike, bit for bit."),
    Statistic("rounding_floor", "share of norm", "The largest ‖ΔW‖ over ‖W‖ that rounding gives an update of zero."),
    Statistic("rounding_share", "share of energy", "The share of ‖ΔW‖² that can be rounding, near that floor."),
    Statistic("stable_rank", "dimensions", "‖ΔW‖² over its largest squared singular value."),
    Statistic("participation_ratio", "dimensions", "(Σσ²)² over Σσ⁴ of ΔW."),
    Statistic("cosine_with_weight", "cosine", "The cosine of ΔW with W."),
    Statistic("weight_rank", "dimensions", "The rank of W."),
    Statistic("null_energy_left", "share of energy", "ρ_N: the share of ‖ΔW‖² in the left null space of W."),
    Statistic("null_energy_right", "share of energy", "The share of ‖ΔW‖² in the right null space of a wide W."),
    Statistic("null_profile", "norm", "How much of an output direction of ΔW lies in the null space."),
    Statistic("null_profile_right", "norm", "How much of an input direction lies there, of a wide matrix."),
    Statistic("singular_value", "weight", "The singular value of that direction."),
    Statistic("residual_energy", "share of energy", "The share of ‖ΔW‖² beyond its k strongest directions."),
    Statistic("null_energy_curve", "share of energy", "The share of ‖ΔW‖² beyond the first k output directions of W."),
    Statistic("null_energy_curve_right", "share of energy", "The same, of the input directions of a wide matrix."),
    Statistic("other_relative_norm", "share of norm", "‖ΔW‖ over ‖W‖ of all tensors of a kind that is no matrix."),
    Statistic("update_share", "share of squared norm", "The share of ‖Δθ‖² in a kind of module."),
    Statistic("parameter_share", "share of parameters", "The share of all parameters in a kind of module."),
)
UNITS: Mapping[str, str] = {statistic.name: statistic.unit for statistic in STATISTICS}

SIZE = "update_relative_norm"
AVERAGED = (SIZE, "null_energy_left", "null_energy_right")
"""What has a mean over layers."""
Averaged = Mapping[str, tuple[float, Sequence[Null]]]
"""Of one matrix: value and nulls of each of them that it has."""
ALL = "*"
"""Stands for every statistic of a matrix, among the reasons for what is absent."""


@dataclass(frozen=True)
class NullSpaceEnergy(Observation):
    """Observation 2: does ΔW write where W could not, and how large is it, in how many directions?"""

    name = "null_space"
    label = "null space of W"
    statistics = STATISTICS

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Of the first matrix of each MLP, with means over layers; and how ‖Δθ‖² is shared among kinds of modules."""
        share = 1 if lens.last else 4
        matrices = []
        for layer in lens.layers:
            absent: dict[str, str] = {}
            update = lens.weight_update(layer, VECTORS // share, CURVE_POINTS if lens.last else CURVE_POINTS // 2 + 1)
            view = sheet.with_(layer=layer, module=f"blocks.{layer}.mlp.in_proj", role=None)
            matrices.append(measure_matrix(update, view, absent))
            lens.absent.update({f"{'update' if name == ALL else name}, layer {layer}": absent[name] for name in absent})
        write_means(sheet.with_(module="mlp.in_proj", role=None), matrices)
        _budget(lens, sheet.with_(role=None))


def measure_matrix(update: WeightUpdate, sheet: Sheet, absent: dict[str, str]) -> Averaged:
    """Writes all that is known of a matrix without prompts. absent: gets what it lacks, and why."""
    lines = _Lines(sheet, absent)
    lines.add(SIZE, update.relative_norm)
    _add_storage(lines, update.storage)
    if isinstance(update.directions, Absent):
        absent[ALL] = update.directions.reason
    else:
        _add_directions(lines, update.directions, "_right" if update.wide else "")
    return lines.averaged


class _Lines:
    """The lines of a matrix, and what it lacks."""

    def __init__(self, sheet: Sheet, absent: dict[str, str]) -> None:
        self.sheet, self.absent = sheet, absent
        self.averaged: dict[str, tuple[float, Sequence[Null]]] = {}

    def add(
        self, statistic: str, value: float | Absent | None, nulls: Sequence[Null] = (), place: str | None = None
    ) -> None:
        """A line for each null, or one without; or the reason; or nothing, of None. place: the set."""
        if isinstance(value, Absent):
            self.absent[statistic] = value.reason
        elif value is not None:
            self.sheet.add(statistic, value, nulls=nulls, unit=UNITS[statistic], set=place)
            if statistic in AVERAGED:
                self.averaged[statistic] = (value, nulls)


def _add_storage(lines: _Lines, storage: Storage | Absent) -> None:
    if isinstance(storage, Absent):
        lines.add("rounding_floor", storage)
        return
    lines.add("identical_share", storage.identical)
    lines.add("rounding_floor", storage.floor)
    lines.add("rounding_share", None if storage.noise is None else storage.noise.most)


def _add_directions(lines: _Lines, update: UpdateDirections, suffix: str) -> None:
    """suffix: of the names of what is of the matrix's own side."""
    spectrum, along = update.spectrum, update.spectrum.along
    lines.add("stable_rank", spectrum.stable_rank, [update.random.stable_rank])
    lines.add("participation_ratio", spectrum.participation_ratio, [update.random.participation_ratio])
    lines.add("cosine_with_weight", along.cosine, [along.chance])
    lines.add("weight_rank", update.weight_rank)
    for side, energy in update.energies.items():
        value, nulls = (energy, ()) if isinstance(energy, Absent) else energy
        lines.add(f"null_energy_{side}", value, [_of_side(null, side) for null in nulls])
    profile = update.profile
    sigma = spectrum.singular_values[:VECTORS] if isinstance(profile, Absent) else profile.sigma
    for number, value in enumerate(sigma):
        place = f"vector={number + 1:03d}"
        norm, nulls = (profile, ()) if isinstance(profile, Absent) else (profile.y[number], (profile.chance,))
        lines.add(f"null_profile{suffix}", norm, nulls, place)
        lines.add("singular_value", value, place=place)
    for k, value, null in update.residual:
        lines.add("residual_energy", value, [null], f"k={k:03d}")
    curve, name = update.curve, f"null_energy_curve{suffix}"
    if isinstance(curve, Absent):
        lines.add(name, curve)
        return
    for k, value, chance in zip(curve.ks, curve.rho, curve.chance, strict=True):
        lines.add(name, value, [Null("rotation", chance, chance, chance)], f"k={int(k):03d}")


def _of_side(null: Null, side: str) -> Null:
    """The rows of a transposed matrix are its columns."""
    kind = null.kind.replace("row_", "column_") if side == "right" else null.kind
    return Null(kind, null.mean, null.low, null.high, null.draws)


def write_means(sheet: Sheet, matrices: Sequence[Averaged], n_unit: str = "layer") -> None:
    """Means over the matrices that have a statistic: of sizes geometric, over those that changed."""
    for statistic in AVERAGED:
        of_all = [matrix[statistic] for matrix in matrices if statistic in matrix]
        size, view = statistic == SIZE, sheet.with_(unit=UNITS[statistic], n_unit=n_unit)
        changed = [(value, nulls) for value, nulls in of_all if value > 0 or not size]
        if changed:
            write_mean(view, statistic, changed, geometric=size)


def _budget(lens: Lens, sheet: Sheet) -> None:
    """How ‖Δθ‖² is shared among kinds of modules."""
    if not (lens.before.model.light and lens.tuned.light):
        lens.absent["update_share"] = "the models are read one layer at a time; see the lines of each matrix"
        return
    budget = lens.present(module_budget(lens.before.model.state(), lens.tuned.state()), "update_share")
    if budget is None:
        return
    for kind, share in budget.items():
        sheet.add("update_share", share.energy, unit=UNITS["update_share"], module=kind)
        sheet.add("parameter_share", share.parameters, unit=UNITS["parameter_share"], module=kind)
