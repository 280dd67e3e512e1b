"""Weights stored in fewer bits: 8-bit floats with scales are turned back into numbers, other formats are named.

A weight W of dtype F8_E4M3 or F8_E5M2 is stored as Q with a scale beside it (`weight_scale_inv` by DeepSeek,
`weight_scale` by compressed-tensors and FBGEMM; both multiply): W = Q · scale, one scale for the tensor, a row, or a
block of 128 × 128.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deltaw.errors import DeltawError

EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
SCALES = ("_scale_inv", "_scale")
"""What is added to a weight's name to give its scale's."""
BLOCK = 128
_ENDINGS = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors (packed integers)",
    ".SCB": "bitsandbytes (8 bits)",
    ".absmax": "bitsandbytes (4 bits)",
    ".W_q": "HQQ",
    ".codebooks": "AQLM",
    ".q_weight": "EXL2",
    ".trellis": "EXL3",
    ".weight_scale_2": "NVFP4",
    "_blocks": "MXFP4",
    ".weight_zero_point": "compressed-tensors (with zero points)",
    "._data": "quanto",
}
"""Endings of tensors that only a quantised checkpoint has, and by what it was quantised."""
_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "hqq": "HQQ",
    "mxfp4": "MXFP4",
    "aqlm": "AQLM",
    "quanto": "quanto",
    "eetq": "EETQ",
    "torchao": "torchao",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "fbgemm_fp8": "FBGEMM FP8",
    "modelopt": "ModelOpt",
}
_WHOLE = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "F4", "F6_E2M3", "F6_E3M2")


def refuse_quantised(
    where: object, tensors: Mapping[str, tuple[str, tuple[int, ...]]], config: Mapping[str, Any]
) -> None:
    """DeltawError, by name, if the tensors are in a quantised format other than 8-bit floats with scales.

    tensors: dtype, as safetensors spells it, and shape, by name.
    """
    settings = config.get("quantization_config")
    method = str(settings.get("quant_method", "")) if isinstance(settings, Mapping) else ""
    kind, example = None, ""
    for name, (dtype, shape) in tensors.items():
        ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
        if ending == "_blocks" and f"{name.removesuffix('_blocks')}_scales" not in tensors:
            ending = None
        if ending is not None:
            kind, example = _ENDINGS[ending], name
            break
        if ".quant_state." in name:
            kind, example = "bitsandbytes (4 bits)", name
            break
        if dtype in ("U32", "I32") and f"{name.removesuffix('.weight')}.scales" in tensors:
            kind, example = "MLX", name
            break
        if method and dtype in _WHOLE and len(shape) >= 2 and name.endswith("weight"):
            kind, example = _NAMES.get(method, method), name
            break
    if kind is None:
        return
    if kind == "GPTQ or AWQ":
        kind = _NAMES.get(method, kind)
    raise DeltawError(
        f"{where} is quantised by {kind} (it holds {example}), which deltaw does not read; give the checkpoint that it "
        "was made from, or save it dequantised"
    )


def scale_name(name: str, tensors: Mapping[str, Any]) -> str | None:
    """The tensor that holds the scale of a weight; None if there is none."""
    return next((name + ending for ending in SCALES if name + ending in tensors), None)


def is_scale(name: str, tensors: Mapping[str, Any]) -> bool:
    """Whether a tensor is the scale of another one."""
    return any(name.endswith(ending) and name.removesuffix(ending) in tensors for ending in SCALES)


def block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The sides of a block that config.json names; None if it names none."""
    settings = config.get("quantization_config")
    sides = settings.get("weight_block_size") if isinstance(settings, Mapping) else None
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(type(x) is int and x > 0 for x in sides):
        return sides[0], sides[1]
    return None


def expanded_scale(scale: Tensor, shape: tuple[int, ...], block: tuple[int, int] | None, name: str) -> Tensor:
    """The scale of every entry: a float32 tensor of `shape` (…, out, in). DeltawError if it does not fit.

    scale: of any shape that says one number a tensor, an expert, a row or a block.
    """
    scale = scale.float()
    if scale.numel() == 1:
        return scale.reshape(()).expand(shape)
    if scale.ndim == 1:
        if len(scale) != shape[0]:
            raise _misfit(name, scale, shape)
        scale = scale.reshape(-1, *(1 for _ in shape[1:]))
    if scale.ndim != len(shape):
        raise _misfit(name, scale, shape)
    sides = (*(None for _ in shape[:-2]), *(block or (None, None)))
    for axis, (length, count, side) in enumerate(zip(shape, scale.shape, sides, strict=True)):
        if count in (1, length):
            continue
        fitting = [
            size for size in (side, BLOCK, -(-length // count)) if size is not None and -(-length // size) == count
        ]
        if not fitting or (side is not None and fitting[0] != side):
            raise _misfit(name, scale, shape)
        scale = scale.repeat_interleave(fitting[0], axis).narrow(axis, 0, length)
    return scale.expand(shape)


def dequantised(stored: Tensor, scale: Tensor) -> Tensor:
    """Q · scale as float32. scale: of every entry."""
    return stored.to(torch.float32) * scale


def _misfit(name: str, scale: Tensor, shape: tuple[int, ...]) -> DeltawError:
    return DeltawError(
        f"the scale of {name} is {tuple(scale.shape)} and the weight {shape}; expected one scale a tensor, a row or a "
        "block, so restore the checkpoint and its config.json"
    )
