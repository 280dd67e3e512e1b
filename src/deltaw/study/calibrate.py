"""`make calibration`: draws every cell, and writes rates.json, tables.md and calibration.svg."""

import time
from pathlib import Path

import torch
import tyro

from deltaw.calibration import rates as calibration
from deltaw.errors import DeltawError, mistakes_said
from deltaw.report.pages.calibration import calibration_figure
from deltaw.results import write_json_atomic, write_text_atomic

_HEAD = """\
# Rates of the calibration

Made by `make calibration` ([how to read it](../../calibration.md)): seed {seed}, {draws} draws where there is nothing
to find, {power_draws} of a planted effect; [99 % Wilson intervals]. *null*: whether it is true by construction, or one
that the test does not assume. *level*: the nominal rate on the claim's side. *found*: the rate there. *too often*,
*rarely*: the level lies outside the interval.

"""


def calibrate(
    out: Path,
    seed: int = 0,
    draws: int = calibration.DRAWS,
    power_draws: int = calibration.POWER_DRAWS,
    workers: int = 1,
) -> None:
    """Write the calibration into `out`.  workers: processes."""
    if not out.is_dir():
        raise DeltawError(f"there is no directory {out}; make it, or give another one")
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    started = time.perf_counter()

    def say(name: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {name}", flush=True)  # noqa: T201

    rates = calibration.calibrate(seed, draws, power_draws, workers, say)
    head = _HEAD.format(seed=seed, draws=draws, power_draws=power_draws)
    records = calibration.records(rates)
    write_text_atomic(out / "tables.md", head + calibration.tables(rates))
    write_json_atomic(out / "rates.json", {"seed": seed, "confidence": calibration.CONFIDENCE, "rates": records})
    drawn = calibration_figure(records)
    if drawn is not None:
        write_text_atomic(out / "calibration.svg", drawn.draw().file)


if __name__ == "__main__":
    with mistakes_said():
        tyro.cli(calibrate)
