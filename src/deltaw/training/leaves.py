"""The tensors inside what a loss takes: batches, pairs of them, tuples and None."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

Data = TypeVar("Data")


def mapped(data: Data, put: Callable[[Tensor], Tensor]) -> Data:
    """The same data with `put(tensor)` for every tensor; what holds none stays as it is."""
    whole: Any = data
    if isinstance(whole, Tensor):
        whole = put(whole)
    elif isinstance(whole, tuple) and type(whole) is tuple:
        whole = tuple(mapped(part, put) for part in whole)
    elif is_dataclass(whole) and not isinstance(whole, type):
        whole = replace(whole, **{field.name: mapped(getattr(whole, field.name), put) for field in fields(whole)})
    result: Data = whole
    return result


def leaves(data: Any) -> Iterator[Any]:
    """What the data are made of, in order: tensors, and everything else that is neither a tuple nor a dataclass."""
    if type(data) is tuple:
        for part in data:
            yield from leaves(part)
    elif is_dataclass(data) and not isinstance(data, type):
        for field in fields(data):
            yield from leaves(getattr(data, field.name))
    else:
        yield data
