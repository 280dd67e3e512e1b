import math
from dataclasses import replace

import numpy as np
import numpy_decoder
import pytest
import torch
from lively_model import CONFIG, lively_model, some_tokens

from deltaw.errors import DeltawError
from deltaw.models import BlockStyle, ModelConfig, Transformer, choose_precision, precision
from deltaw.models.layers import Linear, attend


@pytest.fixture
def model() -> Transformer:
    return lively_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return some_tokens()


def test_logits_equal_the_numpy_decoder(model: Transformer, tokens: torch.Tensor) -> None:
    expected, _ = numpy_decoder.forward(model, tokens)
    logits = model(tokens)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(model.double()(tokens).detach().numpy(), expected, atol=1e-10)


def test_parameter_names_are_those_of_the_contract(model: Transformer) -> None:
    block = [
        *(f"{norm}.{kind}" for norm in ("norm_attn", "norm_mlp") for kind in ("weight", "bias")),
        *(f"attn.{part}.{kind}" for part in ("qkv", "out") for kind in ("weight", "bias")),
        *(f"mlp.{part}.{kind}" for part in ("in_proj", "out_proj") for kind in ("weight", "bias")),
    ]
    expected = {f"blocks.{layer}.{name}" for layer in range(3) for name in block}
    expected |= {"embed.weight", "position.weight", "norm_final.weight", "norm_final.bias", "unembed.weight"}
    assert set(model.state_dict()) == expected
    assert model.state_dict()["blocks.0.mlp.in_proj.weight"].shape == (48, 12)
    assert model.state_dict()["blocks.0.mlp.out_proj.weight"].shape == (12, 48)


def test_no_position_sees_what_follows(model: Transformer, tokens: torch.Tensor) -> None:
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 5) % 17
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6:] - after[:, 6:]).abs().amax((1, 2)).min() > 1e-2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [9, 1])
def test_attention_in_bfloat16_is_that_in_float32_up_to_rounding(masked: bool, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, 9, 8, generator=generator, requires_grad=True) for _ in range(3))
    mask = None
    if masked:
        mask = torch.rand(3, 1, 9, 9, generator=generator) < 0.5
        mask = (mask | torch.eye(9, dtype=torch.bool))[:, :, -queries:]
    found, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        out = attend(q[:, :, -queries:].to(dtype), k.to(dtype), v.to(dtype), mask)
        assert out.dtype == dtype
        found.append(out.float())
        gradients.append(torch.autograd.grad((out.float() ** 2).sum(), (q, k, v)))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
    plain = (q[:, :, -queries:] @ k.transpose(2, 3) / 8**0.5).masked_fill(
        ~(torch.ones(9, 9, dtype=torch.bool).tril()[-queries:] if mask is None else mask), -math.inf
    )
    torch.testing.assert_close(found[0], plain.softmax(-1) @ v, rtol=1e-5, atol=1e-5)


