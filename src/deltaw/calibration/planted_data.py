"""Weights, updates and activations of which the truth is known: nothing is to be found in them, or a given effect.

Shapes are small but keep what matters: a first matrix of 4d × d with uneven rows (hence uneven leverage), updates with
a decaying spectrum, activations with a steep spectrum and a large common mean, prompts in pairs that share their text.
Everything is float64 and drawn from the generator that is passed in.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltaw.analysis import column_basis
from deltaw.analysis.update_effect import gelu_tanh
from deltaw.statistics import FloatArray

OUT, IN = 128, 32
"""Outputs (hidden units) and inputs of the first matrix: 4d × d, a quarter of `quick`'s in each direction."""

N, WIDTH = 48, 24
"""Pairs of prompts, and the width of their activations where a matrix does not set it."""
OPERATORS = 8
"""As many as decide how prompts differ, where operators are the clusters."""

Generator = np.random.Generator
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Update:
    """A first matrix and its update, (OUT, IN) each."""

    W: Tensor
    dW: Tensor


def tensor(x: FloatArray) -> Tensor:
    """As float64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))


def haar(rng: Generator, n: int, k: int) -> FloatArray:
    """k uniform orthonormal columns in R^n."""
    q, r = np.linalg.qr(rng.standard_normal((n, k)))
    return np.asarray(q * np.sign(np.diagonal(r)))


def weights(rng: Generator, out: int = OUT, inputs: int = IN) -> FloatArray:
    """A matrix whose rows differ in length by half a natural logarithm."""
    return np.asarray(rng.standard_normal((out, inputs)) * rng.lognormal(0, 0.5, size=(out, 1)) / np.sqrt(inputs))


def leverage(W: FloatArray) -> FloatArray:
    """(m,) squared norm of each row of an orthonormal basis of C(W)."""
    q, _ = np.linalg.qr(W)
    return np.asarray((q**2).sum(1))


def _decaying(rng: Generator, out: int = OUT, inputs: int = IN) -> FloatArray:
    """Gaussian on the left, σ_j ∝ j^-0.75, uniform on the right."""
    sigma = np.arange(1, inputs + 1) ** -0.75
    return (rng.standard_normal((out, inputs)) * sigma) @ haar(rng, inputs, inputs).T


def rotated(rng: Generator, out: int = OUT, inputs: int = IN) -> Update:
    """Heavy rows, a spectrum of its own, turned at random: nothing of it knows W."""
    heavy = _decaying(rng, out, inputs) * rng.lognormal(0, 1, size=(out, 1))
    return Update(tensor(weights(rng, out, inputs)), tensor(haar(rng, out, out) @ heavy))


def spectrum_matched(rng: Generator) -> Update:
    """Uniform left and right singular vectors; singular values ∝ j^-0.75."""
    dW = (haar(rng, OUT, IN) * np.arange(1, IN + 1) ** -0.75) @ haar(rng, IN, IN).T
    return Update(tensor(weights(rng)), tensor(dW))


def permuted(rng: Generator) -> Update:
    """Heavy-tailed rows in random order."""
    heavy = _decaying(rng) * rng.lognormal(0, 1, size=(OUT, 1))
    return Update(tensor(weights(rng)), tensor(heavy[rng.permutation(OUT)]))


def sign_flipped(rng: Generator, out: int = OUT, inputs: int = IN) -> Update:
    """An update inside C(W) whose rows then get random signs."""
    W = weights(rng, out, inputs)
    return Update(tensor(W), tensor(W @ _decaying(rng, inputs, inputs) * rng.choice([-1.0, 1.0], size=(out, 1))))


def leverage_tied(rng: Generator, power: float, out: int = OUT, inputs: int = IN) -> Update:
    """Rows in random directions whose length goes with leverage^power."""
    W = weights(rng, out, inputs)
    return Update(tensor(W), tensor(_decaying(rng, out, inputs) * leverage(W)[:, None] ** power))


def decaying_along(rng: Generator, share: float = 0.05, out: int = OUT, inputs: int = IN) -> Update:
    """A turned update of which `share` of the energy is a shrinking of W: what weight decay adds."""
    at = rotated(rng, out, inputs)
    d, w = at.dW / at.dW.norm(), at.W / at.W.norm()
    return Update(at.W, d * (1 - share) ** 0.5 - w * share**0.5)


def random_gradient(rng: Generator, out: int = OUT, inputs: int = IN) -> Update:
    """A step on errors without any meaning, back through a GELU and a random second matrix, on anisotropic inputs."""
    W, P = weights(rng, out, inputs), rng.standard_normal((inputs, out)) / np.sqrt(out)
    a = anisotropic(rng, 64, inputs)
    pre = tensor(a @ W.T).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(gelu_tanh(pre).sum(), pre)
    errors = rng.standard_normal((64, inputs)) @ P
    return Update(tensor(W), (slope * tensor(errors)).T @ tensor(a))


def coherent(rng: Generator) -> Update:
    """All units are pushed the same way, by different amounts, and W gives all of them a mean: no random signs."""
    W = weights(rng) - 0.5 * rng.standard_normal(IN) / np.sqrt(IN)
    push = rng.lognormal(0, 1, size=(OUT, 1)) * rng.standard_normal(IN)
    return Update(tensor(W), tensor(push / np.linalg.norm(push) + 0.1 * _decaying(rng) / np.sqrt(OUT)))


def enriched(rng: Generator, more: float, out: int = OUT, inputs: int = IN) -> Update:
    """A turned update whose part in N(Wᵀ) is scaled so that its share is `more` above chance, in the mean."""
    at = rotated(rng, out, inputs)
    basis = column_basis(at.W)
    inside, chance = basis.Q @ (basis.Q.T @ at.dW), basis.chance
    scale = ((chance + more) / (1 - chance - more) * (1 - chance) / chance) ** 0.5
    return Update(at.W, inside + scale * (at.dW - inside))


def isotropic(rng: Generator, n: int, width: int) -> FloatArray:
    """(n, width) standard normal."""
    return rng.standard_normal((n, width))


def anisotropic(rng: Generator, n: int, width: int, mean: float = 3.0) -> FloatArray:
    """(n, width) with standard deviations √width / j, j = 1 …, in a random basis, and a common mean of `mean` units."""
    direction = rng.standard_normal(width)
    scale = np.sqrt(width) / np.arange(1, width + 1)
    return np.asarray((rng.standard_normal((n, width)) * scale) @ haar(rng, width, width).T + mean * direction)


def swapped(rng: Generator, *pairs: tuple[FloatArray, FloatArray]) -> list[tuple[FloatArray, FloatArray]]:
    """Each pair of arrays (n, ...) with its members exchanged at random, at the same rows in all of them."""
    swap = rng.random(len(pairs[0][0])) < 0.5
    out = []
    for first, second in pairs:
        where = swap.reshape(-1, *[1] * (first.ndim - 1))
        out.append((np.where(where, second, first), np.where(where, first, second)))
    return out


def operators(rng: Generator, n: int) -> Ints:
    """(n,) which of `OPERATORS` operators each prompt has, equally often."""
    return rng.permutation(np.arange(n) % OPERATORS)


def pushes(rng: Generator, n: int, width: int, size: float) -> FloatArray:
    """(n, width) what each prompt's operator adds to its activation: `size` long in the mean, in a random direction."""
    return np.asarray(size / np.sqrt(width) * isotropic(rng, OPERATORS, width)[operators(rng, n)])
