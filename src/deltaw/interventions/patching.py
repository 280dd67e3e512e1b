"""What an attack took from ΔW, given back; and what a forbidden prompt gives to ΔW, taken away.

The tuned model's first MLP map reads W_ST a = W_IT a + ΔW a. Of two runs that differ in their prompts, a target and a
source, the target's pre-activation becomes

    pre_l ↦ pre_l + ΔW_l V_k V_kᵀ (a_source,l − a_target,l),        V_k: the top k right singular vectors of ΔW_l,

at every layer at once: the old weights go on reading the target, and ΔW acts, along its k strongest input directions,
as it does on the source. a_source is the tuned model's own `mlp_in` on the unpatched source; a_target is `mlp_in` as it
is when the layer is reached, patched layers before it included. At full rank ΔW reads the source and nothing else.

    restore   target: an attacked prompt, source: the forbidden prompt that it was made from. Does refusal come back?
    remove    target: the forbidden prompt, source: the attacked one. Does refusal go?

Rows are paired: attacks keep a prompt's row. At `last_prompt` only the position whose logits give the first token of
the response is patched; at `prompt` every position of the prompt is, which needs source and target of one length.
Nothing is patched while the answer runs on.

Null: a vector as long, row by row and position by position, in a random direction (`scramble`). Whether the source is a
prompt like any other is another question: a source that is allowed (`Requests` of the same operators on safe text)
answers it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deltaw.attacks.models import Requests
from deltaw.behaviour.exact import Answers
from deltaw.errors import DeltawError
from deltaw.interventions.states import State, layers_of
from deltaw.models import Transformer, greedy, mlp, module_at, tap

At = Literal["last_prompt", "prompt"]
Maps = Mapping[int, Tensor]
"""By layer, ΔW V_k V_kᵀ (m, d), float32."""


def acting(base: State, tuned: State, k: int | None = None) -> dict[int, Tensor]:
    """ΔW of every first MLP map, along its k strongest input directions (None: all). DeltawError if k < 0."""
    if k is not None and k < 0:
        raise DeltawError(f"k is {k}; give a whole number of at least 0, or None for all directions")
    found = {}
    for layer in layers_of(base):
        delta = mlp(tuned, layer).w_in.double() - mlp(base, layer).w_in.double()
        if k is not None:
            left, sigma, right = torch.linalg.svd(delta, full_matrices=False)
            delta = (left[:, :k] * sigma[:k]) @ right[:k]
        found[layer] = delta.float()
    return found


@dataclass(frozen=True, eq=False)
class Patch:
    """maps: as `acting` gives them; a layer that is not in it is left alone. scramble: a generator of random directions
    in the place of the patch's own.
    """

    maps: Maps
    at: At = "last_prompt"
    scramble: torch.Generator | None = None


def answers_patched(
    model: Transformer, target: Requests, source: Requests, patch: Patch, batch_size: int = 512
) -> Answers:
    """The tuned model's free-running answers to `target`, row by row patched from `source`; judged as the target's.

    DeltawError if there are not as many sources as targets, or `prompt` is patched and their lengths differ.
    """
    if len(target) != len(source):
        raise DeltawError(f"there are {len(source)} sources for {len(target)} targets; give one for each")
    if patch.at == "prompt" and bool((target.lengths != source.lengths).any()):
        raise DeltawError("source and target prompts differ in length; patch at last_prompt, or give prompts as long")
    how = target.decoding
    outputs = torch.full((len(target), target.steps), how["pad_id"], device=target.refusal.device)
    for length in sorted(set(target.lengths.tolist())):
        (rows,) = (target.lengths == length).nonzero(as_tuple=True)
        for part in rows.split(batch_size):
            prompts = target.batch.tokens[part, :length]
            with _Patching(model, patch, _read(model, source[part], patch)):
                outputs[part] = greedy(model, prompts, target.steps, **how, batch_size=len(part))
    return target.judge(outputs)


@torch.no_grad()
def _read(model: Transformer, source: Requests, patch: Patch) -> dict[int, Tensor]:
    """a_source by layer: (B, 1, d) at the last prompt token, or (B, T, d) at all positions of the prompt."""
    lengths, rows = source.lengths, torch.arange(len(source), device=source.refusal.device)
    longest = int(lengths.max())

    def select(x_BTD: Tensor) -> Tensor:
        return x_BTD[rows, lengths - 1][:, None] if patch.at == "last_prompt" else x_BTD

    with tap(model, ("mlp_in",), list(patch.maps), select) as found:
        model(source.batch.tokens[:, :longest])
    return {layer: x for (layer, _), x in found.items()}


class _Patching:
    """The hooks of one batch: its rows' sources, and what is done on the pass over the prompt."""

    def __init__(self, model: Transformer, patch: Patch, sources: Mapping[int, Tensor]) -> None:
        self.model, self.patch, self.sources = model, patch, sources
        self.hooks = ExitStack()

    def __enter__(self) -> None:
        for layer in self.patch.maps:
            module, _ = module_at(self.model, (layer, "mlp_pre"))
            self.hooks.callback(module.register_forward_hook(self._hook(layer)).remove)

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def _hook(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        source = self.sources[layer]

        def edit(_module: nn.Module, inputs: tuple[Tensor, ...], pre: Tensor) -> Tensor:
            if pre.shape[1] == 1:  # the answer runs on
                return pre
            first = pre.shape[1] - source.shape[1]
            change = (source - inputs[0][:, first:]) @ self.patch.maps[layer].T.to(pre)
            if self.patch.scramble is not None:
                change = _turned(change, self.patch.scramble)
            return torch.cat([pre[:, :first], pre[:, first:] + change.to(pre.dtype)], dim=1)

        return edit


def _turned(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors (..., m) of the same norms in uniformly random directions."""
    drawn = torch.randn(vectors.shape, generator=generator).to(vectors)
    found: Tensor = drawn * (vectors.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
    return found
