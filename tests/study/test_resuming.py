"""A training stage whose process dies goes on where it was, and its artifact is the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage
from deltaw.recipes import recipe
from deltaw.recipes.sizes import Sizes
from deltaw.study.graph import stages
from deltaw.study.stages import finetune, pretrain
from deltaw.training import pretraining
from deltaw.training.snapshots import EVERY

RECIPE = replace(recipe("smoke"), sizes=Sizes(final=8, checkpoint=4, attacked=4, shown=1))
CHAIN = ("base-s0", "tune-ssft-medium-s0")


class Died(Exception):
    """The process is gone."""


def chain() -> list[Stage]:
    return [replace(stage, threads=1) for stage in stages(RECIPE) if stage.name in CHAIN]


def digests(run_dir: Path) -> list[str]:
    return [record.digest for record in execute(chain(), run_dir, "inline")]


def dies_in(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: int) -> Callable[[], None]:
    """Make the `after`-th call of a function raise; returns what heals it."""
    function, calls = getattr(module, name), [0]

    def deadly(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            raise Died
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, deadly)
    return lambda: monkeypatch.setattr(module, name, function)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests of a run that nothing interrupts."""
    return digests(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("module", "name", "after", "stage"),
    [
        (pretraining, "pretraining_samples", 2, "base-s0"),  # between two chunks of batches
        (pretrain, "answers_to_each", 2, "base-s0"),  # while its last checkpoint is measured
        (pretrain, "write_log", 1, "base-s0"),  # when all is made and not yet an artifact
        (finetune, "follow", 2, "tune-ssft-medium-s0"),
        (finetune, "follow", 3, "tune-ssft-medium-s0"),
    ],
)
def test_the_artifact_is_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: list[str], module: Any, name: str, after: int, stage: str
) -> None:
    monkeypatch.setenv(EVERY, "0")
    heal = dies_in(monkeypatch, module, name, after)
    with pytest.raises(Died):
        execute(chain(), tmp_path / "killed", "inline")
    heal()
    (scratch,) = (tmp_path / "killed" / "artifacts").glob(f".resume-{stage}-*")
    snapshots = list((scratch / "snapshots").glob("update-*"))
    assert snapshots
    assert digests(tmp_path / "killed") == whole
    assert not list((tmp_path / "killed" / "artifacts").glob(".*"))


def test_what_an_older_version_of_the_stage_left_is_removed(tmp_path: Path) -> None:
    old = tmp_path / "artifacts" / ".resume-base-s0-0123456789ab"
    old.mkdir(parents=True)
    execute(chain()[:1], tmp_path, "inline")
    assert not old.exists()
