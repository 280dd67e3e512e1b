"""Every intervention through both sides of the lens: on our own models, and on the same models exported to GPT-2
directories and read by transformers, it gives the same numbers; and each number is of its own layer, site and sign.

Both sides judge an answer by the sum of its tokens, so that models that were taught nothing comply and refuse.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_one_lens import NUMBERS, SIZES, WORLD, Exported, Mutated, Observe, close, lines, ours
from torch import Tensor

from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.behaviour.exact import Behaviour
from deltaw.interventions import (
    Edit,
    Interpolation,
    MeanDifference,
    Patch,
    Patches,
    Place,
    RankCut,
    Responses,
    Subject,
    SubspaceParts,
    Sweep,
)
from deltaw.interventions import subspace as subspace_module
from deltaw.models.huggingface import Chat
from deltaw.observations.lens import BaseSide, Lens
from deltaw.recipes.intervention_sweeps import every
from deltaw.results.recorder import Sheet
from deltaw.study.stages.intervene import asked
from deltaw.study.stages.lens import SyntheticModel, synthetic_side
from deltaw.world import Prompts

pytest.importorskip("transformers")

SWEEP = Sweep(
    prompts=12,
    few=6,
    draws=2,
    partner="another",
    interventions=every(
        Interpolation(
            alphas=(-1.0, 0.5, 1.0, 2.0), scopes=("mlp", "mlp_in", "attention", "norms", "layers"), scope_alphas=(1.0,)
        ),
        SubspaceParts(rescaled=True),
        RankCut(ranks=(1, 4), removed=(1,)),
        Patches(pairs=24, ks=(2,)),
        MeanDifference(means=12, doses=(1.0, -2.0)),
    ),
)
MEASURED = {intervention.name: intervention for intervention in SWEEP.interventions}


def by_sum(tokens: tuple[tuple[int, ...], ...]) -> Responses:
    """An even sum complies, an odd one refuses."""
    what = (Behaviour.COMPLY, Behaviour.REFUSE)
    return Responses(np.array([int(what[sum(row) % 2]) for row in tokens]), tokens)


class Ours(SyntheticModel):
    """Our side, judged by sums."""

    def _responses(self, labels: Tensor, outputs: Tensor) -> Responses:
        return by_sum(super()._responses(labels, outputs).tokens)

    @contextmanager
    def edited(self, state: Mapping[str, Tensor]) -> Iterator["Ours"]:
        with super().edited(state) as made:
            yield Ours(made.model, self.world)


def judged(chat: Chat, prompts: Prompts, tokens: list[list[int]]) -> Responses:
    """The world's rule of where an answer ends, then their sum."""
    stop, pad, pairs = WORLD.vocabulary.stop, WORLD.vocabulary.pad, WORLD.layout.pairs
    whole = []
    for row in tokens:
        ends = [place for place, token in enumerate(row) if token == stop]
        kept = row[: ends[pairs - 1] + 1] if len(ends) >= pairs else row
        while kept and kept[-1] == pad:
            kept = kept[:-1]
        whole.append(tuple(kept))
    return by_sum(tuple(whole))


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lens, Lens, Any, Any]:
    """Lenses of ours and of transformers', and another tuning of the base as both have it."""
    base, tuned, partner = ours(0), ours(0, moved=0.5), ours(0, moved=0.8)
    side = synthetic_side(base, WORLD, replace(SIZES, contrast=SWEEP.pairs), 0, ON_PROMPTS)
    two = [prompts for prompts in side.attacked if prompts.contrast == side.primary][:2]
    prompts = replace(side.prompts, contrasts=side.prompts.contrasts[:1], attacked=lambda: tuple(two))
    side = BaseSide(Ours(base, WORLD), prompts, side.effort, 0)
    folder = tmp_path_factory.mktemp("gpt2")
    theirs = {}
    for name, model in (("base", base), ("tuned", tuned), ("partner", partner)):
        theirs[name] = Exported(model, folder / name)
        theirs[name].judged, theirs[name].batch = judged, 64
        theirs[name].new_tokens = WORLD.layout.response_length
    beside = BaseSide(theirs["base"], prompts, side.effort, 0)
    return (
        Lens(side, Ours(tuned, WORLD)),
        Lens(beside, theirs["tuned"]),
        dict(partner.named_parameters()),
        theirs["partner"].state(),
    )


def made(part: str, lens: Lens, partner: Any, change: Callable[[Subject], None] = lambda subject: None) -> Any:
    """The lines of a part of the sweep by what they measure."""

    def measure(lens: Lens, sheet: Sheet) -> None:
        held = {name: tensor.detach() for name, tensor in partner.items()}
        subject = Subject(lens, asked(WORLD, SWEEP, 0), SWEEP, sheet, held)
        change(subject)
        MEASURED[part].measure(subject)

    observe: Observe = measure
    return lines(observe, lens)


def same(mine: Any, theirs: Any) -> bool:
    return mine.keys() == theirs.keys() and all(
        close(getattr(line, field), getattr(theirs[key], field)) for key, line in mine.items() for field in NUMBERS
    )


PARTS = tuple(MEASURED)
RATES = {"comply_rate", "refuse_rate", "neither_rate"}
SAID: dict[str, set[str]] = {
    "alpha": {*RATES, "extrapolation_log_odds", "extrapolation_cost"},
    "subspace": {*RATES, "as_tuned_rate", "carried_share", "carried_null_minus_column"},
    "rank": RATES,
    "layers": {
        f"{how}_{rate}" for how in ("shapley", "only_one", "leave_one_out") for rate in ("refuse_rate", "comply_rate")
    },
    "swaps": RATES,
    "patches": {*RATES, "refusal_returned", "refusal_removed", "refusal_induced"},
    "directions": RATES,
}


