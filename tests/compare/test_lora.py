"""LoRA adapters: the exact update, whatever the layout, equals that of the merged checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SHAPES, config, tensors, write
from safetensors.torch import save_file
from torch import Tensor

from deltaw.compare import compare
from deltaw.errors import DeltawError
from deltaw.models.adapter_config import scale
from deltaw.results import read_measurements

RANK, ALPHA = 3, 12.0
TARGETS = {
    "llama": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"),
    "gpt2": ("mlp.c_fc", "attn.c_attn"),
    "phi3": ("mlp.gate_up_proj", "mlp.down_proj"),
}


def adapter(directory: Path, factors: dict[str, tuple[Tensor, Tensor]], **settings: Any) -> Path:
    directory.mkdir()
    (directory / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, **settings})
    )
    state: dict[str, Tensor] = {}
    for module, (a, b) in factors.items():
        state |= {
            f"base_model.model.{module}.lora_A.weight": a.contiguous(),
            f"base_model.model.{module}.lora_B.weight": b.contiguous(),
        }
    save_file(state, directory / "adapter_model.safetensors")
    return directory


def drawn_factors(family: str, base: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    found = {}
    for target in TARGETS[family]:
        module = f"{SHAPES[family][0]}.1.{target}"
        stored = base[f"{module}.weight"]
        outputs, inputs = stored.T.shape if family == "gpt2" else stored.shape
        found[module] = (
            torch.randn(RANK, inputs, generator=generator),
            0.01 * torch.randn(outputs, RANK, generator=generator),
        )
    return found


def table(out: Path) -> dict[tuple[str | None, str, str | None, str | None], float]:
    lines = [x for x in read_measurements(out / "measurements.jsonl") if x.layer is not None]
    return {(x.module, x.statistic, x.set, x.null_kind): x.value for x in lines}


@pytest.mark.parametrize("family", list(TARGETS))
@pytest.mark.parametrize(
    ("settings", "factor"),
    [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5), ({"alpha_pattern": {r"mlp\..*": 6}}, None)],
)
def test_an_adapter_is_its_merged_checkpoint(
    tmp_path: Path, family: str, settings: dict[str, Any], factor: float | None
) -> None:
    base = {name: x.double() for name, x in tensors(family).items()}
    factors = drawn_factors(family, base)
    merged = dict(base)
    for module, (a, b) in factors.items():
        used = factor if factor is not None else (6 if ".mlp." in module else ALPHA) / RANK
        update = used * b.double() @ a.double()
        merged[f"{module}.weight"] = base[f"{module}.weight"] + (update.T if family == "gpt2" else update)
    a_dir = write(tmp_path / "a", base, config(family))
    compare(a_dir, write(tmp_path / "b", merged, config(family)), tmp_path / "merged")
    compare(a_dir, adapter(tmp_path / "adapter", factors, **settings), tmp_path / "lora")
    exact, ours = table(tmp_path / "merged"), table(tmp_path / "lora")
    assert {key[0] for key in ours} == {key[0] for key, value in exact.items() if key[1] == "stable_rank"}
    values = {key[:3]: value for key, value in exact.items()}
    for key, value in ours.items():
        assert value == pytest.approx(values[key[:3]], rel=1e-6, abs=1e-7), key
    manifest = json.loads((tmp_path / "lora" / "manifest.json").read_text())
    assert manifest["adapter"]
    assert all("exact factors" in absent["rounding_floor"] for absent in manifest["absent"].values())


def test_nulls_of_an_adapter_know_its_rank(tmp_path: Path) -> None:
    """Random factors are not found to be of low rank; of gate and up together they have twice the rank."""
    base = tensors("llama")
    compare(
        write(tmp_path / "a", base, config("llama")), adapter(tmp_path / "b", drawn_factors("llama", base)),
        tmp_path / "out",
    )  # fmt: skip
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    ranks = [x for x in lines if x.statistic in ("stable_rank", "participation_ratio")]
    assert {x.null_kind for x in ranks} == {"gaussian_factors"}
    for line in ranks:
        assert line.null_high is not None
        assert line.null_high <= (2 * RANK if str(line.module).endswith("gate_up") else RANK)
    means = {str(x.module).rpartition(".")[2]: x.null_mean for x in ranks if x.statistic == "participation_ratio"}
    assert means["gate_up"] == pytest.approx(2 * (means["gate_proj"] or 0), rel=0.2)
    assert "gaussian" not in {x.null_kind for x in lines if x.statistic.startswith("null_energy_")}
    inside = [x.null_low <= x.value <= x.null_high for x in ranks if x.null_low is not None and x.null_high is not None]
    assert sum(inside) >= len(inside) - 2


def test_an_adapter_of_rank_r_has_r_singular_values(tmp_path: Path) -> None:
    base = tensors("llama")
    factors = drawn_factors("llama", base)
    compare(write(tmp_path / "a", base, config("llama")), adapter(tmp_path / "b", factors), tmp_path / "out")
    name = "model.layers.1.mlp.down_proj"
    found = {key[2] for key in table(tmp_path / "out") if key[:2] == (name, "singular_value")}
    assert found == {f"vector={number:03d}" for number in range(1, RANK + 1)}


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"peft_type": "IA3"}, "of kind IA3"),
        ({"use_dora": True}, "of kind DoRA"),
        ({"lora_alpha": "a"}, "lora_alpha = 'a'"),
        ({"init_lora_weights": "pissa_niter_16"}, "initialised by pissa_niter_16, which changes the base"),
        ({"init_lora_weights": "olora"}, "initialised by olora"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "has layer_replication"),
    ],
)
def test_other_adapters_are_refused(tmp_path: Path, settings: dict[str, Any], part: str) -> None:
    base = tensors("llama")
    b = adapter(tmp_path / "b", drawn_factors("llama", base), **settings)
    with pytest.raises(DeltawError, match=part):
        compare(write(tmp_path / "a", base, config("llama")), b, tmp_path / "out")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base = tensors("llama")
    a = write(tmp_path / "a", base, config("llama"))
    stranger = adapter(tmp_path / "b", drawn_factors("gpt2", tensors("gpt2")))
    with pytest.raises(DeltawError, match="changes no tensor of the base model"):
        compare(a, stranger, tmp_path / "out")
    module = "model.layers.1.mlp.up_proj"
    wrong = adapter(tmp_path / "c", {module: (torch.ones(RANK, 5), torch.ones(7, RANK))})
    with pytest.raises(DeltawError, match="is 7 × 5, the matrix 40 × 12"):
        compare(a, wrong, tmp_path / "out")
    mixed = adapter(tmp_path / "d", {module: (torch.ones(RANK, 5), torch.ones(7, RANK + 1))})
    with pytest.raises(DeltawError, match=r"expected \(outputs, rank\) and \(rank, inputs\)"):
        compare(a, mixed, tmp_path / "out-2")


def test_another_alpha_is_another_comparison(tmp_path: Path) -> None:
    base = tensors("llama")
    a, b = write(tmp_path / "a", base, config("llama")), adapter(tmp_path / "b", drawn_factors("llama", base))
    compare(a, b, tmp_path / "out")
    (b / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * ALPHA}))
    with pytest.raises(DeltawError, match="belongs to another comparison"):
        compare(a, b, tmp_path / "out")


def test_an_adapter_is_no_base_and_a_merged_directory_no_adapter(tmp_path: Path) -> None:
    base = tensors("llama")
    a, b = write(tmp_path / "a", base, config("llama")), adapter(tmp_path / "b", drawn_factors("llama", base))
    with pytest.raises(DeltawError, match="is an adapter; give the checkpoint"):
        compare(b, a, tmp_path / "out")
    merged = write(tmp_path / "c", tensors("llama", 1), config("llama"))
    (merged / "adapter_config.json").write_text((b / "adapter_config.json").read_text())
    compare(a, merged, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["adapter"] is False


def test_half_an_adapter_and_none_at_all(tmp_path: Path) -> None:
    base = tensors("llama")
    a = write(tmp_path / "a", base, config("llama"))
    b = adapter(tmp_path / "b", drawn_factors("llama", base))
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    save_file({name: torch.ones(RANK, 12)}, b / "adapter_model.safetensors")
    with pytest.raises(DeltawError, match=r"one factor of model.layers.1.mlp.up_proj.weight and not the other"):
        compare(a, b, tmp_path / "out")
    (b / "adapter_model.safetensors").rename(b / "adapter_model.bin")
    with pytest.raises(DeltawError, match="pickled"):
        compare(a, b, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora_alpha": float("nan")}, "expected a number below"),
        ({"lora_alpha": 10**400}, "expected a number below"),
        ({"lora_alpha": 1, "alpha_pattern": [1]}, "expected an object of patterns"),
        ({"lora_alpha": 1, "alpha_pattern": {"(": 1}}, "which is no pattern"),
        ({"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}}, "could take hours"),
        ({"lora_alpha": 1, "alpha_pattern": {".*.*.*.*x": 1}}, "could take hours"),
    ],
)
def test_a_scale_that_is_none_is_refused_in_a_sentence(config: dict[str, object], message: str) -> None:
    with pytest.raises(DeltawError, match=message):
        scale(config, "a" * 40 + "!", 2)