def test_inputs_look_where_they_are_told_to(model: Transformer, tokens: torch.Tensor) -> None:
    rows, length = tokens.shape
    causal = torch.ones(rows, length, length, dtype=torch.bool).tril()
    torch.testing.assert_close(model(tokens, visible=causal), model(tokens))
    blind = causal.clone()
    blind[:, 5:, 2] = False
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 5) % 17
    before, after = (model(these, visible=blind)[:, -1] for these in (tokens, changed))
    assert (before - after).abs().max() > 1e-4  # through what the positions between have read
    blind[:, 3:, 2] = False
    before, after = (model(these, visible=blind)[:, 3:] for these in (tokens, changed))
    torch.testing.assert_close(before, after)
    with pytest.raises(ValueError, match="cache"):
        model(tokens, visible=causal, cache=model.new_cache(rows, length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", ["pre_ln", "published"])
def test_positions_left_out_of_the_last_block_change_no_other_logit(
    block: BlockStyle, dtype: torch.dtype, tokens: torch.Tensor
) -> None:
    model = lively_model(replace(CONFIG, block=block))
    length = tokens.shape[1]
    visible = torch.ones(len(tokens), length, length, dtype=torch.bool).tril()
    visible[:, 4:, 1] = False
    hidden = Transformer(replace(model.config, masked_token=int(tokens[0, 2])), torch.Generator())
    hidden.load_state_dict(model.state_dict())
    with torch.no_grad(), model.computing_in(dtype), hidden.computing_in(dtype):
        for since in (1, 3, length - 1):
            for one, how in ((model, {}), (model, {"visible": visible}), (hidden, {})):
                whole = one(tokens, **how)
                atol = (1e-5 if dtype == torch.float32 else 2e-2) * float(whole.abs().max())
                torch.testing.assert_close(one(tokens, since=since, **how), whole[:, since:], rtol=0, atol=atol)


def test_embeddings_stand_for_tokens(model: Transformer, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(model(embeddings=model.embed(tokens)), model(tokens), rtol=0, atol=0)
    with pytest.raises(ValueError, match="either"):
        model(tokens, embeddings=model.embed(tokens))
    with pytest.raises(ValueError, match="either"):
        model()


@pytest.mark.parametrize("cuts", [[1] * 11, [4, 7], [11], [5, 1, 3, 2]])
def test_a_cache_changes_no_logit(model: Transformer, tokens: torch.Tensor, cuts: list[int]) -> None:
    cache = model.new_cache(len(tokens), 11)
    parts = [model(part, cache=cache) for part in torch.split(tokens, cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-5)


def test_a_position_is_a_vector_added_and_says_nothing_of_what_is_seen(
    model: Transformer, tokens: torch.Tensor
) -> None:
    for positions in (torch.tensor([0, 1, 2, 2, 2, 3, 9, 9, 4, 15, 5]), torch.randint(0, 16, tokens.shape)):
        moved = model.position.weight[positions] - model.position.weight[:11]
        expected = model(embeddings=model.embed(tokens) + moved)
        torch.testing.assert_close(model(tokens, positions=positions), expected, rtol=0, atol=1e-4)
    assert torch.equal(model(tokens, positions=torch.arange(11)), model(tokens))
    with pytest.raises(DeltawError, match=r"17 tokens .* context of 16"):
        model(tokens[:, :1], positions=torch.tensor([16]))


def test_initial_weights_are_those_of_gpt2_and_of_the_generator_only() -> None:
    config = ModelConfig(vocabulary_size=50, context=64, layers=4, heads=4, width=128)
    state = torch.get_rng_state()
    model = Transformer(config, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    again = Transformer(config, torch.Generator().manual_seed(3))
    other = Transformer(config, torch.Generator().manual_seed(4))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            assert not torch.equal(parameter, other.get_parameter(name))
            residual = name.endswith(("attn.out.weight", "out_proj.weight"))
            expected = 0.02 / math.sqrt(8) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel())


def test_bfloat16_is_near_and_only_inside_its_context(model: Transformer, tokens: torch.Tensor) -> None:
    exact = model(tokens)
    seen: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, Linear):
            module.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].dtype))
    with model.computing_in(torch.bfloat16):
        rough = model(tokens)
    assert seen == [torch.bfloat16] * 12 + [torch.float32], "four maps a block in bfloat16, the logits in float32"
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.02 * exact.norm()
    rough.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    torch.testing.assert_close(model(tokens), exact, rtol=0, atol=0)


def test_the_precision_is_restored_after_an_error(model: Transformer) -> None:
    with pytest.raises(RuntimeError), model.computing_in(torch.bfloat16):
        raise RuntimeError
    assert model.compute_dtype is None


def test_a_sequence_longer_than_the_context_is_refused(model: Transformer) -> None:
    with pytest.raises(DeltawError, match=r"17 tokens .* context of 16"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    cache = model.new_cache(1, 20)
    model(torch.zeros(1, 16, dtype=torch.int64), cache=cache)
    with pytest.raises(DeltawError, match="context of 16"):
        model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10, "heads": 4}, "10 cannot be split into 4"),
        ({"layers": 0}, "layers is 0"),
        ({"context": 2.5}, "2.5"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(DeltawError, match=message):
        replace(ModelConfig(vocabulary_size=5, context=4), **changes)  # type: ignore[arg-type]
    with pytest.raises(DeltawError, match="pre_ln"):
        ModelConfig(5, 4, block="post_ln")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capabilities", "dtype", "words"),
    [
        ({"avx512_bf16": True}, torch.bfloat16, "avx512_bf16"),
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16, "avx512_bf16, amx_bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32, "no native bfloat16"),
        ({}, torch.float32, "no native bfloat16"),
    ],
)
def test_the_precision_follows_what_the_processor_says(
    capabilities: dict[str, bool], dtype: torch.dtype, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    choice = choose_precision("cpu")
    assert choice.dtype == dtype
    assert words in choice.reason
    assert choice.reason.endswith(".")


def test_an_older_pytorch_is_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert precision._bfloat16_units() == ["amx_bf16"]


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeltawError, match="no CUDA device"):
        choose_precision("cuda")
