"""Size, dimension and place of planted updates."""

import numpy as np
import pytest
import torch
from planted import draw, orthogonal

from deltaw.analysis import Absent, UpdateSpectrum, gaussian_spectrum, module_budget, update_spectrum
from deltaw.errors import DeltawError

M, N = 64, 16


def test_spectrum_of_known_rank() -> None:
    W = draw(0, M, N)
    flat = orthogonal(M, 1)[:, :5] @ orthogonal(N, 2)[:5]  # five equal singular values
    found = update_spectrum(0.1 * flat, W)
    assert isinstance(found, UpdateSpectrum)
    assert found.stable_rank == pytest.approx(5)
    assert found.participation_ratio == pytest.approx(5)
    assert found.relative_norm == pytest.approx(0.1 * 5**0.5 / float(W.norm()))
    assert found.singular_values == pytest.approx(np.r_[np.full(5, 0.1), np.zeros(N - 5)], abs=1e-12)
    dominated = update_spectrum(flat + 100 * torch.outer(draw(3, M), draw(4, N)), W)
    assert isinstance(dominated, UpdateSpectrum)
    assert dominated.stable_rank == pytest.approx(1, abs=1e-3)


def test_weight_decay_is_seen_along_w() -> None:
    W = draw(0, M, N)
    found = update_spectrum(-0.01 * W, W)
    assert isinstance(found, UpdateSpectrum)
    assert found.along.cosine == pytest.approx(-1)
    assert isinstance(update_spectrum(torch.zeros(M, N), W), Absent)


def test_gaussian_null_of_the_ranks() -> None:
    null = gaussian_spectrum((N, M), np.random.default_rng(0), draws=300)
    draws = null.participation_ratio.draws
    assert draws is not None
    assert np.mean(1 / draws) == pytest.approx((M + N + 1) / (M * N + 2), rel=0.01)
    outside = 0
    for seed in range(300):
        found = update_spectrum(draw(10 + seed, M, N), torch.ones(M, N))
        assert isinstance(found, UpdateSpectrum)
        outside += found.stable_rank not in null.stable_rank
    assert 3 <= outside <= 33  # Binomial(300, 0.05) and the noise of the band's own 300 draws


def model(seed: int) -> dict[str, torch.Tensor]:
    d = 4
    shapes = {
        "embed.weight": (10, d),
        "position.weight": (6, d),
        "blocks.0.norm_attn.weight": (d,),
        "blocks.0.norm_attn.bias": (d,),
        "blocks.0.attn.qkv.weight": (3 * d, d),
        "blocks.0.attn.qkv.bias": (3 * d,),
        "blocks.0.attn.out.weight": (d, d),
        "blocks.0.norm_mlp.weight": (d,),
        "blocks.0.mlp.in_proj.weight": (4 * d, d),
        "blocks.0.mlp.out_proj.weight": (d, 4 * d),
        "blocks.0.mlp.out_proj.bias": (d,),
        "norm_final.weight": (d,),
        "unembed.weight": (10, d),
    }
    return {name: draw(seed + i, *shape).float() for i, (name, shape) in enumerate(shapes.items())}


def test_budget_finds_the_planted_module() -> None:
    base = model(0)
    tuned = {name: x.clone() for name, x in base.items()}
    tuned["blocks.0.mlp.in_proj.weight"] += 3 / 8  # 64 entries: norm 3
    tuned["norm_final.weight"] += 2  # 4 entries: norm 4
    budget = module_budget(base, tuned)
    assert not isinstance(budget, Absent)
    assert budget["mlp_in"].energy == pytest.approx(9 / 25, rel=1e-6)
    assert budget["norm"].energy == pytest.approx(16 / 25, rel=1e-6)
    assert list(budget) == ["embed", "position", "norm", "attn_qkv", "bias", "attn_out", "mlp_in", "mlp_out", "unembed"]
    assert sum(share.energy for share in budget.values()) == pytest.approx(1)
    assert sum(share.parameters for share in budget.values()) == pytest.approx(1)
    size = sum(x.numel() for x in base.values())
    assert budget["mlp_in"].parameters == pytest.approx(64 / size)


def test_an_even_update_has_the_shares_of_the_parameters() -> None:
    base = model(0)
    budget = module_budget(base, {name: x + 0.5 for name, x in base.items()})
    assert not isinstance(budget, Absent)
    for share in budget.values():
        assert share.energy == pytest.approx(share.parameters, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("transformer.h.3.mlp.c_fc.weight", "mlp_in"),
        ("transformer.h.3.mlp.c_proj.weight", "mlp_out"),
        ("transformer.h.3.attn.c_proj.weight", "attn_out"),
        ("transformer.wpe.weight", "position"),
        ("transformer.ln_f.bias", "norm"),
        ("model.layers.7.mlp.up_proj.weight", "mlp_in"),
        ("model.layers.7.self_attn.q_proj.weight", "attn_qkv"),
        ("model.layers.7.post_attention_layernorm.weight", "norm"),
        ("model.embed_tokens.weight", "embed"),
        ("lm_head.weight", "unembed"),
        ("something.else", "other"),
    ],
)
def test_names_of_other_families_have_kinds(name: str, kind: str) -> None:
    budget = module_budget({name: torch.zeros(2)}, {name: torch.ones(2)})
    assert not isinstance(budget, Absent)
    assert list(budget) == [kind]


def test_models_must_match() -> None:
    base = model(0)
    assert isinstance(module_budget(base, base), Absent)
    with pytest.raises(DeltawError, match="extra"):
        module_budget(base, base | {"extra": torch.ones(1)})
    with pytest.raises(DeltawError, match="shape"):
        module_budget(base, base | {"norm_final.weight": torch.ones(5)})
