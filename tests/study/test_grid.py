"""The grid: its cells differ in what their axis says and in nothing else, and a whole one runs at smoke scale."""

import hashlib
import json
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import deltaw
from deltaw.recipes import recipe
from deltaw.recipes.grid import gridded
from deltaw.recipes.grid_worlds import HELD_OUT, LENGTHS, SIDES, Cell, cells, distances
from deltaw.report.pages.grid import BENIGN_OF, Grid, tables_of
from deltaw.study.graph import stages
from deltaw.study.run import run_study
from deltaw.study.stages.finetune import TuneConfig
from deltaw.study.stages.pretrain import BaseConfig
from deltaw.world import Prompts, WindowLikelihood, World, WorldConfig
from deltaw.world.grammar_file import rewritten
from deltaw.world.language import language

CELLS = {cell.name: cell for cell in cells(WorldConfig())}
SMALL = ("default", "alias-0.02", "text-far", "margin-1")  # one cell of each axis, to run
DISTANCES = ("text-near", "default", "text-far", "text-farthest")  # from near to far


@cache
def world(name: str) -> World:
    return World(CELLS[name].world)


def digest(prompts: Prompts) -> str:
    return hashlib.sha256(prompts.operators.tobytes() + prompts.letters.tobytes()).hexdigest()


def of(name: str, mixture: str, count: int = 64, split: str = "train") -> str:
    return digest(world(name).sample(mixture, range(count), split))


def test_the_default_cell_is_the_world_of_quick_and_stands_first() -> None:
    assert recipe("grid").world == recipe("quick").world == WorldConfig()
    assert next(iter(CELLS)) == "default"
    assert CELLS["default"] == Cell("default")


@pytest.mark.parametrize("name", [name for name in CELLS if name != "default"])
def test_a_cell_differs_from_the_default_in_one_setting(name: str) -> None:
    setting = {"alias rate": "alias_rate", "distance": "grammars", "margin": "junction_margin"}[CELLS[name].axis]
    changed = {
        field.name
        for field in fields(WorldConfig)
        if getattr(CELLS[name].world, field.name) != getattr(CELLS["default"].world, field.name)
    }
    assert changed == {setting}


def test_cells_share_what_they_say_they_share() -> None:
    """Equal pre-training prompts where the base model is shared, equal tuning prompts where the tuned one is."""
    for name, cell in CELLS.items():
        own = (cell.base is None, cell.tuned is None)
        if name == "default":
            continue
        assert (of(name, "pretrain") != of("default", "pretrain")) == own[0], name
        # aliases are not in tuning prompts, so those cells tune alike, each on its own base model
        assert (of(name, "tune") != of("default", "tune")) == (own[1] and cell.axis != "alias rate"), name


def test_distance_cells_attack_with_the_same_law_of_text() -> None:
    default, published = world("default").languages[1].held_out, language("published-1")
    assert default.rules == published.held_out.rules
    for name in DISTANCES:
        found = world(name).languages[1]
        assert found.held_out.rules == published.held_out.rules
        assert found.full.rules == published.full.rules
        assert found.safe.rules == published.safe.rules


@pytest.mark.parametrize("other", ["unsafe", "safe"])
def test_distances_are_ordered_as_the_cells_are_named(other: str) -> None:
    found = [distances(world(name), "held_out", other, 400, 0) for name in DISTANCES]
    for length in LENGTHS:
        variations = [one[length].variation for one in found]
        if other == "safe":  # tuning's safe text is the same everywhere
            assert len(set(variations)) == 1
        else:
            assert variations == sorted(variations)
            assert [one[length].underivable for one in found] == sorted(one[length].underivable for one in found)
    if other == "unsafe":
        short = [one[LENGTHS[0]].variation for one in found]
        assert min(np.diff(short)) > 0.05  # told apart, not only ordered


def test_total_variation_is_that_of_enumerated_laws() -> None:
    """Of windows of one letter, whose law can be written down; a law is at no distance from itself."""
    near = world("text-near")
    grammars = near.languages[1].grammars
    letters = np.arange(near.config.alphabet)[:, None]
    laws = {name: WindowLikelihood(grammars[name])(letters) for name in ("held_out", "unsafe")}
    assert laws["held_out"].sum() == pytest.approx(1)
    wanted = np.maximum(0, laws["held_out"] - laws["unsafe"]).sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltaw.recipes.grid_worlds.LENGTHS", (1,))
        found = distances(near, "held_out", "unsafe", 4000, 0)[1]
        same = distances(near, "held_out", "held_out", 100, 0)[1]
    assert found.variation == pytest.approx(wanted, abs=4 * found.contributions.std() / np.sqrt(4000))
    assert (same.variation, same.underivable) == (0, 0)


