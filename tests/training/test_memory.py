"""Memory does not grow with the number of updates, of decoded batches or of stages, however their shapes vary."""

import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deltaw.recipes import recipe
from deltaw.study.stages.answers import answers_to
from deltaw.training import Snapshots
from deltaw.training.pretraining import new_model, pretrain
from deltaw.world import World

STATM = Path("/proc/self/statm")
MARGIN = 32 * 2**20  # bytes; 150 updates of changing shapes took 17 MiB more, most of it early


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="this system does not say what a process holds")
def test_training_and_decoding_hold_what_they_held_at_the_start(tmp_path: Path) -> None:
    chosen = recipe("paper-laptop")
    world = World(chosen.world)
    optimiser = replace(chosen.pretraining.optimiser, steps=150, warmup=2, decay_end=150)
    config = replace(chosen.pretraining, layers=2, heads=2, width=32, batch=16, optimiser=optimiser)
    held: list[int] = []

    def watch(done: int, total: int, text: str) -> None:
        held.append(resident())

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pretrain(world, config, 0, progress=watch, snapshots=Snapshots(tmp_path, every=0.2))
        assert len(held) >= 7
        assert held[-1] - held[1] < MARGIN, [round(size / 2**20) for size in held]
        model, answered = new_model(world, config, 0), []
        for start in range(0, 160, 16):
            answers_to(model, world, world.sample("pretrain/any", range(start, start + 16), seed=1))
            answered.append(resident())
        assert answered[-1] - answered[2] < MARGIN, [round(size / 2**20) for size in answered]
    finally:
        torch.set_num_threads(before)
