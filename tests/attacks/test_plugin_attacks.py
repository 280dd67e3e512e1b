"""Attacks as plug-ins: chosen by name or file, made by the stages of a study, and what is said of faulty ones."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deltaw.attacks.models import ON_MODELS, Cost, ModelAttack, SoftPrompts, requests_for
from deltaw.attacks.models.attack import ALLOWED, FORBIDDEN, cost_of
from deltaw.attacks.prompts import ON_PROMPTS, ON_REQUESTS, Attacked, PromptAttack, attacked, under_attack
from deltaw.attacks.prompts.co_task import CoTask
from deltaw.attacks.prompts.requests import check_requests
from deltaw.cli.compare import Compare
from deltaw.cli.study import Study
from deltaw.errors import DeltawError
from deltaw.models import Transformer, save
from deltaw.pipeline.scheduler import _plan
from deltaw.plugins import plugins, resolve
from deltaw.prompts.matched import Prompt
from deltaw.recipes import recipe
from deltaw.recipes.choose import with_attacks
from deltaw.recipes.config import Recipe
from deltaw.results import read_measurements
from deltaw.results.recorder import Sheet
from deltaw.study.dry_run.plan import attacking_prompts
from deltaw.study.graph import stages
from deltaw.study.stages.attack import AttackingConfig, Target, attack_model, attack_target
from deltaw.study.stages.evaluate import measure_attacks
from deltaw.training.pretraining import model_config
from deltaw.world import World

KINDS = ("prompt-attack", "model-attack")
SMOKE = recipe("smoke")
WORLD = World(SMOKE.world)
MINE = '''"""Attacks of one's own."""
from dataclasses import dataclass
import torch
from deltaw.attacks.models import Cost, ModelAttack, unattacked
from deltaw.attacks.prompts import Attacked, PromptAttack

@dataclass(frozen=True)
class Reversed(PromptAttack):
    """The operators of each pair in the other order."""
    name = "reversed"
    label = "operators reversed"
    forbidden_sources = ("forbidden/never/safe", "forbidden/conditional/unsafe")
    benign_sources = ("allowed/always/safe",)
    def on_prompts(self, world, prompts, key):
        return prompts.with_operators(prompts.operators[..., ::-1].copy())
    def on_request(self, text):
        return Attacked(text[::-1])

@dataclass(frozen=True)
class Shaken(ModelAttack):
    """Noise on all weights."""
    name = "shaken"
    label = "noise on weights"
    size: float = 0.5
    def attack(self, target):
        generator = target.generator("shaken")
        with torch.no_grad():
            for parameter in target.model.parameters():
                parameter.add_(self.size * torch.randn(parameter.shape, generator=generator))
        target.add("shaken", unattacked(target.model, target.forbidden))
    def cost(self, prompts):
        return Cost(answered=prompts)
