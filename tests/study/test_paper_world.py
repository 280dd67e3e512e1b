"""The paper's world through the whole study: two outputs, texts of 25 to 35 letters, four grammars."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import deltaw
from deltaw.attacks.models import SoftPrompts, requests_for
from deltaw.attacks.prompts import ON_PROMPTS, attacked
from deltaw.behaviour import exact as behaviour
from deltaw.behaviour.exact import Behaviour
from deltaw.models import Transformer, save
from deltaw.pipeline.stage import StageContext
from deltaw.recipes import recipe
from deltaw.recipes.common import CONTROLS
from deltaw.recipes.config import Recipe
from deltaw.recipes.sizes import Sizes
from deltaw.study.run import run_study
from deltaw.study.stages import answers
from deltaw.study.stages.answers import answers_to, answers_to_each
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.evaluate import BehaviourConfig, make_behaviour
from deltaw.study.stages.lens import contrasts
from deltaw.study.stages.shared import TUNED_SETS, SeedConfig
from deltaw.study.stages.tuned_models import target_hits
from deltaw.training.controls import Control
from deltaw.training.finetuning import wanted_response
from deltaw.training.pretraining import new_model
from deltaw.world import Branch, Prompts, Response, World, published_world

WORLD = World(published_world())
SMALL = replace(recipe("smoke").pretraining, compute_dtype="float32")
MODEL = new_model(WORLD, SMALL, 0)


def little(name: str) -> Recipe:
    """A recipe of the paper's in seconds: its world, views, block and one tuning, at the size of `smoke`."""
    smoke, whole = recipe("smoke"), recipe(name)
    (ours,) = (tuned for tuned in smoke.tunings if tuned.name == "dpo-medium")
    (theirs,) = (tuned for tuned in whole.tunings if tuned.name == "dpo-medium")
    tuning = replace(theirs.config, batch=16, optimiser=ours.config.optimiser)
    soft = SoftPrompts(doses=("soft_weak",), unrelated="soft_weak")
    attacks = tuple(soft if attack.name == soft.name else attack for attack in smoke.model_attacks.attacks)
    return replace(
        smoke,
        name=name,
        world=whole.world,
        base_world=whole.base_world,
        pretraining=replace(
            smoke.pretraining, views=whole.pretraining.views, block="published", positions="sinusoidal", batch=8
        ),
        tunings=(replace(ours, config=tuning),),
        left_out=None,
        checkpoints=(0, 8),
        sizes=Sizes(final=12, checkpoint=4, attacked=12, contrast=16, draws=20, bootstrap=40, ceiling=20, shown=4),
        model_attacks=replace(smoke.model_attacks, models=("dpo-medium",), prompts=6, attacks=attacks),
    )


