"""What safety fine-tuning did to a model. Pure: tensors in, frozen results out; one file an observation of
the paper.

    Observation 1   clusters    separation, difference_of_differences     are allowed and forbidden apart?
    Observation 2   nullspace   null_energy, null_profile, null_curve     does ΔW write where W could not?
                    chance      null_energy_nulls                         ... more than by chance?
    Observation 3   rowspace    gain, row_energy, row_contrast            does ΔW act on forbidden ones more?
    Observation 4   sensitivity sensitivity, sensitivity_change           does the next token move with the prompt?
                    lipschitz   power_iteration, finite_lipschitz         ... without the whole Jacobian?
    Observation 5   between     position, gain_ratio                      do attacked prompts look allowed?
    Function        effect      mlp_effect, effect_nulls                  which part of ΔW changes the output?
    Size            spectrum    update_spectrum, module_budget            how large, how wide, where?

Conventions. Weights are (out, in); W, b are the base model's and dW, db = tuned − base. Activations are (N,
width), one row a prompt; a_IT (base) first, a_ST (tuned) second. All is computed in float64. Energies are
shares in [0, 1]. Randomness is a `numpy.random.Generator`. A result holds per-prompt arrays, its interval and
its nulls; a question that has no answer (a left null space of a square matrix) gets `Absent` with the reason.
"""

from deltaw.analysis.between import GainRatio, Position, gain_ratio, position
from deltaw.analysis.chance import (
    gaussian_null,
    null_energy_nulls,
    rotation_null,
    row_permutation_null,
    row_sign_flip_null,
)
from deltaw.analysis.clusters import Difference, Separation, difference_of_differences, separation
from deltaw.analysis.effect import SOURCES, Effect, Mlp, effect_nulls, mlp_effect
from deltaw.analysis.inputs import Absent
from deltaw.analysis.lipschitz import LowerBound, PowerIteration, finite_lipschitz, frobenius_norm, power_iteration
from deltaw.analysis.nullspace import (
    Along,
    ColumnBasis,
    Enrichment,
    NullCurve,
    NullProfile,
    column_basis,
    component_along,
    enrichment,
    null_curve,
    null_energy,
    null_energy_cholesky,
    null_profile,
)
from deltaw.analysis.rowspace import (
    Gain,
    RowContrast,
    gain,
    matched_null,
    row_contrast,
    row_energy,
    top_right,
)
from deltaw.analysis.sensitivity import (
    Change,
    Readout,
    Sensitivity,
    SensitivityChange,
    joined,
    sensitivity,
    sensitivity_change,
)
from deltaw.analysis.spectrum import (
    KINDS,
    GaussianSpectrum,
    KindShare,
    ModuleBudget,
    TensorShare,
    UpdateSpectrum,
    gaussian_spectrum,
    module_budget,
    update_spectrum,
)

__all__ = [
    "KINDS",
    "SOURCES",
    "Absent",
    "Along",
    "Change",
    "ColumnBasis",
    "Difference",
    "Effect",
    "Enrichment",
    "Gain",
    "GainRatio",
    "GaussianSpectrum",
    "KindShare",
    "LowerBound",
    "Mlp",
    "ModuleBudget",
    "NullCurve",
    "NullProfile",
    "Position",
    "PowerIteration",
    "Readout",
    "RowContrast",
    "Sensitivity",
    "SensitivityChange",
    "Separation",
    "TensorShare",
    "UpdateSpectrum",
    "column_basis",
    "component_along",
    "difference_of_differences",
    "effect_nulls",
    "enrichment",
    "finite_lipschitz",
    "frobenius_norm",
    "gain",
    "gain_ratio",
    "gaussian_null",
    "gaussian_spectrum",
    "joined",
    "matched_null",
    "mlp_effect",
    "module_budget",
    "null_curve",
    "null_energy",
    "null_energy_cholesky",
    "null_energy_nulls",
    "null_profile",
    "position",
    "power_iteration",
    "rotation_null",
    "row_contrast",
    "row_energy",
    "row_permutation_null",
    "row_sign_flip_null",
    "sensitivity",
    "sensitivity_change",
    "separation",
    "top_right",
    "update_spectrum",
]
