"""Files keep the names that a model was published with; transformers and PEFT save those of the loaded model.

After EXAONE, which transformers 5 loads under Llama's names: a base in its first names, a tuned model or an adapter in
the new ones.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from deltaw.compare import compare
from deltaw.errors import DeltawError
from deltaw.results import read_measurements

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = importlib.import_module("transformers")
pytest.importorskip("transformers.models.exaone")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def model(seed: int) -> Any:
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    settings = transformers.ExaoneConfig(num_key_value_heads=1, max_position_embeddings=32, **size, **words)
    return transformers.AutoModelForCausalLM.from_config(settings)


def names_of(directory: Path) -> list[str]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return sorted(file.keys())


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by loaded names; base/ has the published ones in its file, tuned/ the loaded ones."""
    base, tuned = model(0), model(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    save_file(dict(tuned.state_dict()), tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    assert any(name.startswith("transformer.h.0.attn.attention") for name in names_of(tmp_path / "base"))
    assert any(name.startswith("model.layers.0.self_attn") for name in names_of(tmp_path / "tuned"))
    return base.state_dict(), tuned.state_dict()


def sizes(out: Path) -> dict[str, float]:
    lines = read_measurements(out / "measurements.jsonl")
    return {
        x.module: x.value for x in lines if x.statistic == "update_relative_norm" and x.module and x.layer is not None
    }


@pytest.mark.parametrize(("first", "second"), [("base", "tuned"), ("tuned", "base"), ("base", "again")])
def test_the_same_matrices_are_compared_under_either_name(
    tmp_path: Path, pair: tuple[dict[str, Tensor], dict[str, Tensor]], first: str, second: str
) -> None:
    """`again` has the published names on both sides, which only transformers knows to be Llama's."""
    states = dict(zip(("base", "tuned"), pair, strict=True))
    if second == "again":
        again = model(0)
        again.load_state_dict(states["tuned"])
        again.save_pretrained(tmp_path / "again")
        states["again"] = states["tuned"]
    compare(str(tmp_path / first), str(tmp_path / second), tmp_path / "out")
    found = sizes(tmp_path / "out")
    for layer in (0, 1):
        for name in MATRICES:
            key = f"model.layers.{layer}.{name}.weight"
            W, dW = states[first][key].double(), states[second][key].double() - states[first][key].double()
            assert found[key.removesuffix(".weight")] == pytest.approx(float(dW.norm() / W.norm()), rel=1e-6)
    assert len(found) == 2 * (len(MATRICES) + 1)  # and gate and up as one


def test_an_adapter_has_the_names_of_the_loaded_model(
    tmp_path: Path, pair: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    peft = pytest.importorskip("peft")
    net = model(0)
    net.load_state_dict(pair[0])
    adapted = peft.get_peft_model(net, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += torch.randn(parameter.shape)
    adapted.save_pretrained(tmp_path / "adapter")
    compare(str(tmp_path / "base"), str(tmp_path / "adapter"), tmp_path / "out")
    found, merged = sizes(tmp_path / "out"), adapted.merge_and_unload().state_dict()
    for layer in (0, 1):
        key = f"model.layers.{layer}.self_attn.q_proj.weight"
        W, dW = pair[0][key].double(), merged[key].double() - pair[0][key].double()
        assert found[key.removesuffix(".weight")] == pytest.approx(float(dW.norm() / W.norm()), rel=1e-5)
    assert len(found) == 2


def test_without_transformers_it_is_one_sentence(
    tmp_path: Path, pair: tuple[dict[str, Tensor], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    with pytest.raises(DeltawError, match="--modules"):
        compare(str(tmp_path / "base"), str(tmp_path / "tuned"), tmp_path / "out")
