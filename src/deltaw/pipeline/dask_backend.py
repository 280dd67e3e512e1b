"""Stages on Dask: a local cluster of processes behind temporary TLS credentials, or a scheduler that is
already there.
"""

# mypy: disable-error-code="no-untyped-call"
# (distributed has no annotations.)

import logging
import os
import queue
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, Security, get_worker
from distributed.scheduler import KilledWorker
from distributed.utils import silence_logging_cmgr

from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import Artifact
from deltaw.pipeline.cores import available_cores
from deltaw.pipeline.main_script import not_run_again
from deltaw.pipeline.worker import Emit, Event, Failed, Finished, Job, Noticed, Progressed, Started, make

GPU = "GPU"  # what a worker that has one declares (`dask worker --resources GPU=1`), and a stage of `cuda` takes
_SECONDS_BETWEEN_QUESTIONS = 5.0
_QUIET: dict[str, Any] = {
    # A worker that dies takes its stage with it. Once may be chance; after the second time it is the stage.
    "distributed.scheduler.allowed-failures": 1,
    # A stage may hold the interpreter for minutes; that is work, not death.
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1h",
    # No pages about the study on any port.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.comm.timeouts.connect": "60s",
    # A stage says how many threads it takes. OpenMP must be told at its start of as many as it may get: asked for two
    # after it was started with one, it waits so clumsily that two threads are four times slower than one.
    "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": available_cores(),
    # Dask makes the C library give every freed page back at once; training, which frees and takes the same pages at
    # each step, then spends as long in the kernel as in its products. Naming one threshold freezes the other, so both.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**30,
    "distributed.nanny.pre-spawn-environ.MKL_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.OPENBLAS_NUM_THREADS": 1,
}


class DaskPool:
    """Stages as tasks of a Dask client; the driver's thread hears of them through a queue.

    own_workers: whether the workers are those of a cluster that was started for this pool, and are restarted by it.
    """

    def __init__(self, client: Client, threads: int | None, address: str, own_workers: bool) -> None:
        self.threads = threads
        self._own_workers = own_workers
        self._client, self._address = client, address
        # A topic of its own: several studies may share one scheduler.
        self._topic = f"deltaw-{secrets.token_hex(8)}"
        self._queue: queue.SimpleQueue[Event | tuple[str, Future[Any]]] = queue.SimpleQueue()
        self._futures: dict[str, Future[Any]] = {}
        self._gpus, self._ask_again = False, 0.0
        self._count_again, self._is_told_of_no_workers = time.monotonic() + _SECONDS_BETWEEN_QUESTIONS, False
        client.subscribe_topic(self._topic, self._hear)

    def start(self, job: Job) -> None:
        """Submits the job; Dask runs it on a free worker."""
        name = job.stage.name
        future = self._client.submit(
            _make_on_worker,
            job,
            self._topic,
            key=f"{name}-{secrets.token_hex(4)}",
            priority=job.priority,
            pure=False,
            resources={GPU: 1} if job.stage.device.startswith("cuda") and self._has_gpus() else None,
        )
        self._futures[name] = future
        future.add_done_callback(lambda done: self._queue.put((name, done)))

    def wait(self, emit: Emit) -> None:
        """Emits the next event. Wakes up now and then, so that Ctrl-C is heard."""
        while True:
            if self._client.status != "running":
                raise self._lost()
            try:
                item = self._queue.get(timeout=0.5)
            except queue.Empty:
                if self._lacks_workers():
                    emit(
                        Noticed(
                            f"no worker is connected to the Dask scheduler at {self._address}, so no stage can run; "
                            f"the study waits. Start workers: dask worker {self._address} --nthreads 1 --memory-limit 0"
                        )
                    )
                continue
            break
        if isinstance(item, tuple):
            name, future = item
            self._futures.pop(name, None)
            if future.status not in ("finished", "error"):
                raise self._lost()
            emit(_outcome(name, future))
        else:
            emit(item)

    def _has_gpus(self) -> bool:
        """Whether any worker was started with `--resources GPU=1`. Asked until one was: workers may come late."""
        if not self._gpus and time.monotonic() >= self._ask_again:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self._gpus = any(worker.get("resources", {}).get(GPU, 0) >= 1 for worker in workers)
            self._ask_again = time.monotonic() + _SECONDS_BETWEEN_QUESTIONS
        return self._gpus

    def _lacks_workers(self) -> bool:
        """Whether a scheduler that somebody else started has no worker. True once for each time that it has none."""
        if self._own_workers or time.monotonic() < self._count_again:
            return False
        self._count_again = time.monotonic() + _SECONDS_BETWEEN_QUESTIONS
        try:
            has_none = not self._client.nthreads(callback_timeout=_SECONDS_BETWEEN_QUESTIONS)
        except OSError:  # no answer: if the scheduler is lost, the client's status will say so
            return False
        is_news = has_none and not self._is_told_of_no_workers
        self._is_told_of_no_workers = has_none
        return is_news

    def close(self) -> None:
        """Stops listening and lets go of what still runs."""
        if self._client.status != "running":  # nobody is there to be told, and asking would wait for an answer
            return
        self._client.unsubscribe_topic(self._topic)
        for future in self._futures.values():
            future.cancel()

    def _lost(self) -> DeltawError:
        return DeltawError(
            f"the Dask scheduler at {self._address} was lost, and with it the stages that ran. "
            "Start it, or another, and give the same command again: it goes on from the stages that are finished."
        )

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        if "done" in message:
            names = ("stage", "done", "total", "note")
            self._queue.put(Progressed(**{name: message[name] for name in names}))
        else:
            self._queue.put(Started(message["stage"]))


