"""An open text classifier as judge: what the pipeline of transformers says, its error, and a sentence a mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_chat import tokenizer, transformers, write_model

from deltaw.behaviour.judge import Verdict, attacked_answers
from deltaw.behaviour.judges.classifier import Classifier
from deltaw.cli.compare import Compare
from deltaw.compare.asking import Effort, write_rates
from deltaw.compare.questions import questions_of
from deltaw.errors import DeltawError
from deltaw.prompts.matched import Prompt
from deltaw.results.recorder import Sheet
from deltaw.statistics import corrected_rate

pytest.importorskip("transformers")
LABELS = ("NORMAL", "REJECTION")


def write_classifier(directory: Path, labels: tuple[str, ...] = LABELS, seed: int = 0) -> Path:
    """A random one, whose labels come about as often."""
    package, words = transformers(), tokenizer()
    words.pad_token = words.eos_token
    config = package.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=128, id2label=dict(enumerate(labels)), pad_token_id=words.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = package.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
        logits = [
            model(**words(known.answer, truncation=True, max_length=126, return_tensors="pt")).logits[0]
            for known in attacked_answers()[::4]
        ]
        model.classifier.bias -= torch.stack(logits).median(0).values
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


def piped(directory: Path, texts: list[str]) -> list[str]:
    """The labels that transformers' pipeline gives."""
    pipe = transformers().pipeline("text-classification", model=str(directory), device="cpu")
    return [pipe(text, truncation=True, max_length=126)[0]["label"] for text in texts]


def test_verdicts_are_those_of_transformers_pipeline_and_errors_are_counted_from_them(classifier: Path) -> None:
    judge, known = Classifier(str(classifier)), attacked_answers()
    labels = piped(classifier, [answer.answer for answer in known])
    assert {*labels} == {*LABELS}
    verdicts = {"NORMAL": Verdict.COMPLY, "REJECTION": Verdict.REFUSE}
    shown = [judge.verdict("", answer.answer) for answer in known]
    readable = [any(x.isalnum() for x in answer.answer) for answer in known]
    assert all(
        verdict == (verdicts[label] if legible else Verdict.NEITHER)
        for verdict, label, legible in zip(shown, labels, readable, strict=True)
    )
    errors = judge.measured_errors()["prefill"]
    rows = [(a, v) for a, v in zip(known, shown, strict=True) if a.attack == "prefill"]
    assert errors.refusals == sum(a.verdict == Verdict.REFUSE for a, _ in rows)
    assert errors.missed == sum(a.verdict == Verdict.REFUSE != v for a, v in rows)
    assert errors.mistaken == sum(a.verdict != Verdict.REFUSE == v for a, v in rows)


def test_rates_are_corrected_for_its_errors(classifier: Path) -> None:
    judge = Classifier(str(classifier))
    prompts = [Prompt(f"Bake {k}.", "allowed") for k in range(10)]
    sheet = Sheet(stage="behaviour", model="tuned", seed=0)
    write_rates(sheet, prompts, [Verdict.REFUSE] * 4 + [Verdict.COMPLY] * 6, judge)
    errors = judge.measured_errors()[""]
    right = errors.refusals - errors.missed, errors.refusals, errors.others - errors.mistaken, errors.others
    expected = corrected_rate(4, 10, *right)
    written = [line for line in sheet.lines if line.statistic == "refuse_rate_corrected"]
    assert bool(written) == (expected is not None)
    if expected is not None:
        assert written[0].value == pytest.approx(expected[0])
        assert written[0].low == pytest.approx(expected[1].low)


def test_labels_of_other_classifiers_are_given(tmp_path: Path) -> None:
    source = str(write_classifier(tmp_path, ("fine", "no!", "noise")))
    labels = (("fine", "comply"), ("no!", "refuse"), ("noise", "neither"))
    judge = Classifier(source, labels)
    judge.check()
    assert judge.opened().verdicts == (Verdict.COMPLY, Verdict.REFUSE, Verdict.NEITHER)
    for wrong, message in (
        ((), r"has the labels fine, no!, noise, and what they say is not known; give each a verdict"),
        (labels[:2], "what they say is not known"),
        ((*labels[:2], ("noise", "perhaps")), "is given the verdict 'perhaps'; expected refuse, comply, neither"),
        ((*labels, ("other", "refuse")), "has no label 'other'; it has fine, no!, noise"),
        (tuple((label, "comply") for label, _ in labels), "at least one of them refuse"),
    ):
        with pytest.raises(DeltawError, match=message):
            Classifier(source, wrong).check()


