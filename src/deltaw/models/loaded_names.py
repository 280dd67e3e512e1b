"""The names that transformers gives to a checkpoint's tensors when it loads them.

Files keep the names that their model was published with, and later versions of transformers rename: a base model in its
first names and a tuned one that was saved in the new ones, or an adapter made for those, hold the same matrices.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deltaw.models.architectures.tensor_names import decoder_type
from deltaw.models.checkpoint_files import Checkpoint


def as_loaded(side: Checkpoint) -> Checkpoint:
    """The checkpoint under these names; as it is where transformers is not installed or has no other names for it.

    Only renaming is done: what transformers fuses, splits or turns keeps its name.
    """
    types = dict.fromkeys((side.model_type, decoder_type(side.config, side.model_type)))
    renames = [rename for model_type in types for rename in _renames(model_type)]
    names = {}
    for name in side.tensors:
        new = name
        for rename in renames:
            new = rename(new)
        names[name] = new
    if len(set(names.values())) < len(names):
        return side
    tensors = {names[name]: replace(stored, own_name=name) for name, stored in side.tensors.items()}
    return replace(side, tensors=tensors)


def _renames(model_type: str) -> list[Callable[[str], str]]:
    """In their order, from the conversion mapping of transformers 5; empty before."""
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:
        return []
    transforms: list[Any] = get_checkpoint_conversion_mapping(model_type) or []  # type: ignore[no-untyped-call]
    plain = [transform for transform in transforms if type(transform) is WeightRenaming]
    return [lambda name, transform=transform: transform.rename_source_key(name)[0] for transform in plain]  # type: ignore[misc]