@pytest.fixture(autouse=True)
def of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of patches are of few prompts here."""
    monkeypatch.setattr(sys.modules["deltaw.interventions.patches"], "LEAST", 1)


@pytest.fixture(scope="module")
def measured(sides: Any) -> Callable[[str], Any]:
    """Our lines of a part, made once."""
    kept: dict[str, Any] = {}

    def of(part: str) -> Any:
        if part not in kept:
            kept[part] = made(part, sides[0], sides[2])
        return kept[part]

    return of


@pytest.mark.parametrize("part", PARTS)
def test_both_sides_of_the_lens_say_the_same(part: str, sides: Any, measured: Callable[[str], Any]) -> None:
    mine, theirs = measured(part), made(part, sides[1], sides[3])
    assert len({line.value for line in mine.values()}) > 3, "the models do not differ in what they do"
    assert SAID[part] <= {line.statistic for line in mine.values()}
    assert mine.keys() == theirs.keys()
    for key, line in mine.items():
        for field in NUMBERS:
            assert close(getattr(line, field), getattr(theirs[key], field)), (key, field)


def test_nothing_edited_survives(sides: Any) -> None:
    """After all of the above: what transformers' model holds is the tuned model, bit by bit, without a hook."""
    model = sides[1].tuned
    module = model.chat().model
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, model.state()[name]), name
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    prompts = asked(WORLD, SWEEP, 0).sets["allowed/conditional/safe"]
    before = model.answers(prompts).tokens

    def fails_within(state: Mapping[str, Tensor]) -> None:
        with model.edited(state):
            assert model.answers(prompts).tokens != before
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fails_within(sides[1].before.model.state())
    assert model.answers(prompts).tokens == before


Mutate = Callable[[Lens], Lens]


def tuned_as(change: Callable[[Any], dict[str, Any]]) -> Mutate:
    """The tuned model is edited or read wrongly."""
    return lambda lens: Lens(lens.before, Mutated(lens.tuned, **change(lens.tuned)))


def _other_layer(model: Any) -> dict[str, Any]:
    count = len(model.layers)

    def turned(places: Mapping[Place, Any]) -> dict[Place, Any]:
        return {((layer + 1) % count, site): value for (layer, site), value in places.items()}

    def patched(target: Any, source: Any, patch: Patch) -> Responses:
        maps = {layer: patch.maps[(layer + 1) % count] for layer in patch.maps}
        wrong: Responses = model.patched(target, source, replace(patch, maps=maps))
        return wrong

    return {
        "editing": lambda edits: model.editing(turned(edits)),
        "activations": lambda *some: turned(model.activations(*some)),
        "patched": patched,
        "edited": lambda state: model.edited(blocks_turned(state, count)),
    }


def blocks_turned(state: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Each block's parameters in the place of the next one's."""
    wrong = dict(state)
    for name in state:
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if layer is not None:
            wrong[name.replace(f".{layer}.", f".{(layer + 1) % count}.", 1)] = state[name]
    return wrong


def _other_site(model: Any) -> dict[str, Any]:
    def editing(edits: Mapping[Place, Edit]) -> AbstractContextManager[None]:
        wrong: AbstractContextManager[None] = model.editing({(layer, "mlp_out"): x for (layer, _), x in edits.items()})
        return wrong

    return {"editing": editing}


def _other_sources(model: Any) -> dict[str, Any]:
    return {"patched": lambda target, source, patch: model.patched(target, target, patch)}


def models_swapped(lens: Lens) -> Lens:
    """The sign of ΔW."""
    before = lens.before
    return Lens(BaseSide(lens.tuned, before.prompts, before.effort, 0), before.model)


def verdicts_swapped(subject: Subject) -> None:
    """The sign of the direction between forbidden and allowed prompts."""
    means = subject.asked.behind_means
    assert means is not None
    allowed, forbidden = means()
    subject.asked = replace(subject.asked, behind_means=lambda: (forbidden, allowed))


LAYER = tuned_as(_other_layer)
MUTATIONS: dict[str, dict[str, Mutate]] = {
    "alpha": {"layer": LAYER, "models swapped": models_swapped},
    "subspace": {"layer": LAYER, "models swapped": models_swapped},
    "rank": {"layer": LAYER, "models swapped": models_swapped},
    "layers": {"layer": LAYER, "models swapped": models_swapped},
    "swaps": {"layer": LAYER, "models swapped": models_swapped},
    "patches": {"layer": LAYER, "another source": tuned_as(_other_sources), "models swapped": models_swapped},
    "directions": {"layer": LAYER, "site": tuned_as(_other_site), "models swapped": models_swapped},
}


@pytest.mark.parametrize(("part", "mutation"), [(part, what) for part, some in MUTATIONS.items() for what in some])
def test_a_wrong_layer_site_or_sign_is_seen(
    part: str, mutation: str, sides: Any, measured: Callable[[str], Any]
) -> None:
    assert not same(measured(part), made(part, MUTATIONS[part][mutation](sides[1]), sides[3]))


def test_the_sign_of_the_direction_is_seen(sides: Any, measured: Callable[[str], Any]) -> None:
    wrong = made("directions", sides[1], sides[3], verdicts_swapped)
    added = [key for key in wrong if "add_direction" in key]
    assert added
    assert any(not close(wrong[key].value, measured("directions")[key].value) for key in added)


def test_null_and_column_space_swapped_are_seen(
    sides: Any, measured: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = subspace_module.split_update
    monkeypatch.setattr(
        subspace_module,
        "split_update",
        lambda *states: (s := right(*states)) and replace(s, null=s.column, column=s.null),
    )
    assert not same(measured("subspace"), made("subspace", sides[1], sides[3]))
