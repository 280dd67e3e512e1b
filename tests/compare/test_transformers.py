"""Models that transformers itself builds and saves: names, layouts and numbers are those of the maps it applies."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deltaw.analysis import Absent, column_basis, null_energy, update_spectrum
from deltaw.compare import FAMILIES, compare, find_modules, model_types
from deltaw.models import SITES, ModelConfig, Transformer, export_gpt2, tap
from deltaw.models.architectures.architecture import halves
from deltaw.models.architectures.families import MIXTURES
from deltaw.results import read_measurements

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = importlib.import_module("transformers")

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 32, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OTHER_NAMES = {
    "gpt2": {"n_embd": 16, "n_inner": 44, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "opt": {"ffn_dim": 44, "word_embed_proj_dim": 16},
}
MIXTURE_TYPES = {name for family in MIXTURES for name in (family.name, *family.model_types)}
WRITTEN = tuple(name for name in model_types() if name not in {"deltaw", "gemma3", *MIXTURE_TYPES})
"""gemma3 is gemma3_text beside an image encoder; deltaw's own layout and mixtures of experts have their own tests."""


def build(model_type: str, seed: int = 0) -> Any:
    """A small random model in evaluation, every parameter moved off its initial value."""
    config = transformers.AutoConfig.for_model(model_type, **SIZES, **OTHER_NAMES.get(model_type, {}))
    config._attn_implementation = "eager"
    with torch.random.fork_rng():  # transformers draws from the global generator
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    change(model, seed, 0.1)
    return model


def change(model: Any, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


def linear_maps(model: Any) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, inputs) of every linear map inside a layer."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 2 and any(part.isdigit() for part in name.split(".")):
            yield name, module, getattr(module, "in_features", None) or int(weight.shape[0])  # Conv1D: (in, out)


def applied(module: nn.Module, inputs: int) -> Tensor:
    """The matrix (out, in) that a module applies, whatever it stores: its responses to unit vectors."""
    with torch.no_grad():
        eye = torch.eye(inputs)
        matrix: Tensor = (module(eye) - module(torch.zeros(1, inputs))).T.double()
    return matrix


@pytest.mark.parametrize("model_type", WRITTEN)
def test_every_linear_map_of_every_layer_is_found_and_nothing_else(model_type: str) -> None:
    model = build(model_type)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    modules = find_modules(shapes, model.config.to_dict(), model.config.model_type)
    assert {piece.tensor for module in modules for piece in module.pieces} == {
        f"{name}.weight" for name, _, _ in linear_maps(model)
    }
    assert {module.layer for module in modules} == {0, 1}
    for name, linear, inputs in linear_maps(model):
        parts = [m for m in modules if all(p.tensor == f"{name}.weight" for p in m.pieces)]
        outputs = [m.shape(shapes)[0] for m in parts if m.name != name]
        assert all(m.shape(shapes)[1] == inputs for m in parts)
        assert not outputs or sum(outputs) == len(applied(linear, inputs))  # parts of a fused map are all of it


@pytest.mark.parametrize("model_type", WRITTEN)
def test_the_registry_says_what_the_models_mlp_computes(model_type: str) -> None:
    """From the paths, the layout and the gate that an entry declares, the MLP's output at its own inputs."""
    model, family, layer = build(model_type), model_types()[model_type], 1
    tokens = torch.arange(2, 14).reshape(2, 6)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}

    def through(path: str, x: Tensor) -> Tensor:
        name = f"{family.block.format(layer=layer)}.{path}"
        weight = state[f"{name}.weight"].T if family.transposed else state[f"{name}.weight"]
        return nn.functional.linear(x, weight, state.get(f"{name}.bias"))

    with torch.no_grad(), tap(model, SITES, [layer]) as seen:
        model(tokens)
    sites = {site: tensor.double().flatten(0, -2) for (_, site), tensor in seen.items()}
    first, *others = (through(part.path, sites["mlp_in"]) for part in family.mlp_in)
    torch.testing.assert_close(sites["mlp_pre"], first, atol=1e-4, rtol=1e-4)
    act = activation_of(model, family.block.format(layer=layer))
    with torch.no_grad():
        if family.gated and not others:
            gate, up = (first[:, rows] for rows in halves(first.shape[1], {}).values())
            post = act(gate) * up
        else:
            post = act(first) * others[0] if family.gated else act(first)
    torch.testing.assert_close(sites["mlp_post"], post, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sites["mlp_out"], through(family.mlp_out.path, post), atol=1e-4, rtol=1e-4)


def activation_of(model: Any, block: str) -> Any:
    """The activation module or function that transformers put into a block's MLP."""
    inside = model.get_submodule(block)
    holder = getattr(inside, "mlp", inside)
    names = ("act_fn", "activation_fn", "act", "activation")
    return next(getattr(holder, name) for name in names if hasattr(holder, name)).double()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "deltaw"])
