"""The lines of `deltaw sample --json`, checked by a program that shares nothing with deltaw, and by the world."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from deltaw.attacks.prompts import ON_PROMPTS, attacked
from deltaw.cli.sample.records import records, to_json
from deltaw.cli.sample.samples import samples, split_named
from deltaw.recipes import recipe
from deltaw.world import Response, World, WorldConfig, published_grammar, published_world
from independent import expansions, mistakes, tiles

WORLDS = {
    "quick": World(recipe("quick").world),
    "paper": World(recipe("paper").world),
    "published": World(published_world()),
}
LEFT_OUT = World(WorldConfig((published_grammar(2), published_grammar(3)), text_length=24, pairs=2, left_out=(5,)))


def lines(world: World, split: str, count: int, attacks: bool = False) -> Iterator[str]:
    for found in samples(world, split_named(world, split), count, 7, ON_PROMPTS if attacks else ()):
        yield from map(to_json, records(found))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize(
    ("split", "count", "attacks"), [("tune/train", 320, False), ("tune", 64, True), ("pretrain", 200, False)]
)
def test_a_program_that_knows_only_what_was_published_finds_no_mistake(
    name: str, split: str, count: int, attacks: bool
) -> None:
    found = list(lines(WORLDS[name], split, count, attacks))
    assert len(found) == count
    assert mistakes(found) == []
    versions = [json.loads(line).get("attacks", {}) for line in found]
    assert all(len(version) == (4 if attacks else 0) for version in versions)


def test_left_out_operators_are_judged_the_same() -> None:
    for split in ("left_out/conditional/safe", "left_out/conditional/unsafe/train"):
        found = list(lines(LEFT_OUT, split, 48))
        assert mistakes(found) == []
        assert {k for line in found for pair in json.loads(line)["operators"] for k in pair} == {0, 5}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("branch", "mixed"),
        ("allowed", False),
        ("response", "refuse"),
        ("refused_from", 1),
        ("grammar", 3),
        ("letters", [0]),
    ],
)
def test_the_program_finds_each_planted_mistake(field: str, value: object) -> None:
    line = json.loads(next(lines(WORLDS["published"], "allowed/conditional/safe", 1)))
    assert line[field] != value
    assert mistakes([json.dumps(line | {field: value})])
    line["outputs"][1][5] = (line["outputs"][1][5] + 1) % 30
    assert mistakes([json.dumps(line)]) == ["0  output 2"]


def test_most_safe_text_could_not_be_unsafe_text() -> None:
    """Else the program's test of the branch would be empty."""
    found = [json.loads(line) for line in lines(WORLDS["published"], "allowed/conditional/safe", 100)]
    assert sum(tiles(line["letters"], expansions(line["grammar"], safe=False)) for line in found) < 10


def strip(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "attacks"}


@pytest.mark.parametrize("world", [*WORLDS.values(), LEFT_OUT], ids=[*WORLDS, "left_out"])
def test_a_line_says_what_the_world_says(world: World) -> None:
    prompts = world.sample("tune", range(20), "train", 7)
    found = [json.loads(line) for line in lines(world, "tune/train", 20, attacks=True)]
    for attack in (None, *ON_PROMPTS):
        wanted = attacked(world, attack, prompts, "train", 7) if attack else prompts
        encoded = world.layout.encode(wanted, world.layout.expected(wanted))
        expected = world.layout.expected(wanted)
        own = [line["attacks"][attack.name] if attack else strip(line) for line in found]
        for row, line in enumerate(own):
            tokens = encoded.tokens[row][encoded.tokens[row] != world.vocabulary.pad]
            assert line["tokens"] == tokens.tolist()
            assert line["response"] == Response(expected[row]).name.lower()
            names = [[int(k) for k in pair] for pair in wanted.operators[row]]
            assert line["aliases"] == [[k >= world.config.n_operators for k in pair] for pair in names]
            assert line["index"] == row
            assert 0 <= line["posterior_unsafe"] <= 1
        if attack is None:
            unsafe = np.array([line["posterior_unsafe"] for line in own])
            branch = np.array([line["branch"] == "unsafe" for line in own])
            assert (np.where(branch, unsafe, 1 - unsafe) >= world.config.redraw_below).all()


def test_the_set_of_a_line_is_that_of_its_verdict() -> None:
    for line in map(json.loads, lines(WORLDS["published"], "tune", 64)):
        verdict, _, branch = line["set"].split("/")
        assert (verdict == "allowed") == line["allowed"]
        assert branch == line["branch"]


def test_what_no_language_derives_has_no_posterior() -> None:
    """Published data: level-5 rules of unsafe text that pre-training does not know."""
    world = World(WorldConfig(unsafe_level_5="unknown"))
    for found in samples(world, split_named(world, "forbidden/conditional/unsafe"), 4, attacks=ON_PROMPTS):
        made = [json.loads(to_json(record)) for record in records(found)]
    assert [line["attacks"]["misgen_text"]["posterior_unsafe"] for line in made] == [None] * 4
    assert all(line["posterior_unsafe"] >= 0.999 for line in made)
