"""`Sheet` collects measurements. Shared fields are given once; a value with three nulls takes three lines."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deltaw.errors import NotANumber
from deltaw.results.records import MEASUREMENTS, write_measurements
from deltaw.results.schema import Measurement
from deltaw.statistics import Interval, Null


class Sheet:
    """Collects measurements that share some fields. `with_` gives a view with more shared fields on the same lines."""

    def __init__(self, **shared: Any) -> None:
        self.shared = shared
        self.lines: list[Measurement] = []

    def with_(self, **more: Any) -> "Sheet":
        """A view that writes to this sheet, with more shared fields."""
        view = Sheet(**{**self.shared, **more})
        view.lines = self.lines
        return view

    def add(
        self,
        statistic: str,
        value: float,
        interval: Interval | None = None,
        nulls: Iterable[Null] = (),
        **fields: Any,
    ) -> None:
        """One line for each null, or one line without. NotANumber, a DeltawError, if the value is not finite."""
        if not math.isfinite(value):
            of = " of ".join(str(part) for part in (statistic, {**self.shared, **fields}.get("model")) if part)
            what = f"{of} came out as {float(value)}"
            raise NotANumber(
                f"{what}, which is no measurement. Give the same command again; if it comes out so again and the "
                "model's training went well, report it as a fault of deltaw.",
                what,
            )
        shared: dict[str, Any] = {**self.shared, **fields, "statistic": statistic, "value": float(value)}
        if interval is not None:
            shared |= {"low": float(interval.low), "high": float(interval.high)}
        listed = list(nulls)
        for null in listed:
            band = {"null_mean": float(null.mean), "null_low": float(null.low), "null_high": float(null.high)}
            self.lines.append(Measurement(**{**shared, "null_kind": null.kind, **band}))
        if not listed:
            self.lines.append(Measurement(**shared))

    def write(self, directory: Path) -> None:
        """Write all lines to `measurements.jsonl` in a stage's directory."""
        write_measurements(directory / MEASUREMENTS, self.lines)


def nulls_in(lines: Iterable[Measurement]) -> list[Null]:
    """The nulls that lines hold, without their draws."""
    return [
        Null(line.null_kind, line.null_mean, line.null_low, line.null_high)
        for line in lines
        if line.null_kind is not None
        and line.null_mean is not None
        and line.null_low is not None
        and line.null_high is not None
    ]
