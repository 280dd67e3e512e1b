"""Models between a base and a tuned one, made in the base model's memory: θ(α) = θ_IT + α (θ_ST − θ_IT).

The tensors of both are read from their files, one at a time, and written into the model that is already there.
Nothing is written to the disk. The ends of the line are not made here: each is loaded from its own directory.
"""

import torch
from torch import nn

from deltaw.compare.weights import Sources
from deltaw.errors import DeltawError
from deltaw.models.huggingface import Chat, transformers
from deltaw.models.lora import Adapter


@torch.no_grad()
def move_to(chat: Chat, sources: Sources, alpha: float) -> None:
    """Set the weights of `chat`, the base model or one between, in place. alpha: any number; 0 is the base model.

    DeltawError if a tensor of the model is not in the files of both sides, or has another shape there.
    """
    if isinstance(sources.after, Adapter):
        _add_adapter(chat, sources, sources.after, alpha)
        return
    for name, parameter in chat.model.named_parameters():
        stored = stored_name(sources, name)
        if stored is None or stored not in sources.after.tensors:
            raise DeltawError(f"{sources.directory} has no tensor {name!r}, which the base model has")
        before = sources.base.read(stored).to(parameter.dtype)
        after = sources.after.read(stored).to(parameter.dtype)
        if not before.shape == after.shape == parameter.shape:
            raise DeltawError(
                f"{stored} is {tuple(before.shape)} in the base model and {tuple(after.shape)} in the tuned one; a "
                "model between the two needs one shape"
            )
        parameter.copy_(torch.lerp(before, after, alpha))


def _add_adapter(chat: Chat, sources: Sources, adapter: Adapter, alpha: float) -> None:
    parameters = dict(chat.model.named_parameters())
    by_stored = {stored_name(sources, name): name for name in parameters}
    for stored in sorted(adapter.changed):
        if stored not in by_stored:
            raise DeltawError(
                f"{sources.directory} changes {stored}, which the base model shares with another tensor, or holds "
                "under another name; merge the adapter with PEFT (merge_and_unload) into a checkpoint"
            )
        parameter = parameters[by_stored[stored]]
        turned = _stored_transposed(chat.model, by_stored[stored])
        after = adapter.after(stored, sources.base.read(stored), turned, alpha)
        if after.shape != parameter.shape:
            raise DeltawError(
                f"{sources.directory}: the update of {stored} is {tuple(after.shape)}, the tensor "
                f"{tuple(parameter.shape)}; give the base model that the adapter was made for"
            )
        parameter.copy_(after)


def _stored_transposed(model: nn.Module, parameter: str) -> bool:
    """Whether a module keeps its matrix as (in, out), as Conv1D does."""
    module = model.get_submodule(parameter.rpartition(".")[0])
    return isinstance(module, transformers().pytorch_utils.Conv1D)


def stored_name(sources: Sources, name: str) -> str | None:
    """The name that the base's files give to a parameter; those of a bare model lack the prefix of one with a head."""
    return next((known for known in (name, name.partition(".")[2]) if known in sources.base.tensors), None)


def why_no_models_between(chat: Chat, sources: Sources) -> str | None:
    """Why `move_to` cannot work on the base model `chat`, from the files' headers alone; None if it can."""
    if isinstance(sources.after, Adapter):
        return None  # its factors fit the base model, or it would not have been loaded
    for name, parameter in chat.model.named_parameters():
        stored = stored_name(sources, name)
        if stored is None:
            return f"the base model's files do not hold {name} under this name"
        if stored not in sources.after.tensors:
            return f"the tuned model's files do not hold {stored}"
        shape = sources.after.tensors[stored].shape
        if shape != tuple(parameter.shape):
            return f"{stored} is {tuple(parameter.shape)} in the base model and {shape} in the tuned one"
    return None