@contextmanager
def open_cluster(workers: int | None, scheduler: str | None) -> Iterator[DaskPool]:
    """A pool on the scheduler at an address, or on a cluster of this machine that ends with the block.

    A local cluster has `workers` processes (default: one a core) of one thread, talks over TLS on the
    loopback device with credentials made for it, has no dashboard and no memory limit of its own. On a
    scheduler, `workers` limits the threads in use at once. DeltawError if no scheduler answers at the
    address.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_QUIET))
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))  # what a user needs to know, we say
        if scheduler is not None:
            client, threads, address = _connect(scheduler), workers, scheduler
        else:
            threads = workers or available_cores()
            stack.enter_context(not_run_again())
            cluster = stack.enter_context(_local_cluster(threads))
            client, address = Client(cluster, set_as_default=False), str(cluster.scheduler_address)
        stack.enter_context(client)
        pool = DaskPool(client, threads, address, own_workers=scheduler is None)
        stack.callback(pool.close)
        yield pool


@contextmanager
def _local_cluster(workers: int) -> Iterator[LocalCluster]:
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        security=Security.temporary(),
        # Even without a dashboard it opens port 8787, which a second study would find taken.
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )
    try:
        yield cluster
    finally:
        _kill_workers(cluster)
        cluster.close()


def _kill_workers(cluster: LocalCluster) -> None:
    """Ends the worker processes at once: what they still do is not wanted, and asking takes seconds."""
    for nanny in cluster.workers.values():
        process = getattr(getattr(nanny, "process", None), "process", None)
        if process is not None and process.is_alive():
            os.kill(process.pid, 9)


def _connect(address: str) -> Client:
    try:
        return Client(address, set_as_default=False, timeout="10s")
    except (OSError, ValueError) as error:
        raise DeltawError(
            f"No Dask scheduler answers at {address} ({error}). Start one, or leave the address out."
        ) from error


def _make_on_worker(job: Job, topic: str) -> Artifact:
    """The task: makes the artifact where it runs and sends what the stage reports to the driver."""
    return make(job, partial(_send, get_worker(), topic))


def _send(worker: Any, topic: str, event: Event) -> None:
    worker.log_event(topic, asdict(event))


def _outcome(name: str, future: "Future[Any]") -> Finished | Failed:
    if future.status == "finished":
        return Finished(name, future.result())
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Failed(
            name,
            DeltawError(
                "the process that ran this stage died, again when it was tried once more, most likely because the "
                "machine ran out of memory. Free some, or use fewer workers, and give the same command again: it goes "
                "on from here."
            ),
        )
    return Failed(name, error.with_traceback(future.traceback()))
