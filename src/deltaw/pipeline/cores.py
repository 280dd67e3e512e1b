"""How many cores a study may use."""

import os


def available_cores() -> int:
    """The cores that this process may use, which in a container are fewer than those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
