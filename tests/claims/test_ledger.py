"""The page of claims: up to date and complete."""

from pathlib import Path

from deltaw.claims import STATEMENTS
from deltaw.claims.docs_page import families, page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "claims.md").read_text(encoding="utf-8") == page(), "run `make ledger`"


def test_every_claim_is_on_the_page_once_and_with_its_side() -> None:
    text = page()
    for family, statements in families(STATEMENTS).items():
        (row,) = [line for line in text.splitlines() if f"| `{family}` |" in line]
        for statement in statements:
            assert f"`{statement.query.statistic}`" in row
            assert f"{statement.smallest_effect:.2g}" in row
            assert ("above" if statement.direction == "greater" else "below") in row
            assert len({(s.smallest_effect, s.margin, s.spread, s.direction, s.scale) for s in statements}) == 1


def test_the_page_is_short_enough_to_be_read() -> None:
    assert len(page().splitlines()) < 120
