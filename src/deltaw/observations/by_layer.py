"""Statistics of one matrix of each layer, and their means over layers: what observations of weights write."""

from collections.abc import Sequence

import numpy as np

from deltaw.results.recorder import Sheet
from deltaw.statistics import Null, mean_of_each_kind


class ByLayer:
    """Writes lines of a matrix layer by layer, and at the end (`write_means`) a mean of each statistic and set."""

    def __init__(self, sheet: Sheet, module: str, role: str | None = None) -> None:
        self.sheet, self.module = sheet.with_(role=role), module
        self._written: dict[tuple[str, str | None, str], list[tuple[float, Sequence[Null]]]] = {}

    def add(
        self, layer: int, statistic: str, value: float, unit: str, nulls: Sequence[Null] = (), set: str | None = None
    ) -> None:
        """A line for each null, or one without."""
        view = self.sheet.with_(layer=layer, module=f"blocks.{layer}.{self.module}")
        view.add(statistic, value, nulls=nulls, unit=unit, set=set)
        self._written.setdefault((statistic, set, unit), []).append((value, nulls))

    def write_means(self) -> None:
        """The mean over the layers that have the statistic."""
        for (statistic, name, unit), lines in self._written.items():
            view = self.sheet.with_(module=self.module, unit=unit, n_unit="layer", set=name)
            write_mean(view, statistic, lines)


def write_mean(
    sheet: Sheet, statistic: str, lines: Sequence[tuple[float, Sequence[Null]]], geometric: bool = False
) -> None:
    """The mean of values, each with its nulls; a null that not all of them have is left out."""
    values = [value for value, _ in lines]
    mean = np.exp(np.mean(np.log(values))) if geometric else np.mean(values)
    sheet.add(statistic, float(mean), nulls=mean_of_each_kind([nulls for _, nulls in lines]), n=len(lines))