@pytest.mark.parametrize("labels", [("Non-refusal", "Refusal"), ("non-refusal", "refusal"), LABELS])
def test_labels_of_known_classifiers_are_understood(tmp_path: Path, labels: tuple[str, ...]) -> None:
    opened = Classifier(str(write_classifier(tmp_path, labels))).opened()
    assert opened.verdicts == (Verdict.COMPLY, Verdict.REFUSE)
    swapped = Classifier(str(write_classifier(tmp_path / "swapped", labels[::-1]))).opened()
    assert swapped.verdicts == (Verdict.REFUSE, Verdict.COMPLY)


def test_a_pair_is_read_with_its_request(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Classifier(str(classifier), reads="pair")
    given: list[str] = []
    words = judge.opened().tokenizer

    class Spy:
        def __call__(self, text: str, **options: Any) -> Any:
            given.append(text)
            return words(text, **options)

    object.__setattr__(judge.opened(), "tokenizer", Spy())
    judge.verdict("Why?", "Because.")
    assert given == ["<|user|>\nWhy?\n<|assistant|>\nBecause."]
    object.__setattr__(judge.opened(), "tokenizer", words)


def test_another_checkpoint_under_one_name_is_another_judge(tmp_path: Path) -> None:
    names = set()
    for seed in (0, 1):
        write_classifier(tmp_path, seed=seed)
        judge = Classifier(str(tmp_path), longest=100 + seed)
        names.add(questions_of([], judge, Effort())["judge"].replace(f"longest={100 + seed}", ""))
    assert len(names) == 2


def changed(directory: Path, **settings: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **settings}))


def test_each_mistake_is_one_sentence(tmp_path: Path, classifier: Path) -> None:
    def refused(source: Path | str, message: str, **options: Any) -> None:
        with pytest.raises(DeltawError, match=message) as error:
            Classifier(str(source), **options).check()
        assert "\n" not in str(error.value)

    refused("", "needs a checkpoint; give its directory or hub name: classifier:NAME")
    refused(classifier, "reads 'all' is unknown; it reads answer or pair", reads="all")
    refused(tmp_path / "no" / "such" / "one", "does not exist")
    chat = write_model(tmp_path / "chat")
    refused(chat, r"is no text classifier \(its config.json names LlamaForCausalLM\)")
    changed(chat, architectures=["LlamaForSequenceClassification"])
    refused(chat, "lack score.weight, which a classifier has")
    code = write_classifier(tmp_path / "code")
    changed(code, auto_map={"AutoModel": "x.Y"})
    refused(code, "brings code of its own")
    pickled = write_classifier(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, "pytorch_model.bin")


def test_the_command_line_gives_a_classifier_with_its_labels(classifier: Path) -> None:
    def asking(**options: Any) -> Any:
        return Compare("base", ("tuned",), prompts="builtin", **options).asking()

    source = f"classifier:{classifier}"
    given = asking(judge=source, judge_labels=("NORMAL=refuse", "REJECTION=comply"), judge_reads="pair")["judge"]
    assert given == Classifier(str(classifier), (("NORMAL", "refuse"), ("REJECTION", "comply")), "pair")
    assert asking(judge=source)["judge"].opened().verdicts == (Verdict.COMPLY, Verdict.REFUSE)
    with pytest.raises(DeltawError, match="expected LABEL=VERDICT"):
        asking(judge=source, judge_labels=("NORMAL",))
    with pytest.raises(DeltawError, match="are about a classifier"):
        asking(judge_labels=("NORMAL=refuse",))
    with pytest.raises(DeltawError, match="needs a checkpoint"):
        asking(judge="classifier")
