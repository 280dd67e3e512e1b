import pytest
from worlds import PAPER, QUICK

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar, parse_rules
from deltaw.world.language import published, published_subgrammars
from deltaw.world.length_conditioning import long_enough
from deltaw.world.windows import WindowSampler


def test_held_out_text_of_the_paper_loses_the_production_that_the_published_tables_leave_out() -> None:
    held_out = published_subgrammars(published(2))["held_out"]
    assert min(held_out.lengths[held_out.start]) == 30
    longer = long_enough(held_out, 35)
    assert (min(longer.lengths["start"]), max(longer.lengths["start"])) == (36, 54)  # the published figures
    assert [p.symbols for p in longer.rules["x'"]] == [("j'", "j'", "l'")]
    assert {name for name in held_out.rules if held_out.rules[name] != longer.rules[name]} == {"x'"}
    for number in PAPER.numbers:
        WindowSampler(PAPER.languages[number].held_out, 35)


def test_a_grammar_that_is_long_enough_stays_as_it_is() -> None:
    held_out = published_subgrammars(published(1))["held_out"]
    assert long_enough(held_out, 20) is held_out
    assert QUICK.languages[1].held_out.rules == held_out.rules


def test_what_is_left_keeps_its_weights_and_nothing_left_is_an_error() -> None:
    grammar = Grammar(parse_rules('s -> a a\na -> 0.5: "b" | 0.375: "bb" | 0.125: "bbb"'), "s")
    assert [p.probability for p in long_enough(grammar, 3).rules["a"]] == pytest.approx([0.75, 0.25])
    assert [p.probability for p in long_enough(grammar, 5).rules["a"]] == [1.0]
    with pytest.raises(DeltawError, match="can derive 6 letters, fewer than a window of 7"):
        long_enough(grammar, 7)
