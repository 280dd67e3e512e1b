"""Less of ΔW, more of it, or the opposite: θ(α) = θ_IT + α ΔW.

α = 0 is the base model, 1 the tuned one, both bit by bit; α > 1 extrapolates, α < 0 goes the other way. The paper's
sweep moves the whole model; here it may also be a part of it, with the rest of the model left at the base (ΔW's part
alone) or at the tuned model (everything but that part goes on as it is).

Null of an extrapolation: from the tuned model, a step as long, tensor by tensor, without a direction
(`randomly_extrapolated`). What such a step does as well, ΔW's direction did not do.
"""

import torch
from torch import Tensor

from deltaw.interventions.states import State, check_pair, edited, mixed, moved, names_in, shuffled_update

ALPHAS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


def interpolated(base: State, tuned: State, alpha: float, scope: str = "whole", rest: float = 0.0) -> dict[str, Tensor]:
    """θ_IT + α ΔW for the tensors of `scope` (see `SCOPES`), θ_IT + rest · ΔW for all others.

    DeltawError if the models are not of one shape or there is no such scope.
    """
    check_pair(base, tuned)
    names = names_in(scope, base)
    return edited(base, lambda name, tensor: mixed(tensor, tuned[name], alpha if name in names else rest))


def randomly_extrapolated(base: State, tuned: State, alpha: float, generator: torch.Generator) -> dict[str, Tensor]:
    """θ_ST + (α − 1) R, where each tensor of R has the entries of ΔW's in random order with random signs."""
    random = shuffled_update(base, tuned, generator)
    return edited(tuned, lambda name, tensor: moved(tensor, (alpha - 1) * random[name]))
