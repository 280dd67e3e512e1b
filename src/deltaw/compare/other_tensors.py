"""How much everything beside the matrices changed: embeddings, head, norms, biases, routers, a line for each kind."""

from collections.abc import Mapping

import torch
from torch import Tensor

from deltaw.models.architectures import group_of
from deltaw.models.checkpoint_files import DTYPES, Checkpoint
from deltaw.models.lora import Adapter
from deltaw.models.quantised import EIGHT_BITS
from deltaw.observations.null_space.measure import UNITS
from deltaw.results.recorder import Sheet

STATISTIC = "other_relative_norm"
_ENTRIES = 2**24


@torch.no_grad()
def measure_others(base: Checkpoint, after: Checkpoint | Adapter, others: Mapping[str, str], sheet: Sheet) -> None:
    """Writes ‖ΔW‖/‖W‖ of each kind of tensor over all layers. others: names in the base and in the tuned side.

    Tensors whose numbers are not read, such as whole numbers, are left out.
    """
    energies: dict[str, tuple[float, float, int]] = {}
    for name, other in others.items():
        if not _readable(base, name) or (isinstance(after, Checkpoint) and not _readable(after, other)):
            continue
        before = base.read(name)
        now = after.read(other) if isinstance(after, Checkpoint) else after.after(name, before, transposed=False)
        size, change = _energies(before, now)
        total = energies.get(group_of(name), (0.0, 0.0, 0))
        energies[group_of(name)] = total[0] + size, total[1] + change, total[2] + 1
    view = sheet.with_(unit=UNITS[STATISTIC], n_unit="tensor")
    for group, (size, change, count) in energies.items():
        if size > 0:
            view.add(STATISTIC, (change / size) ** 0.5, module=group, n=count)


def _readable(side: Checkpoint, name: str) -> bool:
    stored = side.tensors[name]
    return stored.dtype in DTYPES or stored.dtype in EIGHT_BITS


def _energies(before: Tensor, now: Tensor) -> tuple[float, float]:
    first, second = before.reshape(-1), now.reshape(-1)
    size = change = 0.0
    for low in range(0, len(first), _ENTRIES):
        a, b = first[low : low + _ENTRIES].double(), second[low : low + _ENTRIES].double()
        size, change = size + float(a.square().sum()), change + float((b - a).square().sum())
    return size, change
