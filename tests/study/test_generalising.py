"""Operators that one tuning leaves out: never in its prompts, and measured beside the tuning that showed them."""

import numpy as np
import pytest

from deltaw.recipes import recipe
from deltaw.recipes.quick import LEFT_OUT
from deltaw.study.graph import stages
from deltaw.study.stages.finetune import TuneConfig
from deltaw.study.stages.left_out import SOURCES, LeftOutConfig
from deltaw.world import Rule, World

STAGES = {stage.name: stage for stage in stages(recipe("smoke"))}


def told() -> World:
    config = STAGES["tune-left-out-ssft-medium-s0"].config
    assert isinstance(config, TuneConfig)
    return World(config.shared.world)


def test_the_recipe_leaves_out_one_never_allowed_operator_and_two_conditional_ones() -> None:
    policy = World(recipe("smoke").world).policy
    assert len(set(LEFT_OUT) & set(policy.of_rule(1, Rule.NEVER))) == 1
    assert len(set(LEFT_OUT) & set(policy.of_rule(1, Rule.CONDITIONAL))) == 2


def test_tuning_never_shows_them_and_prompts_of_the_measurement_always_do() -> None:
    world = told()
    shown = world.operators.operator_of[world.sample("tune", range(4096), "train").operators]
    assert not np.isin(shown, LEFT_OUT).any()
    assert set(np.unique(shown)) == set(range(world.vocabulary.n_operators)) - set(LEFT_OUT)
    for name, source in SOURCES.items():
        prompts = world.sample(source, range(256))
        operators = world.operators.operator_of[prompts.operators]
        assert np.isin(operators, LEFT_OUT).any(axis=(1, 2)).all()
        assert np.isin(operators, (0, *LEFT_OUT)).all()
        assert (world.layout.allowed(prompts) == name.startswith("allowed/")).all()


def test_it_is_the_compared_tuning_but_for_the_prompts() -> None:
    chosen = recipe("smoke")
    assert chosen.left_out is not None
    known = next(tuned for tuned in chosen.tunings if tuned.name == chosen.left_out.compared)
    assert chosen.left_out.tuned.config == known.config
    tuned, measured = STAGES["tune-left-out-ssft-medium-s0"], STAGES["behaviour-left-out-s0"]
    assert isinstance(measured.config, LeftOutConfig)
    assert tuned.inputs == {"base": "base-s0"}
    assert measured.inputs == {"tuned": tuned.name, "compared": "tune-ssft-medium-s0", "base": "base-s0"}


@pytest.mark.parametrize("name", SOURCES)
def test_sets_are_called_as_they_would_be_had_tuning_shown_them(name: str) -> None:
    world = World(recipe("smoke").world)
    plain, left_out = world.sample(name, range(32)), told().sample(SOURCES[name], range(32))
    assert (world.layout.allowed(plain) == told().layout.allowed(left_out)).all()
    assert (plain.branch == left_out.branch).all()
