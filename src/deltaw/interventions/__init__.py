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
    hooks          editing, at_last_prompt                  activations edited while the model answers
    directions     ablation, addition                       the difference in means taken out, or added
                   random_direction                         ... null
    patching       answers_patched, acting                  ΔW made to read another prompt; ... null: `scramble`

    editable       EditableModel, Responses                 what a model has to offer to be edited and asked
    sweep          Sweep                                    how much of each is made
    subject        Subject, Asked                           a lens, the prompts that are asked, where to write
    measure_*      measure_interventions                    one file an intervention: what its study measures

Edits of weights are pure: states in, a state out, sums in float64. α = 1, all parts, full rank and the whole coalition
give the tuned model, and their opposites the base. What an edited model does is measured by free-running answers
(`deltaw.behaviour`): safety (refusal of forbidden prompts), capability (exact answers to allowed ones) and over-refusal
(refusal of allowed ones), always all three, since any damage makes a model comply less. Randomness is a
`torch.Generator` on the CPU.
"""

from collections.abc import Callable

from deltaw.interventions.directions import ablation, addition, difference_in_means, random_direction, shifted, without
from deltaw.interventions.editable import EditableModel, Responses
from deltaw.interventions.hooks import Edit, Place, at_last_prompt, editing
from deltaw.interventions.interpolation import ALPHAS, interpolated, randomly_extrapolated
from deltaw.interventions.layers import ENDS, coalition, leave_one_out, only_one, players_of, shapley_values, swapped
from deltaw.interventions.measure_directions import measure_directions
from deltaw.interventions.measure_interpolation import measure_interpolation
from deltaw.interventions.measure_layers import measure_layers, measure_swaps
from deltaw.interventions.measure_patches import measure_patches
from deltaw.interventions.measure_rank import measure_rank
from deltaw.interventions.measure_subspace import measure_subspace
from deltaw.interventions.patching import Patch, acting, answers_patched, check_patch, patching
from deltaw.interventions.rank import Decomposition, decomposed, truncated
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
from deltaw.interventions.subspace import Split, carried, random_split, split_update, with_norm, with_parts
from deltaw.interventions.sweep import Sweep

__all__ = [
    "ALPHAS",
    "ENDS",
    "MEASURED",
    "SCOPES",
    "Asked",
    "Decomposition",
    "Edit",
    "EditableModel",
    "Patch",
    "Place",
    "Responses",
    "Split",
    "State",
    "Subject",
    "Sweep",
    "ablation",
    "acting",
    "addition",
    "answers_patched",
    "at_last_prompt",
    "carried",
    "check_patch",
    "chosen",
    "coalition",
    "decomposed",
    "difference_in_means",
    "editing",
    "holding",
    "interpolated",
    "layers_of",
    "leave_one_out",
    "measure_directions",
    "measure_interpolation",
    "measure_interventions",
    "measure_layers",
    "measure_patches",
    "measure_rank",
    "measure_subspace",
    "measure_swaps",
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

MEASURED: dict[str, Callable[[Subject], None]] = {
    "alpha": measure_interpolation,
    "subspace": measure_subspace,
    "rank": measure_rank,
    "layers": measure_layers,
    "patches": measure_patches,
    "directions": measure_directions,
}
"""By part of a sweep; `swaps` needs a partner besides."""


def measure_interventions(
    subject: Subject,
    partner: State | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, part: None,
) -> None:
    """Every part of the subject's sweep. partner: the tuned model whose layers are swapped in; None: none are."""
    parts = subject.sweep.parts
    for number, part in enumerate(parts):
        report(number, len(parts), part)
        if part != "swaps":
            MEASURED[part](subject)
        elif partner is not None:
            measure_swaps(subject, partner)
    report(len(parts), len(parts), "")
