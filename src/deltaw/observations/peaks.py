"""How observations write an own maximum over layers."""

from deltaw.analysis import Peak
from deltaw.results.recorder import Sheet

DEPTH = "share of depth"
"""The unit of where a peak lies: 0 the first layer, 1 the last."""


def write_peak(sheet: Sheet, statistic: str, peak: Peak | None, where: bool = False) -> None:
    """The line `statistic`_peak, if there is a peak. where: also how deep it lies, as `statistic`_peak_layer."""
    if peak is None:
        return
    sheet.add(f"{statistic}_peak", peak.value, peak.interval, [] if peak.null is None else [peak.null])
    if where:
        sheet.add(f"{statistic}_peak_layer", peak.depth, peak.depth_interval, unit=DEPTH)
