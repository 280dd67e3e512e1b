"""Names that earlier versions wrote, and what they are called now: kept runs stay readable."""

from typing import Any

STATISTICS = {
    "gain_absolute": "gain_to_input",
    "gain_absolute_in_situ": "gain_to_input_in_situ",
    "gain_log_ratio_attacked": "gain_log_ratio_to_forbidden",
    "gain_ratio": "gain_ratio_to_forbidden",
}
"""Old name -> new name."""

SET_PARTS = {"harmless": "allowed", "harmful": "forbidden"}
"""Parts of the names of sets, between slashes."""


def renamed(record: dict[str, Any]) -> dict[str, Any]:
    """A line of measurements with today's names."""
    statistic, name = record.get("statistic"), record.get("set")
    if isinstance(statistic, str) and statistic in STATISTICS:
        record = {**record, "statistic": STATISTICS[statistic]}
    if isinstance(name, str) and any(part in SET_PARTS for part in name.split("/")):
        record = {**record, "set": "/".join(SET_PARTS.get(part, part) for part in name.split("/"))}
    return record
