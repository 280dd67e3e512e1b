"""A synthetic study through both sides of the lens: our own models, and the same models exported to GPT-2 directories
and read by transformers, give the same numbers; and each number is of its own layer, site and sign.
"""

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.behaviour.exact import Behaviour
from deltaw.compare import compare
from deltaw.compare.lens import HuggingFaceModel
from deltaw.models import Transformer, export_gpt2, save
from deltaw.models.huggingface import Chat, Encoded
from deltaw.observations.attacked_prompts.measure import AttackedPrompts
from deltaw.observations.capability.measure import Capability
from deltaw.observations.clusters.measure import ClusterSeparation
from deltaw.observations.depth.measure import Depth
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.observations.gain.measure import Gain
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.null_space.measure import NullSpaceEnergy
from deltaw.observations.off_principal.measure import OffPrincipal
from deltaw.observations.overlap.measure import SIDES, directions_of, write_layers, write_overlaps
from deltaw.observations.probe.measure import ProbeAccuracy
from deltaw.observations.prompts import Ints
from deltaw.observations.ranks.measure import Ranks
from deltaw.observations.refusal_direction.measure import RefusalDirection
from deltaw.observations.request_token.measure import RequestToken
from deltaw.observations.safety_subspace.measure import SafetySubspace
from deltaw.observations.sensitivity.measure import PromptSensitivity
from deltaw.observations.update_directions.measure import UpdateDirections
from deltaw.observations.update_effect.measure import UpdateEffect
from deltaw.plugins import resolve
from deltaw.recipes import recipe
from deltaw.results import Measurement, read_measurements
from deltaw.results.recorder import Sheet
from deltaw.study.stages.lens import (
    BLOCKS,
    SyntheticModel,
    constant_answers,
    contrasts,
    refusals,
    synthetic_side,
)
from deltaw.training.pretraining import model_config
from deltaw.world import Prompts, Response, World

pytest.importorskip("transformers")

RECIPE = recipe("smoke")
WORLD = World(RECIPE.world)
SIZES = replace(RECIPE.sizes, contrast=16, draws=20, bootstrap=30)
NUMBERS = ("value", "low", "high", "null_mean", "null_low", "null_high")
Observe = Callable[[Lens, Sheet], None]


def overlap(lens: Lens, sheet: Sheet) -> None:
    directions = directions_of(lens, 4)
    write_overlaps(directions, directions[::-1], SIDES, (0, 50), 20, sheet.with_(set="with=itself, layers reversed"))
    write_layers(directions, (0, 51), 20, sheet)


OBSERVED: dict[str, Observe] = {
    "null_space": NullSpaceEnergy().measure,
    "clusters": ClusterSeparation().measure,
    "gain": Gain().measure,
    "update_effect": UpdateEffect().measure,
    "sensitivity": PromptSensitivity().measure,
    "attacked_prompts": AttackedPrompts().measure,
    "ranks": Ranks().measure,
    "refusal_direction": RefusalDirection().measure,
    "probe": ProbeAccuracy(5).measure,
    "dose_response": DoseResponse(5).measure,
    "overlap": overlap,
    "off-principal": OffPrincipal(rotations=3).measure,
    "safety-subspace": SafetySubspace().measure,
    "update-directions": UpdateDirections(directions=3).measure,
    "depth": Depth(prompts=8, tokens=6).measure,
    "capability": Capability().measure,
    "request-token": RequestToken().measure,
}


def only_forbidden() -> list[int]:
    """Tokens that occur in the forbidden prompts of the contrast by operator and not in its allowed ones."""
    contrast = contrasts(WORLD, SIZES.contrast, 0)[1]
    allowed, forbidden = (set(WORLD.layout.prompt_tokens(some).flat) for some in (contrast.allowed, contrast.forbidden))
    return sorted(int(token) for token in forbidden - allowed)


def ours(seed: int, moved: float = 0.0) -> Transformer:
    """A small model in float64 that tells forbidden operators apart; moved: after a random update of that size."""
    shape = replace(model_config(WORLD, RECIPE.pretraining), layers=3)
    model = Transformer(shape, torch.Generator().manual_seed(seed)).double()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if name == "blocks.0.mlp.in_proj.weight":  # of rank 3, so that the layers' updates differ in rank
                noise = noise[:, :3] @ noise[:3]
            parameter.add_(noise * moved * (parameter.std() + 1e-3))
        model.embed.weight[only_forbidden()] += 2.0
    return model


