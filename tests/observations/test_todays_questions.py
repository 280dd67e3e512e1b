"""Observations that test today's papers: planted truths, chance, controls, and what is drawn of them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deltaw.charts.tables import Tables
from deltaw.models import MlpWeights
from deltaw.observations.depth.figures import depth
from deltaw.observations.depth.measure import Depth
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.observation import Observation
from deltaw.observations.off_principal.figures import off_principal
from deltaw.observations.off_principal.measure import OffPrincipal
from deltaw.observations.prompts import Attacked, Contrast, Effort, Prompts
from deltaw.observations.request_token.measure import RequestToken
from deltaw.observations.safety_subspace.measure import SafetySubspace
from deltaw.observations.update_directions.measure import UpdateDirections
from deltaw.observations.vocabulary import top_tokens
from deltaw.recipes import recipe
from deltaw.recipes.choose import with_observations
from deltaw.report.added import added
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet
from deltaw.study.graph import stages

LAYERS, WIDTH, HIDDEN = range(2), 16, 40


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def mlp(layer: int, w_in: Tensor | None = None, w_out: Tensor | None = None) -> MlpWeights:
    first = draw(layer, HIDDEN, WIDTH) if w_in is None else w_in
    second = draw(layer + 10, WIDTH, HIDDEN) if w_out is None else w_out
    return MlpWeights(first, torch.zeros(HIDDEN).double(), second, torch.zeros(WIDTH).double(), torch.relu)


class Planted:
    """A model of given MLPs, and of whatever else a test gives it."""

    def __init__(self, mlps: dict[int, MlpWeights], **more: Any) -> None:
        self.layers, self.light, self.mlps = LAYERS, True, mlps
        vars(self).update(more)

    def mlp(self, layer: int) -> MlpWeights:
        return self.mlps[layer]


def lens_of(base: Any, tuned: Any, contrasts: tuple[Contrast, ...] = (), draws: int = 60) -> Lens:
    return Lens(BaseSide(base, Prompts(contrasts), Effort(draws=draws, bootstrap=60), 0), tuned)


def measured(observation: Observation, lens: Lens, **shared: Any) -> list[Measurement]:
    fields = {"model": "tuned", "step": 1, "seed": 0, **shared}
    sheet = Sheet(stage="analysis", role="last_prompt", **fields)
    observation.measure(lens, sheet)
    declared = {(statistic.name, statistic.unit) for statistic in observation.statistics}
    assert {(line.statistic, line.unit) for line in sheet.lines} <= declared
    return sheet.lines


def one(lines: list[Measurement], statistic: str, **where: object) -> Measurement:
    chosen = [x for x in lines if x.statistic == statistic and all(getattr(x, k) == v for k, v in where.items())]
    assert len(chosen) == 1, (statistic, where, len(chosen))
    return chosen[0]


def tables_of(lines: list[Measurement]) -> Tables:
    import pandas as pd

    frame: Any = pd.DataFrame([vars(line) for line in lines]).convert_dtypes()
    results: Any = SimpleNamespace(measurements=frame, manifest={})
    return Tables(results)


def drawn(observation: Observation, lines: list[Measurement]) -> tuple[str, ...]:
    """Names of the figures that the report draws of a run with these lines; the same of two checkpoints, which have no
    steps, and none of a run without lines.
    """
    record = {"observations": [observation.recorded()]}
    (empty,) = added(record, tables_of([replace(line, statistic="other") for line in lines]))
    assert (empty.figures, empty.missing) == ((), "")
    (stepless,) = added(record, tables_of([replace(line, step=None) for line in lines]))
    (section,) = added(record, tables_of(lines))
    assert section.missing == ""
    for figure in section.figures:
        assert figure.draw().inline.startswith("<svg")
    assert [figure.spec() for figure in stepless.figures] == [figure.spec() for figure in section.figures]
    return tuple(figure.name for figure in section.figures)


def on_principal(layer: int, on: bool) -> MlpWeights:
    """An update on the strongest directions of W, or off them."""
    W = mlp(layer).w_in
    U, _, Vt = torch.linalg.svd(W)
    delta = U[:, :2] @ Vt[:2] if on else U[:, 12:14] @ Vt[12:14]
    return mlp(layer, W + 0.1 * delta)


@pytest.mark.parametrize("on", [True, False])
def test_off_principal_tells_an_update_on_the_principal_directions_from_one_off_them(on: bool) -> None:
    base = Planted({layer: mlp(layer) for layer in LAYERS})
    tuned = Planted({layer: on_principal(layer, on) for layer in LAYERS})
    lines = measured(OffPrincipal(directions=3), lens_of(base, tuned))
    for layer in LAYERS:
        for side in ("left", "right", "both"):
            line = one(lines, "principal_energy", layer=layer, set=side)
            assert line.value == pytest.approx(1.0 if on else 0.0, abs=1e-9)
            assert line.null_kind == "spectrum_matched"
            assert line.null_low is not None
            assert line.null_high is not None
            assert not line.null_low <= line.value <= line.null_high
        # neither kind turns them, as no random update of its spectrum would
        turned = one(lines, "principal_rotation", layer=layer, set="right")
        assert turned.null_low is not None
        assert turned.value < turned.null_low
        assert one(lines, "changed_share", layer=layer, null_kind="dense_update").set == "float64"
    assert one(lines, "principal_energy", layer=None, set="both").n == 2
    assert drawn(OffPrincipal(), lines) == ("off-principal", "changed-entries")
    assert off_principal(tables_of(lines))


def test_off_principal_of_no_update_says_so() -> None:
    base = Planted({layer: mlp(layer) for layer in LAYERS})
    lens = lens_of(base, base)
    assert {line.statistic for line in measured(OffPrincipal(), lens)} == {"changed_share"}
    assert "the update is zero" in lens.absent["principal_energy, layer 0"]


def moved(layer: int, *directions: int, size: float = 0.1, seed: int = 50) -> MlpWeights:
    """An update of rank two whose outputs are these coordinates of its layer's hidden units."""
    columns = torch.zeros(HIDDEN, len(directions)).double()
    columns[list(directions), range(len(directions))] = 1.0
    return mlp(layer, mlp(layer).w_in + size * columns @ draw(seed + layer, len(directions), WIDTH))


