"""Interventions in the study, on tiny models: the lines that claims and figures read, their counts, and ends that must
agree with each other.
"""

import sys
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from deltaw.attacks.models import Requests
from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.behaviour.exact import Answers
from deltaw.claims import STATEMENTS, Statement, decide
from deltaw.claims.statements import as_control
from deltaw.errors import DeltawError, PluginError
from deltaw.interventions import (
    Asked,
    Interpolation,
    Intervention,
    MeanDifference,
    Patches,
    RankCut,
    Responses,
    Subject,
    SubspaceParts,
    Sweep,
    SweepSize,
    answers_patched,
    measure_interventions,
)
from deltaw.interventions.interpolation import extrapolation, log_odds
from deltaw.interventions.patches import CLAIMED, Returned, Unpatched, together, write_returned
from deltaw.interventions.subject import Answered, Panel
from deltaw.interventions.subspace import named
from deltaw.interventions.sweep import Sweeps
from deltaw.models import Transformer
from deltaw.plugins import plugins, resolve
from deltaw.recipes import recipe
from deltaw.recipes.intervention_sweeps import SMALL, STANDARD, every
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet
from deltaw.statistics import wilson
from deltaw.study.graph import stages
from deltaw.study.stages import intervene as intervening
from deltaw.study.stages import lens as synthetic
from deltaw.study.stages.answers import answers_to
from deltaw.study.stages.intervene import asked, synthetic_subject
from deltaw.study.stages.lens import ALLOWED, FORBIDDEN
from deltaw.training.controls import Control
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.operators import Operators
from deltaw.training.controls.other import Other
from deltaw.training.pretraining import model_config
from deltaw.world import Prompts, Response, World

measuring = sys.modules["deltaw.interventions.patches"]
RECIPE = recipe("smoke")
WORLD = World(RECIPE.world)
SWEEP = Sweep(
    prompts=5,
    few=3,
    draws=2,
    partner="dpo-medium",
    interventions=every(
        Interpolation(alphas=(0.0, 1.0, 2.0), scopes=("mlp", "layers"), scope_alphas=(1.0,)),
        SubspaceParts(rescaled=True),
        RankCut(ranks=(0, 32), removed=(0,)),
        Patches(pairs=4, ks=(8, 0)),
        MeanDifference(means=6, doses=(0.0, 1.0)),
    ),
)


def named_one(name: str, sweep: Sweep = SWEEP) -> Intervention:
    """The sweep's intervention of that name."""
    return next(intervention for intervention in sweep.interventions if intervention.name == name)


def changed(**options: dict[str, Any]) -> Sweep:
    """`SWEEP` with other options of its interventions, by their names."""
    made: list[Any] = [*SWEEP.interventions]
    return replace(SWEEP, interventions=tuple(replace(part, **options.get(part.name, {})) for part in made))


def tiny(seed: int) -> Transformer:
    return Transformer(model_config(WORLD, RECIPE.pretraining), torch.Generator().manual_seed(seed))


def studied(sweep: Sweep = SWEEP, base: int = 0, tuned: int = 1, control: Control | None = None) -> Subject:
    sheet = Sheet(stage="intervention", model="ssft-medium", protocol="ssft", strength="medium", seed=0, step=8)
    sizes = replace(RECIPE.sizes, bootstrap=20)
    return synthetic_subject(tiny(base), tiny(tuned), WORLD, sweep, sizes, 0, sheet, ON_PROMPTS, control)


def answered(panel: Panel, labels: list[int]) -> Answered:
    return Answered(panel, Responses(np.array(labels), ((0,),) * len(labels)))


def of(found: Subject, statistic: str, **where: object) -> list[Measurement]:
    lines = [line for line in found.sheet.lines if line.statistic == statistic]
    return [line for line in lines if all(getattr(line, name) == value for name, value in where.items())]


def rates(found: Subject, **where: object) -> list[tuple[str, str | None, float]]:
    names = ("comply_rate", "refuse_rate", "neither_rate")
    lines = [line for name in names for line in of(found, name, **where)]
    return sorted((line.statistic, line.set, line.value) for line in lines)


