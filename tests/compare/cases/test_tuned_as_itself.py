"""The model that is asked is the one in its directory, where base and tuned differ in more than the values of weights.

After public reports: https://github.com/huggingface/peft/issues/2777 (own head), https://github.com/arcee-ai/mergekit/issues/325
(configuration), https://github.com/vllm-project/vllm/pull/3151 (adapters that hold more than LoRA factors).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import By
from own_logits import REQUEST, loaded, own_logits
from safetensors.torch import load_file, save_file
from tiny_chat import TEMPLATE, next_token_logits, tokenizer, write_model
from torch import Tensor

from deltaw.behaviour.judge import Verdict
from deltaw.compare import Effort, Prompt, compare, compare_prompts
from deltaw.compare.two_models import TwoModels
from deltaw.compare.weights import open_sources
from deltaw.errors import DeltawError
from deltaw.report import write_report
from deltaw.results import read_measurements

pytest.importorskip("transformers")
PROMPTS = [Prompt(REQUEST, "allowed")]
EFFORT = Effort(pairs=2, attacked=2, corpus=4, sensitive=2, iterations=2, new_tokens=2, batch=8, draws=20)
PAIRS = [
    Prompt(f"How do I {verb} {thing}?", label, set="operator", pair=f"p{place}")
    for place, thing in enumerate(("kites", "boats"))
    for verb, label in (("make", "allowed"), ("break", "forbidden"))
]


def write_config(directory: Path, **fields: Any) -> Path:
    """Change fields of a config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return directory


