"""The door of the analyses: tensors become finite float64 matrices, and a question without an answer becomes
`Absent`.

Left null spaces, shares of a zero update and positions between indistinguishable clusters do not exist. An
analysis then returns `Absent` with the reason; it never returns 0, which a reader would take for a
measurement.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray


@dataclass(frozen=True)
class Absent:
    """There is no such number, and why."""

    reason: str


def matrix(x: Tensor, name: str, columns: int | None = None, rows: int | None = None) -> Tensor:
    """`x` (a, b) as float64, detached, on its device (on the CPU where the device has no float64).

    DeltawError if it is not a non-empty matrix of the wanted size with finite entries.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise DeltawError(f"{name} has shape {tuple(x.shape)}; expected a non-empty matrix")
    if (rows is not None and x.shape[0] != rows) or (columns is not None and x.shape[1] != columns):
        wanted = ("any" if rows is None else rows, "any" if columns is None else columns)
        raise DeltawError(f"{name} has shape {tuple(x.shape)}; expected {wanted[0]} rows and {wanted[1]} columns")
    y = _double(x)
    if not bool(torch.isfinite(y).all()):
        raise DeltawError(f"{name} holds NaN or infinite entries; look for the step that made them")
    return y


def bias(x: Tensor | None, name: str, like: Tensor) -> Tensor:
    """`x` (m,) as float64 beside the matrix `like` (m, n); None is zeros. DeltawError if it does not fit."""
    if x is None:
        return torch.zeros(like.shape[0], dtype=like.dtype, device=like.device)
    return matrix(x[None, :] if x.ndim == 1 else x, name, columns=like.shape[0], rows=1)[0]


def _double(x: Tensor) -> Tensor:
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)


def normals(generator: np.random.Generator, *shape: int, like: Tensor) -> Tensor:
    """Standard normal float64 draws on the device of `like`; the same numbers whatever the device."""
    return torch.from_numpy(generator.standard_normal(shape)).to(like.device)


def signs(generator: np.random.Generator, *shape: int, like: Tensor) -> Tensor:
    """Fair ±1 float64 draws on the device of `like`."""
    return torch.from_numpy(generator.integers(0, 2, size=shape) * 2.0 - 1.0).to(like.device)


def array(x: Tensor) -> FloatArray:
    """A tensor as a float64 array on the CPU."""
    return x.detach().cpu().to(torch.float64).numpy()
