"""A study that is killed or stopped: no process and nothing partial stays, and the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_stages

from deltaw.pipeline.artifacts import is_alive
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage

SCRIPT = """
import sys
from pathlib import Path
from test_killed import stages
from deltaw.pipeline.scheduler import execute
if __name__ == "__main__":
    execute(stages(Path(sys.argv[1])), Path(sys.argv[1]) / "run", sys.argv[2], workers=1)
"""


def stages(folder: Path) -> list[Stage]:
    config = {"mark": str(folder / "mark"), "go": str(folder / "go")}
    return [
        Stage("first", toy_stages.source, {"value": 3}),
        Stage("slow", toy_stages.hang, config, inputs={"first": "first"}),
        Stage("last", toy_stages.join, inputs={"slow": "slow"}),
    ]


def wait_for(what: str, condition: object, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def _hear_interrupts() -> None:
    """A shell starts background jobs, and so tests among them, deaf to SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("engine", "sent"), [("inline", signal.SIGKILL), ("dask", signal.SIGKILL), ("dask", signal.SIGINT)]
)
def test_a_study_goes_on_from_its_last_finished_stage(tmp_path: Path, engine: str, sent: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), engine],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_hear_interrupts,
    )
    mark, made = tmp_path / "mark", tmp_path / "run" / "artifacts"
    wait_for("the slow stage", lambda: (mark.exists() and mark.read_text()) or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[0]
    driver.send_signal(sent)
    said, _ = driver.communicate(timeout=300)
    wait_for("the worker's end", lambda: not is_alive(int(mark.read_text())))

    whole = sorted(p.name.rpartition("-")[0] for p in made.iterdir() if not p.name.startswith("."))
    assert whole == ["first"]
    partial = list(made.glob(".building-*"))
    if sent == signal.SIGINT:
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert partial == []
    else:
        assert len(partial) == 1

    foreign = made / ".building-00000000-1-cafe-slow"  # another machine's, which may still be at work
    foreign.mkdir()
    (tmp_path / "go").touch()
    records = execute(stages(tmp_path), tmp_path / "run", "inline")
    assert [record.reused for record in records] == [True, False, False]
    assert list(made.glob(".building-*")) == [foreign]
