"""Training data that are drawn while a card computes, so that it need not wait for them.

Drawing is NumPy's work on the CPU. On a CPU it would only take the processor from training, so there each chunk is
drawn when it is asked for. For a card the next chunk is drawn in a thread, into memory that the card reads by itself.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from deltaw.training.leaves import mapped

Data = TypeVar("Data")


class Prefetch(Generic[Data]):
    """Chunks of `stride` batches, by the number of their first batch.

    make: draws the chunk that begins with a batch; called with 0, stride, 2 stride, or from wherever training goes on.
    end: the number of batches that will be asked for. device: where training computes.
    """

    def __init__(self, make: Callable[[int], Data], stride: int, end: int, device: str) -> None:
        self._make, self._stride, self._end = make, stride, end
        self._ahead = torch.device(device).type == "cuda"
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[Data]] | None = None

    def __call__(self, first: int) -> Data:
        """The chunk that begins with batch `first`, on the CPU. What `make` raises is raised here."""
        if not self._ahead:
            return self._make(first)
        pending, self._next = self._next, None
        chunk = pending[1].result() if pending is not None and pending[0] == first else self._pinned(first)
        following = first + self._stride
        if following < self._end:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
            self._next = following, self._thread.submit(self._pinned, following)
        elif self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None
        return chunk

    def _pinned(self, first: int) -> Data:
        """The chunk in memory that is never swapped out, so that copies to the card run beside its work."""
        chunk = self._make(first)
        return mapped(chunk, lambda tensor: tensor.pin_memory()) if torch.cuda.is_available() else chunk
