"""A small random Llama (gated, rotary, grouped heads) through every observation, against transformers' own outputs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_chat import write_model
from torch import Tensor

from deltaw.analysis import column_basis, null_energy, separation
from deltaw.behaviour.judge import Verdict
from deltaw.behaviour.judges.rules import RULES
from deltaw.compare.asking import Effort
from deltaw.compare.interventions import judged_by
from deltaw.compare.lens import prompts_of, real_lens
from deltaw.compare.prompted import OBSERVED, _complied
from deltaw.compare.two_models import TwoModels
from deltaw.compare.weights import open_sources
from deltaw.models.huggingface import Chat, load_chat, rows_of
from deltaw.models.mlp_maps import mlp_of
from deltaw.observations.clusters.measure import ClusterSeparation
from deltaw.observations.draws import SITE_KEYS, Draw
from deltaw.observations.gain.measure import Gain
from deltaw.observations.lens import Lens
from deltaw.observations.null_space.measure import NullSpaceEnergy
from deltaw.observations.sensitivity.measure import PromptSensitivity
from deltaw.observations.update_effect.measure import UpdateEffect
from deltaw.prompts.matched import Prompt, builtin_prompts, matched, spread
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet

LAYER = 1
EFFORT = replace(Effort(), attacked=10, sensitive=2, draws=40)


class InMemory(TwoModels):
    """Both models in float64, side by side."""

    chats: dict[float, Chat]

    def at(self, alpha: float) -> Chat:
        return self.chats[alpha]


def pairs() -> list[Prompt]:
    chosen = spread(matched(builtin_prompts(), "operand"), 10)
    return [prompt for pair in chosen for prompt in (pair.allowed, pair.forbidden)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lens, Chat, Chat]:
    folder = tmp_path_factory.mktemp("llama")
    base, tuned = write_model(folder / "base"), write_model(folder / "tuned", noise=0.05)
    models = InMemory(open_sources(base, tuned))
    models.chats = {alpha: load_chat(side, dtype=torch.float64) for alpha, side in ((0.0, base), (1.0, tuned))}
    prompts = prompts_of(pairs(), EFFORT, {})
    everyone = [*pairs(), *(prompt for some in prompts.attacked() for prompt in some.prompts)]
    refused = {prompt: Verdict.COMPLY if i % 2 else Verdict.REFUSE for i, prompt in enumerate(everyone)}
    lens = real_lens(models, prompts, EFFORT, (_complied(refused), _complied(refused)), judged_by(RULES))
    return lens, models.at(0.0), models.at(1.0)


def hooked(chat: Chat, prompts: list[Prompt], name: str, reads_input: bool) -> Tensor:
    """What goes into a module, or comes out of it, at the last token: each prompt by itself, by no code of ours."""
    kept: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        value = args[0] if reads_input else (output[0] if isinstance(output, tuple) else output)
        kept.append(value.view(-1, value.shape[-1])[-1].detach())  # OPT flattens batch and positions

    handle = chat.model.get_submodule(name).register_forward_hook(keep)
    for row in rows_of(chat, prompts):
        chat.model(input_ids=torch.tensor([row]))
    handle.remove()
    return torch.stack(kept)


def lines(observe: Any, lens: Lens) -> list[Measurement]:
    sheet = Sheet(stage="analysis", model="tuned", seed=0)
    observe(lens, sheet)
    return sheet.lines


def one(found: list[Measurement], statistic: str, **where: object) -> float:
    values = {x.value for x in found if x.statistic == statistic and all(getattr(x, k) == v for k, v in where.items())}
    assert len(values) == 1, (statistic, where, len(values))
    return values.pop()


def sides(lens: Lens) -> tuple[list[Prompt], list[Prompt]]:
    contrast = lens.before.contrasts["operand"]
    return contrast.allowed, contrast.forbidden


@pytest.mark.parametrize(
    ("site", "module", "reads_input"), [("resid_out", "", False), ("mlp_post", ".mlp.down_proj", True)]
)
def test_clusters(llama: tuple[Lens, Chat, Chat], site: str, module: str, reads_input: bool) -> None:
    lens, _, tuned = llama
    allowed, forbidden = (hooked(tuned, some, f"model.layers.{LAYER}{module}", reads_input) for some in sides(lens))
    clusters = lens.clusters("operand")
    assert clusters is not None
    expected = separation(
        allowed, forbidden, lens.generator(Draw.CLUSTER_FOLDS, SITE_KEYS[site]), paired=True,
        ids=(clusters, clusters), null_draws=40, bootstrap_draws=40,
    )  # fmt: skip
    found = lines(ClusterSeparation().measure, lens)
    assert one(found, "tau_gap_relative", layer=LAYER, site=site) == pytest.approx(expected.values["tau_gap_relative"])


def test_gain_is_of_both_input_maps_at_each_models_own_inputs(llama: tuple[Lens, Chat, Chat]) -> None:
    lens, base, tuned = llama
    found = lines(Gain().measure, lens)
    for suffix, chat in (("", base), ("_in_situ", tuned)):
        a = hooked(chat, sides(lens)[1], f"model.layers.{LAYER}.mlp.gate_proj", True)
        of = {}
        for name, model in (("base", base.model), ("tuned", tuned.model)):
            mlp: Any = model.get_submodule(f"model.layers.{LAYER}.mlp")
            of[name] = torch.cat([mlp.gate_proj(a), mlp.up_proj(a)], 1).detach()
        expected = ((of["tuned"] - of["base"]).norm(dim=1) / of["base"].norm(dim=1)).mean()
        assert one(found, f"gain_relative{suffix}", layer=LAYER, set="operand/forbidden") == pytest.approx(
            float(expected)
        )


def test_the_change_of_the_mlps_output_is_transformers_own(llama: tuple[Lens, Chat, Chat]) -> None:
    lens, base, tuned = llama
    before, after = (hooked(chat, sides(lens)[0], f"model.layers.{LAYER}.mlp", False) for chat in (base, tuned))
    expected = ((after - before).norm(dim=1) / before.norm(dim=1)).mean()
    found = lines(UpdateEffect().measure, lens)
    where = {"layer": LAYER, "set": "operand/allowed"}
    assert one(found, "effect_relative_size", **where) == pytest.approx(float(expected))
    shares = [one(found, f"effect_share_{source}", **where) for source in ("null", "column", "rest", "inherited")]
    assert sum(shares) == pytest.approx(1)


def both_maps(chat: Chat) -> Tensor:
    mlp: Any = chat.model.get_submodule(f"model.layers.{LAYER}.mlp")
    return torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])


def test_null_energy_is_of_gate_and_up_as_one_map(llama: tuple[Lens, Chat, Chat]) -> None:
    lens, base, tuned = llama
    W, new = (both_maps(chat) for chat in (base, tuned))
    expected = null_energy(new - W, column_basis(W))
    assert one(lines(NullSpaceEnergy().measure, lens), "null_energy_left", layer=LAYER) == pytest.approx(expected)


def test_sensitivity_is_the_jacobians_spectral_norm(llama: tuple[Lens, Chat, Chat]) -> None:
    lens, _, tuned = llama
    norms = []
    for row in rows_of(tuned, sides(lens)[1][:2]):
        embed: Any = tuned.model.get_input_embeddings
        E = embed()(torch.tensor([row])).detach()

        def logs(x: Tensor) -> Tensor:
            return torch.log_softmax(tuned.model(inputs_embeds=x).logits[0, -1], 0)

        jacobian: Any = torch.autograd.functional.jacobian
        J = jacobian(logs, E)
        norms.append(float(torch.linalg.svdvals(J.flatten(1))[0]))
    found = one(lines(PromptSensitivity().measure, lens), "sensitivity_spectral", set="operand/forbidden")
    assert found == pytest.approx(float(np.exp(np.mean(np.log(norms)))), rel=0.02)  # the power method is a lower bound


def test_every_observation_says_something_or_why_not(llama: tuple[Lens, Chat, Chat]) -> None:
    lens = llama[0]
    for observation in OBSERVED:
        lens.absent.clear()
        assert lines(observation.measure, lens) or lens.absent, observation.name


@pytest.mark.parametrize("family", ["llama", "gemma", "phi", "phi3", "gpt2", "gpt_neox", "opt"])
def test_the_mlp_of_every_family_is_transformers_own(family: str, tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / family, family), dtype=torch.float64)
    from deltaw.models.architectures import family_of

    names = family_of(name for name, _ in chat.model.named_parameters())
    prompts = [Prompt("Sing.", "allowed"), Prompt("Steal.", "forbidden")]
    a = hooked(chat, prompts, names.in_proj.format(layer=LAYER), True)
    expected = hooked(chat, prompts, names.out_proj.format(layer=LAYER), False)
    assert torch.allclose(mlp_of(chat.model, LAYER)(a), expected, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_large_models_mlps_are_read_from_files_and_no_model_is_loaded_for_them(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = write_model(tmp_path / "base", family), write_model(tmp_path / "tuned", family, noise=0.05)
    models = TwoModels.open(open_sources(base, tuned), pairs())
    prompts = prompts_of(pairs(), EFFORT, {})
    small = real_lens(models, prompts, EFFORT, (_complied({}), _complied({})))
    expected = [small.mlps(layer) for layer in small.layers]
    monkeypatch.setattr("deltaw.compare.lens.LIGHT", 0)
    large = real_lens(models, prompts, EFFORT, (_complied({}), _complied({})))
    assert not large.tuned.light
    loads = []
    monkeypatch.setattr(TwoModels, "at", lambda self, alpha: loads.append(alpha))
    for layer in large.layers:
        for mine, other in zip(large.mlps(layer), expected[layer], strict=True):
            x = torch.randn(3, mine.w_in.shape[1], dtype=torch.float64)
            torch.testing.assert_close(mine(x), other(x))
    assert loads == []
