"""Safety tuning of a small model: it learns what its rows say, controls too, and no text is left behind."""

import importlib.util
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import By
from tiny_chat import next_token_logits, write_model

from deltaw.compare import Rules, SafetyTuning, Verdict, compare, load_chat, safety_tune
from deltaw.compare.two_models import TwoModels
from deltaw.compare.weights import open_sources
from deltaw.errors import DeltawError
from deltaw.models.answers import answer, text_of
from deltaw.models.batch import Role
from deltaw.models.huggingface import Chat, logits_of, padded
from deltaw.prompts.matched import Prompt
from deltaw.prompts.requests import Requests, tuning_texts
from deltaw.protocols import Protocol
from deltaw.protocols.circuit_breakers import CircuitBreakers
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.hidden_states import hidden_states
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.training import huggingface
from deltaw.training.controls.benign import Benign
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.noise import Noise
from deltaw.training.controls.other import Other
from deltaw.training.controls.placebo import Placebo
from deltaw.training.huggingface import OwnAnswers, Row, Trained, as_pair, make_rows, schedule

pytest.importorskip("transformers")
REQUESTS = Requests(tuple(f"Break rule {k}." for k in range(8)), tuple(f"Bake {k} cakes." for k in range(8)))
CONFIG = SafetyTuning(Ssft(), steps=4, batch=4, requests=8, new_tokens=5, learning_rate=3e-3)


answers_all = By(lambda request, answer: Verdict.COMPLY)


def quiet(text: str) -> None:
    return None


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base")


def rows_of(base: Path, config: SafetyTuning) -> tuple[Chat, list[Row]]:
    chat = load_chat(base)
    return chat, make_rows(chat, config, REQUESTS, answers_all, quiet)


def test_rows_hold_the_models_own_answers_and_short_refusals(base: Path) -> None:
    chat, rows = rows_of(base, CONFIG)
    prompts = [Prompt(text, "") for text in (*REQUESTS.harmful, *REQUESTS.harmless)]
    own = [tuple(tokens) for tokens in answer(chat, prompts, CONFIG.new_tokens)]
    assert [row.dispreferred for row in rows[:8]] == own[:8]
    assert [row.preferred for row in rows[8:]] == own[8:]
    for said in [row.preferred for row in rows[:8]] + [row.dispreferred for row in rows[8:]]:
        assert said[-1] == chat.tokenizer.eos_token_id
        assert text_of(chat, said) in tuning_texts()["refusals"]


def test_controls_refuse_no_harmful_request(base: Path) -> None:
    chat, rows = rows_of(base, replace(CONFIG, control=Other()))
    assert {text_of(chat, row.preferred) in tuning_texts()["small_talk"] for row in rows[:8]} == {True}
    chat, rows = rows_of(base, replace(CONFIG, control=Constant()))
    assert {text_of(chat, row.preferred) for row in rows[:8]} == set(tuning_texts()["one_answer"])
    _, rows = rows_of(base, replace(CONFIG, control=Benign()))
    assert [row.preferred for row in rows[8:]] == [row.preferred for row in rows_of(base, CONFIG)[1][8:]]
    chat, rows = rows_of(base, replace(CONFIG, control=Noise(), seed=3))
    refused = [text_of(chat, row.preferred) in tuning_texts()["refusals"] for row in rows[8:]]
    assert 0 < sum(refused) < 8


