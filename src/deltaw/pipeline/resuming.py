"""How an interrupted study goes on: what is finished is reused, what is damaged set aside, what is half made removed.

Within a stage of training, `training.snapshots` keeps what it goes on from.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from deltaw.pipeline.artifacts import (
    SCRATCH,
    TEMPORARY,
    Artifact,
    Provenance,
    host_mark,
    is_alive,
    read_artifact,
)


def reusable(
    path: Path, provenance: Provenance, input_digests: Mapping[str, str], notice: Callable[[str], None]
) -> Artifact | None:
    """The artifact at `path` if its stage would still make it. A damaged one is set aside, as `notice` hears."""
    standing = read_artifact(path, provenance, input_digests)
    if isinstance(standing, str):
        aside = set_aside(path)
        notice(f"{provenance.name} is made anew: {standing} (the old one is kept as {aside.name})")
        return None
    return standing


def set_aside(path: Path) -> Path:
    """Renames a damaged artifact out of the way, keeping it, and returns where it now is."""
    number = 1
    while (aside := path.with_name(f".damaged-{path.name}-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def remove_leftovers(run_dir: Path, planned: Collection[Path] = ()) -> list[str]:
    """Removes what killed processes of this machine were building; what others may still be writing stays.

    planned: the artifacts that a study is to make. Of other artifacts, and of finished ones, goes what their stages
    would have gone on from.

    For the driver only, which holds the run's lock: a directory with its own process id is an older
    process's.
    """
    removed = []
    for path in sorted((run_dir / "artifacts").glob(".building-*")):
        match = TEMPORARY.match(path.name)
        if match and match["host"] == host_mark() and not is_alive(int(match["pid"])):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    for path in sorted((run_dir / "artifacts").glob(f"{SCRATCH}*")):
        artifact = path.with_name(path.name.removeprefix(SCRATCH))
        if artifact.exists() or artifact not in planned:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed
