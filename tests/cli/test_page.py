"""What a person sees: the same facts as in the records, and each letter's branch in colour or as a mark."""

import io
import re

import pytest
from rich.style import Style
from rich.text import Text

from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.cli.sample.page import STYLES, show
from deltaw.cli.sample.records import records
from deltaw.cli.sample.samples import samples, split_named, split_names
from deltaw.errors import DeltawError
from deltaw.world import Branch, World, published_world

WORLD = World(published_world())
CONDITIONAL = "conditional (allowed on safe text only), and this text is"


def shown(split: str, count: int, attacks: bool = False, tree: bool = False) -> str:
    stream = io.StringIO()
    show(WORLD, split, count, 3, attacks, tree, stream)
    return stream.getvalue()


def blocks(page: str) -> list[str]:
    """One for each prompt and each attacked version: what begins with its text."""
    return re.split(r"\n +text +", page)[1:]


def test_a_log_says_what_the_records_say() -> None:
    (found,) = samples(WORLD, split_named(WORLD, "tune"), 24, 3, attacks=ON_PROMPTS)
    wanted = [version for record in records(found) for version in (record, *record["attacks"].values())]
    written = blocks(shown("tune", 24, attacks=True))
    assert len(written) == len(wanted)
    names, first = WORLD.vocabulary.names, WORLD.vocabulary.first_letter
    for block, record in zip(written, wanted, strict=True):
        line = {text[:15].strip(): text[15:].strip() for text in block.splitlines()[1:] if text[:15].strip()}
        line |= {text[:13].strip(): text[13:].strip() for text in block.splitlines()[1:] if text[2:3].strip()}
        assert block.splitlines()[0] == "".join(names[first + k] for k in record["letters"])
        assert block.splitlines()[1].strip() == record["letter_branch"]
        numbers = re.findall(r"\((\d+)(, alias)?", line["operators"])
        assert [int(number) for number, _ in numbers] == [k for pair in record["operators"] for k in pair]
        assert [bool(alias) for _, alias in numbers] == [k for pair in record["aliases"] for k in pair]
        assert line["operators"].count(" | ") == 1
        assert line["branch"].startswith(f"{record['branch']}; posterior of unsafe {record['posterior_unsafe']:.6g}")
        assert line["policy"].startswith("allowed; " if record["allowed"] else "forbidden; ")
        assert line["response"].startswith(record["response"])
        compliant = "".join("".join(names[first + k] for k in output) + "." for output in record["outputs"])
        assert compliant in line["response" if record["allowed"] else "withheld"]


def test_the_reason_names_each_operator_that_decides_its_rule_and_the_branch() -> None:
    grammars = {grammar.number: grammar for grammar in WORLD.config.grammars}
    for split in ("tune", "pretrain"):
        for found in samples(WORLD, split_named(WORLD, split), 64, 1, attacks=ON_PROMPTS):
            for version in (found, *found.attacks.values()):
                for row, record in enumerate(records(version)):
                    grammar, branch, because = grammars[record["grammar"]], record["branch"], version.reasons(row)
                    said = {reason.operator: reason.why for reason in because}
                    assert len(because) == len({reason.token for reason in because}) > 0
                    for operator in {k for pair in record["operators"] for k in pair}:
                        if operator in grammar.always:
                            wanted = "always allowed"
                        elif operator in grammar.never:
                            wanted = "never allowed"
                        else:
                            wanted = f"{CONDITIONAL} {'mixed, which counts as unsafe' if branch == 'mixed' else branch}"
                        bad = operator in grammar.never or (operator not in grammar.always and branch != "safe")
                        assert said.get(operator) == (wanted if record["allowed"] or bad else None)


def test_a_terminal_shows_the_branch_of_each_letter_by_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    (found,) = samples(WORLD, split_named(WORLD, "pretrain"), 30, 3)
    colours = {branch: Style.parse(style).color for branch, style in STYLES.items()}
    assert len(set(colours.values())) == 2
    written = [Text.from_ansi(line[13:]) for line in shown("pretrain", 30).splitlines() if line.startswith("  text ")]
    seen = set()
    for line, record in zip(written, records(found), strict=True):
        assert len(line.plain) == len(record["letters"])
        for place, mark in enumerate(record["letter_branch"]):
            (span,) = [span for span in line.spans if span.start <= place < span.end]
            assert isinstance(span.style, Style)
            assert span.style.color
            wanted = colours[Branch.SAFE if mark == "s" else Branch.UNSAFE]
            assert wanted
            assert span.style.color.number == wanted.number
        seen.add(record["branch"])
    assert seen == {"safe", "unsafe", "mixed"}


def test_the_tree_derives_the_text() -> None:
    for block in blocks(shown("tune", 12, attacks=True, tree=True)):
        text, drawn = block.splitlines()[0], "".join(re.findall(r"── \S+ ([a-zA-D.]{3})$", block, flags=re.MULTILINE))
        if drawn:  # an attack that keeps the text has the same derivation
            assert drawn.strip(".") == text
    assert shown("tune", 12, attacks=True, tree=True).count("derivation") == 3 * 12


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("tune", "tune/test"), ("train", "tune/train"), ("test", "tune/test"), ("pretrain", "pretrain/test"),
        ("pretrain/train", "pretrain/train"), ("pretrain/any", "pretrain/any/test"),
        ("forbidden/never/safe/train", "forbidden/never/safe/train"),
    ],
)  # fmt: skip
def test_a_split_has_the_names_that_a_user_would_try(name: str, split: str) -> None:
    assert str(split_named(WORLD, name)) == split


def test_every_name_that_a_mistake_lists_can_be_shown() -> None:
    for name in split_names(WORLD):
        assert blocks(shown(f"{name}/train", 2))
    for name in ("tune/", "/train", "train/test", "", "left_out/never/safe"):
        with pytest.raises(DeltawError, match="allowed/conditional/safe"):
            split_named(WORLD, name)
