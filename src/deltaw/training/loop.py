"""The one training loop, of pre-training and of every tuning: they differ in data, loss and numbers only."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.training.cuda_step import gradients
from deltaw.training.objectives import Loss


class Trainable(Protocol):
    """A module whose matrix products can be made to run in another format for a while."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, each once."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules."""

    def computing_in(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Within this context, products run in `dtype`."""


Model = TypeVar("Model", bound=Trainable)
Data = TypeVar("Data")
"""Whatever `batches` gives and `loss` takes."""


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up, cosine decay and a constant end.

    warmup, decay_end, steps: in updates. weight_decay: of matrices only, not of embeddings, biases and norms.
    clip_norm: greatest norm of the whole gradient; None does not clip. from_zero: whether warm-up starts at a rate of
    0, as in the published code, so that the first update changes nothing. DeltawError if a number is out of range.
    """

    peak_lr: float
    min_lr: float
    steps: int
    warmup: int
    decay_end: int
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    eps: float = 1e-8
    from_zero: bool = False

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
        ):
            if wrong:
                raise DeltawError(message)


@dataclass(frozen=True)
class StepRecord:
    """One update, after `step` others: its batch's loss and parts, and the norm of its unclipped gradient."""

    step: int
    learning_rate: float
    loss: float
    gradient_norm: float
    parts: dict[str, float]


@dataclass(frozen=True)
class TrainingLog:
    """The records of all updates, in order."""

    records: tuple[StepRecord, ...]


def learning_rate(step: int, config: OptimiserConfig) -> float:
    """The rate of update `step` (from 0): up in a line to the peak at `warmup`, then a cosine, `min_lr` from
    `decay_end`.

    The line starts at peak_lr / (warmup + 1), so that every update counts, or at 0 with `from_zero`.
    """
    if step < config.warmup and config.from_zero:
        return config.peak_lr * step / config.warmup
    if step < config.warmup:
        return config.peak_lr * (step + 1) / (config.warmup + 1)
    if step >= config.decay_end:
        return config.min_lr
    progress = (step - config.warmup) / (config.decay_end - config.warmup)
    return config.min_lr + (config.peak_lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def adamw(model: Trainable, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW on the trainable parameters, in two groups: matrices, which decay, and the rest."""
    tables = {id(parameter) for m in model.modules() if isinstance(m, nn.Embedding) for parameter in m.parameters()}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
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


def train(
    model: Model,
    batches: Callable[[int], Data],
    loss: Callable[[Model, Data], Loss],
    optimiser: OptimiserConfig,
    *,
    checkpoints: Collection[int] = (),
    on_checkpoint: Callable[[int, Model], None] = lambda step, model: None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    compute_dtype: torch.dtype = torch.float32,
    report_every: int = 20,
) -> TrainingLog:
    """Train `model` in place for `optimiser.steps` updates, on `batches(step)` for step = 0, 1, ...

    checkpoints: numbers of updates after which `on_checkpoint(updates, model)` is called; 0 is before the
    first. progress: called with (updates done, updates in all, a few words), every `report_every` updates and
    at the end. compute_dtype: of the model's matrix products while the loss is computed, and then only. The
    same arguments give the same weights, bit for bit, on the same machine and number of threads. DeltawError
    if a loss or gradient is not finite (noticed when next reported, and before any checkpoint), or a
    checkpoint lies beyond the last step.
    """
    checkpoints = set(checkpoints)
    beyond = [step for step in checkpoints if not 0 <= step <= optimiser.steps]
    if beyond:
        raise DeltawError(f"a checkpoint is asked for after {beyond[0]} updates; expected 0 to {optimiser.steps}")
    adam, ledger, differentiate = adamw(model, optimiser), _Ledger(optimiser), gradients(model, loss, compute_dtype)
    if 0 in checkpoints:
        on_checkpoint(0, model)
    for step in range(optimiser.steps):
        found = differentiate(batches(step))
        norm = nn.utils.clip_grad_norm_(model.parameters(), optimiser.clip_norm or math.inf)
        rate = learning_rate(step, optimiser)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        ledger.add(step, rate, found, norm)
        done = step + 1
        if done % report_every == 0 or done == optimiser.steps or done in checkpoints:
            progress(done, optimiser.steps, f"loss {ledger.settle():.4f}")
        if done in checkpoints:
            on_checkpoint(done, model)
    return TrainingLog(tuple(ledger.records))


@dataclass
class _Ledger:
    """Records whose numbers stay on the device until `settle`: an accelerator need not wait at each step."""

    optimiser: OptimiserConfig
    records: list[StepRecord] = field(default_factory=list)
    pending: list[tuple[int, float, tuple[str, ...], Tensor]] = field(default_factory=list)

    def add(self, step: int, rate: float, loss: Loss, norm: Tensor) -> None:
        numbers = [loss.value.detach(), norm, *loss.parts.values()]
        self.pending.append((step, rate, tuple(loss.parts), torch.stack([number.float() for number in numbers])))

    def settle(self) -> float:
        """Turn what is pending into records; gives their mean loss. DeltawError at the first not finite."""
        settled = []
        for step, rate, names, numbers in self.pending:
            value, norm, *parts = numbers.tolist()
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise DeltawError(
                    f"training diverged at step {step} of {self.optimiser.steps}: the loss is {value}, "
                    f"the gradient's norm {norm}; lower peak_lr (now {self.optimiser.peak_lr}) "
                    f"or clip_norm (now {self.optimiser.clip_norm})"
                )
            settled.append(StepRecord(step, rate, value, norm, dict(zip(names, parts, strict=True))))
        self.pending.clear()
        self.records += settled
        return sum(record.loss for record in settled) / len(settled)
