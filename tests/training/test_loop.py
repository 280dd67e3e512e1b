import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, Transformer
from deltaw.models.batch import Batch
from deltaw.protocols import Loss
from deltaw.training import OptimiserConfig, TrainingLog, learning_rate, next_token, train
from deltaw.training.optimisers import adamw

CONFIG = OptimiserConfig(peak_lr=1e-2, min_lr=1e-4, steps=60, warmup=5, decay_end=50, weight_decay=0.1)


def small_model(seed: int = 0) -> Transformer:
    return Transformer(ModelConfig(12, 9, layers=1, heads=2, width=16), torch.Generator().manual_seed(seed))


def counting(step: int) -> Batch:
    """Sequences that count on from a random start, modulo 12: next-token loss can reach 0."""
    start = torch.randint(0, 12, (16, 1), generator=torch.Generator().manual_seed(step))
    tokens = (start + torch.arange(9)) % 12
    return Batch(tokens, torch.ones(tokens.shape), torch.zeros(tokens.shape, dtype=torch.uint8))


def run(model: Transformer, config: OptimiserConfig = CONFIG, **options: object) -> TrainingLog:
    return train(model, counting, next_token, config, **options)  # type: ignore[arg-type]


def test_training_learns_and_records_each_step() -> None:
    log = run(small_model())
    assert [record.step for record in log.records] == list(range(60))
    assert log.records[0].loss == pytest.approx(math.log(12), abs=0.05)
    assert log.records[-1].loss < 0.3
    for record in log.records:
        assert record.learning_rate == learning_rate(record.step, CONFIG)
        assert record.parts == {"nll": record.loss}
        assert record.gradient_norm > 0


def test_the_same_inputs_give_the_same_weights() -> None:
    one, two, other = small_model(), small_model(), small_model(1)
    assert run(one, report_every=7) == run(two, report_every=20, checkpoints=[0, 3])
    run(other)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, two.get_parameter(name)), name
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_an_update_is_adamw_by_hand() -> None:
    """The first two updates, from the textbook: moments, bias correction, decay, clipping."""
    model = small_model()
    config = replace(CONFIG, steps=2, clip_norm=0.05)
    mine = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in mine.items()}
    second = {name: torch.zeros_like(p) for name, p in mine.items()}
    for step in range(2):
        probe = small_model().double()
        probe.load_state_dict(mine)
        loss = next_token(probe, counting(step)).value
        gradients = dict(zip(mine, torch.autograd.grad(loss, list(probe.parameters())), strict=True))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert norm > 0.05
        rate = 1e-2 * (step + 1) / 6
        for name, gradient in gradients.items():
            gradient = gradient * 0.05 / norm
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            decays = name.endswith("weight") and not name.startswith(("embed", "position")) and "norm" not in name
            mine[name] = mine[name] * (1 - rate * 0.1 * decays)
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.95 ** (step + 1))
            mine[name] = mine[name] - rate * mean / (square.sqrt() + 1e-8)
    log = run(model.double(), config, compute_dtype=torch.float64)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, mine[name], rtol=1e-4, atol=1e-7, msg=name)
    assert log.records[1].gradient_norm == pytest.approx(norm, rel=1e-4)


def test_only_matrices_decay() -> None:
    model = small_model()
    model.norm_final.weight.requires_grad_(False)
    decayed, plain = adamw(model, CONFIG).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        *(f"blocks.0.{part}.weight" for part in ("attn.qkv", "attn.out", "mlp.in_proj", "mlp.out_proj")),
        "unembed.weight",
    }
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(plain["params"]) + 5 + 1 == len(names), "all the rest, but what is frozen"


def test_schedule() -> None:
    rates = [learning_rate(step, CONFIG) for step in range(60)]
    assert rates[0] == pytest.approx(1e-2 / 6)
    assert rates[4] == pytest.approx(1e-2 * 5 / 6)
    assert rates[5] == 1e-2
    assert max(rates) == rates[5]
    assert rates[20] == pytest.approx(1e-4 + 9.9e-3 * (1 + math.cos(math.pi / 3)) / 2)
    assert all(a > b for a, b in pairwise(rates[5:51]))
    assert rates[50:] == [1e-4] * 10
    constant = replace(CONFIG, warmup=0, decay_end=0, min_lr=1e-2)
    assert {learning_rate(step, constant) for step in range(60)} == {1e-2}