def test_updates_that_share_a_subspace_keep_each_others_energy_and_others_only_by_chance() -> None:
    base = Planted({layer: mlp(layer) for layer in LAYERS})
    tuned = Planted({layer: moved(layer, 3, 4) for layer in LAYERS})
    lens = lens_of(base, tuned)
    others: dict[str, Any] = {
        "twin": Planted({layer: moved(layer, 3, 4, size=0.3, seed=60) for layer in LAYERS}),
        "stranger": Planted({layer: mlp(layer, mlp(layer).w_in + draw(70 + layer, HIDDEN, WIDTH)) for layer in LAYERS}),
    }
    lens.others = others
    lines = measured(SafetySubspace(directions=2), lens)
    for layer in LAYERS:
        for name in ("own", "with=twin"):
            assert one(lines, "energy_kept", layer=layer, set=f"outputs/{name}").value == pytest.approx(1)
        assert one(lines, "mode_overlap", layer=layer, set="outputs/with=twin").value == pytest.approx(1)
        delta, other = (x[layer].w_in - mlp(layer).w_in for x in (tuned.mlps, others["stranger"].mlps))
        U, s, _ = np.linalg.svd(other.numpy())
        expected = np.sum((U[:, :2].T @ delta.numpy()) ** 2) / np.sum(delta.numpy() ** 2)
        line = one(lines, "energy_kept", layer=layer, set="outputs/with=stranger")
        assert line.value == pytest.approx(expected)
        assert line.null_mean == pytest.approx(2 / HIDDEN)
        k = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.9)) + 1
        mine = np.linalg.svd(delta.numpy())[0][:, :2]
        overlap = one(lines, "mode_overlap", layer=layer, set="outputs/with=stranger")
        assert overlap.value == pytest.approx(np.sum((mine.T @ U[:, :k]) ** 2) / 2)
        assert overlap.null_mean == pytest.approx(k / HIDDEN)
    own = one(lines, "energy_kept", layer=0, set="outputs/own")
    gaussian = np.linalg.svd(np.random.default_rng(0).standard_normal((200, HIDDEN, WIDTH)), compute_uv=False) ** 2
    assert own.null_mean == pytest.approx(float(np.mean(gaussian[:, :2].sum(1) / gaussian.sum(1))), abs=0.01)
    assert drawn(SafetySubspace(), lines) == ("energy-kept", "energy-kept-by-others")