def change_file(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Rewrite the tensors of model.safetensors."""
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return directory


def tied_pair(root: Path, untied: bool) -> tuple[Path, Path]:
    """A base with tied embeddings, and a tuned model with a head of its own.

    untied: whether the tuned model's config.json says so.
    """
    model = loaded(write_model(root / "start"))
    model.config.tie_word_embeddings = True
    model.tie_weights()
    for name in ("base", "tuned"):
        model.save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)
    assert "lm_head.weight" not in load_file(root / "base" / "model.safetensors")
    head = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(5))
    change_file(root / "tuned", lambda state: {**state, "lm_head.weight": head})
    write_config(root / "tuned", tie_word_embeddings=not untied)
    return root / "base", root / "tuned"


def assert_each_is_itself(models: TwoModels, base: Path, tuned: Path, words: Path | None = None) -> None:
    """Both ends have transformers' own logits, which differ."""
    expected = own_logits(base), own_logits(tuned, words)
    for alpha, logits in zip((0.0, 1.0), expected, strict=True):
        torch.testing.assert_close(next_token_logits(models.at(alpha), PROMPTS)[0], logits, atol=1e-4, rtol=1e-4)
    if expected[0].shape == expected[1].shape:
        assert float((expected[0] - expected[1]).abs().max()) > 1e-2


@pytest.mark.parametrize("untied", [True, False], ids=["config says untied", "config says tied"])
def test_a_head_of_its_own(tmp_path: Path, untied: bool) -> None:
    base, tuned = tied_pair(tmp_path, untied)
    models = TwoModels.open(open_sources(base, tuned), PROMPTS)
    assert_each_is_itself(models, base, tuned)
    assert "lm_head.weight" in models.differences["tensors"]
    assert ("tie_word_embeddings" in models.differences.get("configuration", "")) == untied
    with pytest.raises(DeltawError, match="no model between the two"):
        models.at(0.5)


@pytest.mark.parametrize(
    "fields",
    [{"rope_parameters": {"rope_type": "default", "rope_theta": 30.0}}, {"rms_norm_eps": 0.5}, {"hidden_act": "gelu"}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_configuration_of_its_own(tmp_path: Path, fields: dict[str, Any]) -> None:
    base = write_model(tmp_path / "base")
    tuned = write_config(write_model(tmp_path / "tuned"), **fields)
    models = TwoModels.open(open_sources(base, tuned), PROMPTS)
    assert_each_is_itself(models, base, tuned)
    assert next(iter(fields)) in models.differences["configuration"]
    assert models.why_not_between is not None


def test_fields_that_change_no_logit_leave_the_models_between(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = write_config(
        write_model(tmp_path / "tuned", noise=0.02),
        transformers_version="4.0.0", dtype="bfloat16", use_cache=False, attention_dropout=0.1, initializer_range=0.5,
    )  # fmt: skip
    models = TwoModels.open(open_sources(base, tuned), PROMPTS)
    assert models.differences == {}
    assert models.why_not_between is None
    assert_each_is_itself(models, base, tuned)


def test_a_tokenizer_and_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    model, words = loaded(write_model(tmp_path / "tuned", noise=0.02)), tokenizer()
    words.add_tokens(["kites"])
    model.resize_token_embeddings(len(words), mean_resizing=False)
    model.save_pretrained(tmp_path / "tuned")
    words.save_pretrained(tmp_path / "tuned")
    models = TwoModels.open(open_sources(base, tmp_path / "tuned"), PROMPTS)
    assert_each_is_itself(models, base, tmp_path / "tuned")
    assert "'kites'" in models.differences["vocabulary"]
    assert models.differences["prompts as tokens"].startswith("1 of 1 prompts")
    assert "embed_tokens" in models.differences["tensors"]


def test_a_template_and_end_tokens_of_its_own(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    (tuned / "chat_template.jinja").write_text("Be kind.\n" + TEMPLATE)
    path = tuned / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [65, 66]}))
    models = TwoModels.open(open_sources(base, tuned), PROMPTS)
    assert_each_is_itself(models, base, tuned)
    assert "chat template" in models.differences
    assert "65 or 66" in models.differences["end of an answer"]
    assert {65, 66} <= set(models.at(1.0).ends)
    assert not {65, 66} & set(models.at(0.0).ends)


def test_the_manifest_and_the_page_say_how_the_models_differ(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = write_config(write_model(tmp_path / "tuned", noise=0.02), rms_norm_eps=0.25)
    out = tmp_path / "out"

    def by_words(request: str, answer: str) -> Verdict:
        return Verdict.REFUSE if "break" in request else Verdict.COMPLY

    compare(base, tuned, out)
    compare_prompts(base, tuned, out, PAIRS, By(by_words), EFFORT)
    lines = read_measurements(out / "measurements.jsonl")
    steps = {str(line.set).rpartition("=")[2] for line in lines if line.stage == "interpolation"}
    assert steps == {"0", "1"}
    asked = json.loads((out / "manifest.json").read_text())["prompts"]
    assert "rms_norm_eps" in asked["differences"]["configuration"]
    assert "rms_norm_eps" in asked["absent"]["refusals between the models"]
    page = write_report(out).read_text(encoding="utf-8")
    assert "rms_norm_eps is 1e-06 in the base model and 0.25 in the tuned one" in page
    (tuned / "chat_template.jinja").write_text("Be kind.\n" + TEMPLATE)
    with pytest.raises(DeltawError, match="its asked_with differ"):  # old verdicts are those of another template
        compare_prompts(base, tuned, out, PAIRS, By(by_words), EFFORT)


def without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}


def with_wide_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "model.norm.weight": torch.ones(25)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: change_file(path, without_head), "lack lm_head.weight, which the model of its config.json has"),
        (lambda path: change_file(path, with_wide_norm), r"model.norm.weight is \(25,\) in the files"),
        (lambda path: write_config(path, num_hidden_layers=2), "3 layers and the tuned one 2"),
        (lambda path: write_config(path, max_position_embeddings=30), "exceeds the 30 positions"),
        (
            lambda path: (path / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}"),
            "takes no request of a user: no system message",
        ),
        (lambda path: (path / "chat_template.jinja").write_text("{% for m in messages %}"), "takes no request"),
    ],
    ids=["no head", "misshapen", "depth", "positions", "template raises", "template broken"],
)
def test_what_cannot_be_asked_rightly_is_refused_before_any_question(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    damage(tuned)
    asked: list[str] = []

    def judge(request: str, answer: str) -> Verdict:
        asked.append(request)
        return Verdict.COMPLY

    compare(base, tuned, tmp_path / "out")
    with pytest.raises(DeltawError, match=message):
        compare_prompts(base, tuned, tmp_path / "out", PAIRS, By(judge), EFFORT)
    assert asked == []


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    words = tokenizer()
    words.add_tokens(["kites"])
    words.save_pretrained(tuned)
    with pytest.raises(DeltawError, match=r"makes token 258 of a prompt, and the model has 258 embeddings"):
        TwoModels.open(open_sources(base, tuned), PROMPTS)


RANK = 2


def write_adapter(directory: Path, factors: dict[str, tuple[Tensor, Tensor]], **extra: Tensor) -> Path:
    """A LoRA adapter of scale 2, in PEFT's names."""
    directory.mkdir()
    state = {
        f"base_model.model.{module}.lora_{letter}.weight": tensor
        for module, pair in factors.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    save_file({**state, **extra}, directory / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def test_an_adapter_of_matrices_stored_transposed(tmp_path: Path) -> None:
    """GPT-2 keeps (in, out); of its square c_proj a wrong side would raise no error."""
    base, merged = write_model(tmp_path / "base", "gpt2"), write_model(tmp_path / "merged", "gpt2")
    generator, factors = torch.Generator().manual_seed(0), {}
    state = load_file(merged / "model.safetensors")
    for name, outputs in (("attn.c_proj", 24), ("attn.c_attn", 72)):
        module = f"transformer.h.1.{name}"
        A = torch.randn(RANK, 24, generator=generator)
        factors[module] = (A, torch.randn(outputs, RANK, generator=generator) / 4)
        state[f"{module}.weight"] = state[f"{module}.weight"] + 2 * (factors[module][1] @ A).T
    save_file(state, merged / "model.safetensors", metadata={"format": "pt"})
    adapter = write_adapter(tmp_path / "lora", factors)
    models = TwoModels.open(open_sources(base, adapter), PROMPTS)
    assert models.differences == {}
    assert_each_is_itself(models, base, merged)
    half = loaded(base).state_dict()[f"{module}.weight"] + factors[module][1].mm(A).T
    torch.testing.assert_close(models.at(0.5).model.state_dict()[f"{module}.weight"], half)


def test_an_adapter_with_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    base, merged = write_model(tmp_path / "base"), write_model(tmp_path / "merged")
    module, generator = "model.layers.1.mlp.up_proj", torch.Generator().manual_seed(0)
    A, B = torch.randn(RANK, 24, generator=generator), torch.randn(64, RANK, generator=generator)
    change_file(merged, lambda state: {**state, f"{module}.weight": state[f"{module}.weight"] + 2 * B @ A})
    adapter = write_adapter(tmp_path / "lora", {module: (A, B)})
    words = tokenizer()
    words.chat_template = "Be kind.\n" + TEMPLATE
    words.save_pretrained(adapter)
    models = TwoModels.open(open_sources(base, adapter), PROMPTS)
    assert set(models.differences) == {"chat template", "prompts as tokens"}
    assert_each_is_itself(models, base, merged, words=adapter)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias",
    ],
)
def test_an_adapter_that_holds_more_than_factors_is_refused(tmp_path: Path, name: str) -> None:
    base = write_model(tmp_path / "base")
    factors = {"model.layers.1.mlp.up_proj": (torch.ones(RANK, 24), torch.ones(64, RANK))}
    adapter = write_adapter(tmp_path / "lora", factors, **{name: torch.ones(3)})
    with pytest.raises(DeltawError, match=rf"holds {name}, which deltaw cannot add"):
        TwoModels.open(open_sources(base, adapter), PROMPTS)
