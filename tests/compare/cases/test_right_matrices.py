"""The matrices that are compared are the text decoder's, whatever the files call them and however experts are stored.

After public reports, such as https://github.com/sgl-project/sglang/pull/11261 and
https://github.com/p-e-w/heretic/pull/287: vision towers with the decoder's names, torch.compile's `_orig_mod.`, heads
for further tokens, mixtures of experts.
"""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import config, tensors, write
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltaw.compare import compare
from deltaw.errors import DeltawError
from deltaw.results import read_measurements

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = importlib.import_module("transformers")

TEXT = {
    "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
    "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}


def draws(state: dict[str, Tensor], seed: int, size: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: x + size * torch.randn(x.shape, generator=generator).to(x.dtype) if x.is_floating_point() else x
        for name, x in sorted(state.items())
    }


def saved_pair(tmp_path: Path, net: Any) -> tuple[Path, Path]:
    """A model as transformers saves it, with every tensor of its file drawn, and a tuned one."""
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    for directory in (base, tuned):
        net.save_pretrained(directory)
    state = draws({k: torch.zeros_like(x) for k, x in load_file(base / "model.safetensors").items()}, 0, 0.2)
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    save_file(draws(state, 1, 0.02), tuned / "model.safetensors", metadata={"format": "pt"})
    return base, tuned


def state_of(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def sizes(out: Path) -> dict[str, float]:
    lines = read_measurements(out / "measurements.jsonl")
    return {str(x.module): x.value for x in lines if x.statistic == "update_relative_norm" and x.layer is not None}


def size(before: Tensor, after: Tensor) -> float:
    a, b = before.double().numpy(), after.double().numpy()
    return float(np.linalg.norm(b - a) / np.linalg.norm(a))


def mean_of(out: Path, kind: str) -> tuple[float, int]:
    lines = read_measurements(out / "measurements.jsonl")
    (line,) = [x for x in lines if (x.module, x.statistic, x.layer) == (kind, "update_relative_norm", None)]
    assert line.n is not None
    return line.value, line.n


def skipped(out: Path) -> dict[str, str]:
    names: dict[str, str] = json.loads((out / "manifest.json").read_text())["skipped"]
    return names


def multimodal(name: str) -> Any:
    """A tiny multimodal model of transformers."""
    vision = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    t = transformers
    if name == "gemma3":
        text = t.Gemma3TextConfig(**TEXT).to_dict()
        return t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(
                text_config=text, vision_config={**vision, "model_type": "siglip_vision_model"}, mm_tokens_per_image=4
            )
        )
    if name == "llava":
        return t.LlavaForConditionalGeneration(
            t.LlavaConfig(
                text_config=t.LlamaConfig(**TEXT).to_dict(), vision_config={**vision, "model_type": "clip_vision_model"}
            )
        )
    if name == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        return t.Qwen2_5_VLForConditionalGeneration(
            t.Qwen2_5_VLConfig(
                text_config={**TEXT, "rope_parameters": rope},
                vision_config={
                    "depth": 3,
                    "hidden_size": 8,
                    "intermediate_size": 16,
                    "num_heads": 2,
                    "out_hidden_size": 16,
                    "fullatt_block_indexes": [0],
                },
            )
        )
    assert name == "mllama"
    text = {
        **TEXT,
        "cross_attention_layers": [1],
        "model_type": "mllama_text_model",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    return t.MllamaForConditionalGeneration(
        t.MllamaConfig(
            text_config=text,
            vision_config={
                "hidden_size": 8,
                "intermediate_size": 16,
                "num_hidden_layers": 3,
                "num_global_layers": 2,
                "attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_output_dim": 16,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1]],
            },
        )
    )