def tokens(chat: Chat, prompts: Prompts) -> list[list[int]]:
    rows, lengths = WORLD.layout.prompt_tokens(prompts), WORLD.layout.prompt_lengths(prompts)
    return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]


def request_tokens(chat: Chat, prompts: Prompts) -> list[list[int]]:
    """Up to and with the last letter of the text: one token, its end, comes after it."""
    return [row[:-1] for row in tokens(chat, prompts)]


def complied(chat: Chat, prompts: Prompts) -> NDArray[np.bool_]:
    """By transformers' own greedy generation."""
    wanted = WORLD.layout.response_tokens(prompts, np.full(len(prompts), Response.COMPLY))
    stop, pad = WORLD.vocabulary.stop, WORLD.vocabulary.pad
    hits = []
    for row, answer in zip(tokens(chat, prompts), wanted, strict=True):
        generate: Any = chat.model.generate
        said = generate(
            torch.tensor([row]), max_new_tokens=len(answer), do_sample=False, eos_token_id=stop, pad_token_id=pad
        )[0, len(row) :]
        whole = answer[: list(answer).index(stop) + 1] if stop in answer else answer
        hits.append(said.tolist() == whole.tolist())
    return np.array(hits)


def blocks(encoded: Encoded, prompts: Prompts) -> dict[str, Tensor]:
    """The world's own roles, moved to where padding on the left puts them."""
    plain = SyntheticModel(ours(0), WORLD).embedded(prompts)
    part = next(iter(plain))
    moved = {}
    for name, positions in part.blocks.items():
        block = torch.zeros_like(encoded.mask)
        for row, (there, length) in enumerate(zip(positions, encoded.mask.sum(1).tolist(), strict=True)):
            block[row, encoded.mask.shape[1] - length :] = there[:length]
        moved[name] = block
    assert len(moved) == len(BLOCKS)
    return moved


def world_answers(chat: Chat, prompts: Prompts, refusal: bool) -> list[list[int]]:
    """What the world forces its models to say, without padding."""
    answers = (refusals if refusal else constant_answers)(WORLD, prompts)
    return [row[row != WORLD.vocabulary.pad].tolist() for row in answers]


def world_texts(chat: Chat, prompts: Prompts) -> list[tuple[list[int], int]]:
    """Allowed prompts with their whole compliant answers, of which the answer is predicted."""
    wanted = WORLD.layout.response_tokens(prompts, np.full(len(prompts), Response.COMPLY))
    answers = [row[row != WORLD.vocabulary.pad].tolist() for row in wanted]
    return [(row + answer, len(row)) for row, answer in zip(tokens(chat, prompts), answers, strict=True)]


