"""Adapters as PEFT merges them: what deltaw reads of an adapter's directory against the model that PEFT's merge saves.

After public reports: https://github.com/vllm-project/vllm/pull/3151 (modules_to_save),
https://github.com/huggingface/peft/issues/2777 (heads of their own).
"""

import importlib
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltaw.compare import compare
from deltaw.compare.weights import choose, open_sources
from deltaw.errors import DeltawError
from deltaw.models.lora import Adapter
from deltaw.results import read_measurements

os.environ.setdefault("HF_HUB_OFFLINE", "1")
peft: Any = pytest.importorskip("peft")
transformers: Any = importlib.import_module("transformers")

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 40, "bos_token_id": 0,
        "eos_token_id": 1}  # fmt: skip


def saved_base(directory: Path, family: str) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = transformers.AutoConfig.for_model(family, **(GPT2 if family == "gpt2" else SIZES))
        net = transformers.AutoModelForCausalLM.from_config(settings)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(0, 0.2)
    net.save_pretrained(directory)
    return directory


def trained(root: Path, family: str, options: dict[str, Any]) -> tuple[Path, Path, Path]:
    """A base, an adapter with every trainable tensor drawn, and what PEFT merges of these two directories."""
    base = saved_base(root / "base", family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = transformers.AutoModelForCausalLM.from_pretrained(base)
        wrapped = peft.get_peft_model(net, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **options}))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(root / "adapter", save_embedding_layers=options.get("target_modules") == ["embed"])
        again = transformers.AutoModelForCausalLM.from_pretrained(base)
        merged = peft.PeftModel.from_pretrained(again, root / "adapter").merge_and_unload()
        merged.save_pretrained(root / "merged")
    return base, root / "adapter", root / "merged"


