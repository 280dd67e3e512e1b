"""What a model reads is its chat template's prompt and nothing else, whatever the template and the tokenizer lack.

After public reports: https://github.com/huggingface/transformers/pull/32865 (attention of Gemma 2),
https://github.com/EleutherAI/lm-evaluation-harness/issues/2109 (templates that raise), and those of tokenizers that add
an end. The oracles are transformers' own rendering, logits and generation.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from own_logits import REQUEST, loaded
from tiny_chat import TEMPLATE, next_token_logits, tokenizer, write_model

from deltaw.compare import Prompt, load_chat
from deltaw.compare.two_models import Loading, TwoModels, asking_files
from deltaw.compare.weights import open_sources
from deltaw.errors import DeltawError
from deltaw.models import answers
from deltaw.models.answers import answer
from deltaw.models.batched import batched
from deltaw.models.huggingface import (
    Chat,
    activations_of,
    chat_text,
    request_rows_of,
    rows_of,
    token_ids,
    transformers,
)

pytest.importorskip("transformers")
PROMPT = Prompt(REQUEST, "allowed")
TURN = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"

INSTRUCTIONS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{% endif %}{% endfor %}"
)


def with_template(directory: Path, template: str) -> Chat:
    write_model(directory)
    (directory / "chat_template.jinja").write_text(template)
    return load_chat(directory)


def by_hand(words: Any, text: str) -> list[int]:
    """Bytes and marks of turns, without any special token that a tokenizer adds."""
    ids: list[int] = words.convert_tokens_to_ids(words.tokenize(text))
    return ids


def save_adding(directory: Path, before: str, after: str, template: str | None) -> Any:
    """A tokenizer that puts tokens before and after every text."""
    words = tokenizer()
    words.add_special_tokens({"bos_token": "<s>"})
    names = [(name, words.convert_tokens_to_ids(name)) for name in (before, after) if name]
    processors = pytest.importorskip("tokenizers").processors
    parts = " ".join(part for part in (before, "$A", after) if part)
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single=parts, special_tokens=names)
    words.chat_template = template
    (directory / "chat_template.jinja").unlink()
    words.save_pretrained(directory)
    return words


@pytest.mark.parametrize("template", [None, TEMPLATE, "{{ bos_token }}" + TEMPLATE])
def test_one_beginning_and_no_end(tmp_path: Path, template: str | None) -> None:
    directory = write_model(tmp_path / "model")
    words = save_adding(directory, "<s>", "<|im_end|>", template)
    chat = load_chat(directory)
    found = token_ids(chat, chat_text(chat, PROMPT))
    begin = words.convert_tokens_to_ids("<s>")
    if template is None:
        assert found == [begin, *by_hand(words, f"{REQUEST}\n")]
    else:
        messages = [{"role": "user", "content": REQUEST}]
        assert found == words.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert found.count(begin) == template.startswith("{{ bos")


def test_an_answer_ends_where_the_template_ends_it(tmp_path: Path) -> None:
    """The tokenizer names the end of texts, the template ends a turn with another token."""
    directory = write_model(tmp_path / "model")
    words = tokenizer()
    words.add_special_tokens({"eos_token": "</s>"})
    words.save_pretrained(directory)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**settings, "eos_token_id": None}))
    chat = load_chat(directory)
    turn = words.convert_tokens_to_ids("<|im_end|>")
    assert chat.ends == sorted([turn, words.eos_token_id])
    with torch.no_grad():  # make it the answer's third token
        first = answer(chat, [PROMPT], 3)[0]
        chat.model.lm_head.weight[turn] = chat.model.lm_head.weight[first[2]] * 2  # type: ignore[union-attr,index,operator]
    ids = torch.tensor([token_ids(chat, chat_text(chat, PROMPT))])
    expected = chat.model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=9, pad_token_id=0, eos_token_id=turn
    )
    assert answer(chat, [PROMPT], 9)[0] == expected[0, ids.shape[1] :].tolist()
    assert len(answer(chat, [PROMPT], 9)[0]) < 9


def test_a_model_without_any_end_answers_to_the_full_length(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    words = tokenizer()
    words.eos_token, words.chat_template = None, None
    for directory in (base, tuned):
        (directory / "chat_template.jinja").unlink()
        words.save_pretrained(directory)
        for name in ("config.json", "generation_config.json"):
            settings = json.loads((directory / name).read_text())
            (directory / name).write_text(json.dumps({**settings, "eos_token_id": None}))
    models = TwoModels.open(open_sources(base, tuned), [PROMPT], 4)
    assert models.at(1.0).ends == []
    assert [len(tokens) for tokens in answer(models.at(1.0), [PROMPT] * 2, 4)] == [4, 4]
    assert set(models.notes) == {"no end of an answer", "chat template"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TURN, f"<|im_start|>user\n{REQUEST}<|im_end|>\n<|im_start|>assistant\n"),
        (
            INSTRUCTIONS,
            f"[INST] {REQUEST} [/INST]",
        ),
        (
            "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}:{% endfor %}",
            f"{REQUEST}:",
        ),
        ("{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}", f"26 Jul 2024 {REQUEST}"),
        ("{{ date_string }} {{ messages[0]['content'] }}", f"26 Jul 2024 {REQUEST}"),
        (TURN + "{% if thinking is defined and not thinking %}</think>{% endif %}", None),
    ],
    ids=["no generation prompt", "no header of an answer", "content in parts", "date", "given date", "thinking"],
)
def test_templates_of_many_kinds(tmp_path: Path, template: str, expected: str | None) -> None:
    found = chat_text(with_template(tmp_path / "model", template), PROMPT)
    if expected is None:
        assert "</think>" in found
    else:
        assert found == expected


def test_a_template_in_the_older_file_is_read(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    (directory / "chat_template.jinja").unlink()
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    words = tokenizer()
    messages = [{"role": "user", "content": REQUEST}]
    expected = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_text(load_chat(directory), PROMPT) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Hello{{ messages[0]['text'] }}", "leaves out the request"),
        ("{{ raise_exception('a system message is needed') }}", "a system message is needed"),
        ("{{ messages[0]['content'] + 1 }}", "takes no request of a user"),
        ("{% for m in messages %}{{ m }", "takes no request of a user"),
        ("{{ messages[9]['content'].strip() }}", "takes no request of a user"),
    ],
)
def test_a_template_that_takes_no_request_is_one_sentence(tmp_path: Path, template: str, message: str) -> None:
    chat = with_template(tmp_path / "model", template)
    with pytest.raises(DeltawError, match=message):
        chat_text(chat, PROMPT)


def test_half_a_character_is_one_sentence(tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    with pytest.raises(DeltawError, match="half a character"):
        token_ids(chat, chat_text(chat, Prompt("a\ud800b", "allowed")))


def test_attention_that_transformers_has_no_fast_form_of(tmp_path: Path) -> None:
    package = transformers()
    config = package.Gemma2Config(
        vocab_size=258, hidden_size=24, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, query_pre_attn_scalar=1, max_position_embeddings=512, eos_token_id=257,
    )  # fmt: skip
    torch.manual_seed(0)
    made = package.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
    made.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    chat = load_chat(tmp_path / "model")
    ids = torch.tensor([token_ids(chat, chat_text(chat, PROMPT))])
    with torch.no_grad():
        expected = loaded(tmp_path / "model")(ids).logits[0, -1]
    prompts = [PROMPT, Prompt("Hi.", "allowed")]
    torch.testing.assert_close(next_token_logits(chat, prompts)[0], expected, atol=1e-4, rtol=1e-4)
    said = chat.model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0
    )
    assert answer(chat, prompts, 6)[0] == said[0, ids.shape[1] :].tolist()


def test_the_template_is_the_users_choice(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    (tuned / "chat_template.jinja").write_text("Be kind.\n" + TEMPLATE)
    given = tmp_path / "given.jinja"
    given.write_text("Be quick.\n" + TEMPLATE)
    plain = chat_text(load_chat(base), PROMPT)
    kind, quick = "Be kind.\n" + plain, "Be quick.\n" + plain
    sources = open_sources(base, tuned)
    for template, texts in {
        "own": (plain, kind), "base": (plain, plain), "tuned": (kind, kind), str(given): (quick, quick),
    }.items():  # fmt: skip
        models = TwoModels.open(sources, [PROMPT], loading=Loading(template=template))
        assert tuple(chat_text(models.at(alpha), PROMPT) for alpha in (0.0, 1.0)) == texts
        assert ("chat template" in models.differences) == (template == "own")
        assert ("chat template" in models.notes) == (template != "own")
    with pytest.raises(DeltawError, match="cannot be read"):
        Loading(template=str(tmp_path / "none.jinja"))


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("request_text", ["Say hi.", "  Say hé. \n", "Say user", "assistant"])
def test_the_last_token_of_a_request_is_found_in_its_template(
    tmp_path: Path, template: bool, request_text: str
) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    if not template:
        chat.tokenizer.chat_template = None
    prompt = Prompt(request_text, "allowed", prefill="Say hi.")
    (row,), (whole,) = request_rows_of(chat, [prompt]), rows_of(chat, [prompt])
    assert row == whole[: len(row)]
    assert chat.tokenizer.decode(row).endswith(request_text.strip())
    assert len(row) < len(whole)
    behind_it = "<|im_end|>\n<|im_start|>assistant\n" if template else ""
    assert chat.tokenizer.decode(whole[len(row) :]).lstrip() == f"{behind_it}Say hi."
    at_request = activations_of(chat, [row], ("resid_out",), range(3))
    behind = activations_of(chat, [whole], ("resid_out",), range(3))
    assert float((at_request[(0, "resid_out")] - behind[(0, "resid_out")]).abs().max()) > 1e-3


def test_a_template_that_changes_the_request_hides_its_last_token(tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    chat.tokenizer.chat_template = TEMPLATE.replace("m['content']", "m['content'] | replace(' ', '  ')")
    with pytest.raises(DeltawError, match="changes the request"):
        request_rows_of(chat, [Prompt("Say hi.", "allowed")])


def test_answers_can_be_computed_in_another_format_than_activations(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    sources = open_sources(base, tuned)
    models = TwoModels.open(sources, [PROMPT], loading=Loading(answer_dtype="bfloat16"))
    for alpha, directory in ((0.0, base), (1.0, tuned)):
        answering = models.answering(alpha)
        assert answering is models.answering(alpha)  # one copy
        loaded = load_chat(directory, torch.bfloat16)
        assert answer(answering, [PROMPT], 6) == answer(loaded, [PROMPT], 6)
        for name in ("named_parameters", "named_buffers"):
            mine, theirs = (dict(getattr(chat.model, name)()) for chat in (answering, loaded))
            assert mine.keys() == theirs.keys() != set()
            assert all(mine[key].dtype == x.dtype and torch.equal(mine[key], x) for key, x in theirs.items())
        assert {parameter.dtype for parameter in models.at(alpha).model.parameters()} == {torch.float32}
    between = models.answering(0.5)
    half = next(iter(models.at(0.5).model.parameters()))
    torch.testing.assert_close(next(iter(between.model.parameters())), half.to(torch.bfloat16), rtol=0, atol=0)
    plain = TwoModels.open(sources, [PROMPT])
    assert plain.answering(1.0) is plain.at(1.0)
    keys = [asking_files(sources, Loading(answer_dtype=dtype)) for dtype in (None, "bfloat16")]
    assert keys[0] == asking_files(sources, Loading())
    assert keys[0]["tuned"] != keys[1]["tuned"]
    for wrong in (
        {"answer_dtype": "int8"},
        {"answer_dtype": "auto"},
        {"answer_dtype": "float16", "device_map": "auto"},
    ):
        with pytest.raises(DeltawError, match="answer_dtype"):
            Loading(**wrong)


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, RuntimeError])
def test_batches_become_smaller_when_the_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    prompts = [Prompt(f"Hi {place}.", "allowed") for place in range(7)]
    expected, real, sizes = answer(chat, prompts, 3), answers.decoded, list[int]()

    def full(chat: Chat, rows: Any, new_tokens: int) -> list[list[int]]:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise kind("DefaultCPUAllocator: not enough memory")
        return real(chat, rows, new_tokens)

    monkeypatch.setattr(answers, "decoded", full)
    assert answer(chat, prompts, 3, batch_size=8) == expected
    assert sizes == [7, 3, 1, *[1] * 6]


def test_work_that_never_fits_is_one_sentence_and_other_faults_are_not_hidden() -> None:
    def full(batch: object) -> None:
        raise MemoryError

    def wrong(batch: object) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(DeltawError, match="the memory is full although one prompt"):
        list(batched([1, 2, 3], 2, full))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(batched([1, 2, 3], 2, wrong))