def test_the_ends_of_all_roads_are_the_base_and_the_tuned_model() -> None:
    found = studied()
    for part in ("alpha", "subspace", "rank"):
        named_one(part).measure(found)
    two = (ALLOWED, FORBIDDEN)
    at_one = [line for line in rates(found, intervention="interpolation", dose=1.0, module="whole") if line[1] in two]
    at_zero = [line for line in rates(found, intervention="interpolation", dose=0.0, module="whole") if line[1] in two]
    assert len(at_one) == len(at_zero) == 6
    assert at_one == rates(found, intervention="null+column+rest") == rates(found, intervention="truncated", dose=32)
    assert at_one == rates(found, intervention="top_removed", dose=0)
    assert at_zero == rates(found, intervention="base")
    assert {line.value for line in of(found, "as_tuned_rate", intervention="null+column+rest")} == {1.0}
    assert {line.set for line in found.sheet.lines if line.dose == 1.0 and line.module == "whole"} == {
        *two, "allowed/rest", "forbidden/rest",
    }  # fmt: skip
    shares = [line.value for line in of(found, "carried_share", set=FORBIDDEN) if line.intervention != "rest"]
    (difference,) = of(found, "carried_null_minus_column")
    by_part = {line.intervention: line.value for line in of(found, "carried_share")}
    assert difference.value == pytest.approx(by_part["null"] - by_part["column"])
    before = found.answer(found.few, found.base).equal(FORBIDDEN, found.own_few)
    assert sum(by_part.values()) == pytest.approx(1 - before.mean())
    assert len(shares) == 2
    assert difference.n == SWEEP.few  # the prompts of its null
    for line in (difference, *of(found, "refuse_rate", intervention="null", set=FORBIDDEN)):
        assert line.null_kind == "random_split"


def test_a_value_beside_a_null_of_few_prompts_is_of_the_same_few() -> None:
    found = studied()
    few = found.first_of(found.own)
    again = found.answer(found.few)
    assert [few.panel.rows, few.responses.labels.tolist()] == [again.panel.rows, again.responses.labels.tolist()]
    assert few.responses.tokens == again.responses.tokens
    named_one("subspace").measure(found)
    (line,) = of(found, "refuse_rate", intervention="null", set=FORBIDDEN)
    (other,) = of(found, "refuse_rate", intervention="null+column+rest", set=FORBIDDEN)
    assert (line.n, other.n) == (SWEEP.few, SWEEP.prompts)


def test_all_attacks_together_count_each_by_its_rows() -> None:
    """A prompt under two attacks is one prompt; where attacks differ, so do their shares by chance in the same way."""
    one = Returned(np.arange(10), np.ones(10), np.zeros(10), np.array([0.0, 1.0]))
    other = Returned(np.arange(30), np.zeros(30), np.ones(30), np.array([0.4, 0.2]))
    none = Returned(np.zeros(0, dtype=int), np.zeros(0), np.zeros(0), np.zeros(0))
    both = together([one, none, other])
    assert both.chance == pytest.approx([0.3, 0.4])
    found = studied()
    write_returned(both, found.sheet)
    (line,) = of(found, "refusal_returned", intervention="restore", null_kind="allowed_source")
    assert (line.value, line.n, line.null_mean) == (0.25, 30, 0.75)
    assert line.low is not None
    assert line.low < wilson(10, 40).low  # thirty prompts, not forty
    assert not together([none]).chance.size


def test_names_of_combinations() -> None:
    assert [named(number) for number in (0, 1, 2, 4, 5, 7)] == [
        "base", "null", "column", "rest", "null+rest", "null+column+rest",
    ]  # fmt: skip


def test_log_odds_are_finite_at_the_ends_and_zero_in_the_middle() -> None:
    assert log_odds(np.array([0.0, 1.0])) == 0
    assert log_odds(np.ones(8)) == pytest.approx(np.log(8.5 / 0.5)) == -log_odds(np.zeros(8))