PROJECTIONS = ["q_proj", "down_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": PROJECTIONS}),
    "rslora": ("llama", {"target_modules": PROJECTIONS, "use_rslora": True}),
    "rank pattern": (
        "llama", {"target_modules": PROJECTIONS, "rank_pattern": {"down_proj": 2, r"1\.self_attn.q_proj": 6}},
    ),
    "alpha pattern": (
        "llama", {"target_modules": PROJECTIONS, "alpha_pattern": {"q_proj": 3, "layers.1.self_attn.q_proj": 5}},
    ),
    "both and rslora": (
        "llama",
        {"target_modules": PROJECTIONS, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 1},
         "use_rslora": True},
    ),
    "some layers": ("llama", {"target_modules": PROJECTIONS, "layers_to_transform": [1]}),
    "all linear": ("llama", {"target_modules": "all-linear"}),
    "head trained whole": ("llama", {"target_modules": PROJECTIONS, "modules_to_save": ["lm_head", "norm"]}),
    "matrix trained whole": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}),
    "embedding": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "head by LoRA": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "biases": ("qwen2", {"target_modules": ["q_proj", "up_proj"], "bias": "lora_only"}),
    "all biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "bias of LoRA": ("qwen2", {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "experts": (
        "qwen3_moe",
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
    "experts of Mixtral": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}),
    "experts of gpt-oss": ("gpt_oss", {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_an_adapter_is_what_peft_merges(tmp_path: Path, case: str) -> None:
    family, options = CASES[case]
    base, adapter, merged = trained(tmp_path, family, options)
    sources = open_sources(base, adapter)
    assert isinstance(sources.after, Adapter)
    assert sources.after.unused == ()
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    pairing = choose(sources)
    compared = {piece.tensor for matched in pairing.matched for piece in matched.module.pieces}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == compared | set(pairing.others)
    for name in pairing.others:
        ours = sources.after.after(name, before[name], transposed=False)
        torch.testing.assert_close(ours, after[name].double(), atol=1e-6, rtol=1e-5)
    for matched in pairing.matched:
        for piece in matched.module.pieces:
            if piece.tensor in sources.after.whole:
                continue
            difference = after[piece.tensor].double() - before[piece.tensor].double()
            expected = piece.view(difference if piece.expert is None else difference[piece.expert])
            update = sources.after.update_of(piece)
            torch.testing.assert_close(update.left @ update.right.T, expected, atol=2e-6, rtol=1e-5)
    compare(base, adapter, tmp_path / "lora")
    compare(base, merged, tmp_path / "whole")
    exact, ours_read = sizes(tmp_path / "whole"), sizes(tmp_path / "lora")
    moved = {name for name, value in exact.items() if value > 0}
    assert {name for name in moved - set(ours_read) if not name.endswith("gate_up")} == set() == set(ours_read) - moved
    for name, value in ours_read.items():
        assert value == pytest.approx(exact[name], rel=1e-4), name


def sizes(out: Path) -> dict[str, float]:
    wanted = ("update_relative_norm", "other_relative_norm")
    lines = [x for x in read_measurements(out / "measurements.jsonl") if x.statistic in wanted]
    lines = [x for x in lines if x.layer is not None or x.statistic == wanted[1]]
    return {str(x.module): x.value for x in lines}


ASKED = ["plain", "head trained whole", "embedding", "biases", "bias of LoRA", "tokens", "Conv1D"]


@pytest.mark.parametrize("case", ASKED)
def test_the_model_that_is_asked_is_the_merged_one(tmp_path: Path, case: str) -> None:
    from deltaw.compare.interpolation import move_to
    from deltaw.models.huggingface import Chat

    family, options = CASES[case]
    base, adapter, merged = trained(tmp_path, family, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(merged)
    move_to(Chat(model, None, base), open_sources(base, adapter), 1.0)
    tokens = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, theirs(tokens).logits, atol=1e-4, rtol=1e-4)


OTHERS: dict[str, tuple[str, str]] = {
    "dora": ("LoraConfig", "DoRA"), "ia3": ("IA3Config", "IA3"), "loha": ("LoHaConfig", "LOHA"),
    "lokr": ("LoKrConfig", "LOKR"), "vera": ("VeraConfig", "VERA"), "adalora": ("AdaLoraConfig", "ADALORA"),
    "oft": ("OFTConfig", "OFT"), "prompt": ("PromptTuningConfig", "changes no weight"),
    "pissa": ("LoraConfig", "initialised by pissa"), "olora": ("LoraConfig", "initialised by olora"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_kinds_are_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    name, said = OTHERS[kind]
    more: dict[str, dict[str, Any]] = {
        "dora": {"use_dora": True},
        "pissa": {"init_lora_weights": "pissa"},
        "olora": {"init_lora_weights": "olora"},
        "ia3": {"feedforward_modules": ["down_proj"]},
        "adalora": {"total_step": 10},
        "oft": {"oft_block_size": 4, "r": 0},
    }
    options: dict[str, Any] = {"target_modules": PROJECTIONS, **more.get(kind, {})}
    if kind == "prompt":
        options = {"num_virtual_tokens": 3}
    base = saved_base(tmp_path / "base", "llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = transformers.AutoModelForCausalLM.from_pretrained(base)
        settings = getattr(peft, name)(task_type="CAUSAL_LM", **options)
        peft.get_peft_model(net, settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(DeltawError, match=said):
        open_sources(base, tmp_path / "adapter")


def test_eva_leaves_the_base_as_it_is(tmp_path: Path) -> None:
    """Its first values come from activations; the factors alone are the update."""
    base, adapter, merged = trained(tmp_path, "llama", {"target_modules": PROJECTIONS, "init_lora_weights": "gaussian"})
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"gaussian"', '"eva"'))
    compare(base, adapter, tmp_path / "lora")
    compare(base, merged, tmp_path / "whole")
    exact = sizes(tmp_path / "whole")
    assert sizes(tmp_path / "lora") == pytest.approx({x: v for x, v in exact.items() if v > 0}, rel=1e-4)


def test_a_head_that_the_adapter_resized_is_named(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path, "llama", {"target_modules": PROJECTIONS, "modules_to_save": ["lm_head"]})
    path = adapter / "adapter_model.safetensors"
    state, name = load_file(path), "base_model.model.lm_head.weight"
    save_file({**state, name: torch.ones(44, 16)}, path, metadata={"format": "pt"})
    assert choose(open_sources(base, adapter)).skipped == {
        name: "it is (40, 16) in the base model and (44, 16) in the adapter"
    }


def test_factors_of_another_rank_than_the_configuration_says(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path, "llama", {"target_modules": PROJECTIONS})
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"r": 4', '"r": 8'))
    with pytest.raises(DeltawError, match=r"of rank 4, and .* gives it 8"):
        compare(base, adapter, tmp_path / "out")
