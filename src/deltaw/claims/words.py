"""The answers of the run that decides, as reports, README and docs/standard.md carry them.

    python -m deltaw.claims.words --run docs/results/standard

writes the words of its claims.json into the report's data, and their table into the two pages, between the marks
`<!-- begin: words -->` and `<!-- end: words -->`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tyro

from deltaw.claims.statements import PROTOCOLS
from deltaw.errors import DeltawError, mistakes_said
from deltaw.results import Claim, markdown_table, read_claims, write_json_atomic, write_text_atomic
from deltaw.results.parsing import parse_json
from deltaw.results.records import CLAIMS, MANIFEST

TITLES = {
    "clusters/operator": "Allowed and forbidden prompts move apart: by operator",
    "clusters/combination": "The same: the same operators, safe and unsafe text",
    "null-space": "ΔW lies in the left null space of W",
    "gain/operator": "ΔW acts more on forbidden prompts: by operator",
    "gain/combination": "The same: the same operators, safe and unsafe text",
    "sensitivity": "Sensitivity falls on forbidden prompts, relative to allowed ones",
    "attacked": "ΔW acts less on attacked prompts",
}
"""The rows of the primary table, by what the names of their claims begin with."""
QUESTIONS = {
    "seen": "seen?",
    "shape": "more than shape?",
    "other": "more than `other`?",
    "constant": "than `constant`?",
}
COMMITTED = Path(__file__).parents[1] / "report" / "data" / "committed.json"
NOT_YET = "*The run that decides has not been made yet.*\n"
_TABLE = re.compile(r"(<!-- begin: words -->\n).*?(<!-- end: words -->)", re.DOTALL)


def words_of(claims: Iterable[Claim]) -> dict[str, dict[str, str]]:
    """The words of the primary claims, by claim and question."""
    return {
        claim.id: {answer.question: answer.word for answer in claim.answers if answer.word is not None}
        for claim in claims
        if claim.primary and any(answer.word for answer in claim.answers)
    }


def words_table(words: Mapping[str, Mapping[str, str]]) -> str:
    """A row for each statistic and contrast, and in each cell a word for each protocol, in their order: one word if all
    have the same. `NOT_YET` if there are no words.
    """
    rows = []
    for family, title in TITLES.items():
        if told := row_of(family, words):
            rows.append((title, *(told.get(question, "–") for question in QUESTIONS)))
    if not rows:
        return NOT_YET
    return markdown_table((" · ".join(PROTOCOLS.values()), *QUESTIONS.values()), rows) + "\n"


def row_of(family: str, words: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """By question, the words of all protocols, in their order: one word if all have the same. Empty if none has one."""
    told = {}
    for question in QUESTIONS:
        cell = [words.get(f"{family}/{model}", {}).get(question) for model in PROTOCOLS]
        if any(cell):
            told[question] = cell[0] if len(set(cell)) == 1 and cell[0] else " · ".join(word or "–" for word in cell)
    return told


def with_table(page: str, table: str) -> str:
    """The page with this table between its marks. DeltawError if it has none."""
    if not _TABLE.search(page):
        raise DeltawError(
            "the page has no lines <!-- begin: words --> and <!-- end: words -->; write them where it goes"
        )
    return _TABLE.sub(lambda marks: f"{marks[1]}\n{table}\n{marks[2]}", page)


def committed(run: Path) -> dict[str, Any]:
    """The report's data. DeltawError if the run explores."""
    manifest = parse_json((run / MANIFEST).read_text(encoding="utf-8"))
    if manifest["exploratory"]:
        raise DeltawError(f"{run} explores; the words come from a run that decides")
    return {
        "recipe": manifest["recipe"],
        "seeds": len(manifest["seeds"]),
        "words": words_of(read_claims(run / CLAIMS)),
    }


def main(run: Path, pages: tuple[Path, ...] = (Path("README.md"), Path("docs/standard.md"))) -> None:
    """Commit a run's words. run: kept results (`make results`). pages: those that have the table."""
    with mistakes_said():
        data = committed(run)
        written = {page: with_table(page.read_text(encoding="utf-8"), words_table(data["words"])) for page in pages}
        write_json_atomic(COMMITTED, data)
        for page, text in written.items():
            write_text_atomic(page, text)


if __name__ == "__main__":
    tyro.cli(main)
