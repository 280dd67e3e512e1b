"""What the stages of a study share: their seed, the prompts of every set, the last model, names of a tuned model."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from deltaw.models import Transformer, load
from deltaw.recipes.sizes import Sizes
from deltaw.results import write_jsonl_atomic
from deltaw.results.recorder import Sheet
from deltaw.training import TrainingLog
from deltaw.world import SETS, Prompts, World, WorldConfig

BASE_SETS = tuple(name for name in SETS if name.startswith("pretrain/") and name != "pretrain/any")


TUNED_SETS = tuple(name for name in SETS if not name.startswith("pretrain/"))


_REST = tuple(name for name in TUNED_SETS if "/conditional/" not in name)


def set_sizes(size: int) -> dict[str, int]:
    """How many prompts of every tuning set: `size` of each conditional one, and of the rest of each verdict."""
    shared = {name: sum(_verdict(sibling) == _verdict(name) for sibling in _REST) for name in _REST}
    return {name: -(-size // shared.get(name, 1)) for name in TUNED_SETS}


def prompts_of_sets(world: World, size: int, seed: int) -> dict[str, Prompts]:
    """Held-out prompts of every tuning set, as many as `set_sizes` says."""
    return dict(_prompts_of_sets(world.config, size, seed))


@lru_cache(maxsize=4)
def _prompts_of_sets(config: WorldConfig, size: int, seed: int) -> dict[str, Prompts]:
    """A process that asks several models draws them once."""
    world = World(config)
    return {name: world.sample(name, range(count), seed=seed) for name, count in set_sizes(size).items()}


def _verdict(name: str) -> str:
    return name.split("/", 1)[0]


@dataclass(frozen=True)
class SeedConfig:
    """What every stage of one seed shares."""

    world: WorldConfig
    sizes: Sizes
    seed: int


def last_model(artifact: Path) -> tuple[Transformer, dict[str, Any]]:
    """The model of a training stage's last checkpoint."""
    return load(max(artifact.glob("step-*")))


def write_log(log: TrainingLog, directory: Path, sheet: Sheet, every: int, unit: str) -> None:
    """The whole log as training.jsonl, and its loss, averaged over `every` updates, as measurements."""
    write_jsonl_atomic(directory / "training.jsonl", [asdict(record) for record in log.records])
    for start in range(0, len(log.records), every):
        part = log.records[start : start + every]
        mean = sum(record.loss for record in part) / len(part)
        sheet.add("training_loss", mean, unit=unit, step=part[-1].step + 1, n=len(part), n_unit="update")
