"""The published block against the reference notes: parameter counts, logits, sites, caching, masking, checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy_decoder
import pytest
import torch
from lively_model import CONFIG, lively_model, some_tokens

from deltaw.errors import DeltawError
from deltaw.models import SITES, ModelConfig, Transformer, greedy, load, mlp, save, tap
from deltaw.models.checkpoint import META
from deltaw.models.layers import sinusoidal_table

PUBLISHED = replace(CONFIG, block="published", positions="sinusoidal")
VARIANTS = [
    PUBLISHED,
    replace(PUBLISHED, positions="learned"),
    replace(PUBLISHED, dead_norm=True),
    replace(PUBLISHED, masked_token=3),
]


@pytest.fixture
def tokens() -> torch.Tensor:
    return some_tokens()


def parameters(config: ModelConfig) -> int:
    return sum(p.numel() for p in Transformer(config, torch.Generator()).parameters())


@pytest.mark.parametrize(
    ("layers", "heads", "width", "with_54", "with_59", "dead"),
    [
        (3, 3, 48, 90_096, 90_576, 288),  # nano
        (4, 4, 128, 807_168, 808_448, 1_024),  # micro
        (6, 6, 192, 2_690_304, 2_692_224, 2_304),  # mini, the paper's
        (8, 8, 400, 15_445_600, 15_449_600, 6_400),  # medium
        (8, 16, 512, 25_275_392, 25_280_512, 8_192),  # gopher-44m
    ],
)
def test_parameters_are_as_many_as_published(
    layers: int, heads: int, width: int, with_54: int, with_59: int, dead: int
) -> None:
    for vocabulary, expected in ((54, with_54), (59, with_59)):
        config = ModelConfig(vocabulary, 159, layers, heads, width, 4, "published", "sinusoidal", dead_norm=True)
        assert parameters(config) == expected
        assert parameters(replace(config, dead_norm=False)) == expected - dead


@pytest.mark.parametrize("config", VARIANTS)
def test_logits_and_sites_equal_the_numpy_decoder(config: ModelConfig, tokens: torch.Tensor) -> None:
    model = lively_model(config)
    expected, sites = numpy_decoder.published_forward(model, tokens)
    seen = np.ones(tokens.shape, bool) if config.masked_token is None else (tokens != config.masked_token).numpy()
    assert not seen.all() or config.masked_token is None
    np.testing.assert_allclose(model(tokens).detach().numpy()[seen], expected[seen], atol=1e-4)
    # In float64: some activations of a model this lively are near 50, where float32 alone is off by more than 1e-4.
    with tap(model.double(), SITES, range(3)) as recorded:
        model(tokens)
    assert set(recorded) == set(sites)
    for place, tensor in recorded.items():
        np.testing.assert_allclose(tensor.numpy()[seen], sites[place][seen], atol=1e-4, err_msg=str(place))
    weights = mlp(model, 1).double()
    np.testing.assert_allclose(weights(torch.from_numpy(sites[1, "mlp_in"])).numpy(), sites[1, "mlp_out"], atol=1e-10)


def test_the_stream_itself_is_normalised(tokens: torch.Tensor) -> None:
    """No path around the norm: the scale of what a block gets changes nothing, as it would in `pre_ln`."""
    for config, blind in ((PUBLISHED, True), (CONFIG, False)):
        block = lively_model(config).blocks[1]
        x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
        near = torch.allclose(block(x, x.dtype), block(100 * x, x.dtype), atol=1e-3)
        assert near is blind


def test_a_dead_norm_changes_nothing_and_learns_nothing(tokens: torch.Tensor) -> None:
    config = replace(PUBLISHED, dead_norm=True)
    dead, plain = lively_model(config), Transformer(PUBLISHED, torch.Generator())
    state = {name: tensor for name, tensor in dead.state_dict().items() if "norm_dead" not in name}
    assert len(state) == len(dead.state_dict()) - 2 * 3
    plain.load_state_dict(state)
    assert torch.equal(plain(tokens), dead(tokens))
    dead(tokens).sum().backward()
    without = {name for name, p in dead.named_parameters() if p.grad is None}
    assert without == {f"blocks.{layer}.norm_dead.{kind}" for layer in range(3) for kind in ("weight", "bias")}


def test_the_sinusoidal_table_is_the_published_one() -> None:
    np.testing.assert_allclose(sinusoidal_table(40, 12).numpy(), numpy_decoder.sinusoids(40, 12), atol=1e-6)
    np.testing.assert_allclose(sinusoidal_table(5, 7).numpy(), numpy_decoder.sinusoids(5, 7), atol=1e-6)
    assert sinusoidal_table(159, 192).square().mean().sqrt().item() == pytest.approx(0.707, abs=1e-3)


def test_initial_weights_are_the_published_ones() -> None:
    config = ModelConfig(59, 159, 6, 6, 192, 4, "published", "sinusoidal", dead_norm=True)
    model = Transformer(config, torch.Generator().manual_seed(3))
    again = Transformer(config, torch.Generator().manual_seed(3))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            residual = name.endswith(("attn.out.weight", "mlp.out_proj.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / np.sqrt(12) if residual else 0.02, rel=0.05), name


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("cuts", [[1] * 11, [4, 7], [5, 1, 3, 2]])
def test_a_cache_changes_no_logit(config: ModelConfig, tokens: torch.Tensor, cuts: list[int]) -> None:
    model = lively_model(config)
    cache = model.new_cache(len(tokens), 11)
    parts = torch.cat([model(part, cache=cache) for part in torch.split(tokens, cuts, dim=1)], 1)
    seen = tokens != (-1 if config.masked_token is None else config.masked_token)
    torch.testing.assert_close(parts[seen], model(tokens)[seen], rtol=0, atol=1e-4)


def test_decoding_equals_whole_forward_passes(tokens: torch.Tensor) -> None:
    for config in VARIANTS:
        model = lively_model(config)
        answers = greedy(model, tokens[:, :6], 8, stop_id=-1, pad_id=0)
        sequence = tokens[:, :6]
        for step in range(8):
            # What follows a masked token that the model has just said is read from that token: it means nothing.
            told = sequence[:, -1] != (-1 if config.masked_token is None else config.masked_token)
            best = model(sequence)[:, -1].argmax(-1)
            assert torch.equal(best[told], answers[told, step])
            sequence = torch.cat([sequence, answers[:, step : step + 1]], 1)


def test_a_masked_token_is_seen_by_no_other(tokens: torch.Tensor) -> None:
    """What stands in for padding in the middle does not matter if it is masked, and does if it is attended."""
    masked, attended = lively_model(replace(PUBLISHED, masked_token=3)), lively_model(PUBLISHED)
    middle = tokens.clone()
    middle[middle == 3] = 4
    middle[:, 4:6] = 3
    with torch.no_grad():
        before = {model: model(middle) for model in (masked, attended)}
        for model in before:
            model.embed.weight[3, :6] += 1.0
        changes = {model: (model(middle) - logits).abs()[:, 6:].amax() for model, logits in before.items()}
    assert changes[masked] == 0
    assert changes[attended] > 1e-2


def test_without_padding_in_the_middle_the_mask_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model(replace(PUBLISHED, masked_token=3))
    plain = lively_model(PUBLISHED)
    masks: list[bool] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None, is_causal: bool
    ) -> torch.Tensor:
        masks.append(attn_mask is not None)
        return real(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    right = torch.tensor([[5, 6, 7, 3, 3], [5, 6, 7, 8, 3]])
    assert torch.equal(model(right), plain(right))
    assert masks == [False] * 6
    masks.clear()
    model(right.flip(1))
    assert masks == [True] * 3


def test_vectors_are_never_masked_but_what_came_before_them_is(tokens: torch.Tensor) -> None:
    model = lively_model(replace(PUBLISHED, masked_token=3))
    whole = torch.tensor([[5, 3, 3, 6, 7, 8]])
    cache = model.new_cache(1, 6)
    model(whole[:, :4], cache=cache)
    found = model(embeddings=model.embed(whole[:, 4:]), cache=cache)
    torch.testing.assert_close(found, model(whole)[:, 4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_checkpoints_keep_the_style(config: ModelConfig, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = lively_model(config)
    save(model, tmp_path / "m", {})
    again, meta = load(tmp_path / "m")
    assert again.config == config
    assert meta["config"]["block"] == "published"
    assert torch.equal(again(tokens), model(tokens))


def test_a_checkpoint_from_before_the_new_options_still_loads(tokens: torch.Tensor, tmp_path: Path) -> None:
    model = lively_model()
    save(model, tmp_path / "old", {"seed": 7})
    old = {
        "format": "deltaw-model-1",
        "config": {
            "vocabulary_size": 17, "context": 16, "layers": 3, "heads": 2, "width": 12, "mlp_ratio": 4,
            "block": "pre_ln",
        },
        "dtype": "float32",
        "seed": 7,
    }  # fmt: skip
    (tmp_path / "old" / META).write_text(json.dumps(old))
    again, meta = load(tmp_path / "old")
    assert again.config == model.config
    assert meta["seed"] == 7
    assert torch.equal(again(tokens), model(tokens))
    del old["config"]["block"]  # type: ignore[attr-defined]
    (tmp_path / "old" / META).write_text(json.dumps(old))
    with pytest.raises(DeltawError, match="lacks, or has in excess: block"):
        load(tmp_path / "old")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "rotary"}, "learned, sinusoidal"),
        ({"block": "post_ln"}, "pre_ln, published"),
        ({"dead_norm": True}, "only a published block"),
        ({"dead_norm": 1, "block": "published"}, "dead_norm is 1"),
        ({"masked_token": 17}, "0 to 16"),
        ({"masked_token": True}, "masked_token is True"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DeltawError, match=message):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