def test_one_tuned_model_alone_is_beside_w() -> None:
    base = Planted({layer: mlp(layer) for layer in LAYERS})
    lens = lens_of(base, Planted({layer: on_principal(layer, True) for layer in LAYERS}))
    lines = measured(SafetySubspace(directions=2), lens)
    assert {line.set for line in lines} == {f"{side}/{of}" for side in ("outputs", "inputs") for of in ("own", "W")}
    assert one(lines, "energy_kept", layer=0, set="inputs/W").value == pytest.approx(1)
    assert drawn(SafetySubspace(), lines) == ("energy-kept",)


def test_a_study_gives_an_observation_the_other_tunings_of_its_base() -> None:
    tunings = recipe("smoke").tunings
    graph = stages(with_observations(recipe("smoke"), [SafetySubspace(), OffPrincipal()]))
    made = {stage.name: stage for stage in graph if stage.name.startswith("observe-")}
    followed = {tuned.name for tuned in tunings if not tuned.curve_only}
    assert followed
    for name in followed:
        beside = made[f"observe-safety-subspace-{name}-s0"]
        assert beside.config.others == tuple(t.name for t in tunings if t.name in followed - {name})
        assert {f"with {other}" for other in beside.config.others} == beside.inputs.keys() - {"base", "tuned"}
        assert made[f"observe-off-principal-{name}-s0"].inputs.keys() == {"base", "tuned"}


PAIRS = 40


def read_and_written(direction: int, seen: bool) -> tuple[Any, Any]:
    """A base and a tuned model whose ΔW reads one coordinate of the stream and writes another, along token 2.

    seen: whether forbidden prompts have that coordinate, and not another one.
    """
    unembedding = draw(7, 9, WIDTH)
    unembedding[2] = 0
    unembedding[2, 4] = 6.0

    def activations(prompts: Any, sites: Any = None) -> Any:
        rows = draw(prompts["seed"], len(prompts["rows"]), WIDTH)
        if prompts["forbidden"]:
            rows[:, direction if seen else WIDTH - 1] -= 4
        post = draw(prompts["seed"] + 1, len(prompts["rows"]), HIDDEN)
        post[:, 3] += 5 * prompts["forbidden"]
        return {(layer, site): x for layer in LAYERS for site, x in (("mlp_in", rows), ("mlp_post", post))}

    def tuned(layer: int) -> MlpWeights:
        first, second = mlp(layer).w_in.clone(), mlp(layer).w_out.clone()
        first[5, direction] += 3.0
        second[4, 3] += 2.0
        return mlp(layer, first, second)

    def spelled(directions: Tensor, count: int) -> Any:
        return top_tokens(unembedding, directions, count, lambda token: f"token\n{token}")

    base = Planted({layer: mlp(layer) for layer in LAYERS}, activations=activations)
    return base, Planted({x: tuned(x) for x in LAYERS}, activations=activations, top_tokens=spelled)


