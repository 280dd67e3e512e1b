"""Sensitivity without the whole Jacobian, for large vocabularies; and lower bounds that use function values only.

Power iteration on (P J)ᵀ(P J), or on Jᵀ F J, needs products J v and Jᵀ u. Both come from one graph: u ↦ Jᵀ u is a
backward pass, and since it is linear in u, its own backward pass along v is J v (the double-backward identity). So a
point costs one forward pass and one differentiated backward pass, and an iteration two backward passes; no model needs
forward-mode derivatives, which the fused attention kernels lack. They lack the second derivative too: everything here
runs under PyTorch's "math" attention kernel, whose values agree with the fused ones' to float32.

Cost: an iteration is about 4 forward passes. Memory: the graph of one batch, twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from deltaw.analysis.inputs import array, normals
from deltaw.analysis.sensitivity import Readout, checked
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray

Metric = Literal["log_probs", "fisher"]


@dataclass(frozen=True, eq=False)
class PowerIteration:
    """The largest singular value of the Jacobian of the log-probabilities, or the largest eigenvalue of Jᵀ F J.

    value: (B,), a lower bound that rises to the truth. direction: (B, T, D), of length 1. iterations: used.
    change: (B,) relative change of `value` in the last iteration.
    """

    value: FloatArray
    direction: Tensor
    iterations: int
    change: FloatArray


class _Products:
    """Products with J = ∂ log-probabilities / ∂ embeddings (B, V × T D), restricted to the positions of a mask."""

    def __init__(self, readout: Readout, embeddings: Tensor, mask: Tensor) -> None:
        self.mask = mask[:, :, None].to(embeddings.dtype)
        self.E = embeddings.detach().requires_grad_()
        self.f = torch.log_softmax(checked(readout(self.E), self.E), 1)
        self.u = torch.zeros_like(self.f, requires_grad=True)
        (self.back,) = torch.autograd.grad(self.f, self.E, self.u, create_graph=True)

    def forward(self, v: Tensor) -> Tensor:
        """J v: (B, T, D) to (B, V)."""
        return torch.autograd.grad(self.back, self.u, v * self.mask, retain_graph=True)[0]

    def backward(self, u: Tensor) -> Tensor:
        """Jᵀ u: (B, V) to (B, T, D)."""
        return torch.autograd.grad(self.f, self.E, u, retain_graph=True)[0] * self.mask


@contextmanager
def differentiable() -> Iterator[None]:
    """Within this context, attention has second derivatives, and gradients are on."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def power_iteration(
    readout: Readout,
    embeddings: Tensor,
    mask: Tensor,
    generator: np.random.Generator,
    *,
    metric: Metric = "log_probs",
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> PowerIteration:
    """`spectral` ("log_probs") or `fisher` of `sensitivity`, by power iteration from a random direction.

    embeddings: (B, T, D). mask: (B, T) bool, the prompt's positions. Stops when no row's value rose by more than
    `tolerance` of itself; where the two largest are close that is early, and the value still a lower bound.
    """
    with differentiable():
        at = _Products(readout, embeddings, mask)
        p = at.f.detach().exp()
        v = _unit(normals(generator, *embeddings.shape, like=embeddings).to(embeddings.dtype) * at.mask)
        value = torch.zeros(len(v), dtype=v.dtype, device=v.device)
        change, done = value, 0
        while done < iterations:
            done += 1
            u = at.forward(v).detach()
            if metric == "fisher":
                u = p * u  # J is of log-probabilities, already centred: F becomes diag(p)
            w = at.backward(u).detach()
            size = w.flatten(1).norm(dim=1)  # ‖Jᵀ M J v‖ for unit v: a lower bound of λ_max
            new = size if metric == "fisher" else size.sqrt()
            change = (new - value).abs() / new.clamp_min(torch.finfo(new.dtype).tiny)
            v, value = _unit(w), new
            if bool((change <= tolerance).all()):
                break
    return PowerIteration(array(value), v, done, array(change))


@dataclass(frozen=True, eq=False)
class LowerBound:
    """‖f(E + δ) − f(E)‖ / ‖δ‖ for ‖δ‖ = radius: the best of random δ, and of δ found by gradient ascent; each (B,).

    Lower bounds of the Lipschitz constant within the radius; for a small radius, of `spectral`.
    """

    random: FloatArray
    ascent: FloatArray


def finite_lipschitz(
    readout: Readout,
    embeddings: Tensor,
    mask: Tensor,
    generator: np.random.Generator,
    *,
    radius: float,
    directions: int = 16,
    steps: int = 20,
) -> LowerBound:
    """Finite differences of the log-probabilities f; only their search uses gradients.

    The ascent starts at the best random direction and goes to where the gradient of ‖f(E + δ) − f(E)‖² points, which
    for a small radius is power iteration. radius: in the embeddings' unit; too small a one is lost to rounding.
    """
    if radius <= 0 or directions < 1:
        raise DeltawError(f"radius is {radius} and directions {directions}; expected a positive radius and at least 1")
    movable, E = mask[:, :, None].to(embeddings.dtype), embeddings.detach()
    with torch.no_grad():
        before = torch.log_softmax(readout(E).double(), 1)
    step = _Step(readout, E, before)
    best, delta = torch.full((len(E),), -1.0, dtype=torch.float64, device=E.device), torch.zeros_like(E)
    for _ in range(directions):
        drawn = radius * _unit(normals(generator, *E.shape, like=E).to(E.dtype) * movable)
        size = step.size(drawn)
        delta = torch.where((size > best)[:, None, None], drawn, delta)
        best = torch.maximum(best, size)
    ascent = best
    for _ in range(steps):
        delta = radius * _unit(step.gradient(delta) * movable)
        ascent = torch.maximum(ascent, step.size(delta))
    return LowerBound(array(best / radius), array(ascent / radius))


@dataclass(frozen=True, eq=False)
class _Step:
    """How far the log-probabilities move from `before` by a step δ, and where that grows."""

    readout: Callable[[Tensor], Tensor]
    E: Tensor
    before: Tensor

    def _difference(self, delta: Tensor) -> Tensor:
        after: Tensor = torch.log_softmax(self.readout(self.E + delta).double(), 1)
        return after - self.before

    def size(self, delta: Tensor) -> Tensor:
        with torch.no_grad():
            norms: Tensor = self._difference(delta).norm(dim=1)
        return norms

    def gradient(self, delta: Tensor) -> Tensor:
        delta = delta.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self._difference(delta).square().sum(), delta)[0]


def _unit(x: Tensor) -> Tensor:
    """Each row (T, D) at length 1; a row of zeros stays."""
    size = x.flatten(1).norm(dim=1)[:, None, None]
    unit: Tensor = x / size.clamp_min(torch.finfo(x.dtype).tiny)
    return unit
