"""The words of the run that decides: their table, their file and the pages that carry them."""

from dataclasses import replace
from pathlib import Path

import pytest

from deltaw.claims import words as module
from deltaw.claims.statements import PRIMARY
from deltaw.claims.words import (
    NOT_YET,
    TITLES,
    committed,
    main,
    numbers_of,
    numbers_table,
    row_of,
    with_table,
    words_of,
    words_table,
)
from deltaw.errors import DeltawError
from deltaw.report.cards import committed as carried
from deltaw.results import Answer, Claim, write_claims, write_json_atomic

REPOSITORY = Path(__file__).parents[2]


def claim(name: str, primary: bool = True, **answers: str | None) -> Claim:
    told = tuple(Answer(question=question, word=word, value=1.0) for question, word in answers.items())
    return Claim(
        id=name,
        observation=1,
        statement="…",
        statistic="s",
        value=1.0,
        exploratory=False,
        primary=primary,
        answers=told,
    )


def measured(name: str, value: float, **answers: tuple[float, float, float]) -> Claim:
    told = tuple(
        Answer(question=question, word="seen", value=mean, low=low, high=high)
        for question, (mean, low, high) in answers.items()
    )
    return replace(claim(name), value=value, low=value - 0.5, high=value + 0.25, answers=told)


def run(path: Path, *claims: Claim, exploratory: bool = False) -> Path:
    path.mkdir()
    write_claims(path / "claims.json", claims)
    write_json_atomic(path / "manifest.json", {"recipe": "toy", "seeds": [1, 2], "exploratory": exploratory})
    return path


CLAIMS = (
    claim("null-space/ssft-medium", seen="seen", shape="less"),
    claim("null-space/dpo-medium", seen="seen", shape="less"),
    claim("null-space/unlearn-medium", seen="seen", shape="unclear"),
    claim("attacked/dpo-medium", seen="absent"),
    claim("attacked/ssft-medium", seen=None),
    claim("row-space/ssft-medium", primary=False, seen="seen"),
)


def test_every_primary_claim_has_a_row() -> None:
    assert {statement.id.rpartition("/")[0] for statement in PRIMARY} == TITLES.keys()


def test_words_are_those_of_primary_claims_that_have_one() -> None:
    found = words_of(CLAIMS)
    assert found.keys() == {f"null-space/{model}-medium" for model in ("ssft", "dpo", "unlearn")} | {
        "attacked/dpo-medium"
    }
    assert found["null-space/unlearn-medium"] == {"seen": "seen", "shape": "unclear"}


def test_a_cell_has_one_word_where_all_protocols_agree_and_else_one_each() -> None:
    words = words_of(CLAIMS)
    assert row_of("null-space", words) == {"seen": "seen", "shape": "less · less · unclear"}
    assert row_of("attacked", words) == {"seen": "– · absent · –"}
    assert row_of("sensitivity", words) == {}
    table = words_table(words).splitlines()
    assert table[0].startswith("| SSFT · DPO+NLL · unlearning | seen? ")
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {TITLES['null-space']}", f"| {TITLES['attacked']}"]
    assert words_table({}) == NOT_YET


def test_numbers_are_the_values_and_the_differences_that_have_an_interval() -> None:
    told = {"seen": (9.0, 8.0, 10.0), "other": (0.125, -0.5, 0.75)}
    claims = (
        measured("gain/operator/dpo-medium", 1.5, **told),
        measured("gain/operator/ssft-medium", -2.0, constant=(0.5, 0.25, 0.75)),
        *CLAIMS,
        replace(measured("row-space/ssft-medium", 1.0), primary=False),
    )
    numbers = numbers_of(claims)
    assert numbers["gain/operator/dpo-medium"] == {"value": (1.5, 1.0, 1.75), "other": (0.125, -0.5, 0.75)}
    assert numbers.keys() == {"gain/operator/dpo-medium", "gain/operator/ssft-medium"}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in numbers_table(numbers).splitlines()[2:]]
    assert rows == [
        [TITLES["gain/operator"], "itself", "−2.00 [−2.50, −1.75]", "+1.50 [+1.00, +1.75]", "–"],
        ["", "− own `other`", "–", "+0.12 [−0.50, +0.75]", "–"],
        ["", "− own `constant`", "+0.50 [+0.25, +0.75]", "–", "–"],
    ]
    assert numbers_table({}) == NOT_YET


def test_committing_a_run_writes_its_words_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, page = tmp_path / "committed.json", tmp_path / "page.md"
    monkeypatch.setattr(module, "COMMITTED", target)
    readme, marks = tmp_path / "readme.md", "before\n<!-- begin: words -->\nold\n<!-- end: words -->\nafter\n"
    readme.write_text(marks, encoding="utf-8")
    page.write_text(f"{marks}<!-- begin: numbers -->\nold\n<!-- end: numbers -->\nafter\n", encoding="utf-8")
    claims = (*CLAIMS, measured("gain/operator/dpo-medium", 1.5))
    kept = run(tmp_path / "kept", *claims)
    main(kept, readme, page)
    data = committed(kept)
    assert (data["recipe"], data["seeds"], data["words"]) == ("toy", 2, words_of(claims))
    assert data["numbers"] == {"gain/operator/dpo-medium": {"value": [1.5, 1.0, 1.75]}}
    assert target.read_text(encoding="utf-8").count("less") == 2
    assert "old" not in readme.read_text(encoding="utf-8")
    assert "+1.50 [+1.00, +1.75]" in page.read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert with_table(text, words_table(words_of(CLAIMS))) == text


def test_a_run_that_explores_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMITTED", tmp_path / "committed.json")
    with pytest.raises(SystemExit):
        main(run(tmp_path / "kept", *CLAIMS, exploratory=True))
    assert not (tmp_path / "committed.json").exists()
    with pytest.raises(DeltawError, match="no lines <!-- begin: words -->"):
        with_table("a page", "a table")


@pytest.mark.parametrize("page", ["README.md", "docs/standard.md"])
def test_the_pages_carry_the_words_that_reports_carry(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert with_table(text, words_table(carried()["words"])) == text
    if "begin: numbers" in text:
        assert with_table(text, numbers_table(carried()["numbers"]), "numbers") == text
