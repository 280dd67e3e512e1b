"""The answers of the run that decides, as reports, README and docs/standard.md carry them.

    python -m deltaw.claims.words --run docs/results/standard

writes the words of its claims.json into the report's data, and their table into the two pages, between the marks
`<!-- begin: words -->` and `<!-- end: words -->`; and the numbers behind them into docs/standard.md, between the marks
called `numbers`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tyro

from deltaw.claims.statements import PROTOCOLS
from deltaw.errors import DeltawError, mistakes_said
from deltaw.results import Answer, Claim, markdown_table, read_claims, write_json_atomic, write_text_atomic
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
ROWS = {
    "value": "itself",
    "shape": "− its mean under the null of its shape",
    "other": "− own `other`",
    "constant": "− own `constant`",
}
"""Of the table of numbers: the value, and the differences that the questions after the first are about."""
NOT_YET = "*The run that decides has not been made yet.*\n"

Numbers = Mapping[str, Mapping[str, tuple[float, float, float]]]
"""(mean over seeds, the ends of its 95 % interval), by claim and by what it is of (`ROWS`)."""


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


def numbers_of(claims: Iterable[Claim]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """The values of the primary claims that have an interval, in their own units; differences on the claim's scale."""
    numbers: dict[str, dict[str, tuple[float, float, float]]] = {}
    for claim in claims:
        told: list[tuple[str, Claim | Answer]] = [("value", claim)]
        told += ((answer.question, answer) for answer in claim.answers if answer.question in ROWS)
        known = {
            name: (part.value, part.low, part.high)
            for name, part in told
            if part.value is not None and part.low is not None and part.high is not None
        }
        if claim.primary and known:
            numbers[claim.id] = known
    return numbers


def numbers_table(numbers: Numbers) -> str:
    """Rows of each statistic and contrast: the value, and its differences. `NOT_YET` if there are none."""
    rows = []
    for family, title in TITLES.items():
        for name, said in ROWS.items():
            cells = [numbers.get(f"{family}/{model}", {}).get(name) for model in PROTOCOLS]
            if any(cells):
                told = ["–" if cell is None else _cell(*cell) for cell in cells]
                rows.append((title if name == "value" else "", said, *told))
    return markdown_table(("", "", *PROTOCOLS.values()), rows) + "\n" if rows else NOT_YET


def _cell(value: float, low: float, high: float) -> str:
    """The value and its interval, with their signs."""
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")


def with_table(page: str, table: str, name: str = "words") -> str:
    """The page with this table between the marks of that name. DeltawError if it has none."""
    between = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
    if not between.search(page):
        raise DeltawError(
            f"the page has no lines <!-- begin: {name} --> and <!-- end: {name} -->; write them where it goes"
        )
    return between.sub(lambda marks: f"{marks[1]}\n{table}\n{marks[2]}", page)


def committed(run: Path) -> dict[str, Any]:
    """The report's data. DeltawError if the run explores."""
    manifest = parse_json((run / MANIFEST).read_text(encoding="utf-8"))
    if manifest["exploratory"]:
        raise DeltawError(f"{run} explores; the words come from a run that decides")
    claims = read_claims(run / CLAIMS)
    numbers = {name: {row: list(cell) for row, cell in cells.items()} for name, cells in numbers_of(claims).items()}
    return {
        "recipe": manifest["recipe"],
        "seeds": len(manifest["seeds"]),
        "words": words_of(claims),
        "numbers": numbers,
    }


def main(run: Path, readme: Path = Path("README.md"), page: Path = Path("docs/standard.md")) -> None:
    """Commit a run's words. run: kept results (`make results`). readme: has their table; page: the numbers, too."""
    with mistakes_said():
        data = committed(run)
        words = words_table(data["words"])
        written = {path: with_table(path.read_text(encoding="utf-8"), words) for path in (readme, page)}
        written[page] = with_table(written[page], numbers_table(data["numbers"]), "numbers")
        write_json_atomic(COMMITTED, data)
        for page, text in written.items():
            write_text_atomic(page, text)


if __name__ == "__main__":
    tyro.cli(main)
