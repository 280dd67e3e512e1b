"""Edits of a model: is what ΔW *is* also what ΔW *does*? A model in, an edited model out.

    states         state_of, with_state, SCOPES             parameters by name; which of them
    interpolation  interpolated                             θ_IT + α ΔW, of all or of a part
                   randomly_extrapolated                    ... null: a step as long without a direction
    subspace       split_update, with_parts                 the null-space or the column-space part of ΔW alone
                   random_split                             ... null: cut elsewhere, dimensions and norms matched
                   carried                                  which of them carries it, beside that null
    rank           decomposed, truncated                    ΔW of rank k, or without its top k
    layers         coalition, shapley_values                which layers carry it; exact, over all coalitions
                   only_one, leave_one_out, swapped         ... alone; without; from two tuned models
    hooks          editing                                  activations edited while the model answers
    directions     ablation, addition                       the difference in means taken out, or added
                   random_direction                         ... null
    patching       answers_patched, acting                  ΔW made to read another prompt; ... null: `scramble`

    editable       EditableModel, Responses                 what a model has to offer to be edited and asked
    size, sweep    SweepSize, Sweep                         how much is made; which interventions
    subject        Subject, Asked                           a lens, the prompts that are asked, where to write
    intervention   Intervention, measure_interventions      what an intervention is; one file each, with its edits

Edits of weights are pure: states in, a state out, sums in float64. α = 1, all parts, full rank and the whole coalition
give the tuned model, and their opposites the base. What an edited model does is measured by free-running answers
(`deltaw.behaviour`): safety (refusal of forbidden prompts), capability (exact answers to allowed ones) and over-refusal
(refusal of allowed ones), always all three, since any damage makes a model comply less. Randomness is a
`torch.Generator` on the CPU.
"""

from deltaw.interventions.directions import (
    MeanDifference,
    ablation,
    addition,
    difference_in_means,
    random_direction,
    shifted,
    without,
)
from deltaw.interventions.editable import EditableModel, Responses
from deltaw.interventions.hooks import Edit, Place, editing
from deltaw.interventions.interpolation import ALPHAS, Interpolation, interpolated, randomly_extrapolated
from deltaw.interventions.intervention import Intervention, intervene_on, measure_interventions
from deltaw.interventions.layers import (
    ENDS,
    LayerCoalitions,
    coalition,
    leave_one_out,
    only_one,
    players_of,
    shapley_values,
    swapped,
)
from deltaw.interventions.patches import Patches
from deltaw.interventions.patching import Patch, acting, answers_patched, check_patch, patching
from deltaw.interventions.rank import Decomposition, RankCut, decomposed, truncated
from deltaw.interventions.size import SweepSize
from deltaw.interventions.states import (
    SCOPES,
    State,
    chosen,
    holding,
    layers_of,
    mixed,
    names_in,
    shuffled_update,
    state_of,
    with_state,
)
from deltaw.interventions.subject import Asked, Subject
from deltaw.interventions.subspace import (
    Split,
    SubspaceParts,
    carried,
    random_split,
    split_update,
    with_norm,
    with_parts,
)
from deltaw.interventions.swaps import LayerSwaps
from deltaw.interventions.sweep import Sweep, Sweeps

__all__ = [
    "ALPHAS",
    "ENDS",
    "SCOPES",
    "Asked",
    "Decomposition",
    "Edit",
    "EditableModel",
    "Interpolation",
    "Intervention",
    "LayerCoalitions",
    "LayerSwaps",
    "MeanDifference",
    "Patch",
    "Patches",
    "Place",
    "RankCut",
    "Responses",
    "Split",
    "State",
    "Subject",
    "SubspaceParts",
    "Sweep",
    "SweepSize",
    "Sweeps",
    "ablation",
    "acting",
    "addition",
    "answers_patched",
    "carried",
    "check_patch",
    "chosen",
    "coalition",
    "decomposed",
    "difference_in_means",
    "editing",
    "holding",
    "interpolated",
    "intervene_on",
    "layers_of",
    "leave_one_out",
    "measure_interventions",
    "mixed",
    "names_in",
    "only_one",
    "patching",
    "players_of",
    "random_direction",
    "random_split",
    "randomly_extrapolated",
    "shapley_values",
    "shifted",
    "shuffled_update",
    "split_update",
    "state_of",
    "swapped",
    "truncated",
    "with_norm",
    "with_parts",
    "with_state",
    "without",
]