def test_numbers_are_those_of_the_maps_that_the_model_applies(tmp_path: Path, family: str) -> None:
    base, tuned = build(family), build(family)
    change(tuned, 1, 0.003)
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tuned.save_pretrained(tmp_path / "tuned")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    compare(tmp_path / "base", tmp_path / "tuned", tmp_path / "out")
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    maps = {name: (module, inputs) for name, module, inputs in linear_maps(tuned)}
    compared = 0
    for name, before, inputs in linear_maps(base):
        found = {x.statistic: x.value for x in lines if x.module == name and x.set is None}
        if not found:  # fused attention, of which only the parts are compared
            continue
        compared += 1
        W = applied(before, inputs)
        dW = applied(maps[name][0], inputs) - W
        spectrum = update_spectrum(dW, W)
        assert not isinstance(spectrum, Absent)
        # The maps are read off in float32, and the update is a hundredth of them.
        assert found["update_relative_norm"] == pytest.approx(spectrum.relative_norm, rel=1e-4)
        assert found["stable_rank"] == pytest.approx(spectrum.stable_rank, rel=1e-3)
        for side, matrix, update in (("left", W, dW), ("right", W.T, dW.T)):
            if matrix.shape[0] > matrix.shape[1]:
                exact = null_energy(update, column_basis(matrix.float()))
                assert found[f"null_energy_{side}"] == pytest.approx(exact, abs=1e-4)
    assert compared >= 6


def attentions(model: Any, tokens: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Attention weights of the first layer, and logits."""
    with torch.no_grad():
        out = model(tokens, output_attentions=True)
    return out.attentions[0].numpy(), out.logits.numpy()


def scaled(model: Any, name: str, factor: float) -> None:
    """Multiply a module's rows in the first layer, in the stored tensor (and in its bias, if it has one)."""
    state = model.state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    (module,) = (
        m for m in find_modules(shapes, model.config.to_dict(), model.config.model_type) if m.layer == 0
        and m.name.endswith(name)
    )  # fmt: skip
    (piece,) = module.pieces
    rows = slice(None) if piece.rows is None else piece.rows
    (state[piece.tensor].T if piece.transposed else state[piece.tensor])[rows] *= factor
    bias = state.get(piece.tensor.replace(".weight", ".bias"))
    if bias is not None:
        bias[rows] *= factor


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3"])
def test_parts_of_fused_attention_are_the_models_own(family: str) -> None:
    """Halved queries with doubled keys leave attention as it is, halved queries alone do not; values never touch it."""
    tokens = torch.arange(12).reshape(1, -1)
    weights, logits = attentions(build(family), tokens)
    both, only, value = build(family), build(family), build(family)
    scaled(both, ":q", 0.5)
    scaled(both, ":k", 2)
    scaled(only, ":q", 0.5)
    scaled(value, ":v", 2)
    np.testing.assert_allclose(attentions(both, tokens)[0], weights, atol=1e-5)
    np.testing.assert_allclose(attentions(both, tokens)[1], logits, atol=1e-4)
    assert np.abs(attentions(only, tokens)[0] - weights).max() > 1e-3
    np.testing.assert_allclose(attentions(value, tokens)[0], weights, atol=1e-6)
    assert np.abs(attentions(value, tokens)[1] - logits).max() > 1e-3


@pytest.mark.parametrize("family", ["phi3", "glm"])
def test_the_up_half_of_a_fused_mlp_is_the_linear_one(family: str) -> None:
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(3))
    plain, up, gate = (build(family) for _ in range(3))
    scaled(up, "mlp.gate_up_proj:up", 2)
    scaled(gate, "mlp.gate_up_proj:gate", 2)
    outputs = []
    with torch.no_grad():
        for model in (plain, up, gate):
            mlp = next(module for name, module in model.named_modules() if name.endswith("layers.0.mlp"))
            outputs.append(mlp(x).numpy())
    np.testing.assert_allclose(outputs[1], 2 * outputs[0], rtol=1e-4, atol=1e-5)
    assert np.abs(outputs[2] - 2 * outputs[0]).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_pair_says_what_rounding_did(tmp_path: Path, dtype: torch.dtype) -> None:
    base, small = build("llama"), build("llama")
    change(small, 1, 1e-6)
    for label, model in (("base", base), ("tuned", small)):
        model.to(dtype).save_pretrained(tmp_path / label)
    compare(tmp_path / "base", tmp_path / "tuned", tmp_path / "out")
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    expected = {"update_relative_norm", "rounding_floor", "identical_share", "other_relative_norm"}
    assert {x.statistic for x in lines} <= expected
    same = [x.value for x in lines if x.statistic == "identical_share"]
    state, after = base.state_dict(), small.state_dict()
    name = "model.layers.0.mlp.up_proj"
    exact = float((state[f"{name}.weight"] == after[f"{name}.weight"]).double().mean())
    assert [x.value for x in lines if (x.statistic, x.module) == ("identical_share", name)] == [pytest.approx(exact)]
    assert min(same) > 0.9


def test_an_exported_model_is_a_gpt2_of_transformers(tmp_path: Path) -> None:
    ours = Transformer(ModelConfig(vocabulary_size=17, context=16, layers=3, heads=2, width=16), torch.Generator())
    change(ours, 0, 0.1)
    export_gpt2(ours, tmp_path / "gpt2")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2").eval()
    tokens = torch.randint(17, (4, 16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        np.testing.assert_allclose(ours(tokens).numpy(), theirs(tokens).logits.numpy(), atol=1e-4)