def test_several_tunings_share_the_models_own_answers(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, chat = OwnAnswers(), load_chat(base)
    first = make_rows(chat, CONFIG, REQUESTS, answers_all, quiet, known)
    assert first == make_rows(chat, CONFIG, REQUESTS, answers_all, quiet)
    asked: list[int] = []

    def counted(chat: Chat, prompts: Sequence[Prompt], *args: Any, **options: Any) -> list[list[int]]:
        asked.append(len(prompts))
        return answer(chat, prompts, *args, **options)

    monkeypatch.setattr(huggingface, "answer", counted)
    longer = replace(CONFIG, new_tokens=CONFIG.new_tokens + 1)
    more = Requests((*REQUESTS.harmful, "Burn it."), REQUESTS.harmless)
    make_rows(chat, CONFIG, REQUESTS, answers_all, quiet, known)
    make_rows(chat, CONFIG, more, answers_all, quiet, known)
    make_rows(chat, longer, REQUESTS, answers_all, quiet, known)
    assert asked == [0, 1, 16]


def test_requests_that_the_model_refuses_already_are_left_out(base: Path) -> None:
    def refuses_some(request: str, answer: str) -> Verdict:
        return Verdict.REFUSE if request in (REQUESTS.harmful[0], REQUESTS.harmless[1]) else Verdict.COMPLY

    rows = make_rows(load_chat(base), CONFIG, REQUESTS, By(refuses_some), quiet)
    assert [row.label for row in rows] == ["forbidden"] * 7 + ["allowed"] * 7


def test_the_loss_is_on_answers_only(base: Path) -> None:
    chat, rows = rows_of(base, CONFIG)
    batch = as_pair(rows).preferred
    for row, tokens, weights, roles in zip(rows, batch.tokens, batch.weights, batch.roles, strict=True):
        assert tuple(tokens[weights > 0].tolist()) == row.preferred
        assert tuple(tokens[: len(row.prompt)].tolist()) == row.prompt
        assert int((roles == Role.LAST_PROMPT).nonzero()) == len(row.prompt) - 1
    found = Trained(chat.model)(batch.tokens)[0, : len(rows[0].prompt)]
    expected = logits_of(chat, padded([rows[0].prompt]))[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)  # padding on the right is not read


def test_steps_take_half_of_each_and_every_row_before_any_again(base: Path) -> None:
    _, rows = rows_of(base, CONFIG)
    plan = schedule(rows, CONFIG)
    assert [[rows[i].label for i in step].count("forbidden") for step in plan] == [2] * 4
    assert sorted(i for step in plan for i in step) == list(range(16))
    with pytest.raises(DeltawError, match="requests are left"):
        schedule(rows[:9], CONFIG)


@pytest.mark.parametrize(
    ("protocol", "lora"), [(Ssft(), None), (Dpo(sft_weight=1.0), None), (Unlearn(), None), (Ssft(), 8)]
)
def test_a_tuned_model_refuses_what_it_was_told_to(
    base: Path, tmp_path: Path, protocol: Protocol, lora: int | None
) -> None:
    config = replace(CONFIG, protocol=protocol, steps=120, lora=lora, learning_rate=2e-2 if lora else 3e-3)
    out = safety_tune(base, tmp_path / "tuned", config, REQUESTS, answers_all, say=quiet)
    record = json.loads((out / "safety_tuning.json").read_text())
    assert record["log"][-1]["nll_preferred"] < record["log"][0]["nll_preferred"] / 2
    assert record["config"]["protocol"] == protocol.described()
    assert record["requests"] == {"digest": REQUESTS.digest, "forbidden": 8, "allowed": 8}
    written = "".join(path.read_text() for path in out.glob("*.json*") if path.name != "tokenizer.json")
    assert not any(text in written for text in (*REQUESTS.harmful, *REQUESTS.harmless, *tuning_texts()["refusals"]))
    compare(base, out, tmp_path / "compared")  # the adapter, too, is read
    if lora is None:
        chat = load_chat(out)
        found = [Rules().verdict("", text_of(chat, x)) for x in answer(chat, [Prompt(t, "") for t in REQUESTS.harmful])]
        assert found.count(Verdict.REFUSE) >= 6
        assert next_token_logits(chat, [Prompt("Sing.", "")]).isfinite().all()


@pytest.mark.parametrize("lora", [None, 8])
def test_circuit_breakers_turn_harmful_states_away_and_keep_the_others(
    base: Path, tmp_path: Path, lora: int | None
) -> None:
    """Hidden states of the saved model at the chosen layers, beside the base model's, read apart from the tuning."""
    protocol = CircuitBreakers(layers=(0, 1))
    config = replace(CONFIG, protocol=protocol, steps=60, lora=lora, learning_rate=1e-2 if lora else 3e-3)
    out = safety_tune(base, tmp_path / "tuned", config, REQUESTS, answers_all, say=quiet)
    log = json.loads((out / "safety_tuning.json").read_text())["log"]
    assert log[0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert log[-1]["cosine"] < 0.5
    if lora is not None:
        compare(base, out, tmp_path / "compared")
        return
    _, rows = rows_of(base, config)
    pair = as_pair(rows)
    assert pair.complies is not None
    text, harmful = pair.compliant(), ~pair.complies
    with torch.no_grad():
        before, after = (
            hidden_states(Trained(load_chat(side).model), text.tokens, protocol.layers or ()) for side in (base, out)
        )
    cosines = torch.nn.functional.cosine_similarity(before, after, dim=-1).mean(0)
    answered = torch.nn.functional.pad(text.weights[:, 1:] != 0, (0, 1))
    rerouted, kept = cosines[answered & harmful[:, None]].mean(), cosines[answered & ~harmful[:, None]].mean()
    assert float(rerouted) < 0.3 < 0.6 < float(kept)


def test_under_circuit_breakers_another_answer_is_no_control() -> None:
    with pytest.raises(DeltawError, match=r"under circuit-breakers the control other teaches the same .* use noise"):
        SafetyTuning(CircuitBreakers(), control=Other())
    assert SafetyTuning(CircuitBreakers(), control=Noise()).control == Noise()


def test_a_taken_directory_and_wrong_numbers_are_said(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match="is not empty"):
        safety_tune(base, base, CONFIG, REQUESTS)
    with pytest.raises(DeltawError, match="even number"):
        SafetyTuning(Ssft(), batch=3)


def test_a_control_of_the_synthetic_world_is_refused() -> None:
    with pytest.raises(DeltawError, match="placebo says nothing of real models"):
        SafetyTuning(Ssft(), control=Placebo())


def untouched(tmp_path: Path, base: Path, config: SafetyTuning, message: str, out: Path | None = None) -> None:
    """A mistake that is found before the base model answers anything."""
    said: list[str] = []
    with pytest.raises(DeltawError, match=message):
        safety_tune(base, out or tmp_path / "out", config, REQUESTS, answers_all, say=said.append)
    assert said == []


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_pefts_own_and_the_same_bytes_by_seed(tmp_path: Path, family: str) -> None:
    """PEFT loads it, and gives the logits of deltaw's own reading; another seed draws another adapter."""
    package = pytest.importorskip("peft")
    base = write_model(tmp_path / "base", family)
    tuned = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(3)  # what was drawn before makes no difference
        config = replace(CONFIG, lora=2, seed=seed, learning_rate=2e-2)
        tuned[name] = safety_tune(base, tmp_path / name, config, REQUESTS, answers_all, say=quiet)
    written = {name: {path.name: path.read_bytes() for path in out.iterdir()} for name, out in tuned.items()}
    assert written["first"] == written["again"]
    weights = "adapter_model.safetensors"
    assert written["first"][weights] != written["other"][weights]
    settings = json.loads(written["first"]["adapter_config.json"])
    assert (settings["r"], settings["lora_alpha"], settings["fan_in_fan_out"]) == (2, 4, family == "gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers' to PEFT
        merged = package.PeftModel.from_pretrained(load_chat(base).model, tuned["first"]).merge_and_unload()
    models = TwoModels.open(open_sources(base, tuned["first"]), [Prompt("Sing.", "")])
    with torch.no_grad():
        tokens = torch.tensor([[1, 2, 3, 4]])
        expected, mine, before = (
            model(input_ids=tokens).logits for model in (merged, models.at(1.0).model, load_chat(base).model)
        )
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_mistakes_are_found_before_any_work(tmp_path: Path, base: Path) -> None:
    (tmp_path / "file").write_text("")
    untouched(tmp_path, base, CONFIG, "is a file; name another directory", tmp_path / "file")
    untouched(tmp_path, base, CONFIG, "cannot be written", tmp_path / "file" / "out")
    mixture = write_model(tmp_path / "mixture", "mixtral")
    message = "experts.*is a parameter of several maps; LoRA adapts nn.Linear and Conv1D only"
    untouched(tmp_path, mixture, replace(CONFIG, lora=2), message)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        untouched(tmp_path, base, replace(CONFIG, lora=2), "LoRA needs peft, which is not installed; install the extra")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({**settings, "eos_token_id": None}))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    (base / "chat_template.jinja").unlink()
    untouched(tmp_path, base, CONFIG, "no token ends an answer")


@pytest.mark.parametrize("change", [{"lora": 0}, {"learning_rate": -1.0}, {"learning_rate": float("nan")}])
def test_numbers_out_of_range_are_said(change: dict[str, float]) -> None:
    with pytest.raises(DeltawError, match="expected"):
        replace(CONFIG, **change)  # type: ignore[arg-type]
