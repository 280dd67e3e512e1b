"""A training run's whole state on disk, so that a run which was killed goes on to the same bits.

A snapshot holds weights, the optimisers' state, the number of updates done, the log until then, and torch's random
state. What an update sees is a function of its number, so that number is the data's position too. Snapshots appear
whole or not at all and carry the hashes of their files. The last two are kept: if the newest is damaged, the one before
it serves.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.results.sealed import is_intact, sealed_directory

TENSORS, META = "state.safetensors", "meta.json"
FORMAT = "deltaw-snapshot-1"
KEPT = 2
EVERY = "DELTAW_SNAPSHOT_SECONDS"
"""The environment variable that says how many seconds may lie between two snapshots; 120 without it."""


class Stateful(Protocol):
    """A module whose state can be read and set."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by name."""

    def load_state_dict(self, state: dict[str, Tensor]) -> object:
        """Set them."""


@dataclass(frozen=True)
class LogTable:
    """The records of all updates so far, as numbers."""

    names: tuple[str, ...]
    """What the columns after the first three are: the parts of the loss."""
    rows: Tensor
    """(updates, 3 + len(names)) float64: learning rate, loss, norm of the gradient, parts of the loss."""


def seconds_between() -> float:
    """How many seconds may lie between two snapshots. DeltawError if the environment says no number."""
    text = os.environ.get(EVERY, "120")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise DeltawError(f"{EVERY} is {text!r}; give a number of seconds, at least 0")
    return seconds


@dataclass
class Snapshots:
    """The snapshots of one training run."""

    directory: Path
    """Where they are; it belongs to this run alone."""
    every: float = field(default_factory=seconds_between)
    """Seconds between two snapshots."""
    usable_at: Callable[[int], bool] = lambda step: True
    """Whether a run may go on from after so many updates: everything its checkpoints have left must still be there."""

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self.every

    def write(self, step: int, model: Stateful, optimisers: Sequence[torch.optim.Optimizer], log: LogTable) -> None:
        """Write the state after `step` updates; of older snapshots the newest is kept. DeltawError if it cannot be."""
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for number, optimiser in enumerate(optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{index}.{name}": tensor for name, tensor in state.items()}
        tensors |= {"log": log.rows, "random.cpu": torch.get_rng_state()}
        if any(tensor.device.type == "cuda" for tensor in tensors.values()):
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        directory = self.directory / f"update-{step:08d}"
        shutil.rmtree(directory, ignore_errors=True)
        with sealed_directory(directory) as partial:
            # One tensor may stand under two names (tied weights); each gets bytes of its own.
            save_file(
                {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
                partial / TENSORS,
            )
            meta = {"format": FORMAT, "step": step, "log": list(log.names)}
            (partial / META).write_text(json.dumps(meta) + "\n", encoding="utf-8")
        for older in self._newest_first()[KEPT:]:
            shutil.rmtree(older, ignore_errors=True)
        self._last = time.monotonic()

    def restore(self, model: Stateful, optimisers: Sequence[torch.optim.Optimizer]) -> tuple[int, LogTable | None]:
        """Set model, optimisers and random state to the newest intact snapshot; returns the updates done and the log.

        (0, None), with nothing changed, where there is none. A damaged or unusable one is passed over.
        """
        for directory in self._newest_first():
            if not is_intact(directory):
                continue
            meta = json.loads((directory / META).read_text(encoding="utf-8"))
            if meta["format"] != FORMAT or not self.usable_at(int(meta["step"])):
                continue
            tensors = load_file(directory / TENSORS)
            model.load_state_dict(_under("model.", tensors))
            for number, optimiser in enumerate(optimisers):
                _set_state(optimiser, f"optimiser.{number}.", tensors)
            torch.set_rng_state(tensors["random.cpu"])
            if "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"])
            return int(meta["step"]), LogTable(tuple(meta["log"]), tensors["log"])
        return 0, None

    def _newest_first(self) -> list[Path]:
        return sorted(self.directory.glob("update-*"), reverse=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _set_state(optimiser: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(prefix, tensors).items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
