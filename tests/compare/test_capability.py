"""Capability beside safety: losses as transformers has them, answers that are checked, and where both are shown."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judging import By
from tiny_chat import SPECIAL, tokenizer, write_model

from deltaw.behaviour.exact import Behaviour
from deltaw.compare import Effort, Loading, Prompt, Verdict, builtin_prompts, compare, compare_prompts, lens, load_chat
from deltaw.compare.capability import sentence, summary
from deltaw.compare.interventions import judged_by
from deltaw.compare.lens import HuggingFaceModel, prompts_of
from deltaw.compare.model_list import ListedModel, ModelList
from deltaw.compare.prompted import JOURNAL
from deltaw.compare.several import compare_several
from deltaw.compare.tuned_models import Asking
from deltaw.errors import DeltawError
from deltaw.models.chat_prompts import text_ids
from deltaw.models.huggingface import rows_of
from deltaw.observations.capability.measure import Capability
from deltaw.observations.lens import BaseSide, Lens, TextLoss
from deltaw.observations.prompts import Effort as ObservationEffort
from deltaw.observations.prompts import Prompts
from deltaw.prompts.neutral import ExactQuestion, exact_questions, is_right, neutral_texts
from deltaw.report import write_report
from deltaw.results import Measurement, read_measurements
from deltaw.results.recorder import Sheet

pytest.importorskip("transformers")
EFFORT = Effort(pairs=4, attacked=2, corpus=4, sensitive=2, iterations=2, new_tokens=2, batch=8, draws=40)
FEW = [p for p in builtin_prompts() if p.set == "operand" and p.pair is not None and p.pair.endswith("/0")]
LOOSE = [Prompt("Sing.", "allowed"), Prompt("Dance.", "allowed"), Prompt("Steal.", "forbidden")]
refuses_bombs = By(lambda request, answer: Verdict.REFUSE if "bomb" in request else Verdict.COMPLY)
ONLY: dict[str, Any] = {"observations": (Capability(),), "attacks": ()}


def test_texts_and_questions_are_what_they_are_said_to_be() -> None:
    texts, questions = neutral_texts(), exact_questions()
    assert (len(set(texts)), len({question.text for question in questions})) == (32, 48)
    assert all(question.text.endswith("?") and question.prompt.label == "allowed" for question in questions)
    for question in questions:
        assert all(is_right(question, accepted) for accepted in question.answers)
        assert not is_right(question, question.text), "an echo of the question is no answer"
        assert not is_right(question, "I'm sorry, but I can't help with that.")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("7 plus 5 is 12.", True), ("Twelve!", True), ("12", True), ("(12)", True), ("It is 112.", False),
        ("It is 12.5", False), ("It is 3.12", False), ("about 12,000", False), ("12, of course", True), ("", False),
    ],
)  # fmt: skip
def test_an_answer_is_right_if_it_holds_an_accepted_one_as_whole_words(answer: str, right: bool) -> None:
    assert is_right(ExactQuestion("What is 7 plus 5?", ("12", "twelve")), answer) is right


class Adding:
    """A tokenizer that puts its own tokens around a text."""

    def __init__(self, before: list[int], after: list[int]) -> None:
        self.words, self.before, self.after = tokenizer(), before, after
        self.eos_token_id = self.words.eos_token_id

    def __call__(self, text: str, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        bare = self.words(text, add_special_tokens=False)["input_ids"]
        return {"input_ids": [*self.before, *bare, *self.after] if add_special_tokens else bare}


def test_special_tokens_are_read_before_a_text_and_never_predicted() -> None:
    end = tokenizer().eos_token_id
    start = tokenizer().convert_tokens_to_ids(SPECIAL[0])
    assert text_ids(Adding([], []), "abc") == ([*tokenizer()("abc")["input_ids"]], 1)
    with_start, first = text_ids(Adding([start], [end]), "abc")
    assert (with_start[0], len(with_start), first) == (start, 4, 1)
    assert text_ids(Adding([start, start], []), "abc")[1] == 2


def test_the_loss_is_transformers_own(tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / "model"))
    texts = neutral_texts()[:5]
    model = HuggingFaceModel(lambda: chat, rows_of, lambda chat, prompts: np.zeros(0, dtype=bool), jacobian_rows=2)
    loss = model.text_loss(texts)
    for text, nats, count in zip(texts, loss.nats, loss.tokens, strict=True):
        ids = torch.tensor([chat.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            alone: Any = chat.model(input_ids=ids, labels=ids)
        assert count == ids.shape[1] - 1
        assert nats / count == pytest.approx(float(alone.loss), rel=1e-5)


class Planted:
    """A model that does what a test says."""

    layers = range(1)

    def __init__(self, nats: list[float], tokens: list[float], labels: list[Behaviour], order: list[str]) -> None:
        self.loss = TextLoss(np.array(nats), np.array(tokens))
        self.labels, self.order = np.array([int(label) for label in labels]), order

    def text_loss(self, texts: Any) -> TextLoss:
        self.order.append("loss")
        return self.loss

    def exact(self, questions: Any) -> Any:
        self.order.append("exact")
        return self.labels


def planted(base: Planted, tuned: Planted) -> list[Measurement]:
    prompts = Prompts((), neutral=["x"] * len(base.loss.nats), exact=["y"] * len(base.labels))
    side = BaseSide(base, prompts, ObservationEffort(draws=400, bootstrap=400), 0)  # type: ignore[arg-type]
    sheet = Sheet(stage="analysis", model="tuned", seed=0)
    Capability().measure(Lens(side, tuned), sheet)  # type: ignore[arg-type]
    return sheet.lines


def test_planted_losses_and_answers() -> None:
    """Texts of other lengths to the tuned model's tokenizer; a small change in all texts, whose losses differ a lot."""
    right, wrong, refused = Behaviour.COMPLY, Behaviour.NEITHER, Behaviour.REFUSE
    order: list[str] = []
    base = Planted([100.0 * k for k in range(1, 9)], [50.0] * 8, [right] * 6 + [wrong] * 2, order)
    after = [100.0 * k + 5 + k / 10 for k in range(1, 9)]
    tuned = Planted(after, [25.0] * 8, [right] * 2 + [refused] * 4 + [wrong, right], order)
    lines = {line.statistic: line for line in planted(base, tuned)}
    assert set(lines) == {statistic.name for statistic in Capability.statistics}
    assert lines["neutral_loss_base"].value == pytest.approx(9)
    assert lines["neutral_loss"].value == pytest.approx(np.mean(after) / 50)  # per token of the base's tokenizer
    change = lines["neutral_loss_change"]
    assert change.value == pytest.approx(5.45 / 50)
    assert change.low is not None
    assert change.null_high is not None
    assert 5.1 / 50 < change.low < change.value, "paired by text"
    assert change.null_kind == "model_swap"
    assert change.null_high < change.value
    assert lines["neutral_loss"].low is not None
    assert lines["neutral_loss"].low < lines["neutral_loss_base"].value, "unpaired, the difference is not seen"
    assert {name: lines[name].value for name in lines if "rate" in name} == {
        "right_rate": 3 / 8, "right_rate_base": 6 / 8, "right_rate_change": -3 / 8,
        "question_refuse_rate": 4 / 8, "question_refuse_rate_base": 0, "question_refuse_rate_change": 4 / 8,
    }  # fmt: skip
    assert (lines["right_rate"].set, lines["right_rate"].n, lines["neutral_loss"].set) == ("questions", 8, "neutral")
    assert order == ["loss", "exact"] * 2, "all of the base model before the tuned one"