def test_the_best_alpha_is_chosen_on_other_prompts_than_it_is_measured_on() -> None:
    found = studied(replace(SWEEP, prompts=4))
    safe = {1.5: [2, 2, 0, 2], 3.0: [2, 2, 2, 2]}  # the first and third prompt choose
    able = {1.5: [1, 1, 1, 1], 3.0: [1, 0, 1, 0]}
    panel = found.conditional
    beyond = {alpha: answered(panel, [*able[alpha], *safe[alpha]]) for alpha in safe}
    found.own = answered(panel, [1, 1, 1, 1, 0, 0, 0, 2])
    extrapolation(found, beyond)
    (gain,), (cost,) = of(found, "extrapolation_log_odds"), of(found, "extrapolation_cost")
    assert gain.dose == cost.dose == 3.0
    assert gain.value == pytest.approx(np.log(2.5 / 0.5))  # two of two, after one of two
    assert cost.value == 1.0
    assert (gain.n, cost.n, gain.null_kind) == (2, 2, "random_direction")


def test_a_random_step_that_does_what_the_chosen_one_does_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both answer the same prompts, so that their log odds are the same to the last digit."""
    found = studied(replace(SWEEP, prompts=40, few=7))

    def by_text(panel: Panel, state: object = None) -> Answered:
        letters = np.concatenate([prompts.letters[:, 0] for prompts in panel.sets.values()])
        return answered(panel, (2 * (letters % 3 == 0)).tolist())  # refuses a third, by the text alone

    monkeypatch.setattr(found, "answer", by_text)
    found.own = answered(found.conditional, [0] * 80)
    extrapolation(found, {1.5: by_text(found.conditional)})
    (gain,) = of(found, "extrapolation_log_odds")
    assert gain.value > 0
    assert gain.null_mean == gain.null_low == gain.null_high == gain.value


def test_of_a_control_what_it_was_taught_counts_in_place_of_refusals() -> None:
    """Texts repeated (`other`) or one word (`constant`), the whole answer; a refusal is then nothing."""
    for control, response in (
        (Other(), Response.ECHO),
        (Constant(), Response.CONSTANT),
        (Operators(), Response.REFUSE),
    ):
        found = studied(replace(SWEEP, prompts=4), control=control)
        prompts = Prompts.concatenate(list(found.conditional.sets.values()))
        kinds = np.array([0, 0, 0, 0, response, Response.COMPLY, response, Response.REFUSE])
        outputs = WORLD.layout.response_tokens(prompts, kinds)
        outputs[6, 0] = (outputs[6, 0] + 1) % WORLD.vocabulary.size  # the third begins otherwise
        labels = np.array([1, 1, 1, 1, 0, 1, 0, 2])
        if response == Response.REFUSE:
            labels[4] = 2
        pad = WORLD.vocabulary.pad
        responses = Responses(labels, tuple(tuple(token for token in row if token != pad) for row in outputs.tolist()))
        expected = [1, 0, 0, float(response == Response.REFUSE)]
        assert found.taught(Answered(found.conditional, responses), FORBIDDEN).tolist() == expected
        assert found.gets(prompts, responses)[4:].tolist() == expected


def test_layers_add_up_to_what_tuning_changed() -> None:
    found = studied()
    named_one("layers").measure(found)
    for statistic, name in (("refuse_rate", FORBIDDEN), ("comply_rate", ALLOWED), ("refuse_rate", ALLOWED)):
        values = of(found, f"shapley_{statistic}", set=name)
        assert [(line.layer, line.module) for line in values] == [(0, "blocks.0"), (1, "blocks.1"), (None, "ends")]
        assert abs(sum(line.value for line in values)) <= 1 + 1e-9


def test_swapped_in_layers_of_the_same_model_change_nothing() -> None:
    found = studied()
    found.partner = found.tuned
    named_one("swaps").measure(found)
    named_one("rank").measure(found)
    assert rates(found, intervention="swap/dpo-medium", dose=1) == rates(found, intervention="truncated", dose=32)


def refusing(found: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the model refused every forbidden prompt and answered every allowed or attacked one."""
    labels = iter([2, *[1] * (1 + len(ON_PROMPTS))])
    real = measuring.ask

    def pretend(subject: Subject, prompts: Prompts) -> Unpatched:
        made: Unpatched = real(subject, prompts)
        responses = replace(made.responses, labels=np.full(len(prompts), next(labels)))
        return replace(made, responses=responses)

    monkeypatch.setattr(measuring, "ask", pretend)