class Rows(dict[str, Any]):
    """Prompts of a planted model: numbers, and whether they are forbidden."""

    def __len__(self) -> int:
        return len(self["rows"])

    def __getitem__(self, key: Any) -> Any:
        return Rows(self, rows=super().__getitem__("rows")[key]) if isinstance(key, slice) else super().__getitem__(key)


@pytest.mark.parametrize("seen", [True, False])
def test_what_an_update_reads_and_writes(seen: bool) -> None:
    base, tuned = read_and_written(direction=6, seen=seen)
    allowed, forbidden = (Rows(seed=k, rows=range(PAIRS), forbidden=k) for k in (0, 1))
    harder = Contrast(
        "harder", Rows(seed=5, rows=range(PAIRS), forbidden=0), Rows(seed=6, rows=range(PAIRS), forbidden=1)
    )
    side = BaseSide(
        base,
        Prompts(
            (Contrast("pairs", allowed, forbidden), harder), lambda: (Attacked("x", "s", "pairs", forbidden[:20]),)
        ),
        Effort(draws=60, bootstrap=60),
        0,
    )
    lines = measured(UpdateDirections(), Lens(side, tuned))
    for layer in LAYERS:
        for name, attack in (
            ("pairs/vector=1", None),
            ("pairs/best", None),
            ("pairs/best", "x"),
            ("harder/best", None),
        ):
            null = one(lines, "detector_auroc", layer=layer, set=name, attack=attack, null_kind="random_direction")
            assert null.null_high is not None
            if seen:  # the sign is found, and random directions see less
                assert null.value > 0.95 > null.null_high - 0.1
            else:
                assert null.value < 0.75
        means = one(lines, "detector_auroc", layer=layer, set="pairs/difference_in_means", attack=None)
        assert means.value > 0.95
        assert means.null_kind is None
        written = one(lines, "written_logit", layer=layer)
        assert str(written.set).startswith(r"vector=1: token\n2 token\n")
        assert written.value == pytest.approx(6.0)
        assert written.null_high is not None
    assert drawn(UpdateDirections(), lines) == ("update-detectors", "update-tokens")


def speaking(moved: float) -> Any:
    """A model whose next tokens are moved at the first two tokens of an answer to a forbidden prompt."""

    def forced(prompts: Any, refusal: bool, tokens: int) -> Tensor:
        logits = draw(20, len(prompts), 8, 6)
        logits[:, :2, 0] += moved * prompts["forbidden"]
        logits += 0.02 * moved * draw(21 + prompts["forbidden"], len(prompts), 8, 6)
        return torch.log_softmax(logits, -1)[:, :tokens]

    return Planted({}, forced=forced)


def test_a_tuning_of_the_first_tokens_is_shallow_on_forbidden_prompts_alone() -> None:
    allowed, forbidden = (Rows(seed=0, rows=range(PAIRS), forbidden=k) for k in (0, 1))
    lens = lens_of(speaking(0.0), speaking(3.0), (Contrast("a/b", allowed, forbidden),))
    lines = measured(Depth(), lens)
    for answer in ("refusal", "constant"):
        deep = one(lines, "kl_early_share", set=f"a/b/allowed/{answer}")
        shallow = one(lines, "kl_early_share", set=f"a/b/forbidden/{answer}")
        assert shallow.n == 24
        assert deep.null_high is not None
        assert shallow.null_high is not None
        assert shallow.value > 0.9 > shallow.null_high
        assert deep.value < deep.null_high + 0.05
        for token, differs in ((1, True), (2, True), (3, False), (8, False)):
            gap = one(lines, "kl_gap", set=f"a/b/{answer}/token={token:02d}")
            assert gap.null_high is not None
            assert gap.value > 2 * gap.null_high or not differs
            assert abs(gap.value) < 0.02 or differs
    assert {line.role for line in lines} == {"answer"}
    titles = {str(panel["title"]) for figure in depth(tables_of(lines)) for panel in figure.panels}
    assert {"allowed, constant", "forbidden, refusal", "Forbidden minus allowed: constant"} <= titles
    assert drawn(Depth(), lines) == ("depth",)


