"""A Dask scheduler and workers for tests, each a process of its own, on the loopback device and free ports."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

QUIET = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")


@dataclass
class External:
    address: str
    workers: list[subprocess.Popen[bytes]]
    start_worker: Callable[..., subprocess.Popen[bytes]]


@contextmanager
def external(folder: Path, workers: Sequence[Sequence[str]] = ((), ())) -> Iterator[External]:
    """Started as docs/scaling.md says, but without nannies: who is killed stays dead. workers: further options of
    each.
    """
    file = folder / "scheduler.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "PYTHONWARNINGS": "default",
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"process-{len(running)}.log").open("wb") as log:
            command = (sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(file), *QUIET)
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))
        return running[-1]

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--protocol", "tcp")
        options = ("--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", "0", "--no-nanny")
        start_worker = partial(start, "worker", *options)
        started = [start_worker(*others) for others in workers]
        end = time.monotonic() + 120
        while not file.exists() or not file.read_text():
            assert time.monotonic() < end, (folder / "process-0.log").read_text()
            time.sleep(0.05)
        yield External(json.loads(file.read_text())["address"], started, start_worker)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()
