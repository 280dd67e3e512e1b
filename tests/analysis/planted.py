"""Planted truths: matrices and activations of which the right answer is known."""

import numpy as np
import torch
from torch import Tensor

torch.set_num_threads(1)  # on matrices this small, waiting for a second thread costs ten times what it saves


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal float64 entries."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def inside(W: Tensor, seed: int) -> Tensor:
    """A random update of W's shape whose columns lie in C(W)."""
    return W @ draw(seed, W.shape[1], W.shape[1])


def outside(W: Tensor, seed: int) -> Tensor:
    """A random update of W's shape whose columns lie in N(Wᵀ)."""
    x = draw(seed, *W.shape)
    solution = torch.linalg.lstsq(W, x).solution
    out: Tensor = x - W @ solution
    return out


def of_rank(m: int, n: int, r: int, seed: int) -> Tensor:
    """A random m × n matrix of rank r."""
    return draw(seed, m, r) @ draw(seed + 1, r, n)


def orthogonal(m: int, seed: int) -> Tensor:
    """A uniform m × m orthogonal matrix."""
    q, r = torch.linalg.qr(draw(seed, m, m))
    signed: Tensor = q * torch.sign(torch.diagonal(r))
    return signed


def uneven(m: int, n: int, seed: int) -> Tensor:
    """A weight matrix a few of whose rows are much longer than the others, so that leverage is uneven."""
    scale = torch.from_numpy(np.random.default_rng(seed + 1).lognormal(0, 1.2, size=(m, 1)))
    return draw(seed, m, n) * scale


def clusters(n: int, width: int, distance: float, seed: int) -> tuple[Tensor, Tensor]:
    """(allowed, forbidden): two unit Gaussian clusters of n rows whose means are `distance` apart."""
    direction = torch.zeros(width, dtype=torch.float64)
    direction[0] = distance
    return draw(seed, n, width) + direction, draw(seed + 1, n, width)


def anisotropic(n: int, width: int, seed: int, common: float = 3.0) -> Tensor:
    """Activations as transformers have them: a steep spectrum and a large common mean."""
    scale = torch.from_numpy(np.arange(1, width + 1, dtype=np.float64) ** -1.0)
    x: Tensor = draw(seed, n, width) * scale
    x[:, 1] += common
    return x
