"""The conditions under which each test is tried: nulls that are true by construction, nulls that it does not assume,
and planted effects. A cell of the calibration is one family of tests under one of them.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from deltaw.analysis import Mlp
from deltaw.calibration import planted_data as planting
from deltaw.calibration import trials
from deltaw.calibration.causal_trials import cause_cells
from deltaw.calibration.cluster_scenarios import cluster_cells, depth_cells, rank_cells
from deltaw.calibration.input_scenarios import attack_cells, gain_cells, row_cells, sensitivity_cells
from deltaw.calibration.planted_data import Generator, Update, anisotropic, tensor
from deltaw.calibration.seed_trials import seed_cells
from deltaw.calibration.trials import Cell


def cells() -> tuple[Cell, ...]:
    """All of them, by family."""
    makers = (
        _weights,
        _function,
        cluster_cells,
        depth_cells,
        rank_cells,
        gain_cells,
        row_cells,
        attack_cells,
        sensitivity_cells,
        cause_cells,
        seed_cells,
    )
    return tuple(cell for make in makers for cell in make())


def _weights() -> Iterable[Cell]:
    def cell(condition: str, build: Callable[[Generator], Update], *true: str, **more: Any) -> Cell:
        return Cell("null space of weights", condition, build, trials.of_weights, frozenset(true), **more)

    every = ("rotation", "row_permutation", "row_sign_flip")
    tied = planting.leverage_tied
    yield cell("rotated update", planting.rotated, *every)
    yield cell("spectrum-matched update", planting.spectrum_matched, *every)
    yield cell("rows permuted", planting.permuted, "row_permutation", "row_sign_flip")
    yield cell("row signs flipped, update inside C(W)", planting.sign_flipped, "row_sign_flip")
    yield cell("rows longer with leverage", partial(tied, power=1.0), "row_sign_flip")
    yield cell("rows shorter with leverage", partial(tied, power=-1.0), "row_sign_flip")
    yield cell("5 % of the energy is decay along W", planting.decaying_along)
    yield cell("gradient of random errors, anisotropic inputs", planting.random_gradient)
    yield cell("all rows pushed the same way", planting.coherent)
    for more in (0.01, 0.02, 0.04, 0.08):
        build = partial(planting.enriched, more=more)
        yield cell(f"ρ_N raised by {more}", build, effect=more, unit="share of energy")


def _function() -> Iterable[Cell]:
    out, inputs = 64, 16

    def build(rng: Generator, update: Callable[..., Update]) -> trials.Mlps:
        at = update(rng, out=out, inputs=inputs)
        W, P = at.W, tensor(rng.standard_normal((inputs, out)) / np.sqrt(out))
        step = at.dW * 0.2 * W.norm() / at.dW.norm()
        a = tensor(anisotropic(rng, 24, inputs, mean=1.0))
        return trials.Mlps(Mlp(W, None, P, None), Mlp(W + step, None, P, None), a)

    def cell(condition: str, update: Callable[..., Update], *true: str, **more: Any) -> Cell:
        make = partial(build, update=update)
        return Cell("function of the MLP", condition, make, trials.of_function, frozenset(true), **more)

    tied = planting.leverage_tied
    yield cell("rotated update", planting.rotated, "row_sign_flip")
    yield cell("row signs flipped, update inside C(W)", planting.sign_flipped, "row_sign_flip")
    yield cell("rows shorter with leverage", partial(tied, power=-1.0), "row_sign_flip")
    yield cell("5 % of the energy is decay along W", planting.decaying_along)
    yield cell("gradient of random errors, anisotropic inputs", planting.random_gradient)
    for more in (0.08, 0.16):
        update = partial(planting.enriched, more=more)
        yield cell(f"ρ_N raised by {more}", update, effect=more, unit="share of energy of ΔW")