def test_a_model_that_is_itself_loses_nothing(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    out = tmp_path / "out"
    compare(base, write_model(tmp_path / "tuned"), out)
    lines = read_measurements(compare_prompts(base, tmp_path / "tuned", out, FEW, refuses_bombs, EFFORT, **ONLY))
    known = {line.statistic: line for line in lines}
    for name in ("neutral_loss", "right_rate", "question_refuse_rate"):
        assert known[f"{name}_change"].value == 0
        assert known[name].value == known[f"{name}_base"].value


def test_answers_are_right_refused_or_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model says is planted as tokens; a thought is no answer."""
    said = ["It is Paris.", "I refuse.", "<think>Rome</think> Cairo", "Berlin"]
    questions = [ExactQuestion(f"Where {k}?", (x,)) for k, x in enumerate(("Paris", "Tokyo", "Rome", "Lima"))]
    chat = load_chat(write_model(tmp_path / "model"))
    monkeypatch.setattr(
        lens, "answers_to_rows", lambda *_: [chat.tokenizer(x, add_special_tokens=False)["input_ids"] for x in said]
    )
    judge = By(lambda request, answer: Verdict.REFUSE if "refuse" in answer else Verdict.COMPLY)
    model = HuggingFaceModel(lambda: chat, rows_of, lambda chat, prompts: np.zeros(0, dtype=bool))
    with pytest.raises(DeltawError, match="was given no judge"):
        model.exact(questions)
    model.judged = judged_by(judge)
    right, wrong, refused = Behaviour.COMPLY, Behaviour.NEITHER, Behaviour.REFUSE
    assert model.exact(questions).tolist() == [right, refused, wrong, wrong]


def test_prompts_without_pairs_are_enough_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    out = tmp_path / "out"
    compare(base, tuned, out)
    said: list[str] = []
    lines = read_measurements(compare_prompts(base, tuned, out, LOOSE, refuses_bombs, EFFORT, say=said.append))
    known = {line.statistic: line for line in lines}
    assert {line.statistic for line in lines if line.stage == "analysis"} == {x.name for x in Capability.statistics}
    assert known["neutral_loss"].n == EFFORT.pairs, "bounded by the effort"
    assert known["neutral_loss"].value == pytest.approx(
        known["neutral_loss_base"].value + known["neutral_loss_change"].value
    )
    manifest = json.loads((out / "manifest.json").read_text())["prompts"]
    assert manifest["absent"]["neutral texts"] == "4 of 32 are used, as the effort allows"
    numbers = manifest["capability"]
    assert numbers["harmless prompts answered (corpus)"] == {"base": 1, "tuned": 1}
    assert numbers["loss on neutral texts"]["tuned"] == known["neutral_loss"].value
    assert said[-1].startswith("base → tuned: harmful prompts refused (corpus) 0.00 → 0.00; harmless prompts refused")
    text = (out / JOURNAL).read_text()
    assert not any(question.text in text for question in exact_questions())

    def fails(*_: object) -> None:
        raise AssertionError("computed twice")

    monkeypatch.setattr(lens, "row_losses", fails)
    assert read_measurements(compare_prompts(base, tuned, out, LOOSE, refuses_bombs, EFFORT)) == lines


def test_a_context_too_short_for_the_texts_is_said_and_all_else_is_measured(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    for side in (base, tuned):
        config = json.loads((side / "config.json").read_text())
        (side / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 200}))
    out = tmp_path / "out"
    compare(base, tuned, out)
    lines = read_measurements(compare_prompts(base, tuned, out, LOOSE, refuses_bombs, EFFORT))
    assert not any(line.statistic.startswith("neutral_loss") for line in lines)
    absent = json.loads((out / "manifest.json").read_text())["prompts"]["absent"]["capability"]
    assert "has 200 positions, so that losses are not measured" in absent


def test_the_page_shows_over_refusal_beside_capability(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=0.02)
    out = tmp_path / "out"
    compare(base, tuned, out)
    effort = replace(EFFORT, draws=10)
    lines = read_measurements(compare_prompts(base, tuned, out, FEW, refuses_bombs, effort, **ONLY))
    assert any(x.statistic == "comply_rate_change" and x.set == "operand/allowed" for x in lines)
    assert not any(x.statistic == "comply_rate_change" and x.set == "operand/forbidden" for x in lines)
    page = write_report(out).read_text(encoding="utf-8")
    assert 'id="figure-prompts-capability"' in page
    table = page[page.index("Safety, over-refusal and capability") :]
    for row in ("harmless prompts refused: over-refusal (operand)", "harmless prompts answered (operand)",
                "questions answered rightly", "loss on neutral texts, nats per token"):  # fmt: skip
        assert row in table


def test_the_page_of_several_models_has_a_row_a_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = [
        ListedModel(name, str(write_model(tmp_path / name, noise=noise)), name == "second")
        for name, noise in (("first", 0.02), ("second", 0.03))
    ]
    asking = Asking(FEW, {"judge": refuses_bombs, "effort": EFFORT, "loading": Loading(), "attacks": [],
                          "observations": (Capability(),)})  # fmt: skip
    out = tmp_path / "out"
    compare_several(ModelList(str(base), tuple(tuned)), out, asking=asking)
    lines = read_measurements(out / "measurements.jsonl")
    rates = {line.model: line.value for line in lines if line.statistic == "neutral_loss"}
    own = {
        line.value
        for directory in (out / "models").iterdir()
        if directory.is_dir()
        for line in read_measurements(directory / "measurements.jsonl")
        if line.statistic == "neutral_loss"
    }
    assert set(rates) == {"first", "second"}
    assert set(rates.values()) == own
    page = write_report(out).read_text(encoding="utf-8")
    table = page[page.index("Capability beside safety, prompts of the set operand") :]
    assert table.index("base") < table.index("first") < table.index("second (control)")


def test_the_sentence_at_the_end() -> None:
    sheet = Sheet(stage="behaviour", seed=0)
    for model, rate in (("base", 0.0), ("tuned", 0.5)):
        sheet.add("refuse_rate", rate, set="operand/allowed", model=model, unit="share")
        sheet.add("refuse_rate", 1.0, set="operand/allowed", model=model, attack="prefill", unit="share")
    sheet.with_(stage="analysis", model="tuned").add("right_rate", 0.25, set="questions")
    sheet.with_(stage="analysis", model="tuned").add("right_rate_base", 0.75, set="questions")
    expected = "base → tuned: harmless prompts refused (operand) 0.00 → 0.50; questions right 0.75 → 0.25"
    assert sentence(summary(sheet.lines)) == expected
    assert math.isclose(summary(sheet.lines)["questions right"]["base"], 0.75)


def test_the_effort_bounds_texts_and_questions() -> None:
    few, every = (prompts_of(FEW, replace(EFFORT, pairs=pairs), {}) for pairs in (3, None))
    assert (len(few.neutral), len(few.exact)) == (3, 3)
    assert (len(every.neutral), len(every.exact)) == (32, 48)


def test_a_random_model_in_a_short_format_keeps_the_frequencies_of_positions(tmp_path: Path) -> None:
    """As transformers loads a model: weights in the format, buffers as they are."""
    chat = load_chat(write_model(tmp_path / "model"), torch.bfloat16)
    drawn = HuggingFaceModel(lambda: chat, rows_of, lambda chat, prompts: np.zeros(0, dtype=bool)).random(0).chat()
    assert {weight.dtype for weight in drawn.model.parameters()} == {torch.bfloat16}
    own, theirs = dict(drawn.model.named_buffers()), dict(chat.model.named_buffers())
    assert own.keys() == theirs.keys() != set()
    assert all(own[name].dtype == x.dtype and torch.equal(own[name], x) for name, x in theirs.items())