@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_5_vl", "mllama"])
def test_of_a_multimodal_model_the_text_decoder(tmp_path: Path, name: str) -> None:
    base, tuned = saved_pair(tmp_path, multimodal(name))
    compare(base, tuned, tmp_path / "out")
    before, after = state_of(base), state_of(tuned)
    decoder = [x for x in before if ".layers." in x and "vision" not in x and "visual" not in x]
    assert any("vision" in x or "visual" in x for x in before)
    maps = [x for x in decoder if before[x].ndim == 2]
    measured = sizes(tmp_path / "out")
    for x in maps:
        assert measured[x.removesuffix(".weight")] == pytest.approx(size(before[x], after[x]), rel=1e-6)
    stacked = {x for x in measured if x.endswith("gate_up")}
    assert set(measured) - stacked == {x.removesuffix(".weight") for x in maps}
    downs = [size(before[x], after[x]) for x in maps if x.endswith("mlp.down_proj.weight")]
    mean, layers = mean_of(tmp_path / "out", "mlp.down_proj")
    assert mean == pytest.approx(np.exp(np.mean(np.log(downs))))
    assert layers == len(downs)
    assert any("vision side" in why for why in skipped(tmp_path / "out").values())


PREFIXES: list[tuple[str, Callable[[str], str]]] = [
    ("bare", lambda name: name.removeprefix("model.")),
    ("compiled", lambda name: f"_orig_mod.{name}"),
    ("compiled blocks", lambda name: name.replace(".self_attn.", "._orig_mod.self_attn.")),
    ("inside a multimodal model", lambda name: f"language_model.{name}"),
    ("inside, today's names", lambda name: name.replace("model.", "model.language_model.")),
    ("of a trainer", lambda name: f"policy.pretrained_model.{name}"),
    ("data parallel", lambda name: f"module.{name}"),
    ("PEFT", lambda name: f"base_model.model.{name}"),
    ("fully sharded", lambda name: f"_fsdp_wrapped_module.{name}"),
]


@pytest.mark.parametrize(("what", "rename"), PREFIXES, ids=[what for what, _ in PREFIXES])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_prefixes_of_one_side(tmp_path: Path, what: str, rename: Callable[[str], str], side: str) -> None:
    states = {"base": tensors("llama"), "tuned": draws(tensors("llama"), 1, 0.1)}
    expected = {x: size(states["base"][x], states["tuned"][x]) for x in states["base"] if x.endswith("_proj.weight")}
    named = {key: {rename(x) if key == side else x: t for x, t in s.items()} for key, s in states.items()}
    a, b = (write(tmp_path / key, state, config("llama")) for key, state in named.items())
    compare(a, b, tmp_path / "out")
    measured = list(sizes(tmp_path / "out").values())
    assert len(measured) == len(expected) + 2  # gate and up as one map
    for value in expected.values():
        assert any(value == pytest.approx(x, rel=1e-6) for x in measured)
    assert skipped(tmp_path / "out") == {}


def test_two_copies_of_a_decoder_are_refused(tmp_path: Path) -> None:
    state = tensors("llama")
    twice = {**state, **{f"language_model.{name}": x.clone() for name, x in state.items()}}
    a, b = write(tmp_path / "a", state, config("llama")), write(tmp_path / "b", twice, config("llama"))
    with pytest.raises(DeltawError, match="two copies of one matrix"):
        compare(a, b, tmp_path / "out")


