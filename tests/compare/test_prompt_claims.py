"""Claims about activations of a real pair: planted lines, with and without a control, through the study's own rule."""

from dataclasses import replace
from typing import Any

import pytest

from deltaw.claims import STATEMENTS
from deltaw.compare.claims import ASKED, OF_ATTACKS, prompt_claims
from deltaw.results import Claim, Measurement

GAP = "tau_gap_relative_change"


def line(statistic: str = GAP, value: float = 0.5, half: float = 0.1, **more: object) -> Measurement:
    null = {"null_kind": "label_permutation", "null_mean": 0.0, "null_low": -0.05, "null_high": 0.05}
    known = {"stage": "compare", "model": "tuned", "seed": 0, "set": "operand", "site": "resid_out", "unit": "share",
             "n": 112, "n_unit": "pair", **null, **more}  # fmt: skip
    return Measurement(statistic=statistic, value=value, low=value - half, high=value + half, **known)  # type: ignore[arg-type]


def the(claims: list[Claim], name: str) -> Claim:
    return next(claim for claim in claims if claim.id == name)


@pytest.mark.parametrize(
    ("value", "control", "verdict"),
    [
        (0.5, 0.1, "holds"),
        (0.5, 0.7, "fails"),
        (0.5, 0.5, "undecided"),
        (0.0, -1.0, "fails"),
        (0.5, None, "undecided"),
    ],
)
def test_a_claim_has_to_beat_its_null_its_smallest_effect_and_the_control(
    value: float, control: float | None, verdict: str
) -> None:
    beside = [] if control is None else [line(value=control, model="other", half=0.02)]
    found = the(
        prompt_claims([line(value=value)], beside, None if control is None else "other"), "clusters-form/operand"
    )
    assert found.verdict == verdict
    assert found.exploratory
    assert (found.n, found.n_unit, found.low) == (112, "pair", value - 0.1)
    if control is None:
        assert found.why.endswith("not in every seed: control:harmless tuning")
    else:
        assert "control:other" in {null.kind for null in found.nulls}


def test_without_a_control_a_claim_can_fail() -> None:
    assert the(prompt_claims([line(value=0.0)]), "clusters-form/operand").verdict == "fails"


def test_layers_and_other_sets_are_not_read() -> None:
    lines = [line(value=9.0, layer=3), line(value=8.0, set="pairs/forbidden"), line(value=7.0, site="mlp_in")]
    assert prompt_claims(lines) == []


def test_each_attack_has_a_claim_that_must_beat_the_control_under_it() -> None:
    kind: dict[str, Any] = {
        "null_kind": "exchangeable_with_source", "n_unit": "prompt", "set": "operand/forbidden",
    }  # fmt: skip
    lines = [
        line("position", 0.9, attack="prefill", **kind),
        line("position", 0.1, attack="co_task", **kind),
        line("gain_log_ratio_to_forbidden", -0.5, site="mlp_in", attack="prefill", **kind),
    ]
    control = [line("position", 0.3, attack="prefill", **kind), line("position", 0.9, attack="co_task", **kind)]
    control += [line("gain_log_ratio_to_forbidden", -0.5, site="mlp_in", attack="prefill", **kind)]
    found = {claim.id: claim.verdict for claim in prompt_claims(lines, control, "other")}
    assert found == {
        "attack-looks-allowed/prefill": "holds",
        "attack-looks-allowed/co_task": "fails",
        "attack-escapes-update/prefill": "fails",
    }


def test_every_claim_asked_is_one_of_the_study_with_its_bars() -> None:
    for prefix, asked in {**ASKED, **OF_ATTACKS}.items():
        known = [one for one in STATEMENTS if one.id == prefix or one.id.startswith(f"{prefix}/")]
        assert known, prefix
        where: dict[str, Any] = dict(asked.where) | {"set": asked.set.format(contrast="operand")}
        attack = "prefill" if prefix in OF_ATTACKS else None
        made = replace(line(asked.statistic), site=None, attack=attack)
        (claim,) = (
            one for one in prompt_claims([replace(made, **where)]) if one.id.partition("/")[0] == prefix
        )  # fmt: skip
        assert (claim.smallest_effect, claim.direction, claim.observation) == (
            known[0].smallest_effect, known[0].direction, known[0].observation,
        )  # fmt: skip
