"""Mixtures of experts are asked, and read at the output of their blocks."""

import json
from pathlib import Path

import pytest
import torch
from judging import By
from tiny_chat import MIXTURES, write_model

from deltaw.attacks.prompts import ON_REQUESTS
from deltaw.compare import Effort, Prompt, Verdict, builtin_prompts, compare, compare_prompts, load_chat
from deltaw.compare.lens import HuggingFaceModel
from deltaw.errors import DeltawError
from deltaw.models.huggingface import rows_of
from deltaw.observations.attacked_prompts.measure import AttackedPrompts
from deltaw.observations.capability.measure import Capability
from deltaw.observations.clusters.measure import ClusterSeparation
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.observations.gain.measure import Gain
from deltaw.observations.probe.measure import ProbeAccuracy
from deltaw.observations.ranks.measure import Ranks
from deltaw.observations.sensitivity.measure import PromptSensitivity
from deltaw.results import read_measurements

pytest.importorskip("transformers")
EFFORT = Effort(pairs=12, attacked=5, sensitive=2, iterations=2, new_tokens=2, batch=8, draws=20, alphas=(0.0, 1.0))
FEW = [p for p in builtin_prompts() if p.set == "operand" and p.pair is not None and p.pair.endswith("/0")]
by_request = By(lambda request, answer: Verdict.REFUSE if "bomb" in request else Verdict.COMPLY)
MADE = (
    Capability(), ClusterSeparation(), AttackedPrompts(), PromptSensitivity(), Ranks(), ProbeAccuracy(), Gain(),
    DoseResponse(),
)  # fmt: skip


@pytest.mark.parametrize("family", MIXTURES)
def test_the_output_of_a_block_is_transformers_own(tmp_path: Path, family: str) -> None:
    chat = load_chat(write_model(tmp_path, family))
    model = HuggingFaceModel(lambda: chat, rows_of, lambda chat, prompts: torch.zeros(0).numpy())
    prompts = [Prompt("Sing.", "allowed"), Prompt("Bake two cakes.", "allowed")]
    places = model.activations(prompts)
    assert set(places) == {(layer, "resid_out") for layer in range(3)}
    for row, tokens in enumerate(rows_of(chat, prompts)):
        with torch.no_grad():
            states = chat.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
        for layer in range(2):  # what transformers calls the last state is normalised
            expected = states[layer + 1][0, -1]
            torch.testing.assert_close(places[(layer, "resid_out")][row], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(DeltawError, match="no activations at mlp_in: its MLPs are mixtures of experts"):
        places[(0, "mlp_in")]
    with pytest.raises(DeltawError, match="mixtures of experts"):
        model.mlp(0)


def test_a_mixture_is_asked_and_what_needs_mlp_maps_is_left_out(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path / "base", "qwen3_moe"), write_model(tmp_path / "tuned", "qwen3_moe", noise=0.02)
    out = tmp_path / "out"
    compare(base, tuned, out)
    few = [attack for attack in ON_REQUESTS if attack.name in ("prefill", "co_prefix")]
    lines = read_measurements(
        compare_prompts(base, tuned, out, FEW, by_request, EFFORT, observations=MADE, attacks=few)
    )
    analysed = [line for line in lines if line.stage == "analysis"]
    assert {line.site for line in analysed} == {None, "resid_out"}
    measured = {line.statistic for line in analysed}
    assert measured >= {
        "neutral_loss", "tau_gap_relative_change", "position", "sensitivity_spectral", "activation_rank",
        "probe_accuracy",
    }  # fmt: skip
    assert not any(name.startswith(("gain", "update_energy_rank", "success")) for name in measured)
    assert {line.attack for line in analysed if line.statistic == "position"} == {"prefill", "co_prefix"}
    assert any(line.statistic == "refuse_rate" and line.model == "tuned" for line in lines)
    absent = json.loads((out / "manifest.json").read_text())["prompts"]["absent"]
    assert absent["maps of MLPs"].startswith("its MLPs are mixtures of experts, so that what reads an MLP's maps")
    assert Gain.label in absent
    assert DoseResponse.label in absent
