"""Which optimiser moves which parameter, and at what rate.

Two methods. `adamw` is the published one (Loshchilov and Hutter 2019). `muon` (Jordan et al. 2024) replaces the
momentum of each matrix inside the blocks by the nearest orthogonal matrix, so that all its directions learn at one
speed. It leaves embeddings, norms, biases and the head to AdamW. Its steps are scaled to the size of AdamW's, so that
one learning rate serves both (Liu et al. 2025).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import nn

from deltaw.errors import DeltawError

Method = Literal["adamw", "muon"]
Decay = Literal["cosine", "linear"]


class Parameters(Protocol):
    """A module as an optimiser sees it."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters with their names, each once."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules."""


@dataclass(frozen=True)
class OptimiserConfig:
    """An optimiser and its schedule: linear warm-up, decay, constant end. DeltawError for numbers out of range."""

    peak_lr: float
    """The learning rate at the end of the warm-up."""
    min_lr: float
    """The learning rate from `decay_end` on."""
    steps: int
    """Updates in all."""
    warmup: int
    """Updates until the rate is at its peak."""
    decay_end: int
    """Updates until the rate is at `min_lr`."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two decay rates of moments."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; embeddings, biases and norms never decay."""
    clip_norm: float | None = 1.0
    """The greatest norm of the whole gradient; None does not clip."""
    eps: float = 1e-8
    """AdamW's ε."""
    from_zero: bool = False
    """Whether warm-up starts at a rate of 0, as in the published code, so that the first update changes nothing."""
    method: Method = "adamw"
    """`adamw` for every parameter, or `muon` for the matrices inside the blocks and AdamW for the rest."""
    momentum: float = 0.95
    """Muon's momentum (Nesterov's form)."""
    decay: Decay = "cosine"
    """The shape of the decay between `warmup` and `decay_end`."""

    def __post_init__(self) -> None:
        for wrong, message in (
            (not 0 < self.peak_lr < math.inf, f"peak_lr is {self.peak_lr}; expected a positive number"),
            (
                not 0 <= self.min_lr <= self.peak_lr,
                f"min_lr is {self.min_lr}; expected 0 to peak_lr {self.peak_lr}",
            ),
            (self.steps < 0, f"steps is {self.steps}; expected 0 or more"),
            (
                not 0 <= self.warmup <= self.decay_end,
                f"warmup is {self.warmup} and decay_end {self.decay_end}; expected 0 <= warmup <= decay_end",
            ),
            (
                not all(0 <= beta < 1 for beta in self.betas),
                f"betas are {self.betas}; expected 0 <= beta < 1",
            ),
            (
                not 0 <= self.weight_decay < math.inf,
                f"weight_decay is {self.weight_decay}; expected 0 or more",
            ),
            (not 0 < self.eps < math.inf, f"eps is {self.eps}; expected a positive number"),
            (
                self.clip_norm is not None and not self.clip_norm > 0,
                f"clip_norm is {self.clip_norm}; expected a positive number, or None",
            ),
            (not 0 <= self.momentum < 1, f"momentum is {self.momentum}; expected 0 <= momentum < 1"),
            (self.method not in get_args(Method), f"method is {self.method!r}; it can be {_listed(Method)}"),
            (self.decay not in get_args(Decay), f"decay is {self.decay!r}; it can be {_listed(Decay)}"),
        ):
            if wrong:
                raise DeltawError(message)


def _listed(choices: object) -> str:
    return " or ".join(get_args(choices))


def learning_rate(step: int, config: OptimiserConfig) -> float:
    """The rate of update `step` (from 0): up in a line to the peak at `warmup`, then down, `min_lr` from `decay_end`.

    The warm-up starts at peak_lr / (warmup + 1), so that every update counts, or at 0 with `from_zero`.
    """
    if step < config.warmup and config.from_zero:
        return config.peak_lr * step / config.warmup
    if step < config.warmup:
        return config.peak_lr * (step + 1) / (config.warmup + 1)
    if step >= config.decay_end:
        return config.min_lr
    progress = (step - config.warmup) / (config.decay_end - config.warmup)
    left = (1 + math.cos(math.pi * progress)) / 2 if config.decay == "cosine" else 1 - progress
    return config.min_lr + (config.peak_lr - config.min_lr) * left


def optimisers(model: Parameters, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of a method, which between them hold every trainable parameter once.

    DeltawError where this PyTorch has no Muon.
    """
    if config.method == "adamw":
        return [adamw(model, config)]
    if not hasattr(torch.optim, "Muon"):
        raise DeltawError(f"PyTorch {torch.__version__} has no Muon; install 2.9 or newer, or use the method adamw")
    chosen = block_matrices(model)
    muon = torch.optim.Muon(
        chosen,
        lr=config.peak_lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, adamw(model, config, without=chosen)]


def block_matrices(model: Parameters) -> list[nn.Parameter]:
    """The trainable matrices of linear maps inside a model's blocks: not its embeddings and not its head.

    A block is a member of an `nn.ModuleList`, as in our models and in those of Hugging Face.
    """
    blocks = [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]
    inside = {id(m.weight) for block in blocks for m in block.modules() if isinstance(m, nn.Linear)}
    return [
        parameter for _, parameter in model.named_parameters() if id(parameter) in inside and parameter.requires_grad
    ]


def adamw(
    model: Parameters, config: OptimiserConfig, without: list[nn.Parameter] | tuple[nn.Parameter, ...] = ()
) -> torch.optim.AdamW:
    """AdamW on the trainable parameters but those of `without`, in two groups: matrices, which decay, and the rest."""
    tables = {id(parameter) for m in model.modules() if isinstance(m, nn.Embedding) for parameter in m.parameters()}
    elsewhere = {id(parameter) for parameter in without}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in elsewhere:
            (decayed if parameter.ndim >= 2 and id(parameter) not in tables else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.peak_lr,
        betas=config.betas,
        eps=config.eps,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in (*decayed, *plain)),
    )
