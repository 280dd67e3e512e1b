"""Equal bits on one kind of card: what PyTorch must be told before it computes on one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic as filling

WORKSPACE = ":4096:8"


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Within this context, a card of the same kind with the same libraries gives the same bits. Nothing on a CPU.

    PyTorch takes its deterministic kernels and raises where it has none; float32 products are not rounded to TF32, sums
    of bfloat16 products stay in float32, and attention leaves out cuDNN's kernels, whose choice differs by version.
    cuBLAS reads its setting once, at a process's first product on a card: enter this before.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
    matmul = torch.backends.cuda.matmul
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_float32_matmul_precision(),
        matmul.allow_bf16_reduced_precision_reduction,
        filling.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
    )
    try:
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("highest")
        matmul.allow_bf16_reduced_precision_reduction = False
        # Filling takes a kernel a tensor, for nothing: no code of ours reads before it writes.
        filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cuda.enable_cudnn_sdp(False)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_float32_matmul_precision(before[2])
        matmul.allow_bf16_reduced_precision_reduction = before[3]
        filling.fill_uninitialized_memory = before[4]  # type: ignore[attr-defined]
        torch.backends.cuda.enable_cudnn_sdp(before[5])