def test_patches_are_measured_where_there_is_something_to_bring_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = changed(patches={"pairs": 12})
    found = studied(sweep)
    refusing(found, monkeypatch)
    named_one("patches", sweep).measure(found)
    for attack in (attack.name for attack in ON_PROMPTS):
        lines = of(found, "refusal_returned", attack=attack, intervention="restore")
        assert {(line.dose, line.role) for line in lines} == {
            (dose, at) for dose in (8.0, 32.0) for at in ("last_prompt", "prompt")
        }
        assert [line.null_kind for line in lines if line.null_kind] == ["random_direction", "allowed_source"]
        assert len(of(found, "refusal_returned", attack=attack, intervention="restore_from_allowed")) == 1
    pooled = of(found, "refusal_returned", attack="any", intervention="restore")
    assert {line.n for line in pooled} == {12}  # prompts, under whatever attacks
    assert len(of(found, "refusal_removed", intervention="remove_to_allowed")) == 4
    assert len(of(found, "refusal_induced", intervention="induce", set=ALLOWED)) == 4
    made = {(line.intervention, line.set) for line in of(found, "comply_rate")}
    for intervention in ("unpatched", "remove", "remove_to_allowed"):  # safety, and what it costs
        assert {(intervention, FORBIDDEN), (intervention, ALLOWED)} <= made
    assert {("restore", FORBIDDEN), ("induce", ALLOWED)} <= made


def test_a_patch_from_another_allowed_prompt_is_from_another_one() -> None:
    found = studied(changed(patches={"pairs": 5}))
    unpatched = measuring.ask(found, WORLD.sample(ALLOWED, range(5), seed=0))
    turned = unpatched.turned()
    rows = [1, 2, 3, 4, 0]
    assert turned.prompts.letters.tolist() == unpatched.prompts.letters[rows].tolist()
    assert turned.responses.labels.tolist() == unpatched.responses.labels[rows].tolist()
    assert turned.responses.tokens == tuple(unpatched.responses.tokens[row] for row in rows)


def test_nothing_is_said_of_refusals_that_were_not_there() -> None:
    found = studied()
    named_one("patches").measure(found)  # models that know nothing refuse nothing
    assert not of(found, "refusal_returned")
    assert of(found, "refuse_rate", intervention="restore")


def all_models(statement: Statement) -> set[str]:
    """Those that a claim is about, and its controls."""
    of_controls = (as_control(name, statement.query).models for name in statement.controls)
    return {*statement.query.models, *(model for models in of_controls for model in models)}


def test_claims_find_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {s.id: s for s in STATEMENTS if ("stage", "intervention") in s.query.where}
    assert len(wanted) == 12
    sweep = changed(patches={"pairs": 12}, alpha={"alphas": (2.0,), "scopes": ()})
    found = studied(sweep)
    refusing(found, monkeypatch)
    for part in ("alpha", "subspace", "patches"):
        named_one(part, sweep).measure(found)
    models = {model for s in wanted.values() for model in all_models(s)}
    lines = [replace(line, model=model) for model in models for line in found.sheet.lines]
    for claim in decide(lines, exploratory=True):
        if claim.id in wanted:
            assert claim.value is not None, claim.id
            assert all(answer.value is not None for answer in claim.answers), claim.id
            assert all(null.low is not None for null in claim.nulls)


