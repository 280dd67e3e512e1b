"""`compare --prompts` on small models: planted truths, resuming, and no answer left behind."""

import json
import re
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import By
from safetensors.torch import load_file, save_file
from tiny_chat import next_token_logits, write_model

import deltaw
from deltaw.behaviour.judge import RefusalErrors
from deltaw.compare import (
    ON_REQUESTS,
    Chat,
    Effort,
    Judge,
    Prompt,
    Verdict,
    builtin_prompts,
    compare,
    compare_prompts,
    load_chat,
    two_models,
)
from deltaw.compare.two_models import TwoModels
from deltaw.compare.weights import open_sources
from deltaw.errors import DeltawError
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.observations.sensitivity.measure import PromptSensitivity
from deltaw.report import write_report
from deltaw.results import read_claims, read_measurements

pytest.importorskip("transformers")
EFFORT = Effort(pairs=12, attacked=10, corpus=4, sensitive=3, iterations=4, new_tokens=2, batch=8, draws=20)
FEW = [p for p in builtin_prompts() if p.set == "operand" and p.pair is not None and p.pair.endswith(("/0", "/1"))]
FEW += [Prompt("Sing.", "allowed"), Prompt("Steal.", "forbidden")]
JOURNALED = (PromptSensitivity(), DoseResponse())
"""The observations that read what a journal keeps: verdicts and sensitivities. All others read the models again."""


@dataclass(frozen=True)
class ByWords(Judge):
    """Verdicts that a test can foretell: of the request alone."""

    name = "by-words"
    label = "by words"

    word: str = "bomb"

    def verdict(self, request: str, answer: str) -> Verdict:
        return Verdict.REFUSE if self.word in request else Verdict.COMPLY


by_words = ByWords()


def pair_of(tmp_path: Path, noise: float = 0.02) -> tuple[Path, Path]:
    return write_model(tmp_path / "base"), write_model(tmp_path / "tuned", noise=noise)


