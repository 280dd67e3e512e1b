"""The report in a browser: its choices change every picture, by keyboard too, at two widths, without an error."""

from pathlib import Path
from typing import Any

import pytest
from handmade import write_run

from deltaw.report import write_report

pytestmark = pytest.mark.browser
SIZES = [(1280, 900), (390, 844)]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(params=SIZES, ids=["wide", "narrow"])
def page(request: pytest.FixtureRequest, opened: Any, page_file: Path) -> Any:
    """The open page, with all its pictures drawn."""
    page = opened(page_file, *request.param)
    for number in range(1, 6):
        if page.query_selector(f"#figure-card-{number}"):
            page.locator(f"#figure-card-{number}").scroll_into_view_if_needed()
            page.wait_for_selector(f"#figure-card-{number} .vega-embed svg")
    return page


def marks(page: Any, card: int) -> str:
    """What a card's picture draws."""
    drawn: str = page.eval_on_selector(f"#figure-card-{card} svg", "svg => svg.outerHTML")
    return drawn


def test_a_choice_changes_every_picture_that_it_is_about(page: Any) -> None:
    before = {card: marks(page, card) for card in (2, 3, 4, 5)}
    page.select_option("select[name=P]", label="SSFT")
    page.wait_for_function("before => document.querySelector('#figure-card-3 svg').outerHTML != before", arg=before[3])
    assert all(marks(page, card) != drawn for card, drawn in before.items())
    only = {card: marks(page, card) for card in before}
    page.select_option("select[name=C]", index=1)
    page.wait_for_function("before => document.querySelector('#figure-card-3 svg').outerHTML != before", arg=only[3])
    assert marks(page, 2) == only[2]  # the weights have no contrast
    page.select_option("select[name=C]", index=0)
    view = marks(page, 1)
    page.select_option("select[name=L]", index=1)
    page.wait_for_function("before => document.querySelector('#figure-card-1 svg').outerHTML != before", arg=view)
    page.select_option("select[name=L]", index=0)
    page.select_option("select[name=P]", "all")
    page.wait_for_function("before => document.querySelector('#figure-card-3 svg').outerHTML == before", arg=before[3])


def test_choices_are_made_by_keyboard(page: Any) -> None:
    before = marks(page, 3)
    page.focus("select[name=P]")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("before => document.querySelector('#figure-card-3 svg').outerHTML != before", arg=before)
    assert page.eval_on_selector("select[name=P]", "select => select.selectedIndex") == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "S"


def test_nothing_is_wider_than_the_window(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_link_opens_the_folded_part_that_it_names(page: Any) -> None:
    assert not page.eval_on_selector("#sensitivity > details", "part => part.open")
    page.click("nav a[href='#sensitivity']")
    page.wait_for_function("document.querySelector('#sensitivity > details').open")
    page.wait_for_selector("#sensitivity .vega-embed svg")


def test_pictures_choose_again_after_the_window_has_changed(page: Any) -> None:
    page.select_option("select[name=P]", label="SSFT")
    page.set_viewport_size({"width": 760, "height": 900})
    page.wait_for_timeout(600)
    lines = page.eval_on_selector_all("#figure-card-3 path", "paths => paths.map(p => p.getAttribute('stroke'))")
    page.select_option("select[name=P]", "all")
    page.wait_for_timeout(400)
    more = page.eval_on_selector_all("#figure-card-3 path", "paths => paths.map(p => p.getAttribute('stroke'))")
    assert len(more) > len(lines)