def test_the_published_schedule_to_the_update() -> None:
    """Pre-training and tuning of the published code, from the formulas of the reference notes."""
    for peak, low, warmup, end, total in ((1e-3, 1e-5, 20_000, 80_000, 100_000), (1e-4, 1e-6, 2_000, 8_000, 10_000)):
        config = OptimiserConfig(peak, low, steps=total, warmup=warmup, decay_end=end, from_zero=True)

        def published(it: int, w: int = warmup, e: int = end, top: float = peak, bottom: float = low) -> float:
            if it < w:
                return top * it / w
            if it > e:
                return bottom
            return bottom + (top - bottom) * (1 + math.cos(math.pi * (it - w) / (e - w))) / 2

        for it in (0, 1, warmup - 1, warmup, warmup + 1, (warmup + end) // 2, end - 1, end, end + 1, total - 1):
            assert learning_rate(it, config) == pytest.approx(published(it), rel=1e-12), it
        ours = replace(config, from_zero=False)
        assert learning_rate(0, config) == 0 < learning_rate(0, ours)
        assert learning_rate(warmup, ours) == learning_rate(warmup, config) == peak


def test_what_from_zero_and_no_clipping_change() -> None:
    """Published pre-training: the first update changes nothing, and however long a gradient is, it is not cut."""
    still = small_model()
    run(still, replace(CONFIG, steps=1, from_zero=True))
    assert all(torch.equal(p, small_model().get_parameter(name)) for name, p in still.named_parameters())
    # Adam forgets the size of a gradient but for eps, so a large one shows what clipping takes away.
    free, clipped, loose = small_model(), small_model(), small_model()
    large = replace(CONFIG, steps=3, eps=1.0)
    log = run(free, replace(large, clip_norm=None))
    assert min(record.gradient_norm for record in log.records) > 0.1
    run(clipped, replace(large, clip_norm=0.1))
    run(loose, replace(large, clip_norm=1e6))
    assert torch.equal(free.unembed.weight, loose.unembed.weight)
    assert not torch.equal(free.unembed.weight, clipped.unembed.weight)


def test_checkpoints_see_the_weights_after_that_many_updates() -> None:
    seen: dict[int, Tensor] = {}
    reports: list[tuple[int, int]] = []
    dtypes: list[torch.dtype | None] = []

    def keep(step: int, model: Transformer) -> None:
        seen[step] = model.embed.weight.detach().clone()
        dtypes.append(model.compute_dtype)

    model = small_model()
    run(
        model,
        checkpoints=(30, 0, 60),
        on_checkpoint=keep,
        progress=lambda done, total, text: reports.append((done, total)),
        compute_dtype=torch.bfloat16,
        report_every=25,
    )
    assert list(seen) == [0, 30, 60]
    assert torch.equal(seen[0], small_model().embed.weight)
    assert torch.equal(seen[60], model.embed.weight)
    assert not torch.equal(seen[30], seen[60])
    assert reports == [(25, 60), (30, 60), (50, 60), (60, 60)]
    assert dtypes == [None] * 3, "a checkpoint is measured in the weights' own dtype"


def test_bfloat16_products_train_nearly_as_well_and_keep_float32_weights() -> None:
    model = small_model()
    log = run(model, compute_dtype=torch.bfloat16)
    assert log.records[-1].loss < 0.3
    assert log != run(small_model())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_next_checkpoint(where: str) -> None:
    def broken(model: Transformer, data: tuple[int, Batch]) -> Loss:
        step, batch = data
        value = next_token(model, batch).value
        if step == 13:
            # √0 has a finite value and an infinite slope
            value = value * float("nan") if where == "loss" else value + (model.norm_final.bias * 0).abs().sqrt().sum()
        return Loss(value, {})

    seen: list[int] = []
    with pytest.raises(DeltawError, match=r"step 13 of 60.*lower peak_lr \(now 0\.01\) or clip_norm \(now 1\.0\)"):
        train(
            small_model(),
            lambda step: (step, counting(step)),
            broken,
            CONFIG,
            checkpoints=[10, 15],
            on_checkpoint=lambda step, model: seen.append(step),
        )
    assert seen == [10]


def test_wrong_numbers_are_refused() -> None:
    for changes, message in (
        ({"peak_lr": 0.0}, "peak_lr is 0.0"),
        ({"peak_lr": float("nan")}, "peak_lr is nan"),
        ({"min_lr": 1.0}, "min_lr is 1.0"),
        ({"warmup": 51}, "warmup is 51 and decay_end 50"),
        ({"steps": -1}, "steps is -1"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"eps": 0.0}, "eps is 0.0"),
    ):
        with pytest.raises(DeltawError, match=message):
            replace(CONFIG, **changes)
    with pytest.raises(DeltawError, match="after 61 updates; expected 0 to 60"):
        run(small_model(), checkpoints=[61])


def test_no_steps_leave_the_model_as_it_is() -> None:
    model = small_model()
    seen: list[int] = []
    log = run(model, replace(CONFIG, steps=0), checkpoints=[0], on_checkpoint=lambda step, _: seen.append(step))
    assert log.records == ()
    assert seen == [0]
    assert torch.equal(model.embed.weight, small_model().embed.weight)
