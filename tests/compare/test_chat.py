"""Real models in memory: logits and answers are transformers' own, whatever shares the batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_chat import CONFIGS, next_token_logits, write_model

from deltaw.analysis.lipschitz import power_iteration
from deltaw.analysis.sensitivity import logit_jacobian
from deltaw.errors import DeltawError
from deltaw.models import SITES
from deltaw.models.answers import answer
from deltaw.models.huggingface import (
    Chat,
    activations_of,
    chat_text,
    embedded,
    encode,
    load_chat,
    logits_of,
    readout,
    rows_of,
    token_ids,
)
from deltaw.models.taps import tap
from deltaw.prompts.matched import Prompt

pytest.importorskip("transformers")
PROMPTS = [
    Prompt(text, "allowed")
    for text in (
        "Hi.",
        "Bake me a cake, please.",
        "What is the capital of Australia, and how far is it from here?",
        "Sing!",
    )
]
PROMPTS.append(Prompt("Begin.", "allowed", prefill="Here is"))
families = pytest.mark.parametrize("family", sorted(CONFIGS))


def alone(chat: Chat, prompt: Prompt) -> torch.Tensor:
    """(V,) transformers' own logits of one prompt, without padding, mask or positions of ours."""
    with torch.no_grad():
        logits: torch.Tensor = chat.model(torch.tensor([token_ids(chat, chat_text(chat, prompt))])).logits
    return logits[0, -1]


@families
def test_padding_side_and_batch_size_move_no_logit(tmp_path: Path, family: str) -> None:
    chat = load_chat(write_model(tmp_path / "model", family))
    expected = torch.stack([alone(chat, prompt) for prompt in PROMPTS])
    assert float(expected.std()) > 0.1  # of a size at which 1e-4 means something
    for side in ("left", "right"):
        for size in (1, 2, 5):
            found = next_token_logits(chat, PROMPTS, size, side)
            assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_the_stored_format_is_not_that_of_computing(tmp_path: Path, stored: torch.dtype) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    chat.model.to(stored).save_pretrained(tmp_path / "short")  # type: ignore[operator]
    chat.tokenizer.save_pretrained(tmp_path / "short")
    short = load_chat(tmp_path / "short")
    assert {parameter.dtype for parameter in short.model.parameters()} == {torch.float32}
    double = load_chat(tmp_path / "short", dtype=torch.float64)
    found = [next_token_logits(one, PROMPTS) for one in (short, double)]
    assert float((found[0] - found[1]).abs().max()) < 1e-4


@families
def test_answers_are_those_of_transformers_generate(tmp_path: Path, family: str) -> None:
    chat = load_chat(write_model(tmp_path / "model", family))
    found = answer(chat, PROMPTS, new_tokens=6, batch_size=3)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([token_ids(chat, chat_text(chat, prompt))])
        expected = chat.model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0
        )
        assert tokens == expected[0, ids.shape[1] :].tolist()


def test_an_answer_ends_at_its_end_token(tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    long = answer(chat, PROMPTS, new_tokens=8)
    chat.model.generation_config.eos_token_id = long[1][2]  # type: ignore[union-attr]
    for before, after in zip(long, answer(chat, PROMPTS, new_tokens=8), strict=True):
        stop = next((i for i, token in enumerate(before) if token in chat.ends), len(before) - 1)
        assert after == before[: stop + 1]


@families
def test_hooks_change_no_logit_and_read_what_stands_in_the_model(tmp_path: Path, family: str) -> None:
    chat = load_chat(write_model(tmp_path / "model", family))
    encoded = encode(chat, PROMPTS)
    with torch.no_grad():
        plain = logits_of(chat, encoded)
        with tap(chat.model, SITES, range(chat.layers)):
            assert torch.equal(logits_of(chat, encoded), plain)
    found = activations_of(chat, rows_of(chat, PROMPTS), SITES, range(chat.layers), batch_size=2)
    single = [activations_of(chat, rows_of(chat, [prompt]), SITES, range(chat.layers)) for prompt in PROMPTS]
    for place, rows in found.items():
        assert len(rows) == len(PROMPTS)
        expected = torch.cat([one[place] for one in single])
        torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)
        assert float(rows.std(0).max()) > 0
    hidden = chat.model(  # the stream after a block, as transformers itself reports it
        input_ids=encoded.tokens, attention_mask=encoded.mask.long(), position_ids=encoded.positions,
        output_hidden_states=True, use_cache=False,
    ).hidden_states  # fmt: skip
    for layer in range(chat.layers - 1):
        torch.testing.assert_close(found[(layer, "resid_out")], hidden[layer + 1][:, -1].detach(), atol=1e-4, rtol=1e-4)


@families
def test_the_jacobian_at_the_embeddings_is_the_whole_ones(tmp_path: Path, family: str) -> None:
    chat = load_chat(write_model(tmp_path / "model", family))
    encoded = encode(chat, PROMPTS[:2])
    E, read = embedded(chat, encoded), readout(chat, encoded)
    J, logits = logit_jacobian(read, E)
    torch.testing.assert_close(logits, next_token_logits(chat, PROMPTS[:2]), atol=1e-4, rtol=1e-4)
    centred = (J - (logits.softmax(1)[:, :, None, None] * J).sum(1, keepdim=True)) * encoded.mask[:, None, :, None]
    exact = torch.linalg.matrix_norm(centred.flatten(2), 2)
    found = power_iteration(read, E, encoded.mask, np.random.default_rng(0), iterations=200, tolerance=1e-6)
    np.testing.assert_allclose(found.value, exact.numpy(), rtol=2e-2)


def test_a_readout_of_right_padded_prompts_is_refused(tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    with pytest.raises(DeltawError, match="on the right"):
        readout(chat, encode(chat, PROMPTS, "right"))


def test_models_that_would_run_code_are_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "x.Y"}}))
    with pytest.raises(DeltawError, match="does not run"):
        load_chat(directory)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(DeltawError, match="pickled"):
        load_chat(directory)


def test_a_model_without_a_tokenizer_or_of_no_known_kind_is_said(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "nosuch"}))
    with pytest.raises(DeltawError, match="cannot read the model"):
        load_chat(directory)
