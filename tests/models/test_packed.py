"""Packed rows give the logits and gradients of the plain pass, whatever their lengths and what they may read."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lively_model import CONFIG, lively_model
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, Transformer, fused, mean_nll, packed, tap
from deltaw.models.batch import Batch, Role
from deltaw.models.layers import Linear, Mlp
from deltaw.training import next_token

PUBLISHED = replace(CONFIG, block="published", positions="sinusoidal", dead_norm=True)
CONFIGS = pytest.mark.parametrize("config", [CONFIG, PUBLISHED], ids=["pre_ln", "published"])


def batch_of(seed: int, rows: int, length: int, share: float) -> Batch:
    """Rows of random tokens, of which about that share carries loss, and some rows' none."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, CONFIG.vocabulary_size, (rows, length), generator=generator)
    weights = (torch.rand(tokens.shape, generator=generator) < share) * torch.rand(tokens.shape, generator=generator)
    ends = torch.randint(0, length + 1, (rows, 1), generator=generator)
    weights = weights * (torch.arange(length) < ends)
    weights[0, -1] = 1.0
    return Batch(tokens, weights, torch.full(tokens.shape, int(Role.OUTPUT), dtype=torch.uint8))


def gradients(model: Transformer, value: Tensor) -> Tensor:
    model.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@CONFIGS
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 9), length=st.integers(2, 16), share=st.floats(0, 1))
def test_loss_and_gradients_are_those_of_the_plain_pass(
    config: ModelConfig, seed: int, rows: int, length: int, share: float
) -> None:
    model, batch = lively_model(config).double(), batch_of(seed, rows, length, share)
    plain, fast = mean_nll(model(batch.tokens), batch), next_token(model, batch).value
    assert fast.item() == pytest.approx(plain.item(), rel=1e-12)
    expected, actual = gradients(model, plain), gradients(model, fast)
    assert float((actual - expected).norm() / expected.norm()) < 1e-12


@CONFIGS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.15)])
def test_rounding(config: ModelConfig, dtype: torch.dtype, tolerance: float) -> None:
    """The packed pass is as near to float64 as the plain one: over six models, within a quarter of its error."""
    errors = []
    for seed in range(6):
        batch, exact = batch_of(seed, 40, 16, 0.7), lively_model(config, seed).double()
        expected = gradients(exact, mean_nll(exact(batch.tokens), batch))
        model = lively_model(config, seed)
        with model.computing_in(dtype):
            losses = mean_nll(model(batch.tokens), batch), next_token(model, batch).value
        found = [gradients(model, value) for value in losses]
        errors.append([float((one - expected).norm() / expected.norm()) for one in found])
    plain, fast = (sum(error) / len(errors) for error in zip(*errors, strict=True))
    assert fast < tolerance
    assert fast < 1.25 * plain


@CONFIGS
def test_logits_stand_where_slot_says(config: ModelConfig) -> None:
    model, generator = lively_model(config).double(), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, CONFIG.vocabulary_size, (7, 12), generator=generator)
    wanted = torch.rand(tokens.shape, generator=generator) < 0.3
    wanted[2] = False
    logits, slot = model.packed(tokens, wanted)
    assert (slot >= 0).tolist() == wanted.flatten().tolist()
    torch.testing.assert_close(logits[slot[wanted.flatten()]], model(tokens)[wanted], rtol=1e-10, atol=1e-10)


@CONFIGS
def test_rows_that_may_not_read_everything(config: ModelConfig) -> None:
    """Two branches after a common trunk, of unlike lengths, with positions of their own."""
    model, generator = lively_model(config).double(), torch.Generator().manual_seed(0)
    rows, trunk, branch = 6, 5, 4
    length = trunk + 2 * branch
    tokens = torch.randint(0, CONFIG.vocabulary_size, (rows, length), generator=generator)
    place = torch.arange(length)
    second = place >= trunk + branch
    visible = torch.ones(length, length, dtype=torch.bool).tril() & ~(second[:, None] & (place >= trunk) & ~second)
    visible = visible.expand(rows, -1, -1)
    positions = torch.where(second, place - branch, place).expand(rows, -1)
    wanted = (place >= trunk) & (torch.rand(rows, length, generator=generator) < 0.4)
    wanted[1, trunk : trunk + branch] = False  # of this row the first branch is never read
    expected = model(tokens, positions=positions, visible=visible)[wanted]
    logits, slot = model.packed(tokens, wanted, positions=positions, visible=visible)
    torch.testing.assert_close(logits[slot[wanted.flatten()]], expected, rtol=1e-10, atol=1e-10)
    packing = packed.pack(wanted, visible, config.heads)
    assert not set(packing.source.tolist()) & {length + k for k in range(trunk, trunk + branch)}


