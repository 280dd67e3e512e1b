"""The one training loop, of pre-training and of every tuning: they differ in data, loss and numbers only."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.protocols.loss import Loss
from deltaw.training.cuda_step import gradients
from deltaw.training.optimisers import OptimiserConfig, learning_rate, optimisers
from deltaw.training.snapshots import LogTable, Snapshots


class Trainable(Protocol):
    """A module whose matrix products can be made to run in another format for a while."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, each once."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters with their names, each once."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules."""

    def state_dict(self) -> dict[str, Any]:
        """All parameters and buffers by name."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Set them."""

    def computing_in(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Within this context, products run in `dtype`."""


Model = TypeVar("Model", bound=Trainable)
Data = TypeVar("Data")
"""Whatever `batches` gives and `loss` takes."""


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
    snapshots: Snapshots | None = None,
    name: str = "training",
) -> TrainingLog:
    """Train `model` in place for `optimiser.steps` updates, on `batches(step)` for step = 0, 1, ...

    checkpoints: numbers of updates after which `on_checkpoint(updates, model)` is called; 0 is before the
    first. progress: called with (updates done, updates in all, a few words), every `report_every` updates and
    at the end. compute_dtype: of the model's matrix products while the loss is computed, and then only. The
    same arguments give the same weights, bit for bit, on the same machine and number of threads. snapshots: where the
    state is kept from time to time; if it holds one, training goes on from there, to the same bits, and `on_checkpoint`
    is not called again for checkpoints before it. name: what errors call the training. DeltawError if a loss or
    gradient is not finite (noticed when next reported, and before any checkpoint or snapshot), or a checkpoint lies
    beyond the last step.
    """
    checkpoints = set(checkpoints)
    beyond = [step for step in checkpoints if not 0 <= step <= optimiser.steps]
    if beyond:
        raise DeltawError(f"a checkpoint is asked for after {beyond[0]} updates; expected 0 to {optimiser.steps}")
    movers, ledger = optimisers(model, optimiser), _Ledger(optimiser, name)
    differentiate = gradients(model, loss, compute_dtype)
    begin = 0
    if snapshots is not None:
        begin, table = snapshots.restore(model, movers)
        ledger.take(table)
    if begin:
        progress(begin, optimiser.steps, "taken up again")
    elif 0 in checkpoints:
        on_checkpoint(0, model)
    for step in range(begin, optimiser.steps):
        step_loss = differentiate(batches(step))
        norm = nn.utils.clip_grad_norm_(model.parameters(), optimiser.clip_norm or math.inf)
        rate = learning_rate(step, optimiser)
        for mover in movers:
            for group in mover.param_groups:
                group["lr"] = rate
            mover.step()
        ledger.add(step, rate, step_loss, norm)
        done = step + 1
        keep = snapshots is not None and done < optimiser.steps and snapshots.due()
        if done % report_every == 0 or done == optimiser.steps or done in checkpoints or keep:
            progress(done, optimiser.steps, f"loss {ledger.settle():.4f}")
        if done in checkpoints:
            on_checkpoint(done, model)
        if keep and snapshots is not None:
            snapshots.write(done, model, movers, ledger.table())
    return TrainingLog(tuple(ledger.records))


@dataclass
class _Ledger:
    """Records whose numbers stay on the device until `settle`: an accelerator need not wait at each step."""

    optimiser: OptimiserConfig
    name: str
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
                    f"{self.name} diverged at step {step} of {self.optimiser.steps}: the loss is {value}, "
                    f"the gradient's norm {norm}; lower peak_lr (now {self.optimiser.peak_lr}) "
                    f"or clip_norm (now {self.optimiser.clip_norm})"
                )
            settled.append(StepRecord(step, rate, value, norm, dict(zip(names, parts, strict=True))))
        self.pending.clear()
        self.records += settled
        return sum(record.loss for record in settled) / len(settled)

    def table(self) -> LogTable:
        """All settled records as numbers."""
        names = tuple(self.records[0].parts) if self.records else ()
        rows = [[r.learning_rate, r.loss, r.gradient_norm, *r.parts.values()] for r in self.records]
        return LogTable(names, torch.tensor(rows, dtype=torch.float64))

    def take(self, table: LogTable | None) -> None:
        """Begin with the records of a table."""
        if table is not None:
            for step, (rate, value, norm, *parts) in enumerate(table.rows.tolist()):
                self.records.append(StepRecord(step, rate, value, norm, dict(zip(table.names, parts, strict=True))))