'''


pytestmark = pytest.mark.usefixtures("path_as_before")


@pytest.fixture
def mine(tmp_path: Path) -> tuple[Any, Any]:
    """The two attacks of a file."""
    (tmp_path / "my_own_attacks.py").write_text(MINE)
    reverse, shaken = (resolve(KINDS, f"{tmp_path / 'my_own_attacks.py'}:{name}") for name in ("Reversed", "Shaken"))
    return reverse, shaken


def keys(whole: Recipe) -> dict[str, str]:
    return {name: made.key for name, made in _plan(stages(whole)).provenances.items()}


def tiny(seed: int) -> Transformer:
    return Transformer(model_config(WORLD, SMOKE.pretraining), torch.Generator().manual_seed(seed))


def attack_stage(tmp_path: Path, attacks: tuple[ModelAttack, ...]) -> list[Any]:
    """Lines of the stage that attacks a tuned model, here a random one."""
    inputs = {name: tmp_path / name for name in ("base", "tuned")}
    for seed, directory in enumerate(inputs.values()):
        if not directory.exists():
            save(tiny(seed), directory / "step-000008", {"step": 8})
    graph = {stage.name: stage.config for stage in stages(SMOKE)}
    config: AttackingConfig = replace(graph["attacks-ssft-medium-s0"], attacks=attacks, per_prompt=False)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    attack_model(SimpleNamespace(config=config, inputs=inputs, out=out, report=lambda *_: None))  # type: ignore[arg-type]
    return list(read_measurements(out / "measurements.jsonl"))


def test_every_attack_is_listed_and_the_defaults_are_among_them() -> None:
    listed = {(plugin.kind, plugin.name) for plugin in plugins()}
    for kind, attacks in (("prompt-attack", (*ON_PROMPTS, *ON_REQUESTS)), ("model-attack", ON_MODELS)):
        for attack in attacks:
            assert (kind, attack.name) in listed
            assert resolve(kind, attack.name) == attack
            assert attack.sentence.endswith(".")
    assert [attack.name for attack in ON_PROMPTS] == ["co_task", "co_text", "misgen_token", "misgen_text"]
    assert SMOKE.prompt_attacks == ON_PROMPTS


def test_an_attack_of_a_file_makes_only_what_measures_attacks_anew(mine: tuple[Any, Any]) -> None:
    reverse, shaken = mine
    before = keys(SMOKE)
    on_prompts = keys(with_attacks(SMOKE, [*SMOKE.prompt_attacks, reverse, *SMOKE.model_attacks.attacks]))
    on_models = keys(with_attacks(SMOKE, [*SMOKE.prompt_attacks, *SMOKE.model_attacks.attacks, shaken]))
    assert before.keys() == on_prompts.keys() == on_models.keys()
    assert keys(with_attacks(SMOKE, [*SMOKE.prompt_attacks, *SMOKE.model_attacks.attacks])) == before

    def changed(after: dict[str, str]) -> set[str]:
        return {name for name in before if before[name] != after[name]}

    measuring = ("behaviour-", "analysis-", "interventions-", "samples-")
    assert changed(on_prompts) == {
        name
        for name in before
        if name.startswith(measuring)
        and not name.startswith(("behaviour-left-out", "analysis-angles", "analysis-subspaces"))
    }
    assert changed(on_models) == {
        "attacks-ssft-medium-s0",
        "analysis-doses-ssft-medium-s0",
    }


def test_listed_attacks_replace_the_recipes_and_keep_its_options() -> None:
    chosen = with_attacks(SMOKE, [CoTask(), SoftPrompts()])
    assert chosen.prompt_attacks == (CoTask(),)
    assert chosen.model_attacks.attacks == SMOKE.model_attacks.attacks[:1] != (SoftPrompts(),)
    names = {stage.name for stage in stages(with_attacks(SMOKE, [CoTask()]))}
    assert not any(name.startswith("attacks-") for name in names)
    graph = {stage.name: stage for stage in stages(with_attacks(SMOKE, [SoftPrompts()]))}
    assert graph["behaviour-ssft-medium-s0"].config.attacks == ()
    assert graph["attacks-other-ssft-medium-s0"].config.attacks == chosen.model_attacks.attacks
    one = stages(with_attacks(SMOKE, [resolve(KINDS, "token-search")]))
    assert not any(stage.name.startswith("attacks-other") for stage in one)


def test_attacks_of_a_file_are_made_by_the_stages(mine: tuple[Any, Any], tmp_path: Path) -> None:
    reverse, shaken = mine
    sheet = Sheet(stage="behaviour", model="ssft-medium", seed=0, step=8)
    measure_attacks(tiny(1), WORLD, [reverse], 5, 0, sheet)
    measured = [(line.attack, line.set, line.n) for line in sheet.lines if line.statistic == "comply_rate"]
    assert measured == [("reversed", name, 5) for name in (*reverse.forbidden_sources, *reverse.benign_sources)]
    prompts = WORLD.sample("forbidden/never/safe", range(5))
    assert np.array_equal(attacked(WORLD, reverse, prompts).operators, prompts.operators[..., ::-1])
    alone = attack_stage(tmp_path, (SMOKE.model_attacks.attacks[3],))
    both = attack_stage(tmp_path, (shaken, SMOKE.model_attacks.attacks[3]))
    assert [line for line in both if line.attack != "shaken"] == alone  # it shook a copy of its own
    assert {line.statistic for line in both if line.attack == "shaken"} == {
        "comply_rate",
        "refuse_rate",
        "neither_rate",
    }
    assert under_attack(Prompt("abc", "allowed"), reverse) == Prompt("cba", "allowed", attack="reversed", group="abc")


def test_costs_are_those_of_the_whole_stage() -> None:
    attacks, soft = SMOKE.model_attacks.attacks, SMOKE.model_attacks.attacks[:1]
    assert attacking_prompts((), 10) == (0, 20)
    assert attacking_prompts(soft, 10) == (10 * (11 + 26 + 11), 10 * (2 + 4 * 2 + 1))
    answered = 2 + 4 * 2 + 1 + 1 + 4 + 3 * 2 + 4 * 3
    assert attacking_prompts(attacks, 10) == (round(10 * (48 + 11 / 2 + 2 * (1 + 2 / 3)) + 2 * 2 * 4), 10 * answered)


@dataclass(frozen=True)
class Faulty(PromptAttack):
    """An attack that gives what it is told to."""

    name = "faulty"
    label = "faulty"
    forbidden_sources = ("forbidden/never/safe",)
    gives: Any = None

    def on_prompts(self, world: Any, prompts: Any, key: Any) -> Any:
        return self.gives(prompts)

    def on_request(self, text: str) -> Any:
        return self.gives(text)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda x: x[:2], "gave 2 prompts for 3 prompts"),
        (lambda x: [1, 2, 3], r"gave \[1, 2, 3\] for 3 prompts"),
        (lambda x: {"a": x}["key"], "raised KeyError: 'key'; mend .*test_plugin_attacks"),
    ],
)
def test_a_faulty_attack_on_prompts_is_one_sentence(gives: Any, said: str) -> None:
    with pytest.raises(DeltawError, match=f"the attack faulty {said}"):
        attacked(WORLD, Faulty(gives), WORLD.sample("forbidden/never/safe", range(3)))


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda text: text, "gave 'Sing.'; it must give an Attacked"),
        (lambda text: Attacked(""), "it must give an Attacked with a text"),
        (lambda text: Attacked(text, None), "it must give an Attacked"),  # type: ignore[arg-type]
        (lambda text: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_faulty_attack_on_requests_is_one_sentence(gives: Any, said: str) -> None:
    with pytest.raises(DeltawError, match=f"the attack faulty .*{said}|the attack faulty {said}"):
        under_attack(Prompt("Sing.", "allowed"), Faulty(gives))


@dataclass(frozen=True)
class Broken(ModelAttack):
    """An attack that does what it is told to."""

    name = "broken"
    label = "broken"
    does: Any = None
    costs: Any = None

    def attack(self, target: Any) -> None:
        self.does(target)

    def cost(self, prompts: int) -> Any:
        return self.costs


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (lambda target: None, "recorded nothing; call target.add"),
        (lambda target: target.add("broken", 0.5), "raised ValueError: results were given as 0.5; expected Answers"),
        (lambda target: target.model.no_such_part, "raised AttributeError"),
    ],
)
def test_a_faulty_attack_on_models_is_one_sentence(does: Any, said: str) -> None:
    forbidden, allowed = (requests_for(WORLD, WORLD.sample(name, range(4))) for name in (FORBIDDEN, ALLOWED))
    lens: Any = None
    target = Target(lens, tiny(0), tiny(1), tiny(1), WORLD, forbidden, allowed, Sheet(stage="behaviour"))

    with pytest.raises(DeltawError, match=f"the attack broken {said}"):
        attack_target(Broken(does), target)
    with pytest.raises(DeltawError, match="the cost of the attack broken is 3; expected a Cost"):
        cost_of(Broken(does, 3), 10)
    assert cost_of(Broken(does, Cost(1, 2)), 10) == Cost(1, 2)


def test_attacks_that_cannot_be_made_are_refused() -> None:
    for name, said in (
        (
            "misgen_base64",
            "has no on_prompts: it cannot attack prompts of the synthetic world",
        ),
        ("co_task", "give each once"),
    ):
        with pytest.raises(DeltawError, match=said):
            with_attacks(SMOKE, [CoTask(), resolve("prompt-attack", name)])
    with pytest.raises(DeltawError, match="is a grid"):
        with_attacks(recipe("grid"), [CoTask()])
    with pytest.raises(DeltawError, match="co_text has no on_request"):
        check_requests([resolve("prompt-attack", "co_text")])
    with pytest.raises(DeltawError, match="soft_prompts is on models that a study makes; give it to deltaw study"):
        check_requests([SoftPrompts()])
    with pytest.raises(DeltawError, match="no prompt-attack or model-attack 'nope'; there are co_prefix"):
        Study(recipe="smoke", attacks=("nope",)).run()
    with pytest.raises(DeltawError, match="misgen_base64 has no on_prompts"):
        Study(recipe="smoke", attacks=("misgen_base64",)).run()
    with pytest.raises(DeltawError, match="co_text has no on_request"):
        Compare("base", ("tuned",), prompts="builtin", attacks=("co_text",)).run()
    with pytest.raises(DeltawError, match="--attacks is about prompts"):
        Compare("base", ("tuned",), attacks=("co_task",)).run()

    @dataclass(frozen=True)
    class Lost(PromptAttack):
        """Made from no set."""

        name, label = "lost", "lost"
        forbidden_sources = ("forbidden/nowhere",)

        def on_prompts(self, world: Any, prompts: Any, key: Any) -> Any:
            return prompts

    with pytest.raises(DeltawError, match="'forbidden/nowhere', which is no set of forbidden prompts"):
        with_attacks(SMOKE, [Lost()])