@pytest.mark.parametrize("stem", ["mtp.layers.0.", "model.layers.2.", "model.mtp_layers.0."])
def test_heads_that_predict_further_tokens_are_apart(tmp_path: Path, stem: str) -> None:
    settings = {**config("llama"), "num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    state = tensors("llama")
    head = {
        f"{stem}{name.removeprefix('model.layers.1.')}": x.clone()
        for name, x in state.items()
        if "model.layers.1." in name
    }
    a = write(tmp_path / "a", {**state, **head}, settings)
    b = write(tmp_path / "b", draws({**state, **head}, 1, 0.1), settings)
    compare(a, b, tmp_path / "out")
    assert {name.partition("layers.")[2][0] for name in sizes(tmp_path / "out")} == {"0", "1"}
    assert mean_of(tmp_path / "out", "self_attn.q_proj")[1] == 2
    assert any("further tokens" in why for why in skipped(tmp_path / "out").values())


def mixture(name: str) -> Any:
    """A tiny mixture of experts of transformers."""
    more = {
        "deepseek_v3": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "kv_lora_rank": 6, "q_lora_rank": 6,
                        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1,
                        "num_experts_per_tok": 2},
        "llama4_text": {"intermediate_size_mlp": 24, "interleave_moe_layer_step": 1},
        "qwen3_next": {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 4,
                       "linear_value_head_dim": 4, "shared_expert_intermediate_size": 12, "full_attention_interval": 2},
    }.get(name, {})  # fmt: skip
    settings = {**TEXT, **EXPERTS, **more}
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **settings))


