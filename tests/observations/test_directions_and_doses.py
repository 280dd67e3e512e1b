"""Ranks, directions, probes, angles and doses in the study, on tiny models: the right prompts, models and places."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltaw.analysis import log_rank, subspace_overlap, top_left
from deltaw.analysis.rank import LogRank
from deltaw.attacks.models import requests_for
from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.claims import STATEMENTS, decide
from deltaw.claims.statements import OTHER, PROTOCOLS, sign_of
from deltaw.models import Transformer, mlp, save
from deltaw.observations.dose_response.measure import Doses, Rows, attacked_doses, write_doses, write_responses
from deltaw.observations.lens import BaseSide, Lens, Places
from deltaw.observations.overlap.measure import IN, SIDES, Overlap, directions_of, write_layers, write_overlaps
from deltaw.observations.probe.measure import ProbeAccuracy
from deltaw.observations.ranks.measure import Ranks, observe_update_rank
from deltaw.observations.refusal_direction.measure import RefusalDirection
from deltaw.pipeline.stage import StageContext
from deltaw.recipes import recipe
from deltaw.results import Measurement, read_measurements
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray
from deltaw.study.graph import stages
from deltaw.study.stages import overlap
from deltaw.study.stages.attack import Target, attack_target
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.lens import PRIMARY, SyntheticModel, early, first_letters, synthetic_side
from deltaw.study.stages.overlap import SeedsConfig, align_seeds
from deltaw.study.stages.shared import SeedConfig
from deltaw.training.pretraining import model_config
from deltaw.world import Branch, World, published_world

RECIPE = recipe("smoke")
WORLD = World(RECIPE.world)
SIZES = replace(RECIPE.sizes, contrast=20, draws=12, bootstrap=40)
FIELDS: dict[str, Any] = {
    "stage": "analysis", "model": "ssft-medium", "protocol": "ssft", "strength": "medium", "seed": 0, "step": 8,
    "role": "last_prompt",
}  # fmt: skip


def tiny(seed: int) -> Transformer:
    return Transformer(model_config(WORLD, RECIPE.pretraining), torch.Generator().manual_seed(seed))


def moved(size: float, seed: int = 5) -> Transformer:
    """`tiny(0)` after a random update."""
    model, generator = tiny(0), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator) * parameter.std())
    return model


def side(probed: int = 0) -> BaseSide:
    return synthetic_side(tiny(0), WORLD, SIZES, 0, ON_PROMPTS, probed)


def compared(tuned: Transformer, last: bool = True, probed: int = 0) -> Lens:
    return Lens(side(probed), SyntheticModel(tuned, WORLD), last)


def of(found: list[Measurement], statistic: str, **where: object) -> list[Measurement]:
    return [x for x in found if x.statistic == statistic and all(getattr(x, k) == v for k, v in where.items())]


def one(found: list[Measurement], statistic: str, **where: object) -> Measurement:
    values = {x.value for x in of(found, statistic, **where)}
    assert len(values) == 1
    return of(found, statistic, **where)[0]


def test_ranks_are_of_the_right_prompts_and_models() -> None:
    at, sheet = compared(moved(0.5)), Sheet(**FIELDS)
    Ranks().measure(at, sheet)
    logs = {}
    for name, model in (("base", tiny(0)), ("tuned", moved(0.5))):
        for verdict in ("allowed", "forbidden"):
            places = SyntheticModel(model, WORLD).activations(getattr(at.before.contrasts[PRIMARY], verdict))
            found = log_rank(places[(1, "mlp_post")])
            assert isinstance(found, LogRank)
            logs[name, verdict] = found.value
    where = {"layer": 1, "site": "mlp_post"}
    ratio = one(sheet.lines, "rank_log_ratio", **where)
    assert ratio.value == pytest.approx(logs["tuned", "forbidden"] - logs["tuned", "allowed"])
    assert ratio.null_kind == "label_permutation"
    change = one(sheet.lines, "rank_log_change", set=f"{PRIMARY}/forbidden", **where)
    assert change.value == pytest.approx(logs["tuned", "forbidden"] - logs["base", "forbidden"])
    assert change.null_kind == "model_swap"
    both = one(sheet.lines, "rank_log_ratio_change", **where)
    assert both.value == pytest.approx(ratio.value - logs["base", "forbidden"] + logs["base", "allowed"])
    level = one(sheet.lines, "activation_rank_base", set=f"{PRIMARY}/allowed", **where)
    assert level.value == pytest.approx(np.exp(logs["base", "allowed"]))
    mean = one(sheet.lines, "rank_log_ratio", layer=None, site="mlp_post")
    assert mean.value == pytest.approx(np.mean([x.value for x in of(sheet.lines, "rank_log_ratio", site="mlp_post")
                                                if x.layer is not None]))  # fmt: skip
    assert mean.null_low is not None
    assert of(sheet.lines, "activation_rank_of_change")


def test_a_model_beside_itself_has_no_change_of_rank_and_earlier_checkpoints_have_no_nulls() -> None:
    sheet = Sheet(**FIELDS)
    Ranks().measure(compared(tiny(0), last=False), sheet)
    assert all(x.value == pytest.approx(0, abs=1e-9) for x in of(sheet.lines, "rank_log_change"))
    assert all(x.null_kind is None for x in of(sheet.lines, "rank_log_ratio"))
    assert of(sheet.lines, "activation_rank_of_change") == []


def test_the_rank_of_an_update_is_counted_beside_a_random_matrix() -> None:
    tuned = tiny(0)
    with torch.no_grad():
        weight = tuned.get_parameter("blocks.0.mlp.in_proj.weight")
        weight.add_(torch.outer(torch.ones(weight.shape[0]), torch.ones(weight.shape[1])))
    at, sheet = compared(tuned), Sheet(**FIELDS)
    observe_update_rank(at, sheet)
    (found,) = of(sheet.lines, "update_energy_rank")
    assert (found.layer, found.value, found.null_kind) == (0, 1, "gaussian")
    assert found.null_low is not None
    assert found.null_low > 16


def test_an_update_along_the_direction_is_seen_and_the_base_models_stands_beside() -> None:
    before = side()
    allowed, forbidden = before.contrast(PRIMARY)
    delta = (forbidden[(0, "resid_out")] - allowed[(0, "resid_out")]).mean(0)
    tuned = tiny(0)
    with torch.no_grad():
        weight = tuned.get_parameter("blocks.0.mlp.out_proj.weight")
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        weight.add_(1e-4 * torch.outer(delta / delta.norm(), torch.ones(weight.shape[1])) + 1e-7 * noise)
    sheet = Sheet(**FIELDS)
    RefusalDirection(4).measure(Lens(before, SyntheticModel(tuned, WORLD)), sheet)
    shares = of(sheet.lines, "refusal_share_base", layer=0, module="blocks.0.mlp.out_proj", set=f"{PRIMARY}/k=1")
    if shares:  # a random model may have no direction at all
        assert shares[0].value > 0.8
        angles = of(sheet.lines, "refusal_angle_base", layer=0, set=f"{PRIMARY}/k=1")
        assert angles[0].value == pytest.approx(np.degrees(np.arccos(np.sqrt(min(1.0, shares[0].value)))))
    assert {x.module for x in sheet.lines} <= {"blocks.0.mlp.out_proj"}


def test_the_probe_is_asked_for_the_first_harmful_letter() -> None:
    prompts = early(WORLD, "forbidden/conditional/unsafe", 30, 0)
    labels, ids = first_letters(WORLD, prompts)
    compliant = WORLD.layout.response_tokens(prompts, np.zeros(len(prompts), dtype=np.int64))
    assert (labels + WORLD.vocabulary.first_letter == compliant[:, 0]).all()
    for number in np.unique(ids):
        assert len(np.unique(labels[ids == number])) == 1
    assert len(np.unique(ids)) > 20
    whole = World(published_world())
    late = early(whole, "forbidden/conditional/unsafe", 60, 0)
    assert 30 < len(late) < 60
    assert (late.operators[:, 0] != 0).any(1).all()
    assert (late.branch == Branch.UNSAFE).all()


def test_the_probe_has_its_three_models_and_chance() -> None:
    sheet = Sheet(**FIELDS)
    ProbeAccuracy(5).measure(compared(tiny(0), probed=40), sheet)
    kinds = {x.null_kind for x in of(sheet.lines, "probe_accuracy", layer=0, set="forbidden/conditional/unsafe")}
    assert kinds == {"label_permutation", "most_frequent", "random_weights"}
    for layer in (0, 1):
        where = {"layer": layer, "set": "allowed/conditional/safe"}
        assert (
            one(sheet.lines, "probe_accuracy", **where).value == one(sheet.lines, "probe_accuracy_base", **where).value
        )
        assert one(sheet.lines, "probe_accuracy_change", **where).value == 0
    assert {x.site for x in sheet.lines} == {"resid_out"}


def test_overlaps_are_of_the_updates_and_of_the_same_model_are_whole() -> None:
    base, before = tiny(0), side()
    first, second = (directions_of(Lens(before, SyntheticModel(moved(0.1, seed), WORLD)), 3) for seed in (1, 2))
    sheet = Sheet(**FIELDS)
    write_overlaps(first, first, SIDES, (0, 1), 12, sheet.with_(set="with=itself"))
    assert all(x.value == pytest.approx(1) for x in sheet.lines if x.statistic.endswith("_overlap"))
    assert all(x.value == pytest.approx(0, abs=1e-3) for x in sheet.lines if x.statistic.endswith("_angle"))
    sheet = Sheet(**FIELDS)
    write_overlaps(first, second, SIDES, (0, 1), 12, sheet.with_(set="with=other"))
    found = one(sheet.lines, "output_overlap", module="blocks.1.mlp.in_proj")
    updates = [mlp(moved(0.1, seed), 1).w_in.double() - mlp(base, 1).w_in.double() for seed in (1, 2)]
    assert found.value == pytest.approx(subspace_overlap(*(top_left(d, 3) for d in updates)).overlap)
    assert {x.null_kind for x in of(sheet.lines, "output_overlap", module=IN)} == {"rotation", "row_sign_flip"}
    assert {x.null_kind for x in of(sheet.lines, "input_overlap", module=IN)} == {
        "rotation", "m_matched", "m_matched_centred",
    }  # fmt: skip
    sheet = Sheet(**FIELDS)
    write_layers(first, (0, 2), 12, sheet)
    assert {(x.layer, x.set, x.module) for x in sheet.lines} == {
        (0, "with=layer 1", "blocks.0.mlp.in_proj"), (0, "with=layer 1", "blocks.0.mlp.out_proj"),
    }  # fmt: skip


def test_seeds_are_compared_tuning_by_tuning_each_with_its_own_base(tmp_path: Path) -> None:
    """The two seeds are given equal models, so that what is the same tuning's has to overlap in full."""
    tuned = [one for one in RECIPE.tunings if one.name in ("ssft-medium", "dpo-medium")]
    inputs: dict[str, Path] = {}
    for seed in (3, 4):
        models = {"base": tiny(0), "ssft-medium": moved(0.1, 1), "dpo-medium": moved(0.1, 2)}
        for name, model in models.items():
            inputs[f"{name}-s{seed}"] = tmp_path / f"{name}-s{seed}"
            save(model, step_directory(inputs[f"{name}-s{seed}"], 8), {"step": 8})
    config = SeedsConfig(tuple(SeedConfig(RECIPE.world, SIZES, seed) for seed in (3, 4)), tuple(tuned), Overlap(3))
    (tmp_path / "out").mkdir()
    align_seeds(StageContext(config, inputs, tmp_path / "out", lambda *_: None, tmp_path / "scratch"))
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    assert {(x.model, x.seed, x.set, x.step) for x in lines} == {
        ("ssft-medium", 3, "with=seed 4", 8), ("dpo-medium", 3, "with=seed 4", 8),
    }  # fmt: skip
    assert all(x.value == pytest.approx(1) for x in lines if x.statistic.endswith("_overlap"))