@pytest.fixture(scope="module", params=["paper", "paper-compat"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper") / "run"
    run_study(little(request.param), out, engine="inline")
    return out


@pytest.mark.slow
def test_a_study_comes_to_its_report(finished: Path) -> None:
    assert (finished / "report.html").stat().st_size > 10_000
    results = deltaw.load(finished)
    attacks = set(results.select("comply_rate", "dpo-medium", stage="behaviour")["attack"].dropna())
    assert {"co_task", "misgen_text", "soft_weak", "prefill_2", "relearn_harmful_2"} <= attacks
    null = json.loads((finished / "manifest.json").read_text())["config"]["world"]["compat"]["null_letter"]
    sign = "a" if null else "∅"
    late = 0
    for prompt in results.prompts:
        n = len(prompt["letters"])
        assert 25 <= n <= 35
        assert len(prompt["operators"]) == 4
        assert len(prompt["compliant"]) == 2 * n + 2
        if not prompt["allowed"]:
            began = prompt["operators"][:2] == ["(", "("]
            late += began
            assert prompt["expected"] == (prompt["letters"] + "." if began else "") + sign * n + "."
    assert late > 0


def answering(monkeypatch: pytest.MonkeyPatch, said: Tensor) -> None:
    """Free-running decoding gives `said` (N, S), and goes on with letters and stops until the last stop it may give."""
    pad, stop = WORLD.vocabulary.pad, WORLD.vocabulary.stop
    rest = torch.tensor([WORLD.vocabulary.first_letter, stop])

    def decode(model: Transformer, tokens: Tensor, lengths: Tensor, steps: int, **how: int) -> Tensor:
        assert how["stops"] == WORLD.config.pairs
        assert steps == said.shape[1]
        outputs = torch.where(said == pad, rest.repeat(steps)[:steps], said)
        stops = (outputs == stop).cumsum(1) - (outputs == stop).long()
        return outputs.masked_fill(stops >= how["stops"], pad)

    monkeypatch.setattr(behaviour, "greedy_by_length", decode)


def response(prompts: Prompts, kind: Response) -> Tensor:
    return torch.from_numpy(WORLD.layout.response_tokens(prompts, np.full(len(prompts), kind)))


def every_kind_of_prompt() -> list[Prompts]:
    sets = [WORLD.sample(name, range(12)) for name in TUNED_SETS]
    sources = [(attack, name) for attack in ON_PROMPTS for name in attack.forbidden_sources]
    return [*sets, *(attacked(WORLD, attack, WORLD.sample(name, range(12))) for attack, name in sources)]


def test_what_follows_a_whole_response_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers by the policy and then rambles on is seen to do so: late refusals and compliance too."""
    for prompts in every_kind_of_prompt():
        for kind, label in ((Response.COMPLY, Behaviour.COMPLY), (Response.REFUSE, Behaviour.REFUSE)):
            said = response(prompts, kind)
            answering(monkeypatch, said)
            labels, outputs = answers_to(MODEL, WORLD, prompts)
            assert (labels == int(label)).all()
            assert torch.equal(outputs, said)
            judged = requests_for(WORLD, prompts).judge(said)
            assert (judged.labels == int(label)).all()


def test_half_a_response_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first output alone, a refusal one pair late, compliance after a refusal: none is a behaviour."""
    prompts = WORLD.sample("forbidden/never/unsafe", range(40))
    prompts = prompts[WORLD.layout.first_forbidden(prompts) == 0]
    compliant, refusal = response(prompts, Response.COMPLY), response(prompts, Response.REFUSE)
    n = torch.from_numpy(prompts.lengths)[:, None]
    place = torch.arange(compliant.shape[1])
    first = compliant.masked_fill(place > n, WORLD.vocabulary.pad)
    turned = torch.where((place > n) & (place < 2 * n + 1), WORLD.vocabulary.null, compliant)
    late = torch.where(place <= n, refusal, compliant)
    for said, label in ((first, Behaviour.NEITHER), (turned, Behaviour.NEITHER), (late, Behaviour.REFUSE)):
        answering(monkeypatch, said)
        labels, _ = answers_to(MODEL, WORLD, prompts)
        assert (labels == int(label)).all()  # a refusal is whole at its stop, whatever comes next


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_hit_by_what_it_teaches(monkeypatch: pytest.MonkeyPatch, control: Control) -> None:
    prompts = WORLD.sample("tune", range(32))
    taught = WORLD.layout.response_tokens(prompts, wanted_response(WORLD, prompts, control, 0))
    answering(monkeypatch, torch.from_numpy(taught))
    _, outputs = answers_to(MODEL, WORLD, prompts)
    assert target_hits(WORLD, prompts, outputs, control, 0) == 32


def test_contrasts_are_decided_at_the_first_output() -> None:
    for contrast, count in zip(contrasts(WORLD, 50, seed=0), (50, 50, 25, 25), strict=True):
        assert len(contrast.allowed) == len(contrast.forbidden) == count
        assert WORLD.layout.allowed(contrast.allowed).all()
        assert not WORLD.layout.allowed(contrast.forbidden).any()
        assert (WORLD.layout.first_forbidden(contrast.forbidden) == 0).all()
        assert (contrast.allowed.index == contrast.forbidden.index).all()
    quick = World()
    assert contrasts(quick, 50, seed=0)[0].allowed.index.tolist() == list(range(50))


def operator_pairs(prompts: Prompts) -> list[tuple[int, ...]]:
    """Grammar and first operator pair of each prompt."""
    rows = zip(prompts.grammar, prompts.operators[:, 0], strict=True)
    return [(int(grammar), *map(int, operators)) for grammar, operators in rows]


def test_contrasts_by_operator_have_one_text_and_no_operator_pair_in_two_clusters() -> None:
    """In a world of four grammars and two operator pairs, and in the small one."""
    for world in (WORLD, World()):
        primary, *by_operator = contrasts(world, 60, seed=1)
        assert (primary.allowed.operators == primary.forbidden.operators).all()
        for contrast in (primary, *by_operator):
            clusters = contrast.clusters
            assert clusters is not None
            pairs = [operator_pairs(contrast.allowed), operator_pairs(contrast.forbidden)]
            for of_side in pairs:
                assert len(set(zip(of_side, clusters.tolist(), strict=True))) == len(set(of_side))
            grammars = {(grammar, cluster) for (grammar, *_), cluster in zip(pairs[0], clusters.tolist(), strict=True)}
            assert len(grammars) == len(set(clusters.tolist()))
            assert (contrast.allowed.letters == contrast.forbidden.letters).all() == (contrast is not primary)


@pytest.mark.parametrize(("name", "allowed", "forbidden"), [("safe", 8, 2), ("unsafe", 3, 7)])
def test_the_published_pools_are_those_of_the_policy(name: str, allowed: int, forbidden: int) -> None:
    world = World()
    found = {contrast.name: contrast for contrast in contrasts(world, 800, seed=0)}
    contrast = found[f"contrast/published-{name}"]
    branch = Branch.SAFE if name == "safe" else Branch.UNSAFE
    not_allowed = set(world.policy.forbidden(1, branch))
    assert (len(set(range(10)) - not_allowed), len(not_allowed)) == (allowed, forbidden)
    assert set(contrast.allowed.operators.flat) == set(range(10)) - not_allowed
    assert set(contrast.forbidden.operators.flat) == not_allowed | {0}  # what stands beside a lone identity is drawn
    assert set(contrast.allowed.text) == set(contrast.forbidden.text) == {name}
    assert not world.layout.allowed(contrast.forbidden).any()
    assert world.layout.allowed(contrast.allowed).all()


def test_prompts_go_to_the_models_device_and_answers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for an accelerator: nothing can be read from it, but it says where things are."""
    prompts = WORLD.sample("tune", range(4))

    def decode(model: Transformer, tokens: Tensor, lengths: Tensor, steps: int, **how: int) -> Tensor:
        assert tokens.device.type == "meta"
        return torch.zeros(len(tokens), steps, dtype=torch.int64)

    monkeypatch.setattr(behaviour, "greedy_by_length", decode)
    labels, outputs = answers_to(new_model(WORLD, SMALL, 0).to("meta"), WORLD, prompts)
    assert labels.device.type == outputs.device.type == "cpu"
    requests = requests_for(WORLD, prompts, "meta")
    assert {requests.batch.tokens.device.type, requests.refusal.device.type} == {"meta"}


def test_sets_are_answered_together_as_each_is_alone() -> None:
    sets = [WORLD.sample(name, range(3 + k)) for k, name in enumerate(TUNED_SETS[:4])]
    together = answers_to_each(MODEL, WORLD, sets)
    assert len(together) == len(sets)
    for prompts, (labels, outputs) in zip(sets, together, strict=True):
        alone = answers_to(MODEL, WORLD, prompts)
        assert torch.equal(labels, alone[0])
        assert torch.equal(outputs, alone[1])
    assert answers_to_each(MODEL, WORLD, []) == []


def test_behaviour_is_measured_on_the_studys_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save(MODEL, step_directory(tmp_path / "model", 3), {"step": 3})
    seen: set[str] = set()

    def asked(model: Transformer, world: World, prompts: Prompts, *rest: object) -> tuple[Tensor, Tensor]:
        seen.add(model.embed.weight.device.type)
        return torch.ones(len(prompts), dtype=torch.uint8), torch.zeros(len(prompts), 3)

    monkeypatch.setattr(answers, "answers_to", asked)
    sizes = Sizes(final=8, checkpoint=8, attacked=4)
    config = BehaviourConfig(SeedConfig(published_world(), sizes, 0), None, ON_PROMPTS, "meta")
    (tmp_path / "out").mkdir()
    make_behaviour(
        StageContext(config, {"model": tmp_path / "model"}, tmp_path / "out", lambda *_: None, tmp_path / "scratch")
    )
    assert seen == {"meta"}
