"""Means over layers, and the claims asked of one pair."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import D, F, changed, config, tensors, write
from torch import Tensor

from deltaw.claims import STATEMENTS
from deltaw.compare import compare
from deltaw.compare.over_layers import kind_of
from deltaw.models.architectures import Module, Piece
from deltaw.results import Claim, Measurement, read_claims, read_measurements


def pair(tmp_path: Path, family: str, scale: float = 0.02) -> tuple[list[Measurement], list[Claim]]:
    base, other = tensors(family), tensors(family, 1)
    after = {name: x + scale * (1 + ("1" in name)) * other[name] for name, x in base.items()}
    a, b = write(tmp_path / "a", base, config(family)), write(tmp_path / "b", after, config(family))
    compare(a, b, tmp_path / "out")
    return read_measurements(tmp_path / "out" / "measurements.jsonl"), read_claims(tmp_path / "out" / "claims.json")


def test_means_over_layers_are_those_of_the_layers(tmp_path: Path) -> None:
    lines, _ = pair(tmp_path, "llama")
    for kind, statistic, null in (
        ("mlp.gate_up", "null_energy_left", "row_sign_flip"),
        ("mlp.down_proj", "null_energy_right", "column_permutation"),
    ):
        (mean,) = [x for x in lines if (x.module, x.statistic, x.null_kind) == (kind, statistic, null)]
        layers = [x for x in lines if x.layer is not None and (x.statistic, x.null_kind) == (statistic, null)
                  and str(x.module).endswith(f".{kind}")]  # fmt: skip
        assert (mean.n, mean.n_unit, mean.layer) == (2, "layer", None)
        assert mean.value == pytest.approx(np.mean([x.value for x in layers]))
        assert mean.null_mean == pytest.approx(np.mean([x.null_mean for x in layers if x.null_mean is not None]))
        widths = [x.null_high - x.null_low for x in layers if x.null_high is not None and x.null_low is not None]
        assert mean.null_high is not None
        assert mean.null_low is not None
        # Two independent bands: the mean's is √2 narrower than either, if they are alike.
        assert mean.null_high - mean.null_low == pytest.approx(float(np.mean(widths)) / 2**0.5, rel=0.1)
    (size,) = [x for x in lines if (x.module, x.statistic) == ("self_attn.q_proj", "update_relative_norm")]
    each = [
        x.value
        for x in lines
        if x.statistic == size.statistic and str(x.module).endswith("q_proj") and x.layer is not None
    ]
    assert size.value == pytest.approx(float(np.exp(np.mean(np.log(each)))))
    assert size.value < np.mean(each)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "mlp.gate_up"), ("phi3", "mlp.gate_up_proj"), ("gpt2", "mlp.c_fc"), ("gpt_neox", "mlp.dense_h_to_4h"),
     ("opt", "fc1"), ("phi", "mlp.fc1")],
)  # fmt: skip
def test_claims_are_asked_of_the_first_matrix_of_an_mlp(tmp_path: Path, family: str, kind: str) -> None:
    _, claims = pair(tmp_path, family)
    assert [claim.id for claim in claims] == [f"update-is-small/{kind}", f"null-space/{kind}"]
    small, null_space = claims
    statement = next(x for x in STATEMENTS if x.id.startswith("update-is-small/"))
    assert (small.smallest_effect, small.direction) == (statement.smallest_effect, statement.direction)
    assert all(claim.exploratory and (claim.n, claim.n_unit) == (1, "pair") for claim in claims)
    assert {answer.word for claim in claims for answer in claim.answers} == {None}
    answers = {answer.question: answer.value for answer in null_space.answers}
    strictest = next(null.mean for null in null_space.nulls if null.kind == "row_sign_flip")
    assert null_space.value is not None
    assert strictest is not None
    logit = [np.log(share / (1 - share)) for share in (null_space.value, strictest)]
    assert answers == pytest.approx({"seen": logit[0], "shape": logit[0] - logit[1]})
    assert {null.kind for null in null_space.nulls} == {"rotation", "row_permutation", "row_sign_flip"}


def test_a_planted_update_lies_beyond_the_nulls_that_a_random_one_lies_within(tmp_path: Path) -> None:
    small, inside = pair(tmp_path, "llama")[1]
    assert small.value is not None
    assert small.value < 0.1
    assert all((null.low or 0) < (inside.value or 0) < (null.high or 0) for null in inside.nulls)
    base = {name: x.double() for name, x in tensors("opt").items()}
    W = base["model.decoder.layers.1.fc1.weight"]
    assert W.shape == (F, D)
    planted = changed("opt", base, "fc1", 3 * outside(W))
    a, b = write(tmp_path / "c", base, config("opt")), write(tmp_path / "d", planted, config("opt"))
    compare(a, b, tmp_path / "planted")
    large, beyond = read_claims(tmp_path / "planted" / "claims.json")
    assert (large.value or 0) > 0.1
    assert all((beyond.value or 0) > (null.high or 0) for null in beyond.nulls)
    assert json.loads((tmp_path / "planted" / "manifest.json").read_text())["absent"]


def outside(W: Tensor) -> Tensor:
    """A part of another matrix that W could not write."""
    other = torch.randn(W.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    Q = torch.linalg.qr(W)[0]
    left: Tensor = other - Q @ (Q.T @ other)
    return left


def test_kinds_are_names_without_layers() -> None:
    def module(name: str, layer: int | None) -> Module:
        return Module(name, "mlp", layer, (Piece(f"{name}.weight", False),))

    assert kind_of(module("model.layers.12.mlp.up_proj", 12)) == "mlp.up_proj"
    assert kind_of(module("transformer.h.0.attn.c_attn:q", 0)) == "attn.c_attn:q"
    assert kind_of(module("net.mix", None)) is None