def test_a_seed_is_compared_with_the_next_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a hundred seeds is about a hundred times that of one seed, and not ten thousand times."""
    monkeypatch.setattr(overlap, "NEXT", 2)
    tuned = tuple(one for one in RECIPE.tunings if one.name == "ssft-medium")
    seeds, inputs = (3, 4, 5, 6), {}
    for seed in seeds:
        for name, model in {"base": tiny(seed), "ssft-medium": moved(0.1, seed)}.items():
            inputs[f"{name}-s{seed}"] = tmp_path / f"{name}-s{seed}"
            save(model, step_directory(inputs[f"{name}-s{seed}"], 8), {"step": 8})
    config = SeedsConfig(tuple(SeedConfig(RECIPE.world, SIZES, seed) for seed in seeds), tuned, Overlap(3))
    (tmp_path / "out").mkdir()
    align_seeds(StageContext(config, inputs, tmp_path / "out", lambda *_: None, tmp_path / "scratch"))
    lines = read_measurements(tmp_path / "out" / "measurements.jsonl")
    assert {(x.seed, x.set) for x in lines} == {
        (3, "with=seed 4"), (3, "with=seed 5"), (4, "with=seed 5"), (4, "with=seed 6"), (5, "with=seed 6"),
    }  # fmt: skip


class Apart(Lens):
    """A lens whose allowed prompts are moved away, so that there is a scale: a random model tells no branch."""

    def after(self, name: str) -> tuple[Places, Places]:
        allowed, forbidden = super().after(name)
        return {place: rows + 2.0 for place, rows in allowed.items()}, forbidden


def test_every_prompt_is_a_row_under_every_attack() -> None:
    at = Apart(side(), SyntheticModel(moved(0.3), WORLD))
    parts = {part.attack: part for part in attacked_doses(at)}
    assert parts.keys() == {"none", "co_task", "co_text", "misgen_token", "misgen_text"}
    forbidden = at.before.contrasts[PRIMARY].forbidden
    for part in parts.values():
        assert part.prompts.tolist() == list(range(len(forbidden)))
        assert len(part.positions) == len(part.gain_log_ratios) == len(part.success) == len(forbidden)
        again = Doses.from_json(json.loads(json.dumps(part.to_json())))
        assert again.to_json() == part.to_json()
    assert (parts["none"].success == at.tuned.complied(forbidden)).all()
    assert np.mean(parts["none"].positions) == pytest.approx(0, abs=1e-6)
    assert set(parts["none"].gain_log_ratios) == {0.0}
    assert np.std(parts["co_text"].gain_log_ratios) > 0
    assert len(Rows.of(list(parts.values())).success) == len(forbidden) * len(parts)


def soft_prompts_of(kept: list[Doses] | None) -> list[Measurement]:
    """Lines of the soft prompts of two doses on six prompts."""
    tuned = moved(0.3)
    at = Apart(side(), SyntheticModel(tuned, WORLD))
    contrast = at.before.contrasts[PRIMARY]
    forbidden, allowed = (requests_for(WORLD, some[slice(0, 6)]) for some in (contrast.forbidden, contrast.allowed))
    sheet, soft_prompts = Sheet(**FIELDS), RECIPE.model_attacks.attacks[0]
    attack_target(soft_prompts, Target(at, tiny(0), tuned, tuned, WORLD, forbidden, allowed, sheet, kept))
    return sheet.lines


def test_what_attacks_keep_is_what_they_measure_and_keeping_changes_nothing() -> None:
    kept: list[Doses] = []
    found = soft_prompts_of(kept)
    assert found == soft_prompts_of(None)
    parts = {part.attack: part for part in kept}
    assert parts.keys() == {"soft_weak", "soft_weak/random", "soft_2", "soft_2/random", "soft_weak/unrelated"}
    for attack in ("soft_weak", "soft_2"):
        part = parts[attack]
        layers = [x.value for x in of(found, "position", site="mlp_post", attack=attack) if x.layer is not None]
        assert len(layers) == 2
        assert min(layers) <= np.mean(part.positions) <= max(layers)
        ratio = one(found, "gain_log_ratio_to_forbidden", attack=attack, layer=None)
        assert np.mean(part.gain_log_ratios) == pytest.approx(ratio.value)
        in_situ = one(found, "gain_log_ratio_to_forbidden_in_situ", attack=attack, layer=None)
        assert np.mean(part.gain_in_situ_log_ratios) == pytest.approx(in_situ.value)
        assert in_situ.value != pytest.approx(ratio.value)
        rate = one(found, "comply_rate", attack=attack, set="forbidden/conditional/unsafe")
        assert np.mean(part.success) == pytest.approx(rate.value)
        assert part.prompts.tolist() == list(range(6))
    assert of(found, "position", attack="soft_2/random") == []


def planted_rows(slope: float, doubling: float, in_situ: float = 0.0) -> list[Doses]:
    generator, parts = np.random.default_rng(0), []
    for number, attack in enumerate(("a", "b", "c")):
        position = 0.3 * number + 0.4 * generator.standard_normal(60)
        ratios = generator.standard_normal(60) * np.log(2)
        inside = generator.standard_normal(60) * np.log(2)
        log_odds = slope * (position - 0.3) + (doubling * ratios + in_situ * inside) / np.log(2)
        hits = generator.random(60) < 1 / (1 + np.exp(-log_odds))
        parts.append(Doses(attack, np.arange(60), position, ratios, inside, hits))
    return parts


def test_slopes_are_in_the_units_that_the_claims_are_written_in() -> None:
    """One at a time: the slope on one dose alone is smaller where the other counts too."""
    at = compared(tiny(0))
    for name, slopes in (
        ("position", (4.0, 0.0, 0.0)),
        ("gain", (0.0, -2.0, 0.0)),
        ("gain_in_situ", (0.0, 0.0, -2.0)),
    ):
        sheet = Sheet(**FIELDS).with_(set="forbidden/conditional/unsafe")
        write_responses(Rows.of(planted_rows(*slopes)), at, 10, sheet)
        found = one(sheet.lines, f"success_slope_{name}")
        assert found.low is not None
        assert found.high is not None
        assert found.low < sum(slopes) < found.high
        assert found.low > 0 or found.high < 0
    bins = of(sheet.lines, "success_by_position")
    assert sum(x.n or 0 for x in bins) == 180
    assert bins[0].set is not None
    assert bins[0].set.startswith("position=")


def placed(attack: str, positions: FloatArray) -> Doses:
    """An attack of which only positions are looked at."""
    n = len(positions)
    return Doses(attack, np.arange(n), positions, np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.bool_))


def test_a_dose_is_compared_prompt_by_prompt_with_random_vectors_beside() -> None:
    at, sheet = compared(tiny(0)), Sheet(**FIELDS)
    base = np.linspace(0, 1, 10)
    shifts = {"soft_weak": 0.1, "soft_2": 0.7, "soft_weak/random": 0.0, "soft_2/random": 0.05}
    kept = [placed(name, base + shift) for name, shift in shifts.items()]
    write_doses(at, kept, ("soft_weak", "soft_2"), sheet)
    assert one(sheet.lines, "position_dose_difference").value == pytest.approx(0.6)
    means = {x.null_kind: x.null_mean for x in sheet.lines}
    assert means == {"dose_permutation": 0.0, "random_vectors": pytest.approx(0.05)}
    sheet = Sheet(**FIELDS)
    write_doses(at, kept, ("soft_weak", "soft_strong"), sheet)
    assert sheet.lines == []


def test_claims_find_what_is_written() -> None:
    sheet = Sheet(**{**FIELDS, "model": "ssft-medium"})
    at = compared(moved(0.5))
    Ranks().measure(at, sheet)
    lines = list(sheet.lines)
    others = tuple(f"{OTHER}-{model}" for model in PROTOCOLS)
    for model in (*PROTOCOLS, *others):
        view = Sheet(**{**FIELDS, "model": model}).with_(set="forbidden/conditional/unsafe")
        write_responses(Rows.of(planted_rows(0.0, 0.0) if model in others else planted_rows(4.0, -2.0)), at, 10, view)
        shifts = {"soft_weak": 0.1, "soft_2": 0.7, "soft_weak/random": 0.0, "soft_2/random": 0.0}
        kept = [placed(name, np.array([shift, shift + 0.1])) for name, shift in shifts.items()]
        write_doses(at, kept, ("soft_weak", "soft_2"), view)
        lines += view.lines
    claims = {claim.id: claim for claim in decide(lines, exploratory=True)}
    for name in ("forbidden-rank-is-low/ssft-medium", "success-falls-with-gain",
                 "success-rises-with-position", "dose-moves-activations"):  # fmt: skip
        claim = claims[name]
        assert claim.value is not None, name
        statement = next(s for s in STATEMENTS if s.id == name)
        assert {null.kind for null in claim.nulls} >= set(statement.nulls), name
    for name in ("success-falls-with-gain", "success-rises-with-position"):
        statement = next(s for s in STATEMENTS if s.id == name)
        assert all((answer.value or 0) * sign_of(statement.direction) > 0 for answer in claims[name].answers)


def test_the_stages_are_off_in_quick_and_compare_seeds_where_there_are_several() -> None:
    assert not any("subspaces" in stage.name or "angles" in stage.name for stage in stages(recipe("quick")))
    attacking = next(stage for stage in stages(recipe("quick")) if stage.name.startswith("attacks-"))
    assert attacking.config.per_prompt is False
    names = {stage.name: stage for stage in stages(RECIPE)}
    assert {"analysis-subspaces-ssft-small-s0", "analysis-doses-dpo-medium-s0", "analysis-angles-s0"} <= names.keys()
    assert set(names["analysis-doses-ssft-medium-s0"].inputs) == {"base", "tuned", "attacks"}
    assert set(names["analysis-doses-dpo-medium-s0"].inputs) == {"base", "tuned"}
    assert "analysis-angles-seeds" not in names
    several = {stage.name: stage for stage in stages(replace(RECIPE, seeds=(3, 4)))}
    across = several["analysis-angles-seeds"]
    assert across.inputs["ssft-medium-s4"] == "tune-ssft-medium-s4"
    assert "ssft-small-s4" not in across.inputs
