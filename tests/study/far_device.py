"""A device that is not the CPU, for machines without one: tensors on `far` hold their numbers behind a wrapper.

Like a graphics card, it refuses to mix its tensors with the CPU's (but for single numbers), to be read as NumPy arrays
and to draw from a CPU generator. Unlike `meta` it computes, so that whole stages run on it. What it cannot show is what
a real card computes: its kernels, its speed, its memory.

It needs a process of its own (`apart`): PyTorch counts its devices once, at a process's first backward pass, and other
libraries ask the device for what it does not have.
"""

# mypy: disable-error-code="no-untyped-call"
# (Dispatch modes have no annotations.)

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

FAR = "far"
MATH_ATTENTION = 0
_WHERE = torch.device("cpu")


class FarTensor(Tensor):
    """A tensor on `far`, whose numbers are those of `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "FarTensor":
        wrapper: FarTensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(FAR, 0),
        )  # fmt: skip
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _compute(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> "FarTensor":
        copied = FarTensor(self.held.detach().clone())
        copied.requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)  # type: ignore[assignment]
        memo[id(self)] = copied
        return copied

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"FarTensor({self.held!r})"

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor on far to numpy; copy it to the CPU first")

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()


class _FarMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`func` on the held numbers, and its outcome where the device says that it is."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = any(isinstance(leaf, FarTensor) for leaf in given)
    wanted = kwargs.get("device")
    if far and func not in _COPIES:
        near = [leaf for leaf in given if not isinstance(leaf, FarTensor) and leaf.ndim]
        if near and func not in _INDEXING:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, got {FAR} and cpu")
        if func in _INDEXING and not isinstance(given[0], FarTensor):
            raise RuntimeError(f"{func}: indices must be on the indexed tensor's device or on the CPU")
    if func is torch.ops.aten._fused_sdp_choice.default:
        return MATH_ATTENTION
    if kwargs.get("generator") is not None and (far or (wanted is not None and torch.device(wanted).type == FAR)):
        raise RuntimeError(f"{func}: expected a '{FAR}' device type for generator but found 'cpu'")
    if func is torch.ops.aten.set_.source_Tensor or func is torch.ops.aten._local_scalar_dense.default:
        far = False
    plain_kwargs = {name: _WHERE if name == "device" and value is not None else value for name, value in kwargs.items()}
    held_args, held_kwargs = tree_map(_held, (args, plain_kwargs))
    outcome = func(*held_args, **held_kwargs)
    if wanted is not None:
        far = torch.device(wanted).type == FAR
    if not far:
        return tree_map(_own_memory(held_args), outcome) if func in _COPIES else outcome
    if (
        func._schema.is_mutable
        and func._schema.name.split("::")[1].removesuffix("_") != func._schema.name.split("::")[1]
    ):
        return args[0]
    return tree_map(lambda leaf: FarTensor(leaf) if isinstance(leaf, Tensor) else leaf, outcome)


def _own_memory(held_args: Any) -> Any:
    """A copy between devices never shares memory."""
    return lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and any(leaf is held for held in held_args) else leaf


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, FarTensor) else leaf


_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
_ready = False


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function of a test's module returns, called in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


@contextmanager
def far_device() -> Iterator[None]:
    """Within this context `far` is a device."""
    global _ready
    if not _ready:
        backend_registration._setup_privateuseone_for_python_backend(FAR)
        _ready = True
    build = torch.tensor

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made = build(*args, **kwargs)  # torch.tensor asks no mode
        return made if device is None else made.to(device)

    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.tensor = tensor
    try:
        with _FarMode():
            yield
    finally:
        torch.tensor = build
        torch.__future__.set_overwrite_module_params_on_conversion(before)
