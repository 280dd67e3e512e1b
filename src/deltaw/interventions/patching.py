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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deltaw.attacks.models import Requests
from deltaw.behaviour.exact import Answers
from deltaw.errors import DeltawError
from deltaw.interventions.states import State, layers_of
from deltaw.models import Transformer, greedy, tap
from deltaw.models.state_parts import first_map, first_map_modules

At = Literal["last_prompt", "prompt"]
Maps = Mapping[int, Tensor]
"""By layer, ΔW V_k V_kᵀ (m, d), float32."""


def acting(base: State, tuned: State, k: int | None = None) -> dict[int, Tensor]:
    """ΔW of every first MLP map, along its k strongest input directions (None: all). DeltawError if k < 0."""
    if k is not None and k < 0:
        raise DeltawError(f"k is {k}; give a whole number of at least 0, or None for all directions")
    maps = {}
    for layer in layers_of(base):
        delta = first_map(tuned, layer).double() - first_map(base, layer).double()
        if k is not None:
            left, sigma, right = torch.linalg.svd(delta, full_matrices=False)
            delta = (left[:, :k] * sigma[:k]) @ right[:k]
        maps[layer] = delta.float()
    return maps


@dataclass(frozen=True, eq=False)
class Patch:
    """maps: as `acting` gives them; a layer that is not in it is left alone. scramble: a generator of random directions
    in the place of the patch's own.
    """

    maps: Maps
    at: At = "last_prompt"
    scramble: torch.Generator | None = None


def check_patch(target: Sequence[int], source: Sequence[int], patch: Patch) -> None:
    """DeltawError unless prompts of these lengths can be the targets and sources of the patch."""
    if len(target) != len(source):
        raise DeltawError(f"there are {len(source)} sources for {len(target)} targets; give one for each")
    if patch.at == "prompt" and list(target) != list(source):
        raise DeltawError("source and target prompts differ in length; patch at last_prompt, or give prompts as long")


def answers_patched(
    model: Transformer, target: Requests, source: Requests, patch: Patch, batch_size: int = 512
) -> Answers:
    """The tuned model's free-running answers to `target`, row by row patched from `source`; judged as the target's.

    DeltawError if there are not as many sources as targets, or `prompt` is patched and their lengths differ.
    """
    check_patch(target.lengths.tolist(), source.lengths.tolist(), patch)
    how = target.decoding
    outputs = torch.full((len(target), target.steps), how["pad_id"], device=target.refusal.device)
    for length in sorted(set(target.lengths.tolist())):
        (rows,) = (target.lengths == length).nonzero(as_tuple=True)
        for part in rows.split(batch_size):
            prompts = target.batch.tokens[part, :length]
            with patching(model, patch, _read(model, source[part], patch)):
                outputs[part] = greedy(model, prompts, target.steps, **how, batch_size=len(part))
    return target.judge(outputs)


@torch.no_grad()
def _read(model: Transformer, source: Requests, patch: Patch) -> dict[int, Tensor]:
    """a_source by layer: (B, 1, d) at the last prompt token, or (B, T, d) at all positions of the prompt."""
    lengths, rows = source.lengths, torch.arange(len(source), device=source.refusal.device)
    longest = int(lengths.max())

    def select(x_BTD: Tensor) -> Tensor:
        return x_BTD[rows, lengths - 1][:, None] if patch.at == "last_prompt" else x_BTD

    with tap(model, ("mlp_in",), list(patch.maps), select) as activations:
        model(source.batch.tokens[:, :longest])
    return {layer: x for (layer, _), x in activations.items()}


@contextmanager
def patching(model: nn.Module, patch: Patch, sources: Mapping[int, Tensor]) -> Iterator[None]:
    """Within this context, ΔW reads the sources on every pass over a prompt.

    sources: by layer, a_source of the rows of the batch, (B, 1, d) for their last position, or (B, T, d) for all.
    """
    with ExitStack() as hooks:
        for layer in patch.maps:
            start = 0
            for module in first_map_modules(model, layer):
                hook = _Reading(patch, layer, sources[layer], start)
                hooks.callback(module.register_forward_hook(hook).remove)
                start += _outputs(module)
        yield


@dataclass(eq=False)
class _Reading:
    """The hook of a module that is a first MLP map, or the rows of it from `start` on."""

    patch: Patch
    layer: int
    source: Tensor
    start: int

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        batch = len(self.source)
        # some architectures flatten batch and positions before their MLP
        a, pre = (x.view(batch, -1, x.shape[-1]) for x in (inputs[0], output))
        if pre.shape[1] == 1:  # the answer runs on
            return output
        first = pre.shape[1] - self.source.shape[1]
        delta = self.patch.maps[self.layer][self.start : self.start + pre.shape[-1]]
        change = (self.source - a[:, first:]) @ delta.T.to(pre)
        if self.patch.scramble is not None:
            change = _turned(change, self.patch.scramble)
        patched = torch.cat([pre[:, :first], pre[:, first:] + change.to(pre.dtype)], dim=1)
        return patched.view(output.shape)


def _outputs(module: nn.Module) -> int:
    weight: Tensor = getattr(module, "weight")  # noqa: B009
    return int(weight.shape[1] if type(module).__name__ == "Conv1D" else weight.shape[0])


def _turned(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors (..., m) of the same norms in uniformly random directions."""
    drawn = torch.randn(vectors.shape, generator=generator).to(vectors)
    turned: Tensor = drawn * (vectors.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
    return turned
