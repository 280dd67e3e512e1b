"""Reading activations: one vocabulary of site names, and one context manager that places and removes the
hooks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deltaw.errors import DeltawError
from deltaw.models.architectures import Architecture, check_layers, family_of, layer_count
from deltaw.models.batch import Batch, Role
from deltaw.models.transformer import Transformer

Place = tuple[int, str]
"""(layer, site)."""

SITES: tuple[str, ...] = ("mlp_in", "mlp_pre", "mlp_post", "mlp_out", "resid_out")
"""Input of the MLP's first map, its output, that after the activation, the MLP's output, the block's output.

They mean the same in both styles of block, but `mlp_in` is a normalised copy of the residual stream in `pre_ln` and the
stream itself in `published`, where the next block normalises what `resid_out` gives.
"""


@contextmanager
def tap(
    model: nn.Module,
    sites: Sequence[str],
    layers: Sequence[int],
    select: Callable[[Tensor], Tensor] | None = None,
    detach: bool = True,
) -> Iterator[dict[Place, Tensor]]:
    """Within this context, the activations (B, T, width) of the model's last forward pass, by (layer, site).

    `select` is applied to each before it is kept, e.g. to keep one position of each row. Activations are
    not copied: do not write to them. detach: whether they are cut off from gradients. Hooks are removed when the
    context ends, however it ends.
    DeltawError if a site or layer does not exist.
    """
    _check(model, sites, layers)
    family = family_of(name for name, _ in model.named_parameters())
    recorded: dict[Place, Tensor] = {}
    with ExitStack() as hooks:
        for layer in layers:
            for site in sites:
                hook = _hook(model, family, (layer, site), _recorder(recorded, (layer, site), select, detach))
                hooks.callback(hook.remove)
        yield recorded


def _recorder(
    recorded: dict[Place, Tensor], place: Place, select: Callable[[Tensor], Tensor] | None, detach: bool
) -> Callable[[Any], None]:
    def record(activation: Any) -> None:
        # Modules of some architectures take or return tuples, of which the first item is the activation.
        tensor: Tensor = activation[0] if isinstance(activation, tuple) else activation
        tensor = tensor.detach() if detach else tensor
        recorded[place] = tensor if select is None else select(tensor)

    return record


def _hook(
    model: nn.Module, family: Architecture, place: Place, record: Callable[[Any], None]
) -> torch.utils.hooks.RemovableHandle:
    module, reads_input = _module(model, family, place)
    if reads_input:
        return module.register_forward_pre_hook(lambda _module, inputs: record(inputs))
    return module.register_forward_hook(lambda _module, _inputs, output: record(output))


def module_at(model: nn.Module, place: Place) -> tuple[nn.Module, bool]:
    """The module that has the activation of a (layer, site), and whether it is the module's input and not its output.

    DeltawError if the site or layer does not exist.
    """
    _check(model, (place[1],), (place[0],))
    return _module(model, family_of(name for name, _ in model.named_parameters()), place)


def _check(model: nn.Module, sites: Sequence[str], layers: Sequence[int]) -> None:
    unknown = [site for site in sites if site not in SITES]
    if unknown:
        raise DeltawError(f"there is no site {unknown[0]!r}; the sites are {', '.join(SITES)}")
    check_layers(layers, layer_count(model))


def _module(model: nn.Module, family: Architecture, place: Place) -> tuple[nn.Module, bool]:
    layer, site = place
    if family.experts and site != "resid_out":
        raise DeltawError(f"{site} is no place in a mixture of experts, whose blocks are read at their output only")
    name, reads_input = {
        "mlp_in": (family.in_proj, True),
        "mlp_pre": (family.in_proj, False),
        "mlp_post": (family.out_proj, True),
        "mlp_out": (family.out_proj, False),
        "resid_out": (family.block, False),
    }[site]
    return model.get_submodule(name.format(layer=layer)), reads_input


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor as float32, or as it is if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@torch.no_grad()
def activations(
    model: Transformer,
    batch: Batch,
    sites: Sequence[str],
    layers: Sequence[int],
    role: Role = Role.LAST_PROMPT,
    batch_size: int = 256,
    *,
    embeddings: Tensor | None = None,
    positions: Tensor | None = None,
) -> dict[Place, Tensor]:
    """Activations at each row's only position of `role`: (N, width of the site), float32 or, of a model in float64,
    float64, on the CPU, by (layer, site).

    embeddings: (N, T, D), read in the place of the embeddings of the batch's tokens. positions: (N, T) int64,
    the learned position of each token (see `Transformer.forward`). Roles are the batch's either way.
    Positions after the last one wanted are not computed. DeltawError if a site or layer does not exist, or a
    row has not exactly one position of `role`.
    """
    try:
        places = batch.position_of(role)
    except ValueError as error:
        raise DeltawError(f"activations are read at one position a row: {error}") from error
    parts: dict[Place, list[Tensor]] = {(layer, site): [] for layer in layers for site in sites}
    for start in range(0, max(len(batch), 1), batch_size):
        part = slice(start, start + batch_size)
        at = places[part]
        stop = int(at.max()) + 1 if len(at) else 1
        rows = torch.arange(len(at), device=at.device)
        with tap(model, sites, layers, select=lambda x, rows=rows, at=at: x[rows, at]) as recorded:  # type: ignore[misc]
            model(
                None if embeddings is not None else batch.tokens[part, :stop],
                embeddings=None if embeddings is None else embeddings[part, :stop],
                positions=None if positions is None else positions[part, :stop],
            )
        for place, tensor in recorded.items():
            parts[place].append(at_least_float32(tensor).cpu())
    return {place: torch.cat(tensors) for place, tensors in parts.items()}
