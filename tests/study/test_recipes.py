"""What `paper` is, from the reference notes, and the whole of what `paper-compat` changes."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deltaw.charts.style import PROTOCOL_NAMES
from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import plain
from deltaw.recipes import recipe
from deltaw.study.dry_run.plan import parameter_count
from deltaw.study.graph import stages
from deltaw.training import OptimiserConfig
from deltaw.training.controls.other import Other
from deltaw.training.pretraining import model_config
from deltaw.world import PUBLISHED_COMPAT, World, published_world


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}".lstrip(".")).items()}
    return {path: value}


def test_paper_is_the_published_model_and_optimisation() -> None:
    paper = recipe("paper")
    pretraining, adam = paper.pretraining, paper.pretraining.optimiser
    assert (pretraining.layers, pretraining.heads, pretraining.width, pretraining.batch) == (6, 6, 192, 512)
    assert (pretraining.block, pretraining.positions, pretraining.attend_pads) == ("published", "sinusoidal", True)
    assert adam == OptimiserConfig(
        1e-3, 1e-5, 100_000, 20_000, 80_000, (0.9, 0.95), weight_decay=1e-4, clip_norm=None, eps=1e-8, from_zero=True
    )
    rates = {"medium": 1e-4, "small": 1e-5}
    for tuned in paper.tunings:
        assert tuned.config.batch == 512
        assert tuned.config.optimiser == OptimiserConfig(
            rates[tuned.strength], 1e-6, 10_000, 2_000, 8_000, (0.9, 0.95), clip_norm=1.0, from_zero=True
        )
    kinds = {(tuned.protocol, tuned.strength) for tuned in paper.tunings if tuned.control is None}
    assert kinds >= {(protocol, strength) for protocol in ("ssft", "dpo", "unlearn") for strength in rates}
    assert {tuned.control for tuned in paper.tunings} == {
        None, "benign", "operators", "noise", "other", "constant",
    }  # fmt: skip
    shape = model_config(World(paper.world), pretraining)
    assert parameter_count(shape) == 2 * shape.vocabulary_size * 192 + 6 * (444_864 - 384) + 384 == 2_688_384
    assert paper.base_checkpoints[-1] == 100_000
    assert paper.checkpoints[-1] == 10_000


def test_paper_is_the_papers_world() -> None:
    paper = recipe("paper")
    assert paper.world == published_world()
    assert paper.base_world is None
    config = paper.world
    assert ([g.number for g in config.grammars], config.pairs, config.text_length, config.late) == (
        [1, 2, 3, 4], 2, (25, 35), 0.2,
    )  # fmt: skip
    samples = np.array([0, 5_120_000, 28_160_000, 51_200_000])  # flat for 10,000 iterations of 512, to 100,000
    wanted = [[0.5, 0.1, 0.2, 0.2], [0.5, 0.1, 0.2, 0.2], [0.3, 0.15, 0.25, 0.3], [0.1, 0.2, 0.3, 0.4]]
    assert np.allclose(paper.pretraining.views.shares(samples), wanted)


def test_shared_changes_the_level_5_rules_and_redraws_nothing() -> None:
    before, after = (leaves(plain(recipe(name))) for name in ("paper", "paper-shared"))
    changed = {name: after[name] for name in before if before[name] != after[name]}
    assert changed == {"name": "paper-shared", "world.unsafe_level_5": "shared", "world.redraw_below": 0.0}
    ceiling = World(recipe("paper-shared").world).ceiling(100)
    assert 0.7 < ceiling.accuracy == ceiling.accuracy_before < 0.97


def test_compat_changes_this_and_nothing_else() -> None:
    paper, compat = recipe("paper"), recipe("paper-compat")
    before, after = ({**leaves(plain(replace(r, base_world=None))), "tunings": None} for r in (paper, compat))
    switches = {f"world.compat.{field}" for field in plain(PUBLISHED_COMPAT) if field != "type"}
    assert {name for name in before | after if before.get(name) != after.get(name)} == switches | {
        "name", "pretraining.dead_norm", "world.grammars", "world.unsafe_level_5", "world.redraw_below",
        "world.held_out",
    }  # fmt: skip
    seeds = [grammar.operator_seed for grammar in compat.world.grammars]
    assert compat.base_world is not None
    assert ([g.operator_seed for g in compat.base_world.grammars], seeds) == ([0] * 4, [0, 150, 300, 450])
    assert replace(compat.world, grammars=compat.base_world.grammars) == compat.base_world
    assert [tuned.name for tuned in paper.tunings] == [tuned.name for tuned in compat.tunings]
    changed: set[tuple[str, str, str]] = set()
    for ours, theirs in zip(paper.tunings, compat.tunings, strict=True):
        one, two = leaves(plain(ours.config)), leaves(plain(theirs.config))
        for name in one | two:
            if one.get(name) != two.get(name):
                changed.add((name, json.dumps(one.get(name)), json.dumps(two.get(name))))
    assert changed == {
        ("protocol.type", '"Dpo"', '"DpoPublished"'),
        ("protocol.name", '"dpo"', '"dpo-published"'),
        ("protocol.label", '"DPO"', '"DPO, as published"'),
        ("protocol.beta", "0.1", "null"),
        ("protocol.sft_weight", "4.0", "null"),
        ("protocol.type", '"Unlearn"', '"UnlearnPublished"'),
        ("protocol.name", '"unlearn"', '"unlearn-published"'),
        ("protocol.label", '"Unlearning"', '"Unlearning, as published"'),
        ("protocol.ascent_weight", "0.1", "null"),
        ("protocol.preferred_weight", "null", "0.1"),
        ("protocol.dispreferred_weight", "null", "0.01"),
        ("protocol.preferred_weight", "null", "1.0"),
        ("protocol.dispreferred_weight", "null", "0.1"),
        ("protocol.length", "null", "159"),
        ("optimiser.weight_decay", "0.0", "0.0001"),
        ("allowed_batches", "null", "0.8"),
        ("allowed_batches", "null", "0.5"),
        ("borrow_masks", "false", "true"),
    }


def test_published_tuning_contradicts_published_pretraining() -> None:
    """Operators of grammar 1 are the same in both, those of the others are not. Ours: one set throughout."""
    compat = recipe("paper-compat")
    assert compat.base_world is not None
    base, tuning = World(compat.base_world), World(compat.world)
    assert base.vocabulary == tuning.vocabulary
    prompts = tuning.sample("published/allowed/safe", range(200), "train")
    moved = (prompts.operators[:, 0] != 0).any(1)
    learned, taught = (world.layout.outputs(prompts)[:, 0] for world in (base, tuning))
    differs = (learned != taught).any(1)
    assert not differs[prompts.grammar == 1].any()
    assert (differs == moved)[prompts.grammar > 1].all()
    graph = {stage.name: stage for stage in stages(compat)}
    assert graph["base-s0"].config.shared.world == compat.base_world
    assert graph["tune-ssft-medium-s0"].config.shared.world == compat.world
    assert graph["behaviour-base-s0"].config.shared.world == compat.world


def test_standard_decides_in_the_papers_world_on_seeds_of_its_own() -> None:
    standard, laptop = recipe("standard"), recipe("paper-laptop")
    assert standard.seeds == tuple(range(221, 229))
    assert not standard.exploratory
    assert standard.world == laptop.world == recipe("paper").world
    assert (standard.pretraining, standard.tunings) == (laptop.pretraining, laptop.tunings)
    protocols = {"ssft-medium", "dpo-medium", "unlearn-medium"}
    assert {tuned.name for tuned in standard.tunings} == {
        f"{control}{name}" for name in protocols for control in ("", "other-", "constant-")
    }
    assert len([step for step in standard.checkpoints if step]) >= 6  # of curves over training
    assert not set(standard.seeds) & set(recipe("small").seeds)


def test_a_seed_of_standard_can_be_run_alone() -> None:
    assert replace(recipe("standard", seed=223), seeds=()) == replace(recipe("standard"), seeds=())
    assert recipe("standard", seed=223).seeds == (223,)
    with pytest.raises(DeltawError, match="seed is 3; standard has 221 to 228"):
        recipe("standard", seed=3)


def test_every_statistic_that_a_claim_reads_has_a_stage_in_standard() -> None:
    """But for those that the smaller rate or the count of directions has, which `small` makes."""
    graph = {stage.name for stage in stages(recipe("standard", seed=221))}
    for name in ("ssft-medium", "other-dpo-medium"):
        for kind in ("analysis", "behaviour", "attacks", "analysis-doses", "interventions"):
            assert f"{kind}-{name}-s221" in graph
    assert "analysis-constant-unlearn-medium-s221" in graph


def test_small_is_the_world_of_quick_with_every_control() -> None:
    small, quick = recipe("small"), recipe("quick")
    assert len(set(small.seeds)) == 4
    assert min(small.seeds) > 200  # 101 to 118 were looked at
    assert not set(small.seeds) & set(recipe("small", seed=1).seeds)
    assert not small.exploratory
    assert small.world == quick.world
    assert (small.pretraining.optimiser.method, quick.pretraining.optimiser.method) == ("adamw", "muon")
    assert replace(small.pretraining, optimiser=quick.pretraining.optimiser) == quick.pretraining
    assert small.base_checkpoints[-1] == small.pretraining.optimiser.steps
    models = {(tuned.protocol, tuned.strength, tuned.control) for tuned in small.tunings}
    protocols = ("ssft", "dpo", "unlearn")
    assert models >= {(protocol, strength, None) for protocol in protocols for strength in ("medium", "small")}
    assert models >= {(protocol, strength, "other") for protocol in protocols for strength in ("medium", "small")}
    assert models >= {(protocol, "medium", "constant") for protocol in protocols}
    assert models >= {("ssft", "medium", name) for name in ("operators", "placebo", "placebo_other")}
    by_name = {tuned.name: tuned for tuned in small.tunings}
    assert len({tuned.name for tuned in small.tunings}) == len(small.tunings)
    again, first = by_name["ssft-medium-again"].config, by_name["ssft-medium"].config
    assert again == replace(first, first_row=64 * small.steps)
    for tuned in small.tunings:
        assert tuned.config.optimiser == by_name[f"ssft-{tuned.strength}"].config.optimiser


def test_a_control_of_dpo_has_the_reference_of_its_own_answers() -> None:
    small = replace(recipe("small"), seeds=(101,))
    inputs = {stage.name: stage.inputs.get("reference") for stage in stages(small)}
    assert inputs["tune-dpo-medium-s101"] == inputs["tune-dpo-small-s101"] == "reference-s101"
    assert inputs["tune-other-dpo-medium-s101"] == "reference-other-s101"
    assert inputs["tune-ssft-medium-s101"] is inputs["tune-ssft-medium-again-s101"] is None
    configs = {stage.name: stage.config for stage in stages(small)}
    assert configs["reference-other-s101"].data.control == Other()
    assert configs["reference-s101"].data.control is None


@pytest.mark.parametrize("name", ["quick", "standard", "small", "smoke", "grid", "paper", "paper-laptop"])
def test_the_report_knows_every_protocol_that_a_recipe_names(name: str) -> None:
    tuned = [*recipe(name).tunings, *([left.tuned] if (left := recipe(name).left_out) else [])]
    assert {one.protocol for one in tuned} <= PROTOCOL_NAMES.keys()