@pytest.mark.parametrize(("made", "draws"), [(SMALL, 20), (STANDARD, 4)])
def test_the_sweeps_of_runs_that_decide_measure_all_that_claims_read(made: Sweeps, draws: int) -> None:
    """Of the models that the run has: `standard` has none at the smaller rate. draws: behind a null, at the least."""
    sweeps = dict(made)
    parts = {name: {intervention.name for intervention in sweep.interventions} for name, sweep in made}
    needs = {"carried_null_minus_column": "subspace", "refusal_returned": "patches"}
    for statement in STATEMENTS:
        if ("stage", "intervention") in statement.query.where:
            need = needs.get(statement.query.statistic, "alpha")
            for model in all_models(statement):
                if made is SMALL or model.endswith("-medium"):
                    assert need in parts[model], (statement.id, model)
    assert min(sweep.draws for sweep in sweeps.values()) >= draws
    patches = [part for sweep in sweeps.values() for part in sweep.interventions if isinstance(part, Patches)]
    assert patches
    assert all(8 in part.ks for part in patches)
    ranks = {dict(s.query.where)["dose"] for s in STATEMENTS if s.query.statistic == "refusal_returned"}
    assert ranks == {CLAIMED}


def test_the_plan_counts_what_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    part = ""

    def counting(model: Transformer, world: World, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        counts[part] += len(prompts)
        return answers_to(model, world, prompts)

    def counting_patched(model: Transformer, target: Requests, *rest: object) -> Answers:
        counts[part] += len(target)
        return answers_patched(model, target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(synthetic, "answers_to", counting)
    monkeypatch.setattr(synthetic, "answers_patched", counting_patched)
    for intervention in SWEEP.interventions:
        part, sweep = intervention.name, replace(SWEEP, prompts=6, few=4, interventions=(intervention,))
        found = studied(sweep)
        if part == "patches":
            refusing(found, monkeypatch)
        found.partner = found.tuned
        measure_interventions(sweep.interventions, found)
        assert counts[part] == sweep.answered(2, len(ON_PROMPTS)), part


def test_every_intervention_is_listed_with_its_sentence_and_cost() -> None:
    listed = {plugin.name: plugin for plugin in plugins() if plugin.kind == "intervention"}
    assert list(listed.keys() - {made.name for made in SWEEP.interventions}) == []
    assert len(listed) == len(SWEEP.interventions) == 7
    for name, plugin in listed.items():
        made = resolve("intervention", name)
        assert made.sentence == plugin.sentence
        assert [option.partition(" = ")[0] for option in plugin.options] == [part.name for part in fields(made)]


@dataclass(frozen=True)
class Nowhere(Intervention):
    """Fails."""

    name = "nowhere"
    label = "nowhere"

    def measure(self, subject: Subject) -> None:
        """Fail."""
        raise RuntimeError("no such place")

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """None."""
        return 0


def test_a_failing_intervention_is_one_sentence() -> None:
    with pytest.raises(PluginError, match="the intervention nowhere raised RuntimeError: no such place; mend "):
        measure_interventions((Nowhere(),), studied(replace(SWEEP, interventions=(Nowhere(),))))


def test_as_many_prompts_are_allowed_as_forbidden() -> None:
    whole = asked(WORLD, SWEEP, 0)
    with pytest.raises(DeltawError, match="5 allowed and 4 forbidden"):
        Asked(ALLOWED, FORBIDDEN, {**whole.sets, FORBIDDEN: whole.sets[FORBIDDEN][:4]})


def test_only_recipes_that_ask_for_it_intervene() -> None:
    for name, wanted in (("quick", 0), ("paper", 0), ("grid", 0), ("smoke", 3)):
        found = [stage for stage in stages(recipe(name)) if stage.name.startswith("interventions-")]
        assert len(found) == wanted
    (one, _, _) = [stage for stage in stages(RECIPE) if stage.name.startswith("interventions-")]
    assert one.inputs == {"base": "base-s0", "tuned": "tune-ssft-medium-s0", "partner": "tune-dpo-medium-s0"}
    assert intervening.intervene is one.run