def test_alias_rates_are_what_prompts_show() -> None:
    for name, rate in (("alias-0.1", 0.1), ("alias-0.02", 0.02), ("default", 7 / 17)):
        one = world(name)
        operators = one.sample("pretrain", range(20_000), "train").operators.reshape(-1, 2)
        # half of the pairs have an identity put in place of one of the two
        share = float((operators >= one.vocabulary.n_operators).mean())
        assert share == pytest.approx(0.75 * rate, abs=5 * np.sqrt(rate / 40_000))


def test_sides_cover_every_junction_of_the_margin_cell_once() -> None:
    one = world("margin-1")
    letters = [k for low, high in SIDES for k in range(low, high + 1)]
    margin, longest = one.config.junction_margin, one.config.longest
    assert letters == list(range(margin, longest - margin + 1))


def test_rewritten_reads_back_equal_and_refuses_other_sections() -> None:
    again = language(rewritten("published-1", {}))
    assert again.grammars.keys() == language("published-1").grammars.keys()
    for name, grammar in again.grammars.items():
        assert grammar.rules == language("published-1").grammars[name].rules
    text = rewritten("published-1", {"held-out text": HELD_OUT})
    assert language(text).held_out.rules == language("published-1").held_out.rules
    with pytest.raises(deltaw.DeltawError, match=r"no section \[nothing\]"):
        rewritten("published-1", {"nothing": "a -> b"})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid") / "run"
    whole = recipe("smoke")
    sizes = replace(whole.sizes, final=6, checkpoint=2, attacked=8, ceiling=20)
    steps = replace(whole.pretraining, optimiser=replace(whole.pretraining.optimiser, steps=4))
    grid = gridded(replace(whole, sizes=sizes, pretraining=steps, base_checkpoints=(0, 4)))
    run_study(replace(grid, cells=tuple(CELLS[name] for name in SMALL)), out, engine="inline")
    return out


def test_base_models_are_shared_where_pretraining_is_the_same() -> None:
    graph = stages(gridded(recipe("smoke")))
    bases = {stage.name for stage in graph if isinstance(stage.config, BaseConfig)}
    assert bases == {"base-default-s0", "base-alias-0.1-s0", "base-alias-0.02-s0"}
    tunings = {stage.name: stage for stage in graph if isinstance(stage.config, TuneConfig)}
    assert len(tunings) == len(CELLS) - 1
    assert tunings["tune-ssft-medium-text-far-s0"].inputs == {"base": "base-default-s0"}
    assert tunings["tune-ssft-medium-alias-0.1-s0"].inputs == {"base": "base-alias-0.1-s0"}
    margin = next(stage for stage in graph if stage.name == "cell-ssft-medium-margin-1-s0")
    assert margin.inputs == {"base": "base-default-s0", "tuned": "tune-ssft-medium-default-s0"}


def test_every_cell_is_in_the_results_and_on_the_page(small: Path) -> None:
    results = deltaw.load(small)
    rates = results.select("comply_rate", stage="behaviour")
    for name in SMALL:
        cell = CELLS[name]
        wanted = ("co_text",) if cell.axis == "margin" else tuple(dict.fromkeys(attack for attack, _ in BENIGN_OF))
        for model in ("base", "ssft-medium"):
            own = rates[rates["model"] == f"{model}@{name}"]
            assert set(own["attack"].dropna()) == set(wanted)
            for (attack, source), control in BENIGN_OF.items():
                if attack in wanted:
                    attacked = own[own["attack"] == attack]
                    assert {source, control} <= set(attacked["set"])
                    assert {source, control} <= set(own[own["attack"].isna()]["set"])
            assert own[["low", "high"]].notna().all(axis=None)
    grid = Grid(results)
    worlds, attacks, sides = tables_of(grid)
    assert [row[0] for row in worlds.rows] == list(SMALL)
    assert len(attacks.rows) == len(BENIGN_OF) * (len(SMALL) - 1) + 1
    assert sum(int(row[-1]) for row in sides.rows) == 4 * 8
    page = (small / "report.html").read_text(encoding="utf-8")
    for table in (worlds, attacks, sides):
        assert table.title.replace(">", "&gt;") in page
    text = (small / "tables.md").read_text(encoding="utf-8")
    assert text.count("\n| default |") == 1
    assert text.count("\n|") == sum(len(table.rows) + 2 for table in (worlds, attacks, sides))
    assert (small / "figures" / "grid.svg").stat().st_size > 1000
    assert json.loads((small / "claims.json").read_text()) == []


def test_the_models_of_a_grid_can_be_loaded_by_name(small: Path) -> None:
    results = deltaw.load(small)
    assert {"base@default", "base@alias-0.02", "ssft-medium@text-far"} <= set(results.models["name"])
    model, meta = deltaw.load_model(results.model("ssft-medium@text-far"))
    assert meta["model"] == "ssft-medium@text-far"
    assert model.config.vocabulary_size == world("text-far").vocabulary.size
