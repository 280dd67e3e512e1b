"""One direction for refusal: taken out of the stream, or added to it (Arditi et al., 2024).

    r        mean of forbidden − mean of allowed activations (difference in means), one layer's, at the last prompt
             token
    ablate   x ↦ x − r̂ r̂ᵀ x,  r̂ = r / ‖r‖, at `resid_out` of every layer and every position, generated ones included
    add      x ↦ x + c r, at `resid_out` of the layer that r is from, every position

If the direction carries refusal, a forbidden prompt is answered without it and an allowed one is refused with it. Null:
a random direction, added at the norm of r.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.interventions.hooks import Edit, Place

SITE = "resid_out"


def difference_in_means(forbidden: Tensor, allowed: Tensor) -> Tensor:
    """r (width,), from activations (N, width) and (M, width). DeltawError if the means are equal."""
    found: Tensor = forbidden.double().mean(0) - allowed.double().mean(0)
    if not float(found.norm()) > 0:
        raise DeltawError("forbidden and allowed activations have the same mean, so there is no direction between them")
    return found


def random_direction(like: Tensor, generator: torch.Generator) -> Tensor:
    """A uniformly random direction at the norm of `like` (width,)."""
    drawn = torch.randn(like.shape, dtype=torch.float64, generator=generator)
    found: Tensor = drawn * (like.double().norm() / drawn.norm())
    return found


def ablation(direction: Tensor, layers: range) -> dict[Place, Edit]:
    """Edits that take `direction` (width,) out of the stream after every layer."""
    return {(layer, SITE): without(direction) for layer in layers}


def addition(direction: Tensor, layer: int, dose: float = 1.0) -> dict[Place, Edit]:
    """The edit that adds dose · direction after a layer."""
    return {(layer, SITE): shifted(dose * direction)}


def without(direction: Tensor) -> Edit:
    """x − r̂ r̂ᵀ x. DeltawError if the direction is 0."""
    norm = float(direction.norm())
    if not norm > 0:
        raise DeltawError("the direction to be ablated is 0; give one that points somewhere")
    unit = _on(direction / norm)

    def edit(x: Tensor) -> Tensor:
        r = unit(x)
        return x - (x @ r)[..., None] * r

    return edit


def shifted(vector: Tensor) -> Edit:
    """x + vector (width,)."""
    at = _on(vector)
    return lambda x: x + at(x)


def _on(vector: Tensor) -> Callable[[Tensor], Tensor]:
    """The vector in another tensor's dtype and on its device."""
    return lambda x: vector.to(dtype=x.dtype, device=x.device)
