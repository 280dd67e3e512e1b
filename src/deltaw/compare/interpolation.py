"""Any model on the line from a base checkpoint to a tuned one, in one model's memory: θ(α) = θ_IT + α (θ_ST − θ_IT).

The tensors of both are read from their files, one at a time, and written into the model that is already there.
Nothing is written to the disk. α = 0 and α = 1 give the two models exactly, bit for bit.
"""

import torch
from torch import Tensor

from deltaw.compare.weights import Sources
from deltaw.errors import DeltawError
from deltaw.models.huggingface import Chat
from deltaw.models.lora import Adapter


@torch.no_grad()
def move_to(chat: Chat, sources: Sources, alpha: float) -> None:
    """Set the weights of `chat`, a model of the base's architecture, in place. alpha: any number.

    DeltawError if a parameter of the model is not in the files, or has another shape there.
    """
    for name, parameter in chat.model.named_parameters():
        stored = _stored_name(sources, name)
        value = _at(sources, stored, alpha, parameter.dtype)
        if value.shape != parameter.shape:
            raise DeltawError(
                f"{stored} is {tuple(value.shape)} in the files and {tuple(parameter.shape)} in the model; give two "
                "checkpoints of one architecture and one vocabulary"
            )
        parameter.copy_(value)


def _at(sources: Sources, name: str, alpha: float, dtype: torch.dtype) -> Tensor:
    before = sources.base.read(name).to(dtype)
    if isinstance(sources.after, Adapter):
        if name not in sources.after.factors or alpha == 0:
            return before
        update = sources.after.update(name)
        return (before.double() + alpha * (update.left @ update.right.T)).to(dtype)
    if alpha == 0:
        return before
    if name not in sources.after.tensors:
        raise DeltawError(f"{sources.directory} has no tensor {name!r}, which the base model has; restore the file")
    after = sources.after.read(name).to(dtype)
    if after.shape != before.shape:
        raise DeltawError(
            f"{name} is {tuple(before.shape)} in the base model and {tuple(after.shape)} in the tuned one; a model "
            "between the two needs one shape, so give two checkpoints with one vocabulary"
        )
    return after if alpha == 1 else torch.lerp(before, after, alpha)


def _stored_name(sources: Sources, name: str) -> str:
    """The name in the files: checkpoints of a bare model lack the prefix of the one with a head."""
    for known in (name, name.partition(".")[2]):
        if known in sources.base.tensors:
            return known
    raise DeltawError(
        f"{sources.base.directory} has no tensor {name!r}, which its own model has; save it again with save_pretrained"
    )