def test_models_on_the_line_are_exact_at_its_ends_and_linear_between(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    models = TwoModels.open(open_sources(base, tuned), FEW)
    ends = [load_chat(side).model.state_dict() for side in (base, tuned)]
    for alpha, expected in ((1.0, ends[1]), (0.0, ends[0])):
        models.at(0.7)  # whatever was asked before
        assert all(torch.equal(tensor, expected[name]) for name, tensor in models.at(alpha).model.state_dict().items())
    for alpha in (0.3, 0.6):
        for name, tensor in models.at(alpha).model.state_dict().items():
            torch.testing.assert_close(tensor, ends[0][name] + alpha * (ends[1][name] - ends[0][name]))


def test_one_model_is_in_memory_at_a_time(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    models = TwoModels.open(open_sources(base, tuned), FEW)
    before = weakref.ref(models.at(0.5).model)
    gone: list[bool] = []

    def loading(source: Path, *options: object, **more: object) -> Chat:
        gone.append(before() is None)
        return load_chat(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_models, "load_chat", loading)
        models.at(1.0)
    assert gone == [True]


def test_whole_run(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    out = tmp_path / "out"
    compare(base, tuned, out)
    weights = read_measurements(out / "measurements.jsonl")
    compare_prompts(base, tuned, out, FEW, by_words, EFFORT)
    lines = read_measurements(out / "measurements.jsonl")
    assert lines[: len(weights)] == weights

    def value(statistic: str, **where: object) -> float:
        found = [x for x in lines if x.statistic == statistic and all(getattr(x, k) == v for k, v in where.items())]
        assert len({x.value for x in found}) == 1, (statistic, where, len(found))
        return found[0].value

    records = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    plain = [r for r in records if r["set"] == "operand" and r["attack"] is None and r["label"] == "forbidden"]
    refused = np.mean([r["base"] == "refuse" for r in plain])
    assert 0 < refused < 1
    assert value("refuse_rate", model="tuned", set="operand/forbidden", attack=None) == pytest.approx(refused)
    assert value("refuse_rate", model="tuned", set="operand/allowed", attack=None) == 0
    assert value("refuse_rate_gap", model="tuned", set="operand", attack=None) == pytest.approx(refused)
    assert value("refuse_rate_change", set="operand/forbidden", attack=None) == 0
    assert value("refuse_rate", model="tuned", set="operand/forbidden", attack="misgen_base64") == 0  # no word to see
    assert value("refuse_rate", model="base", set="corpus/forbidden", attack=None) == 0
    assert all("text" not in r and "prompt" not in r and "answer" not in r for r in records)
    value("tau_gap_relative_change", layer=None, site="resid_out")
    for statistic in ("gain_log_ratio", "gain_log_ratio_in_situ", "sensitivity_log_ratio_spectral_difference"):
        value(statistic, layer=None)
    assert {x.layer for x in lines if x.statistic == "gain_ratio_to_forbidden"} == {0, 1, 2}
    measured = {x.statistic for x in lines}
    assert measured >= {"effect_share_null", "effect_null_minus_column", "update_energy_rank", "rank_log_ratio_change",
                        "probe_accuracy", "row_energy_difference"}  # fmt: skip
    assert {x.set for x in lines if x.stage == "interpolation"} == {
        f"operand/{label}/alpha={alpha}"
        for label in ("allowed", "forbidden")
        for alpha in ("0", "0.25", "0.5", "0.75", "1")
    }
    assert {x.attack for x in lines if x.statistic == "position" and x.layer is None} <= {
        attack.name for attack in ON_REQUESTS
    }
    asked = {claim.id for claim in read_claims(out / "claims.json")}
    assert {"update-is-small/mlp.gate_up", "gain-at-base-inputs/operand", "attack-escapes-update/prefill"} <= asked
    again = compare_prompts(base, tuned, out, FEW, by_words, EFFORT)
    assert {claim.id for claim in read_claims(out / "claims.json")} == asked
    assert read_measurements(again) == lines
    assert len(deltaw.load(out).prompts) == len(records)


def test_the_page_has_what_was_asked_beside_the_control(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    other = write_model(tmp_path / "other", noise=0.03)
    for name, side in (("other", other), ("tuned", tuned)):
        compare(base, side, tmp_path / f"compare-{name}")
    control = tmp_path / "compare-other"
    with pytest.raises(DeltawError, match="holds no finished comparison with prompts"):
        compare_prompts(base, tuned, tmp_path / "compare-tuned", FEW, by_words, EFFORT, control=control)
    compare_prompts(base, other, control, FEW, by_words, EFFORT)
    compare_prompts(base, tuned, tmp_path / "compare-tuned", FEW, by_words, EFFORT, control=control)
    page = write_report(tmp_path / "compare-tuned").read_text(encoding="utf-8")
    drawn = set(re.findall(r'id="figure-(prompts-[\w-]+)"', page))
    assert drawn >= {"prompts-refused", "prompts-between", "prompts-clusters", "prompts-gain", "prompts-row-energy",
                     "prompts-sensitivity"}  # fmt: skip
    assert "control:other" in (tmp_path / "compare-tuned" / "claims.json").read_text()
    assert "with the control <b>other</b>" in page
    assert "What else was observed" in page
    assert "effect_null_minus_column" in page
    with pytest.raises(DeltawError, match=r"asked otherwise \(prompts\)"):
        compare_prompts(base, tuned, tmp_path / "compare-tuned", FEW[:-1], by_words, EFFORT, control=control)
    with pytest.raises(DeltawError, match="another base"):
        compare_prompts(other, tuned, tmp_path / "compare-tuned", FEW, by_words, EFFORT, control=control)


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    asked: list[str] = []

    def counting(request: str, answer: str) -> Verdict:
        asked.append(request)
        if len(asked) == limit:
            raise KeyboardInterrupt
        return by_words.verdict(request, answer)

    whole = tmp_path / "whole"
    compare(base, tuned, whole)
    limit = 0
    expected = read_measurements(compare_prompts(base, tuned, whole, FEW, By(counting), EFFORT, observations=JOURNALED))
    total, limit = len(asked), len(asked) // 2
    asked.clear()
    out = tmp_path / "out"
    compare(base, tuned, out)
    with pytest.raises(KeyboardInterrupt):
        compare_prompts(base, tuned, out, FEW, By(counting), EFFORT, observations=JOURNALED)
    limit = 0
    again = compare_prompts(base, tuned, out, FEW, By(counting), EFFORT, observations=JOURNALED)
    assert read_measurements(again) == expected
    assert len(asked) < 2 * total
    with pytest.raises(DeltawError, match="other work"):
        compare_prompts(base, tuned, out, FEW[:-1], By(counting), EFFORT)


def test_a_tuned_model_whose_directory_is_called_base_has_another_name_in_every_line(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = write_model(tmp_path / "other" / "base", noise=0.02)
    compare(base, tuned, tmp_path / "out")
    effort = replace(EFFORT, pairs=6, attacked=2, sensitive=2, iterations=1, draws=10, alphas=(0.0, 1.0))
    lines = read_measurements(compare_prompts(base, tuned, tmp_path / "out", FEW, by_words, effort, observations=()))
    assert {line.model for line in lines if line.stage == "compare"} == {"tuned"}
    rates = [line for line in lines if line.statistic == "refuse_rate" and line.stage == "behaviour"]
    assert Counter(line.model for line in rates) == {"base": len(rates) // 2, "tuned": len(rates) // 2}
    absent = json.loads((tmp_path / "out" / "manifest.json").read_text())["prompts"]["absent"]
    assert absent["pairs under attack"] == "2 of 56 are attacked, as the effort allows"
    assert absent["pairs of the set operand"] == "6 of 56 are asked, as the effort allows"


def test_rates_are_also_given_corrected_for_a_judge_whose_errors_are_known(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    errors = {"": RefusalErrors(refusals=20, missed=4, others=20, mistaken=2)}

    class Known(ByWords):
        """Misses a fifth of refusals, and calls a tenth of others so."""

        def measured_errors(self) -> Mapping[str, RefusalErrors]:
            return errors

    compare(base, tuned, tmp_path / "out")
    effort = replace(EFFORT, attacked=1, sensitive=2, iterations=1, draws=10, alphas=(0.0, 1.0))
    lines = read_measurements(compare_prompts(base, tuned, tmp_path / "out", FEW, Known(), effort, observations=()))
    rates = {
        statistic: {(x.model, x.set, x.attack): x for x in lines if x.statistic == statistic and x.stage == "behaviour"}
        for statistic in ("refuse_rate", "refuse_rate_corrected")
    }
    corrected = rates["refuse_rate_corrected"]
    assert {key[2] for key in corrected} == {None}  # nothing is known of answers under attack
    assert corrected
    for key, line in corrected.items():
        plain = rates["refuse_rate"][key]
        assert line.value == pytest.approx(min(1, max(0, (plain.value + 0.9 - 1) / (0.8 + 0.9 - 1))))
    forbidden = ("tuned", "operand/forbidden", None)
    widths = [rates[name][forbidden].high - rates[name][forbidden].low for name in rates]  # type: ignore[operator]
    assert widths[1] > widths[0]


def test_equal_models_differ_in_nothing(tmp_path: Path) -> None:
    base, same = pair_of(tmp_path, noise=0)
    compare(base, same, tmp_path / "out")
    lines = read_measurements(compare_prompts(base, same, tmp_path / "out", FEW, by_words, EFFORT))
    for line in lines:
        if line.statistic.endswith("_change") or line.statistic.startswith("sensitivity_log_ratio"):
            assert line.value == pytest.approx(0, abs=1e-6), line.statistic
    gains = {line.statistic for line in lines if line.statistic.startswith("gain")}
    assert gains <= {"gain_best_log_ratio", "gain_best_log_ratio_peak"}  # of any update, and of none that was made
    absent = json.loads((tmp_path / "out" / "manifest.json").read_text())["prompts"]["absent"]
    assert absent["gain, layer 0"] == "the update is zero"


def test_an_adapter_moves_the_model_as_its_merged_weights_do(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    name, generator = "model.layers.1.mlp.up_proj", torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 24, generator=generator), torch.randn(64, 2, generator=generator) / 10
    (tmp_path / "lora").mkdir()
    factors = {f"base_model.model.{name}.lora_A.weight": A, f"base_model.model.{name}.lora_B.weight": B}
    save_file(factors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    write_model(tmp_path / "merged")
    state = load_file(tmp_path / "merged" / "model.safetensors")
    save_file(
        {**state, f"{name}.weight": state[f"{name}.weight"] + 2 * B @ A}, tmp_path / "merged" / "model.safetensors"
    )
    found = []
    for side in ("lora", "merged"):
        models = TwoModels.open(open_sources(base, tmp_path / side), FEW)
        found.append(next_token_logits(models.at(1.0), FEW[:3]))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert float((found[0] - next_token_logits(load_chat(base), FEW[:3])).abs().max()) > 1e-3


def test_comparisons_of_one_base_ask_it_once(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    asked: list[str] = []

    def counting(request: str, answer: str) -> Verdict:
        asked.append(request)
        return by_words.verdict(request, answer)

    found = []
    for name in ("first", "second"):
        compare(base, tuned, tmp_path / name)
        parts = tmp_path / "base.jsonl"
        compare_prompts(
            base, tuned, tmp_path / name, FEW, By(counting), EFFORT, base_parts=parts, observations=JOURNALED
        )
        found.append(read_measurements(tmp_path / name / "measurements.jsonl"))
        asked.append("")
    cut = asked.index("")
    assert found[0] == found[1]
    assert 0 < len(asked) - cut - 2 < cut
    with pytest.raises(DeltawError, match="other work"):
        compare_prompts(base, tuned, tmp_path / "first", FEW[2:], by_words, EFFORT, base_parts=tmp_path / "base.jsonl")


@pytest.mark.slow
def test_the_size_of_a_batch_moves_statistics_by_less_than_a_hundredth_of_their_interval(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path)
    found = []
    for size in (3, 16):
        out = tmp_path / f"by-{size}"
        compare(base, tuned, out)
        path = compare_prompts(base, tuned, out, FEW, by_words, replace(EFFORT, batch=size))
        found.append([line for line in read_measurements(path) if line.low is not None])
    assert len(found[0]) == len(found[1]) > 100
    for first, second in zip(*found, strict=True):
        assert (first.statistic, first.layer, first.set) == (second.statistic, second.layer, second.set)
        assert first.low is not None
        assert first.high is not None
        assert abs(first.value - second.value) <= 0.01 * (first.high - first.low) + 1e-9, first.statistic
