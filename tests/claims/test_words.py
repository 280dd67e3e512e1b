"""The words of the run that decides: their table, their file and the pages that carry them."""

from pathlib import Path

import pytest

from deltaw.claims import words as module
from deltaw.claims.statements import PRIMARY
from deltaw.claims.words import NOT_YET, TITLES, committed, main, row_of, with_table, words_of, words_table
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


def test_committing_a_run_writes_its_words_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, page = tmp_path / "committed.json", tmp_path / "page.md"
    monkeypatch.setattr(module, "COMMITTED", target)
    page.write_text("before\n<!-- begin: words -->\nold\n<!-- end: words -->\nafter\n", encoding="utf-8")
    kept = run(tmp_path / "kept", *CLAIMS)
    main(kept, (page,))
    assert committed(kept) == {"recipe": "toy", "seeds": 2, "words": words_of(CLAIMS)}
    assert target.read_text(encoding="utf-8").count("less") == 2
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert with_table(text, words_table(words_of(CLAIMS))) == text


def test_a_run_that_explores_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMITTED", tmp_path / "committed.json")
    with pytest.raises(SystemExit):
        main(run(tmp_path / "kept", *CLAIMS, exploratory=True), ())
    assert not (tmp_path / "committed.json").exists()
    with pytest.raises(DeltawError, match="no lines <!-- begin: words -->"):
        with_table("a page", "a table")


@pytest.mark.parametrize("page", ["README.md", "docs/standard.md"])
def test_the_pages_carry_the_words_that_reports_carry(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert with_table(text, words_table(carried()["words"])) == text