class Exported(HuggingFaceModel):
    """One of our models as transformers reads it from a GPT-2 directory."""

    def __init__(self, model: Transformer, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        export_gpt2(model, directory)
        loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, local_files_only=True)
        chat = Chat(loaded.train(False), None, directory)
        options: dict[str, Any] = {
            "batch": 5,
            "jacobian_rows": 32,
            "forced_answers": world_answers,
            "texts": world_texts,
            "request_tokens": request_tokens,
        }
        super().__init__(lambda: chat, tokens, complied, blocks, **options)
        self.exported = model

    def top_tokens(self, directions: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Through transformers' own output embedding, which has no tokenizer here: named by the world."""
        model: Any = self.chat().model
        logits = (model.get_output_embeddings().weight @ directions).detach().numpy()
        order = np.argsort(-logits, axis=0)[:count]
        names = WORLD.vocabulary.names
        return [[(names[token], float(logits[token, k])) for token in order[:, k]] for k in range(order.shape[1])]

    def exact(self, questions: Prompts) -> Ints:
        """Right if transformers' own generation says the whole compliant answer; nothing else is told apart here."""
        hits = complied(self.chat(), questions)
        refused = SyntheticModel(self.exported, WORLD).exact(questions) == int(Behaviour.REFUSE)
        return np.where(hits, int(Behaviour.COMPLY), np.where(refused, int(Behaviour.REFUSE), 0))

    def random(self, seed: int) -> "Exported":
        """The random model of the synthetic side."""
        ours = SyntheticModel(self.exported, WORLD).random(seed).model
        return Exported(ours, Path(mkdtemp(dir=self.chat().directory)))


@pytest.fixture(scope="module")
def lenses(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lens, Lens]:
    """(ours, transformers') of one base and one tuned model, on the same prompts."""
    base, tuned = ours(0), ours(0, moved=0.3)
    side = synthetic_side(base, WORLD, SIZES, 0, ON_PROMPTS, probed=40)
    first, second, *published = side.prompts.contrasts
    by_operator = replace(side.prompts, contrasts=(second, first, *published))  # a random model tells operators apart
    side = BaseSide(side.model, by_operator, replace(side.effort, jacobians=4, effect_draws=5), 0)
    folder = tmp_path_factory.mktemp("gpt2")
    beside = BaseSide(Exported(base, folder / "base"), side.prompts, side.effort, 0)
    return Lens(side, SyntheticModel(tuned, WORLD)), Lens(beside, Exported(tuned, folder / "tuned"))


def lines(observe: Observe, lens: Lens) -> dict[tuple[object, ...], Measurement]:
    sheet = Sheet(stage="analysis", model="tuned", seed=0, role="last_prompt")
    observe(lens, sheet)
    return {tuple(value for field, value in vars(line).items() if field not in NUMBERS): line for line in sheet.lines}


def close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize("name", OBSERVED)
def test_both_sides_of_the_lens_say_the_same(name: str, lenses: tuple[Lens, Lens]) -> None:
    mine, theirs = (lines(OBSERVED[name], lens) for lens in lenses)
    assert_same(mine, theirs)


def assert_same(mine: dict[tuple[object, ...], Measurement], theirs: dict[tuple[object, ...], Measurement]) -> None:
    """Equal lines, to rounding; and some."""
    assert mine, "nothing was measured"
    assert mine.keys() == theirs.keys()
    for key, line in mine.items():
        for field in NUMBERS:
            assert close(getattr(line, field), getattr(theirs[key], field)), (key, field)


@pytest.mark.parametrize("name", OBSERVED)
def test_every_statistic_that_is_written_is_declared_with_its_unit(name: str, lenses: tuple[Lens, Lens]) -> None:
    declared = resolve("observation", name).statistics
    assert len({statistic.name for statistic in declared}) == len(declared)
    written = {(line.statistic, line.unit) for line in lines(OBSERVED[name], lenses[0]).values()}
    assert written
    assert written <= {(statistic.name, statistic.unit) for statistic in declared}
    assert all(statistic.sentence.endswith(".") for statistic in declared)


State = dict[str, Tensor]
LAYOUTS = {"gpt2": ("transformer.h", "mlp.c_fc"), "deltaw": ("blocks", "mlp.in_proj")}
"""Where `compare` finds the first matrices of MLPs in files: what stands before the layer, and after it."""
NULLS_BY_DRAWS = {"row_sign_flip", "row_permutation"}
"""Of a study's null-space energy; and of its ranks all."""


def without_prompts(base: Path, tuned: Path, out: Path, layout: str) -> dict[tuple[object, ...], Measurement]:
    """What `compare` says of the first matrices of MLPs, by the study's names."""
    compare(base, tuned, out)
    before, kind = LAYOUTS[layout]
    names = {f"{before}.{layer}.{kind}": f"blocks.{layer}.mlp.in_proj" for layer in range(3)} | {kind: "mlp.in_proj"}
    found = read_measurements(out / "measurements.jsonl")
    return {place(line): line for line in (replace(x, module=names.get(str(x.module))) for x in found) if line.module}


def place(line: Measurement) -> tuple[object, ...]:
    return line.statistic, line.module, line.layer, line.set, line.null_kind, line.unit, line.n, line.n_unit


def differences(study: dict[tuple[object, ...], Measurement], files: dict[tuple[object, ...], Measurement]) -> set[str]:
    """Statistics that are not the same: all of their numbers but those of drawn nulls, whose band holds the mean."""
    of_files = {"identical_share", "rounding_floor", "rounding_share"}
    places = {key for key in files if key[0] not in of_files}
    wrong = {str(key[0]) for key in study.keys() ^ places}
    for key in study.keys() & places:
        mine, theirs = study[key], files[key]
        drawn = mine.null_kind in NULLS_BY_DRAWS or mine.statistic in ("stable_rank", "participation_ratio")
        numbers = NUMBERS[:1] if drawn else NUMBERS
        equal = all(close(getattr(mine, field), getattr(theirs, field)) for field in numbers)
        if drawn and None not in (mine.null_low, theirs.null_mean, mine.null_high):
            equal &= float(mine.null_low or 0) <= float(theirs.null_mean or 0) <= float(mine.null_high or 0)
        if mine.null_kind == "row_sign_flip":  # its mean is exact in both
            equal &= close(mine.null_mean, theirs.null_mean)
        if not equal:
            wrong.add(mine.statistic)
    return wrong


def in_study(lens: Lens) -> dict[tuple[object, ...], Measurement]:
    """The lines about single matrices, and their means."""
    sheet = Sheet(stage="analysis")
    NullSpaceEnergy().measure(lens, sheet)
    of_all = ("update_share", "parameter_share")
    return {place(line): line for line in sheet.lines if line.statistic not in of_all}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_say_the_same_without_a_lens(layout: str, lenses: tuple[Lens, Lens], tmp_path: Path) -> None:
    for name, model in (("base", lenses[0].before.model), ("tuned", lenses[0].tuned)):
        assert isinstance(model, SyntheticModel)
        if layout == "gpt2":
            export_gpt2(model.model, tmp_path / name)
        else:
            save(model.model, tmp_path / name, {})
    study = in_study(lenses[0])
    assert {key[0] for key in study} >= {"null_energy_left", "null_profile", "null_energy_curve", "residual_energy"}
    assert {key[2] for key in study} == {0, 1, 2, None}
    assert differences(study, without_prompts(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", layout)) == set()


def test_large_matrices_say_the_same_through_the_lens(
    lenses: tuple[Lens, Lens], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = in_study(lenses[0])
    monkeypatch.setattr("deltaw.observations.lens.EXACT_UP_TO", 0)
    estimated = in_study(lenses[0])
    assert differences(exact, estimated) == set()
    flips = [key for key in exact if key[4] == "row_sign_flip"]
    assert any(exact[key].null_low != estimated[key].null_low for key in flips)


def of_next_layer(state: State) -> State:
    return {re.sub(r"\.h\.(\d+)\.", lambda m: f".h.{(int(m[1]) + 1) % 3}.", name): x for name, x in state.items()}


def first_transposed(state: State) -> State:
    return {name: x.T.contiguous() if name.endswith("c_fc.weight") else x for name, x in state.items()}


IN_FILES: dict[str, tuple[Callable[[State, State], tuple[State, State]], str]] = {
    "layer": (lambda base, tuned: (of_next_layer(base), of_next_layer(tuned)), "update_relative_norm"),
    "sign": (lambda base, tuned: (base, {name: 2 * base[name] - x for name, x in tuned.items()}), "cosine_with_weight"),
    "transposed matrix": (lambda base, tuned: (first_transposed(base), first_transposed(tuned)), "null_energy_left"),
    "base and tuned swapped": (lambda base, tuned: (tuned, base), "null_energy_left"),
}
"""How files are made wrong, and a statistic that must then differ."""


@pytest.mark.parametrize("mutation", IN_FILES)
def test_wrong_files_are_seen_without_a_lens(mutation: str, lenses: tuple[Lens, Lens], tmp_path: Path) -> None:
    change, statistic = IN_FILES[mutation]
    sides = (lenses[1].before.model, lenses[1].tuned)
    folders = [side.chat().directory for side in sides if isinstance(side, Exported)]
    right = [load_file(folder / "model.safetensors") for folder in folders]
    for name, state in zip(("base", "tuned"), change(right[0], right[1]), strict=True):
        shutil.copytree(folders[0], tmp_path / name, ignore=shutil.ignore_patterns("tmp*"))
        save_file(state, tmp_path / name / "model.safetensors")
    wrong = without_prompts(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", "gpt2")
    assert statistic in differences(in_study(lenses[0]), wrong)


class Mutated:
    """A model that is read wrongly in one way."""

    def __init__(self, model: Any, **wrong: Any) -> None:
        self.model, self.wrong = model, wrong

    def __getattr__(self, name: str) -> Any:
        return self.wrong.get(name) or getattr(self.model, name)


def of_other_layer(model: Any) -> Any:
    """Activations of the block after each, and of the first for the last."""
    count = len(model.layers)

    def moved(read: Callable[..., Any]) -> Callable[..., dict[tuple[int, str], Tensor]]:
        def activations(*args: Any) -> dict[tuple[int, str], Tensor]:
            places = read(*args)
            return {(layer, site): places[((layer + 1) % count, site)] for layer, site in places}

        return activations

    return Mutated(model, activations=moved(model.activations), request_activations=moved(model.request_activations))


def at_the_answer(model: Any) -> Any:
    """Activations before the answer in place of those at the end of the request."""
    return Mutated(model, request_activations=model.activations)


def of_other_site(model: Any) -> Any:
    """Of each pair of sites of one width, the other: the stream after the block in place of the MLP's input."""

    def activations(prompts: Any, sites: tuple[str, ...] = ("mlp_in", "mlp_pre", "mlp_post", "resid_out")) -> Any:
        places = model.activations(prompts, ("mlp_in", "mlp_pre", "mlp_post", "resid_out"))
        other = {"mlp_in": "resid_out", "resid_out": "mlp_in", "mlp_post": "mlp_pre", "mlp_pre": "mlp_post"}
        return {(layer, site): places[(layer, other[site])] for layer, site in places}

    return Mutated(model, activations=activations)


def with_other_weights(model: Any) -> Any:
    """The MLP of the block after each."""
    return Mutated(model, mlp=lambda layer: model.mlp((layer + 1) % len(model.layers)))


def scaled_readout(model: Any) -> Any:
    """Logits of the other sign."""

    def embedded(prompts: Any) -> Any:
        for part in model.embedded(prompts):
            yield replace(part, readout=lambda x, part=part: -part.readout(x))

    return Mutated(model, embedded=embedded)


def answers_turned(model: Any) -> Any:
    """Compliance where there is none."""
    return Mutated(model, complied=lambda prompts: ~model.complied(prompts))


def forced_turned(model: Any) -> Any:
    """The harmless answer where a refusal is forced."""
    return Mutated(model, forced=lambda prompts, refusal, tokens: model.forced(prompts, not refusal, tokens))


def exact_turned(model: Any) -> Any:
    """Right answers where there is none."""
    return Mutated(model, exact=lambda questions: 1 - model.exact(questions))


Mutate = Callable[[Lens], Lens]


def both(change: Callable[[Any], Any]) -> Mutate:
    def mutate(lens: Lens) -> Lens:
        before = lens.before
        return Lens(BaseSide(change(before.model), before.prompts, before.effort, 0), change(lens.tuned))

    return mutate


def models_swapped(lens: Lens) -> Lens:
    """The sign of ΔW."""
    before = lens.before
    return Lens(BaseSide(lens.tuned, before.prompts, before.effort, 0), before.model)


def verdicts_swapped(lens: Lens) -> Lens:
    """Allowed prompts as forbidden ones: the sign of every difference between the two."""
    before = lens.before
    turned = tuple(replace(one, allowed=one.forbidden, forbidden=one.allowed) for one in before.prompts.contrasts)
    return Lens(BaseSide(before.model, replace(before.prompts, contrasts=turned), before.effort, 0), lens.tuned)


LAYER, SITE, WEIGHTS = both(of_other_layer), both(of_other_site), both(with_other_weights)
MUTATIONS: dict[str, dict[str, Mutate]] = {
    "null_space": {"weights of another layer": WEIGHTS, "models swapped": models_swapped},
    "clusters": {"layer": LAYER, "site": SITE, "models swapped": models_swapped},  # a distance has no sign
    "gain": {
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "models swapped": models_swapped,
        "verdicts swapped": verdicts_swapped,
    },
    "update_effect": {
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "models swapped": models_swapped,
        "verdicts swapped": verdicts_swapped,
    },
    "sensitivity": {
        "logits of the other sign": both(scaled_readout), "models swapped": models_swapped,
        "verdicts swapped": verdicts_swapped,
    },
    "attacked_prompts": {
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "models swapped": models_swapped,
        "verdicts swapped": verdicts_swapped,
    },
    "ranks": {
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "models swapped": models_swapped,
        "verdicts swapped": verdicts_swapped,
    },
    "refusal_direction": {  # a span has no sign
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "models swapped": models_swapped,
    },
    "probe": {"layer": LAYER, "site": SITE, "models swapped": models_swapped},
    "dose_response": {
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "models swapped": models_swapped,
        "answers turned": both(answers_turned),
    },
    "overlap": {"weights of another layer": WEIGHTS},
    "safety-subspace": {"weights of another layer": WEIGHTS, "models swapped": models_swapped},
    "depth": {
        "models swapped": models_swapped, "verdicts swapped": verdicts_swapped, "answers swapped": both(forced_turned),
    },
    "update-directions": {
        "layer": LAYER, "site": SITE, "weights of another layer": WEIGHTS, "verdicts swapped": verdicts_swapped,
    },
    "capability": {"models swapped": models_swapped, "answers turned": both(exact_turned)},
    "off-principal": {"weights of another layer": WEIGHTS, "models swapped": models_swapped},
    "request-token": {
        "layer": LAYER, "models swapped": models_swapped, "place": both(at_the_answer),
        "answers turned": both(answers_turned),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "mutation"), [(name, what) for name, some in MUTATIONS.items() for what in some])
def test_a_wrong_layer_site_or_sign_is_seen(name: str, mutation: str, lenses: tuple[Lens, Lens]) -> None:
    mine, wrong = lines(OBSERVED[name], lenses[0]), lines(OBSERVED[name], MUTATIONS[name][mutation](lenses[1]))
    same = mine.keys() == wrong.keys() and all(
        close(getattr(line, field), getattr(wrong[key], field)) for key, line in mine.items() for field in NUMBERS
    )
    assert not same


def test_positions_of_complied_prompts_are_the_same_on_both_sides(lenses: tuple[Lens, Lens]) -> None:
    """The random models comply with nothing, so compliance is turned on both sides."""
    mine, theirs = (lines(RequestToken().measure, both(answers_turned)(lens)) for lens in lenses)
    assert {"complied_position", "complied_position_difference"} <= {line.statistic for line in mine.values()}
    assert_same(mine, theirs)


@pytest.mark.parametrize("refusal", [True, False])
def test_forced_answers_are_the_next_tokens_after_each_prefix(refusal: bool) -> None:
    model, contrast = ours(0), contrasts(WORLD, 6, 0)[0]
    for prompts in (contrast.allowed, contrast.forbidden):
        log_probs = SyntheticModel(model, WORLD).forced(prompts, refusal, 5)
        answers = world_answers(None, prompts, refusal)  # type: ignore[arg-type]
        for row, prompt, answer in zip(log_probs, tokens(None, prompts), answers, strict=True):  # type: ignore[arg-type]
            for t in range(min(5, len(answer))):
                alone = model(torch.tensor([prompt + answer[:t]]))[0, -1]
                torch.testing.assert_close(row[t], torch.log_softmax(alone, -1))
            assert bool(torch.isnan(row[len(answer) :]).all())


def test_a_forced_refusal_is_the_worlds_own_where_the_policy_refuses() -> None:
    forbidden = contrasts(WORLD, 12, 0)[0].forbidden
    own = WORLD.layout.response_tokens(forbidden, np.full(len(forbidden), Response.REFUSE))
    mine = refusals(WORLD, forbidden)
    assert np.array_equal(own[:, : mine.shape[1]], mine)
    assert bool((own[:, mine.shape[1] :] == WORLD.vocabulary.pad).all())
