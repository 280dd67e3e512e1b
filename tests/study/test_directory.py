"""Whose a directory is, and who is at work in it."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import began
from deltaw.pipeline.run_directory import LOCK_FILE, claim_directory, run_lock


@dataclass(frozen=True)
class Config:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


IDENTITY = {"recipe": "quick", "config": Config()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_directory_is_claimed_and_the_same_study_taken_up_again(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "quick"
    assert claim_directory(run, IDENTITY) is False
    assert [path.name for path in run.iterdir()] == ["study.json"]
    assert json.loads((run / "study.json").read_text())["study"]["config"] == {
        "type": "Config",
        "rate": 0.1,
        "sizes": [1, 2],
    }
    with run_lock(run):
        pass
    assert claim_directory(run, IDENTITY) is True


def test_another_studys_directory_is_refused_with_what_differs(tmp_path: Path) -> None:
    claim_directory(tmp_path / "run", IDENTITY)
    before = contents(tmp_path)
    with pytest.raises(DeltawError, match=r"another study \(config.rate is 0.1 there and 0.2 here\)"):
        claim_directory(tmp_path / "run", {"recipe": "quick", "config": Config(rate=0.2)})
    with pytest.raises(DeltawError, match="recipe is 'quick' there and 'paper' here"):
        claim_directory(tmp_path / "run", {"recipe": "paper"})
    assert contents(tmp_path) == before


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear reader")
    with pytest.raises(DeltawError, match=r"thesis\.tex"):
        claim_directory(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_a_damaged_study_and_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(DeltawError, match="is a file"):
        claim_directory(file, IDENTITY)
    with pytest.raises(DeltawError, match="cannot be written"):
        claim_directory(file / "below", IDENTITY)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.json").write_text('{"study"')
    with pytest.raises(DeltawError, match="damaged"):
        claim_directory(tmp_path / "run", IDENTITY)
    claim_directory(tmp_path / "other", IDENTITY)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DeltawError, match="cannot be written"):
        claim_directory(tmp_path / "other", IDENTITY)


def test_an_interrupted_claim_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".study.json.0123456789ab.tmp").write_text("{")
    assert claim_directory(tmp_path, IDENTITY) is False


HOLD = """
import sys, time
from pathlib import Path
from deltaw.pipeline.run_directory import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = ":".join(sys.path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DeltawError, match=f"process {holder.pid} on {socket.gethostname()}"),
            run_lock(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert str(holder.pid) in (tmp_path / ".lock").read_text(), "it was killed and could not clear its name"
    with run_lock(tmp_path):
        pass


def test_another_machines_lock_is_respected(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 12, "host": "elsewhere", "boot": "another"}))
    with pytest.raises(DeltawError, match="process 12 on elsewhere"), run_lock(tmp_path):
        pass
    (tmp_path / ".lock").unlink()
    with run_lock(tmp_path):
        pass


def test_what_differs_is_said_in_a_sentence_names_first(tmp_path: Path) -> None:
    whole = {"recipe": {"checkpoints": list(range(40)), "sizes": {"final": 1}, "name": "quick"}}
    other = {"recipe": {"checkpoints": list(range(1, 50)), "sizes": {"final": 2}, "name": "smoke"}}
    claim_directory(tmp_path / "run", whole)
    with pytest.raises(DeltawError) as caught:
        claim_directory(tmp_path / "run", other)
    text = str(caught.value)
    assert "(recipe.name is 'quick' there and 'smoke' here; " in text
    assert "[0, 1, 2" in text
    assert len(text) < 400


def test_a_damaged_study_json_is_told_from_another_studys_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    claim_directory(tmp_path, IDENTITY)
    path.write_text(path.read_text().replace("0.1", "0.3"))
    with pytest.raises(DeltawError, match=f"damaged.*remove {path}"):
        claim_directory(tmp_path, IDENTITY)
    path.unlink()
    for name in ("artifacts", "figures"):
        (tmp_path / name).mkdir()
    for name in ("measurements.jsonl", ".written.json", ".lock"):
        (tmp_path / name).write_text("")
    assert claim_directory(tmp_path, IDENTITY) is False
    assert claim_directory(tmp_path, IDENTITY) is True


def test_a_comparison_of_checkpoints_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "measurements.jsonl").write_text("")
    with pytest.raises(DeltawError, match=r"measurements\.jsonl"):
        claim_directory(tmp_path, IDENTITY)


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_file_keeps_a_second_study_out_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with run_lock(tmp_path, said.append):
        (notice,) = said
        assert "has no locks" in notice
        with (
            pytest.raises(DeltawError, match=f"Another deltaw is at work .*process {os.getpid()} on"),
            run_lock(tmp_path),
        ):
            pass
        assert (tmp_path / LOCK_FILE).exists(), "the second must not take the first one's lock away"
    assert not (tmp_path / LOCK_FILE).exists()


def _held_by(folder: Path, **holder: object) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    own = {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot, "began": began(os.getpid())}
    (folder / LOCK_FILE).write_text(json.dumps(own | holder))


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("holder", [{"boot": "before the restart"}, {"pid": 2**22 + 1}, {"began": "17"}])
def test_the_lock_file_of_an_ended_process_is_taken_over(tmp_path: Path, holder: dict[str, object]) -> None:
    _held_by(tmp_path, **holder)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "Another deltaw is at work"),
        ({"host": "elsewhere"}, "process .* on elsewhere, another machine"),
        (None, "does not say which process"),
    ],
)
def test_the_lock_file_of_who_may_be_at_work_is_respected(
    tmp_path: Path, content: dict[str, object] | None, message: str
) -> None:
    if content is None:
        (tmp_path / LOCK_FILE).touch()
    else:
        _held_by(tmp_path, **content)
    with pytest.raises(DeltawError, match=message), run_lock(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).exists()
