"""What safety fine-tuning did to a model. Pure: tensors in, frozen results out; one file an observation of
the paper.

    Observation 1   clusters    separation, difference_of_differences     are allowed and forbidden apart?
    Observation 2   nullspace   null_energy, null_profile, null_curve     does ΔW write where W could not?
                    chance      null_energy_nulls                         ... more than by chance?
    Over layers     peak        split_peak                                where is it largest, chosen and read apart?
    Observation 3   rowspace    gain, row_energy, row_contrast            does ΔW act on forbidden ones more?
                    best_update best_update, best_ratio                   ... and could any update, there?
    Observation 4   sensitivity sensitivity, sensitivity_change           does the next token move with the prompt?
                    lipschitz   power_iteration, finite_lipschitz         ... without the whole Jacobian?
    Observation 5   between     position, gain_ratio                      do attacked prompts look allowed?
    Rank            rank        activation_rank, rank_null                 how many directions do activations have?
    Subspaces       angles      subspace_overlap                          do two updates write and read alike?
                    refusal     direction_share                           does ΔW write along refusal?
                    probe       probe                                     can the harmful answer still be read?
    Dose            dose        dose_response                             does success follow position, or gain?
    Function        effect      mlp_effect, effect_nulls                  which part of ΔW changes the output?
                                null_minus_column                         ... that in N(Wᵀ) more than that in C(W)?
    Size            spectrum    update_spectrum, module_budget            how large, how wide, where?
    All of a matrix weight_update, streamed_update                        the same of small and of large matrices

Conventions. Weights are (out, in); W, b are the base model's and dW, db = tuned − base. Activations are (N,
width), one row a prompt; a_IT (base) first, a_ST (tuned) second. All is computed in float64. Energies are
shares in [0, 1]. Randomness is a `numpy.random.Generator`. A result holds per-prompt arrays, its interval and
its nulls; a question that has no answer (a left null space of a square matrix) gets `Absent` with the reason.
"""

from deltaw.analysis.attack_position import GainRatio, Position, gain_ratio, mean_position, position, precision_weights
from deltaw.analysis.best_update import BestRatio, BestUpdate, best_ratio, best_update
from deltaw.analysis.clusters import (
    BY_PAIR,
    Difference,
    Separation,
    difference_of_differences,
    pair_contributions,
    separation,
)
from deltaw.analysis.clusters_over_layers import gap_over_layers, peaks_over_layers
from deltaw.analysis.dose_response import Bin, DoseResponse, dose_response, success_by_dose
from deltaw.analysis.inputs import Absent
from deltaw.analysis.lipschitz import LowerBound, PowerIteration, finite_lipschitz, power_iteration
from deltaw.analysis.nullspace import (
    Along,
    ColumnBasis,
    NullCurve,
    NullProfile,
    column_basis,
    component_along,
    null_curve,
    null_energy,
    null_profile,
)
from deltaw.analysis.peak import Direction, Halves, Peak, read_peaks, split_halves, split_peak
from deltaw.analysis.principal_angles import (
    Overlap,
    matched_overlap_null,
    rotation_angle_null,
    rotation_overlap_null,
    row_sign_overlap_null,
    subspace_overlap,
    top_left,
)
from deltaw.analysis.probe import Probe, probe
from deltaw.analysis.rank import (
    ActivationRank,
    LogRank,
    activation_rank,
    energy_rank,
    log_rank,
    mean_log_rank,
    rank_null,
)
from deltaw.analysis.refusal_direction import DirectionShare, direction_share
from deltaw.analysis.rowspace import (
    Gain,
    RowContrast,
    gain,
    matched_null,
    pooled_root,
    row_contrast,
    row_energy,
    top_right,
    update_rank,
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
    MODULE_KINDS,
    GaussianSpectrum,
    KindShare,
    UpdateSpectrum,
    gaussian_spectrum,
    module_budget,
    update_spectrum,
)
from deltaw.analysis.update_effect import (
    SOURCES,
    Beyond,
    Effect,
    Mlp,
    effect_nulls,
    mlp_effect,
    null_minus_column,
    pooled_terms,
    share_draws,
)
from deltaw.analysis.update_nulls import (
    gaussian_null,
    null_energy_nulls,
    rotation_null,
    row_permutation_null,
    row_sign_flip_null,
)

__all__ = [
    "BY_PAIR",
    "MODULE_KINDS",
    "SOURCES",
    "Absent",
    "ActivationRank",
    "Along",
    "BestRatio",
    "BestUpdate",
    "Beyond",
    "Bin",
    "Change",
    "ColumnBasis",
    "Difference",
    "Direction",
    "DirectionShare",
    "DoseResponse",
    "Effect",
    "Gain",
    "GainRatio",
    "GaussianSpectrum",
    "Halves",
    "KindShare",
    "LogRank",
    "LowerBound",
    "Mlp",
    "NullCurve",
    "NullProfile",
    "Overlap",
    "Peak",
    "Position",
    "PowerIteration",
    "Probe",
    "Readout",
    "RowContrast",
    "Sensitivity",
    "SensitivityChange",
    "Separation",
    "UpdateSpectrum",
    "activation_rank",
    "best_ratio",
    "best_update",
    "column_basis",
    "component_along",
    "difference_of_differences",
    "direction_share",
    "dose_response",
    "effect_nulls",
    "energy_rank",
    "finite_lipschitz",
    "gain",
    "gain_ratio",
    "gap_over_layers",
    "gaussian_null",
    "gaussian_spectrum",
    "joined",
    "log_rank",
    "matched_null",
    "matched_overlap_null",
    "mean_log_rank",
    "mean_position",
    "mlp_effect",
    "module_budget",
    "null_curve",
    "null_energy",
    "null_energy_nulls",
    "null_minus_column",
    "null_profile",
    "pair_contributions",
    "peaks_over_layers",
    "pooled_root",
    "pooled_terms",
    "position",
    "power_iteration",
    "precision_weights",
    "probe",
    "rank_null",
    "read_peaks",
    "rotation_angle_null",
    "rotation_null",
    "rotation_overlap_null",
    "row_contrast",
    "row_energy",
    "row_permutation_null",
    "row_sign_flip_null",
    "row_sign_overlap_null",
    "sensitivity",
    "sensitivity_change",
    "separation",
    "share_draws",
    "split_halves",
    "split_peak",
    "subspace_overlap",
    "success_by_dose",
    "top_left",
    "top_right",
    "update_rank",
    "update_spectrum",
]
