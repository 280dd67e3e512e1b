"""An observation: is the update in few neurons? Wei et al. (2024) find safety in a few per cent of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import from_draws


def share_of_top(matrix: Tensor, part: float) -> float:
    """The share of ‖matrix‖² in the largest of its rows."""
    rows = matrix.square().sum(1).sort(descending=True).values
    return float(rows[: max(1, round(part * len(rows)))].sum() / rows.sum())


@dataclass(frozen=True)
class TopNeurons(Observation):
    """How much of the update is in the neurons that it changes most, beside a random matrix."""

    name = "top-neurons"
    label = "update in few neurons"
    statistics = (Statistic("top_neuron_share", "share", "‖ΔW‖² of the MLP's first matrix in its largest rows."),)
    figures = "deltaw_example.figures:top_neurons"
    part: float = 0.1

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Layer by layer."""
        draws = torch.Generator().manual_seed(0)
        for layer in lens.layers:
            delta, _ = lens.update(layer)
            if not delta.any():  # before the first update
                continue
            null = [share_of_top(torch.randn(delta.shape, generator=draws), self.part) for _ in range(50)]
            share, beside = share_of_top(delta, self.part), [from_draws("gaussian", null)]
            sheet.add("top_neuron_share", share, nulls=beside, unit="share", layer=layer, role=None)
