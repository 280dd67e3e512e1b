"""Work in batches that become smaller when the memory is full."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from deltaw.errors import DeltawError

Item = TypeVar("Item")
Made = TypeVar("Made")
_CPU_FULL = ("not enough memory", "can't allocate memory", "Cannot allocate memory")


def batched(items: Sequence[Item], size: int, work: Callable[[Sequence[Item]], Made]) -> Iterator[Made]:
    """What `work` makes of each batch, in order: of `size` items at most, of half as many from where memory runs out.

    DeltawError if the memory does not hold the work on one item.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        outcome = _tried(work, batch)
        if outcome is None:
            if len(batch) == 1:
                raise DeltawError(
                    "the memory is full although one prompt is worked on at a time; use a smaller --dtype, shorter "
                    "prompts, or a device with more memory"
                )
            size = len(batch) // 2
            continue
        start += len(batch)
        yield outcome[0]


def _tried(work: Callable[[Sequence[Item]], Made], batch: Sequence[Item]) -> tuple[Made] | None:
    """What is made, or None if the memory is full; the failed work's tensors are gone then."""
    try:
        return (work(batch),)
    except (MemoryError, torch.OutOfMemoryError):
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _CPU_FULL):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def batches_by_length(rows: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Numbers of rows of one length, at most `batch` at a time, the shortest first."""
    for length in sorted({len(row) for row in rows}):
        numbers = [number for number, row in enumerate(rows) if len(row) == length]
        for start in range(0, len(numbers), batch):
            yield numbers[start : start + batch]
