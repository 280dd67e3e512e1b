"""Small stages for the tests of the engine; a module of its own, so that worker processes can import it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from deltaw.errors import DeltawError
from deltaw.pipeline.stage import StageContext


@dataclass(frozen=True)
class Toy:
    value: float
    trace: str | None = None


def source(context: StageContext) -> None:
    context.report(1, 2, "half")
    draws = torch.randn(4, generator=torch.Generator().manual_seed(int(context.config["value"])))
    (context.out / "draws.txt").write_text(" ".join(x.hex() for x in draws.tolist()))
    context.report(2, 2)


def threads(context: StageContext) -> None:
    (context.out / "threads.txt").write_text(str(torch.get_num_threads()))


def join(context: StageContext) -> None:
    texts = [f"{name}: {next(path.glob('*.txt')).read_text()}" for name, path in sorted(context.inputs.items())]
    (context.out / "joined.txt").write_text("\n".join(texts) + f"\n{context.config}")


def typed(context: StageContext) -> None:
    (context.out / "value.txt").write_text(str(context.config.value))


def meet(context: StageContext) -> None:
    """Ends only if the other one runs at the same time."""
    folder, other = Path(context.config["folder"]), context.config["other"]
    (folder / context.config["name"]).touch()
    end = time.monotonic() + 60
    while not (folder / other).exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{other} did not come")
        time.sleep(0.02)
    (context.out / "met.txt").write_text(other)


def hang(context: StageContext) -> None:
    """Waits, half-done, until a file appears; a test kills it meanwhile."""
    (context.out / "half.txt").write_text("half")
    Path(context.config["mark"]).write_text(str(os.getpid()))
    while not Path(context.config["go"]).exists():
        context.report(1, 2)
        time.sleep(0.05)
    (context.out / "whole.txt").write_text("whole")


def user_error(context: StageContext) -> None:
    (context.out / "part.txt").write_text("part")
    raise DeltawError("the learning rate is too large")


def our_error(context: StageContext) -> None:
    raise ZeroDivisionError("a planted mistake")


def full_disk(context: StageContext) -> None:
    raise OSError(28, "No space left on device", str(context.out / "model"))


def full_disk_of_safetensors(context: StageContext) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_disk_of_older_safetensors(context: StageContext) -> None:
    raise SafetensorError('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space" })')


def dies_once(context: StageContext) -> None:
    mark = Path(context.config["mark"])
    if not mark.exists():
        mark.touch()
        time.sleep(1)  # until the driver has heard of the start
        os.kill(os.getpid(), signal.SIGKILL)
    (context.out / "alive.txt").write_text("alive")


def dies(context: StageContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(context: StageContext) -> None:
    pass


def interrupted(context: StageContext) -> None:
    (context.out / "part.txt").write_text("part")
    raise KeyboardInterrupt


def dies_often(context: StageContext) -> None:
    """Leaves a mark, and takes its process with it."""
    with Path(context.config["count"]).open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def fails_often(context: StageContext) -> None:
    """Leaves a mark, and raises what a user's mistake raises."""
    with Path(context.config["count"]).open("a") as file:
        file.write("x")
    raise DeltawError("the learning rate is too large")


def whose(context: StageContext) -> None:
    """Writes which process ran it, and from when to when."""
    start = time.monotonic()
    time.sleep(0.3)
    (context.out / "whose.txt").write_text(f"{os.getpid()} {start} {time.monotonic()}")
