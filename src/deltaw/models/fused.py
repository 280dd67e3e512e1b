"""The maps of a block in bfloat16 on a CPU, with their backward passes written out.

oneDNN multiplies, adds the bias and applies GELU in one call, where PyTorch makes three passes over the result. What
GELU read is computed a second time in the backward pass, which costs less than to keep it. Gradients of weights and
biases are in the masters' float32.
"""

from typing import Any

import torch
from torch import Tensor


def can_fuse(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether these functions can compute in `dtype` with this master."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    available = available and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    formats = weight.device.type == "cpu" and weight.dtype == torch.float32 and dtype == torch.bfloat16
    # Without AVX-512 oneDNN has no such product, and fails.
    return available and formats and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """x Wᵀ + b: (N, O) bfloat16. x_NI: bfloat16. weight, bias: float32."""
    return _Linear.apply(x_NI, weight_OI, bias_O)  # type: ignore[no-any-return,no-untyped-call]


def mlp(x_ND: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
    """The second map of the tanh form of GELU of the first one: (N, D) bfloat16. Formats as in `linear`."""
    return _Mlp.apply(x_ND, w_in, b_in, w_out, b_out)  # type: ignore[no-any-return,no-untyped-call]


def _map(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor, gelu: bool = False) -> Tensor:
    activation, form = ("gelu", "tanh") if gelu else ("none", "")
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, activation, [], form)
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        weight = weight_OI.to(x_NI.dtype)
        ctx.save_for_backward(x_NI, weight)
        return _map(x_NI, weight, bias_O.to(x_NI.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (to_out,), (x_NI, weight) = gradients, ctx.saved_tensors
        return to_out @ weight, (to_out.t() @ x_NI).float(), to_out.sum(0).float()


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, *masters: Tensor) -> Tensor:
        w_in, b_in, w_out, b_out = (master.to(x_ND.dtype) for master in masters)
        hidden = _map(x_ND, w_in, b_in, gelu=True)
        ctx.save_for_backward(x_ND, hidden, w_in, b_in, w_out)
        return _map(hidden, w_out, b_out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (to_out,), (x_ND, hidden, w_in, b_in, w_out) = gradients, ctx.saved_tensors
        to_map = torch.ops.aten.gelu_backward(to_out @ w_out, _map(x_ND, w_in, b_in), approximate="tanh")
        return (
            to_map @ w_in,
            (to_map.t() @ x_ND).float(),
            to_map.sum(0).float(),
            (to_out.t() @ hidden).float(),
            to_out.sum(0).float(),
        )