def experts_of(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Each expert's matrices (out, in) by `layer.expert.map`, by numpy's hand from what the file holds."""
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj", "input_linear": "gate_up_proj",
             "output_linear": "down_proj"}  # fmt: skip
    hidden, found = TEXT["hidden_size"], {}
    for key, x in state.items():
        layer = next((word for word in key.split(".") if word.isdigit()), "")
        if ".experts." in key and x.ndim == 2 and key.endswith(".weight"):
            expert, kind = key.removesuffix(".weight").split(".")[-2:]
            found[f"{layer}.{expert}.{names.get(kind, kind)}"] = x
        elif x.ndim == 3 and ("experts" in key or "_linear" in key):
            kind = key.removesuffix(".weight").rpartition(".")[2]
            kind = names.get(kind, kind)
            for number, matrix in enumerate(x):
                out_first = matrix.shape[1 if kind == "gate_up_proj" else 0] == hidden
                upright = matrix if out_first else matrix.T
                if kind == "down_proj":
                    found[f"{layer}.{number}.down_proj"] = upright
                else:
                    half = len(upright) // 2
                    both = (upright[0::2], upright[1::2]) if name == "gpt_oss" else (upright[:half], upright[half:])
                    found[f"{layer}.{number}.gate_proj"], found[f"{layer}.{number}.up_proj"] = both
    return found


MIXTURES = [
    "mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v3", "gpt_oss", "llama4_text", "granitemoe", "qwen3_next",
]  # fmt: skip


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_of_a_mixture_that_transformers_saves(tmp_path: Path, name: str) -> None:
    base, tuned = saved_pair(tmp_path, mixture(name))
    compare(base, tuned, tmp_path / "out")
    before, after = experts_of(state_of(base), name), experts_of(state_of(tuned), name)
    assert before
    measured = sizes(tmp_path / "out")
    for key, matrix in before.items():
        layer, expert, kind = key.split(".")
        where = f"layers.{layer}.", f".experts.{expert}."
        (value,) = [v for x, v in measured.items() if all(word in x for word in where) and names_of(x) == kind]
        assert value == pytest.approx(size(matrix, after[key]), rel=1e-6), key
    linear = {x.removesuffix(".weight") for x in before_maps(state_of(base))}
    assert linear <= set(measured)  # attention, dense and shared MLPs


def names_of(module: str) -> str:
    last = module.rpartition(".")[2]
    return {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}.get(last, last)


def before_maps(state: dict[str, Tensor]) -> list[str]:
    """Linear maps of attention and MLPs that are no experts' and no router's."""
    maps = [x for x in state if state[x].ndim == 2 and ".layers." in x and "_proj" in x and ".experts." not in x]
    return [x for x in maps if x.endswith(".weight") and "proj" in x.split(".")[-2]]


def test_one_by_one_and_fused_are_the_same_experts(tmp_path: Path) -> None:
    """A base saved one by one and a tuned model that holds the fused tensors, as transformers has them in memory."""
    base, tuned = saved_pair(tmp_path, mixture("qwen3_moe"))
    state = state_of(tuned)
    fused = {name: x for name, x in state.items() if ".experts." not in name}
    for layer in range(2):
        stem = f"model.layers.{layer}.mlp.experts"
        pairs = [torch.cat([state[f"{stem}.{e}.{part}_proj.weight"] for part in ("gate", "up")]) for e in range(3)]
        fused[f"{stem}.gate_up_proj"] = torch.stack(pairs)
        fused[f"{stem}.down_proj"] = torch.stack([state[f"{stem}.{e}.down_proj.weight"] for e in range(3)])
    compare(base, tuned, tmp_path / "one")
    save_file(fused, tuned / "model.safetensors", metadata={"format": "pt"})
    compare(base, tuned, tmp_path / "fused")
    assert sizes(tmp_path / "one") == pytest.approx(sizes(tmp_path / "fused"))
    assert skipped(tmp_path / "fused") == {}


def test_what_one_side_lacks_and_what_is_beside_the_matrices_is_named(tmp_path: Path) -> None:
    base = {**tensors("llama"), "lm_head.weight": torch.ones(30, 12), "model.norm.weight": torch.ones(12)}
    after = {**draws(base, 1, 0.1), "score.weight": torch.ones(1, 12), "embed.weight": torch.ones(33, 12)}
    del after["model.layers.0.self_attn.q_proj.bias"]
    after["model.norm.weight"] = base["model.norm.weight"]
    compare(
        write(tmp_path / "a", base, config("llama")), write(tmp_path / "b", after, config("llama")), tmp_path / "out"
    )
    why = skipped(tmp_path / "out")
    assert why["score.weight"] == "only the tuned model has it"
    assert "only the base model" in why["model.layers.0.self_attn.q_proj.bias"]
    assert why["embed.weight"] == "it is (30, 12) in the base model and (33, 12) in the tuned one"
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    others = {str(x.module): x for x in lines if x.statistic == "other_relative_norm"}
    head, name = others["lm_head.weight"], "lm_head.weight"
    assert head.value == pytest.approx(size(base[name], after[name]), rel=1e-6)
    assert others["model.norm.weight"].value == 0
    assert others["model.layers.{layer}.mlp.up_proj.bias"].n == 2


def test_experts_are_one_kind_in_means_and_in_the_report(tmp_path: Path) -> None:
    from deltaw.report import write_report

    base, tuned = saved_pair(tmp_path, mixture("qwen3_moe"))
    compare(base, tuned, tmp_path / "out")
    each = [value for name, value in sizes(tmp_path / "out").items() if name.endswith("down_proj")]
    assert len(each) == 2 * EXPERTS["num_experts"]
    mean, count = mean_of(tmp_path / "out", "mlp.experts.down_proj")
    assert mean == pytest.approx(np.exp(np.mean(np.log(each))))
    assert count == len(each)
    write_report(tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "mlp.experts.down_proj" in text
    assert "Beside the matrices" in text
    assert "mlp.experts.2.down_proj" in text  # in the table of every matrix


def test_the_decoder_of_a_multimodal_base_and_a_tuned_text_model(tmp_path: Path) -> None:
    base, tuned = saved_pair(tmp_path, multimodal("gemma3"))
    state = {name: x for name, x in state_of(tuned).items() if "language_model" in name}
    text = json.loads((tuned / "config.json").read_text())["text_config"]
    (tuned / "config.json").write_text(json.dumps({**text, "model_type": "gemma3_text"}))
    compare(base, tuned_with(tuned, {}), tmp_path / "both")
    bare = {name.replace("language_model.", "", 1): x for name, x in state.items()}
    compare(base, tuned_with(tuned, bare), tmp_path / "text")
    assert sizes(tmp_path / "text") == pytest.approx(sizes(tmp_path / "both"))


def tuned_with(directory: Path, state: dict[str, Tensor]) -> Path:
    """The directory, with these tensors if there are any."""
    if state:
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
