from dataclasses import replace

import numpy as np
import pytest
import torch
from test_loop import CONFIG, counting, small_model

from deltaw.errors import DeltawError
from deltaw.training import learning_rate, next_token, optimisers, train
from deltaw.training.optimisers import block_matrices

MUON = replace(CONFIG, method="muon", clip_norm=None, weight_decay=0.0)


def test_every_parameter_has_one_optimiser_and_muon_those_inside_the_blocks() -> None:
    model = small_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in optimisers(model, MUON)]
    assert sorted(held[0]) == sorted(
        f"blocks.0.{part}.weight" for part in ("attn.qkv", "attn.out", "mlp.in_proj", "mlp.out_proj")
    )
    assert sorted(held[0] + held[1]) == sorted(names.values())
    model.get_parameter("blocks.0.attn.qkv.weight").requires_grad_(False)
    assert len(block_matrices(model)) == 3


def test_a_first_muon_update_is_the_orthogonal_part_of_the_gradient() -> None:
    """By numpy's SVD: a step of U Vᵀ, as long as 0.2 √max(shape) times the rate, to the iteration's own tolerance."""
    before, after = small_model(), small_model()
    next_token(before, counting(0)).value.backward()  # type: ignore[no-untyped-call]
    train(after, counting, next_token, replace(MUON, steps=1))
    for was, now in zip(block_matrices(before), block_matrices(after), strict=True):
        step = (was - now).detach().double().numpy()
        assert was.grad is not None
        u, _, vt = np.linalg.svd(was.grad.double().numpy(), full_matrices=False)
        size = learning_rate(0, MUON) * 0.2 * np.sqrt(max(step.shape))
        values = np.linalg.svd(step / size, compute_uv=False)
        assert np.median(values) == pytest.approx(1.0, abs=0.3)
        cosine = float((step * (u @ vt)).sum() / np.linalg.norm(step) / np.linalg.norm(u @ vt))
        assert cosine > 0.9


def test_muon_learns() -> None:
    log = train(small_model(), counting, next_token, replace(CONFIG, method="muon"))
    assert log.records[-1].loss < 0.3


def test_linear_decay() -> None:
    config = replace(CONFIG, decay="linear")
    assert learning_rate(5, config) == pytest.approx(1e-2)
    assert learning_rate(20, config) == pytest.approx(1e-4 + 9.9e-3 * 2 / 3)
    assert learning_rate(50, config) == 1e-4


def test_what_there_is_not_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, message in (
        ({"method": "sgd"}, "method is 'sgd'; it can be adamw or muon"),
        ({"decay": "steps"}, "decay is 'steps'; it can be cosine or linear"),
        ({"momentum": 1.0}, "momentum is 1.0"),
    ):
        with pytest.raises(DeltawError, match=message):
            replace(CONFIG, **changes)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(DeltawError, match=r"has no Muon; install 2\.9"):
        optimisers(small_model(), MUON)
