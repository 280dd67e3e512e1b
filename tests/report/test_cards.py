"""The first screen: five cards, what choices there are, and what the pictures show by default."""

import json
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from handmade import measurements, write_run

from deltaw.charts.tables import Tables
from deltaw.report import render, write_report
from deltaw.report.cards import Card, behaviour, cards, choices, committed
from deltaw.results import load


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(load(write_run(tmp_path_factory.mktemp("run"))))


@pytest.fixture(scope="module")
def made(tables: Tables) -> list[Card]:
    return cards(tables, choices(tables))


def drawn(card: Card, **signals: str) -> str:
    """The card's picture as its choices have it."""
    assert card.drawing is not None
    spec: dict[str, Any] = card.drawing.figure.spec()
    spec["params"] = [{**one, "value": signals.get(one["name"], one["value"])} for one in spec["params"]]
    return str(vl_convert.vegalite_to_svg(json.dumps(spec)))


def test_choices_are_what_the_run_has(tables: Tables) -> None:
    by_signal = {choice.signal: choice for choice in choices(tables)}
    assert [value for value, _ in by_signal["P"].options] == ["all", "SSFT", "DPO+NLL", "Unlearning"]
    assert [value for value, _ in by_signal["S"].options] == ["medium", "small"]
    assert [value for value, _ in by_signal["C"].options] == ["operator", "combination"]
    assert by_signal["L"].options[0][0] == "mean"
    assert by_signal["T"].options[0][0] == "last"


def test_there_are_five_cards_each_with_a_picture(made: list[Card]) -> None:
    assert [card.observation for card in made] == [1, 2, 3, 4, 5]
    assert all(card.drawing is not None for card in made)


def test_a_picture_shows_what_is_chosen_and_nothing_else(made: list[Card]) -> None:
    gain = made[2]
    assert drawn(gain).count("<path") > drawn(gain, P="DPO+NLL").count("<path")
    assert drawn(gain, C="combination") != drawn(gain)
    assert drawn(made[1], C="combination") == drawn(made[1])
    assert drawn(made[1], L="0") != drawn(made[1])
    view = made[0]
    assert drawn(view, L="0") != drawn(view)
    assert drawn(view, L="0").count("<path") == drawn(view).count("<path")


def test_the_default_never_has_seventeen_lines(made: list[Card]) -> None:
    card = made[2]
    assert card.drawing is not None
    (panel,) = card.drawing.figure.panels
    (rows,) = panel["datasets"].values()
    shown = {
        (row["protocol"], row["kind"])
        for row in rows
        if (row["strength"], row["contrast"], row["checkpoint"]) == ("medium", "operator", "last")
    }
    assert 3 <= len(shown) <= 9
    assert {kind for _, kind in shown} <= {"tuned", "other", "constant"}


def test_behaviour_stands_beside_the_ceiling(tables: Tables) -> None:
    rows = behaviour(tables)
    assert [row["name"] for row in rows] == ["SSFT", "DPO+NLL", "Unlearning"]
    assert all(row["ceiling"] != "–" for row in rows)


def test_a_study_without_these_measurements_has_cards_that_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [line for line in measurements() if not line.statistic.startswith(("view_", "sensitivity_"))]
    run = write_run(tmp_path / "run", kept)
    made = cards(Tables(load(run)), choices(Tables(load(run))))
    assert [card.drawing is None for card in made] == [True, False, False, True, False]
    # The page's words are asked; drawing its fifty figures takes longest.
    monkeypatch.setattr("vl_convert.vegalite_to_svg", lambda spec: '<svg class="marks" width="9" height="9"></svg>')
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count("Not measured by this study.") == 2


def test_committed_words_are_those_of_the_statements() -> None:
    from deltaw.claims.decision import UNCLEAR, WORDS
    from deltaw.claims.statements import PRIMARY

    found = committed()
    assert found["words"].keys() <= {statement.id for statement in PRIMARY}
    for words in found["words"].values():
        assert all(word in (*WORDS[question], UNCLEAR, None) for question, word in words.items())


def test_the_words_of_the_run_that_decides_stand_beside_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("ssft", "dpo", "unlearn")
    words = {f"clusters/operator/{name}-medium": {"seen": "seen", "other": "less"} for name in names}
    monkeypatch.setattr(render, "committed", lambda: {"recipe": "standard", "seeds": 8, "words": words})
    text = write_report(write_run(tmp_path / "run", measurements())).read_text(encoding="utf-8")
    card = text[text.index('id="card-title-1"') : text.index('id="card-title-2"')]
    assert "8 seeds of “standard”: Seen? <b>seen</b> More than tuning on another answer? <b>less</b>" in card
    assert text.count('class="small muted committed"') == 1
