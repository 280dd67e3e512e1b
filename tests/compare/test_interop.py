"""`deltaw compare` on exported models, and on deltaw's own checkpoints, gives the study's own numbers."""

from pathlib import Path

import pytest
import torch

from deltaw.analysis import Absent, column_basis, null_energy, update_spectrum
from deltaw.compare import compare
from deltaw.models import ModelConfig, Transformer, export_gpt2, mlp, save
from deltaw.results import read_measurements

CONFIG = ModelConfig(vocabulary_size=17, context=16, layers=3, heads=2, width=16)


def models() -> tuple[Transformer, Transformer]:
    base = Transformer(CONFIG, torch.Generator().manual_seed(0))
    tuned = Transformer(CONFIG, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=1e-3)
    return base, tuned


@pytest.mark.parametrize(
    ("layout", "name"), [("gpt2", "transformer.h.{}.mlp.c_fc"), ("deltaw", "blocks.{}.mlp.in_proj")]
)
def test_the_studys_own_numbers(tmp_path: Path, layout: str, name: str) -> None:
    for label, model in zip(("base", "tuned"), models(), strict=True):
        if layout == "gpt2":
            export_gpt2(model, tmp_path / label)
        else:
            save(model, tmp_path / label, {})
    compare(tmp_path / "base", tmp_path / "tuned", tmp_path / "out")
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    base, tuned = models()
    for layer in range(CONFIG.layers):
        W = mlp(base, layer).double().w_in
        dW = mlp(tuned, layer).double().w_in - W
        spectrum = update_spectrum(dW, W)
        assert not isinstance(spectrum, Absent)
        found = {x.statistic: x.value for x in lines if x.module == name.format(layer) and x.set is None}
        assert found["null_energy_left"] == pytest.approx(null_energy(dW, column_basis(W)), abs=1e-9)
        assert found["update_relative_norm"] == pytest.approx(spectrum.relative_norm, rel=1e-9)
        assert found["stable_rank"] == pytest.approx(spectrum.stable_rank, rel=1e-9)
        assert found["participation_ratio"] == pytest.approx(spectrum.participation_ratio, rel=1e-9)
        assert found["cosine_with_weight"] == pytest.approx(spectrum.along.cosine, abs=1e-12)
        assert {x.layer for x in lines if x.module == name.format(layer)} == {layer}