def test_nothing_is_computed_that_no_wanted_position_reads() -> None:
    wanted = torch.zeros(40, 100, dtype=torch.bool)
    ends = torch.arange(40) + 50
    wanted[torch.arange(40), ends] = True
    wanted[3] = False
    packing = packed.pack(wanted, None, heads=4)
    needed = int((ends + 1).sum()) - int(ends[3] + 1)
    assert needed < len(packing.source) <= needed + packed.POSITIONS
    assert len(packing.chosen) == packed.POSITIONS
    assert int((packing.slot >= 0).sum()) == 39
    for group in packing.groups:
        assert group.rows == 1 or group.rows * 4 * group.length**2 <= packed.SCORES


@CONFIGS
def test_the_maps_of_a_block_in_bfloat16(config: ModelConfig) -> None:
    """Values and gradients of the fused maps are as near to float64 as PyTorch's own in bfloat16."""
    model, exact = lively_model(config), lively_model(config).double()
    x, direction = torch.randn(2, 300, config.width, generator=torch.Generator().manual_seed(0))
    has_products = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert fused.can_fuse(model.embed.weight, torch.bfloat16) == has_products
    assert not fused.can_fuse(model.embed.weight, torch.float32)

    def run(module: torch.nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
        module.zero_grad()
        inputs = x.clone().requires_grad_()
        out = call(inputs)
        width = out.shape[1] // config.width
        (out * direction.repeat(1, width).to(out.dtype)).sum().backward()
        gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        assert inputs.grad is not None
        return [out.detach(), inputs.grad, *gradients]

    for name in ("blocks.1.mlp", "blocks.1.attn.qkv"):
        fast, plain = model.get_submodule(name), exact.get_submodule(name)
        assert isinstance(fast, Mlp | Linear)
        expected = run(plain, plain, x.double())
        own = run(fast, lambda inputs, fast=fast: fast(inputs.bfloat16()), x)  # type: ignore[misc]
        found = run(fast, lambda inputs, fast=fast: fast.packed(inputs, torch.bfloat16), x)  # type: ignore[misc]
        assert len(found) == len(own) == len(expected)
        for a, b, c in zip(found, own, expected, strict=True):
            errors = [float((one.double() - c).norm() / c.norm()) for one in (a, b)]
            assert errors[0] < max(1.2 * errors[1], 0.005)


def test_the_same_shapes_come_back() -> None:
    """So that oneDNN compiles few products: batches of like lengths have few numbers of positions and groups."""
    shapes, positions = set(), set()
    for seed in range(30):
        ends = torch.randint(80, 113, (64,), generator=torch.Generator().manual_seed(seed))
        packing = packed.pack(torch.arange(114) == ends[:, None], None, heads=6)
        positions.add(len(packing.source))
        shapes |= {(group.rows, group.length) for group in packing.groups}
    assert len(positions) <= 4
    assert len(shapes) <= 12


def test_a_batch_without_loss() -> None:
    model, batch = lively_model(), batch_of(0, 3, 5, 0.0)
    logits, slot = model.packed(batch.tokens, torch.zeros(3, 5, dtype=torch.bool))
    assert logits.shape == (0, CONFIG.vocabulary_size)
    assert bool((slot == -1).all())


def test_the_same_bits_each_time() -> None:
    batch = batch_of(1, 30, 16, 0.8)
    found = []
    for _ in range(2):
        model = lively_model(PUBLISHED)
        with model.computing_in(torch.bfloat16):
            found.append(gradients(model, next_token(model, batch).value))
    assert torch.equal(found[0], found[1])


def test_hooks_and_masked_tokens_get_the_plain_pass() -> None:
    model, batch = lively_model(), batch_of(2, 4, 9, 0.5)
    assert model.packs(batch.tokens)
    with tap(model, ["mlp_post", "resid_out"], [0, 1]) as recorded:
        assert not model.packs(batch.tokens)
        next_token(model, batch)
    assert {tuple(x.shape[:2]) for x in recorded.values()} == {(4, 9)}
    assert model.packs(batch.tokens)
    masking = lively_model(replace(CONFIG, masked_token=2))
    tokens = torch.tensor([[1, 3, 4, 2, 2], [1, 3, 4, 5, 2]])
    assert masking.packs(tokens)
    tokens[0, 1] = 2
    assert not masking.packs(tokens)


def test_too_long_a_sequence_is_refused_as_by_the_plain_pass() -> None:
    tokens = torch.zeros(1, CONFIG.context + 1, dtype=torch.int64)
    with pytest.raises(DeltawError, match="does not fit the model's context of 16"):
        lively_model().packed(tokens, tokens == 0)
