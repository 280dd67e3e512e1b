"""Which number format the matrix products of training run in, and why.

bfloat16 halves the cost of a product only where the processor multiplies it natively; elsewhere it is
emulated and slower than float32. The choice reads what the processor says of itself, so one machine always
gives one answer. Only training uses it: behaviour and analyses run in float32.
"""

import platform
from dataclasses import dataclass

import torch

from deltaw.errors import DeltawError


@dataclass(frozen=True)
class Precision:
    """The dtype of training's matrix products, and the reason for it as a sentence."""

    dtype: torch.dtype
    reason: str


def choose_precision(device: torch.device | str) -> Precision:
    """bfloat16 where `device` multiplies it natively, else float32. DeltawError without such a device."""
    device = torch.device(device)
    if device.type == "cpu":
        return _on_cpu()
    if device.type == "cuda":
        return _on_cuda(device)
    return Precision(torch.float32, f"float32: bfloat16 products have not been checked on {device.type} devices.")


def _on_cpu() -> Precision:
    units = _bfloat16_units()
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Precision(torch.float32, "float32: this PyTorch has no oneDNN, so its bfloat16 products are slow.")
    if not units:
        return Precision(torch.float32, "float32: this processor has no native bfloat16 products.")
    return Precision(torch.bfloat16, f"bfloat16: this processor multiplies it natively ({', '.join(units)}).")


def _bfloat16_units() -> list[str]:
    """Names of the processor's instruction sets that multiply bfloat16; empty if it has none, or none is
    reported.
    """
    report = getattr(torch.cpu, "get_capabilities", None)
    if report is not None:
        names = ["avx512_bf16", "amx_bf16"]
        # On a Mac, PyTorch multiplies float32 by a library that knows no bfloat16.
        if platform.system() == "Linux":
            names += ["bf16", "sve_bf16"]
        capabilities = report()
        return [name for name in names if capabilities.get(name, False)]
    # PyTorch before 2.11 answers only by name.
    older = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return [name for name, check in older.items() if getattr(torch.cpu, check, lambda: False)()]


def _on_cuda(device: torch.device) -> Precision:
    if not torch.cuda.is_available():
        raise DeltawError("no CUDA device was found; use the device `cpu`, or install a PyTorch with CUDA")
    name = torch.cuda.get_device_name(device)
    # Tensor cores multiply bfloat16 from compute capability 8.0 on; earlier ones emulate it.
    if torch.version.hip or torch.cuda.get_device_capability(device)[0] >= 8:
        return Precision(torch.bfloat16, f"bfloat16: {name} multiplies it natively.")
    return Precision(torch.float32, f"float32: {name} has no native bfloat16 products.")
