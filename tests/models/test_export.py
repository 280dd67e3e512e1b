"""Export to a Hugging Face GPT-2 directory: equal logits, by an oracle that reads only what the directory says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lively_model import CONFIG, lively_model, some_tokens
from numpy_gpt2 import logits
from safetensors import safe_open

from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, export_gpt2


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_logits_are_equal(tmp_path: Path, positions: str) -> None:
    model = lively_model(ModelConfig(**{**CONFIG.__dict__, "positions": positions}))
    export_gpt2(model, tmp_path / "gpt2")
    with torch.no_grad():
        ours = model(some_tokens()).numpy()
    np.testing.assert_allclose(ours, logits(tmp_path / "gpt2", some_tokens().numpy()), atol=1e-4)


def test_names_and_shapes_are_those_of_gpt2lmheadmodel(tmp_path: Path) -> None:
    export_gpt2(lively_model(), tmp_path / "gpt2")
    with safe_open(tmp_path / "gpt2" / "model.safetensors", framework="np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    d = CONFIG.width
    block = {
        "ln_1.weight": (d,), "ln_1.bias": (d,), "attn.c_attn.weight": (d, 3 * d), "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d), "attn.c_proj.bias": (d,), "ln_2.weight": (d,), "ln_2.bias": (d,),
        "mlp.c_fc.weight": (d, 4 * d), "mlp.c_fc.bias": (4 * d,),
        "mlp.c_proj.weight": (4 * d, d), "mlp.c_proj.bias": (d,),
    }  # fmt: skip
    assert shapes == {
        "transformer.wte.weight": (CONFIG.vocabulary_size, d), "transformer.wpe.weight": (CONFIG.context, d),
        "transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,), "lm_head.weight": (CONFIG.vocabulary_size, d),
        **{f"transformer.h.{i}.{name}": shape for i in range(CONFIG.layers) for name, shape in block.items()},
    }  # fmt: skip
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"]) == ("gpt2", False)


def test_models_without_a_gpt2_form_are_refused(tmp_path: Path) -> None:
    for settings, part in (({"block": "published"}, "block 'published'"), ({"masked_token": 0}, "a masked token")):
        model = lively_model(ModelConfig(**{**CONFIG.__dict__, **settings}))
        with pytest.raises(DeltawError, match=part):
            export_gpt2(model, tmp_path / "gpt2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(DeltawError, match="not empty"):
        export_gpt2(lively_model(), tmp_path / "full")
