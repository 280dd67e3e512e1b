"""Edits of weights on architectures of transformers: parts are found by the family's names, and ends are exact."""

from typing import Any

import pytest
import torch
from torch import nn

from deltaw.interventions import (
    ENDS,
    SCOPES,
    Patch,
    acting,
    chosen,
    editing,
    holding,
    interpolated,
    layers_of,
    names_in,
    patching,
    players_of,
    randomly_extrapolated,
    split_update,
    state_of,
    with_parts,
)
from deltaw.models.mlp_maps import mlp_of
from deltaw.models.state_parts import first_map
from deltaw.models.taps import tap

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {"vocab_size": 31, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES: dict[str, Any] = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
TOKENS = torch.randint(3, 31, (4, 6), generator=torch.Generator().manual_seed(3))
MODELS: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SHAPE, n_embd=12, n_layer=2, n_head=2, n_positions=32)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, **SIZES, num_key_value_heads=1)
    ),
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**SHAPE, **SIZES)),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SHAPE, **SIZES)),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            **SHAPE, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, ffn_dim=40,
            max_position_embeddings=32, word_embed_proj_dim=12,
        )
    ),
}  # fmt: skip


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A random base model, and it with every tensor moved, both in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base, tuned = MODELS[name]().double().eval(), MODELS[name]().double().eval()
        with torch.no_grad():
            for own, other in zip(tuned.parameters(), base.parameters(), strict=True):
                own.copy_(other + 0.1 * torch.randn_like(other))
    return base, tuned


@torch.no_grad()
def logits(model: Any, state: Any = None) -> torch.Tensor:
    with holding(model, state_of(model) if state is None else state):
        found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_all_of_the_model_and_none_is_in_two(name: str) -> None:
    state = state_of(pair(name)[0])
    kinds = [names_in(scope, state) for scope in ("mlp", "attention", "norms", "embeddings")]
    assert all(kinds)
    assert sum(map(len, kinds)) == len(state)
    assert frozenset().union(*kinds) == state.keys()
    assert names_in("mlp_in", state) < names_in("mlp", state)
    assert layers_of(state) == range(2)
    assert list(players_of(state)) == ["layer 0", "layer 1", ENDS]
    assert {*SCOPES} == {"whole", "mlp", "mlp_in", "attention", "norms", "embeddings"}
    for part in sorted(names_in("attention", state)):
        assert "mlp" not in part
        assert "fc" not in part


@pytest.mark.parametrize("name", MODELS)
def test_ends_are_the_base_and_the_tuned_model_and_parts_add_up(name: str) -> None:
    base_model, tuned_model = pair(name)
    base, tuned = state_of(base_model), state_of(tuned_model)
    before = logits(base_model)
    assert torch.equal(logits(base_model, interpolated(base, tuned, 1.0)), logits(tuned_model))
    assert torch.equal(
        logits(base_model, randomly_extrapolated(base, tuned, 1.0, torch.Generator())), logits(tuned_model)
    )
    split = split_update(base, tuned)
    for layer in range(2):
        W, maps = first_map(base, layer), mlp_of(base_model, layer).w_in
        assert torch.equal(W, maps)
        assert float((W.T @ split.null[layer]).abs().max()) < 1e-12
    both = with_parts(base, tuned, [split.null, split.column], rest=True)
    torch.testing.assert_close(logits(base_model, both), logits(tuned_model))
    assert torch.equal(logits(base_model, with_parts(base, tuned, [], rest=False)), before)
    assert torch.equal(logits(base_model), before), "nothing edited survives"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_at_full_rank_the_update_reads_the_source_and_the_old_weights_the_target(name: str) -> None:
    """The model of the base's first maps that are given ΔW a_source by hand."""
    base_model, model = pair(name)
    base, tuned = state_of(base_model), state_of(model)
    maps = {0: acting(base, tuned)[0]}
    source = TOKENS.flip(0)
    with tap(model, ("mlp_in",), (0,)) as recorded:
        model(source)
    a = recorded[0, "mlp_in"].view(len(TOKENS), -1, 12).clone()
    with patching(model, Patch(maps, "prompt"), {0: a}):
        patched = model(TOKENS).logits
    old, new = mlp_of(base_model, 0), mlp_of(model, 0)

    def mlp_out(x: torch.Tensor) -> torch.Tensor:
        y = x.view(len(TOKENS), -1, 12)
        pre = y @ old.w_in.T + a @ (new.w_in - old.w_in).T + new.b_in
        out = new.activation(pre) @ new.w_out.T + new.b_out
        return out.view(x.shape)

    with tap(model, ("mlp_in",), (0,)) as recorded:
        model(TOKENS)
    by_hand = mlp_out(recorded[0, "mlp_in"])
    with editing(model, {(0, "mlp_out"): lambda _: by_hand}):
        expected = model(TOKENS).logits
    torch.testing.assert_close(patched, expected, atol=1e-5, rtol=1e-5)  # the maps are float32
    assert not torch.allclose(patched, model(TOKENS).logits, atol=1e-3)


def test_a_layer_of_llama_is_chosen_whole() -> None:
    base, tuned = (state_of(model) for model in pair("llama"))
    names = names_in("layer 1", base)
    assert all(name.startswith("model.layers.1.") for name in names)
    state = chosen(base, tuned, names)
    assert sum(torch.equal(state[name], tuned[name]) for name in state) == len(names)