def test_models_that_say_the_same_have_no_depth() -> None:
    allowed, forbidden = (Rows(seed=0, rows=range(PAIRS), forbidden=k) for k in (0, 1))
    lens = lens_of(speaking(0.0), speaking(0.0), (Contrast("a", allowed, forbidden),))
    assert {line.value for line in measured(Depth(), lens)} == {0.0}
    assert "same next tokens" in lens.absent["kl_early_share, a/allowed/refusal"]


def jailbroken(looks_allowed: bool) -> Any:
    """A tuned model to which every request ends as what it is, and whose end of the prompt says what it will do; of
    attacked prompts it complies with the first 20. looks_allowed: whether those look allowed before the answer.
    """

    def rows(prompts: Any, harm: Any) -> Any:
        x = 0.5 * draw(prompts["seed"], len(prompts["rows"]), WIDTH)
        x[:, 0] += 6 * torch.as_tensor(harm)
        return {(layer, "resid_out"): x for layer in LAYERS}

    def request_activations(prompts: Any, sites: Any) -> Any:
        return rows(prompts, prompts["forbidden"])

    def activations(prompts: Any, sites: Any = None) -> Any:
        broken = prompts["seed"] == 2 and looks_allowed
        return rows(prompts, 0 if broken else prompts["forbidden"])

    def complied(prompts: Any) -> Any:
        return np.arange(len(prompts)) < 20

    parts = {"activations": activations, "request_activations": request_activations, "complied": complied}
    return Planted({}, sites=("resid_out",), **parts)


@pytest.mark.parametrize("looks_allowed", [True, False])
def test_what_was_complied_with_is_harmful_at_the_request_and_not_before_the_answer(looks_allowed: bool) -> None:
    allowed, forbidden, attacked = (Rows(seed=k, rows=range(PAIRS), forbidden=min(k, 1)) for k in range(3))
    contrasts = (Contrast("pairs", allowed, forbidden),)
    prompts = Prompts(contrasts, lambda: (Attacked("x", "pairs/forbidden", "pairs", attacked),))
    blind: Any = Planted({}, sites=("resid_out",), request_activations=blind_activations, activations=blind_activations)
    side = BaseSide(blind, prompts, Effort(draws=60, bootstrap=60), 0)
    lens = Lens(side, jailbroken(looks_allowed))
    lines = measured(RequestToken(), lens)
    for layer in LAYERS:
        assert one(lines, "request_auroc", layer=layer).value > 0.99
        assert one(lines, "request_auroc_base", layer=layer).value < 0.8
    peak = one(lines, "request_tau_gap_relative_change_peak")
    assert peak.null_high is not None
    assert peak.value > 1 > peak.null_high
    positions = {at: one(lines, "complied_position", set=f"pairs/forbidden/at={at}") for at in ("request", "answer")}
    assert positions["request"].value == pytest.approx(0, abs=0.15)
    assert positions["answer"].value == pytest.approx(1.0 if looks_allowed else 0.0, abs=0.15)
    difference = one(lines, "complied_position_difference")
    assert (difference.n, difference.null_kind) == (20, "place_swap")
    assert difference.null_high is not None
    assert (difference.value > difference.null_high) == looks_allowed
    assert drawn(RequestToken(), lines) == ("request-separation", "request-complied")
    few = Lens(side, jailbroken(looks_allowed))
    assert "complied_position" not in {line.statistic for line in measured(RequestToken(least=21), few)}
    assert "20 prompts were complied with" in few.absent["complied_position, x"]


def blind_activations(prompts: Any, sites: Any = None) -> Any:
    """The same noise for all kinds of prompts, but for their rows."""
    x = draw(90 + prompts["seed"], len(prompts["rows"]), WIDTH)
    return {(layer, "resid_out"): x for layer in LAYERS}
