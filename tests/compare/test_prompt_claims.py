"""Claims about activations of a real pair: planted lines, with and without a control."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deltaw.claims import STATEMENTS
from deltaw.compare.claims import ASKED, OF_ATTACKS, OF_WEIGHTS, Lines, prompt_claims, weight_claims
from deltaw.results import Claim, Measurement

GAP = "tau_gap_relative_change_peak"


def line(statistic: str = GAP, value: float = 0.5, half: float = 0.1, **more: object) -> Measurement:
    null = {"null_kind": "label_permutation", "null_mean": 0.0, "null_low": -0.05, "null_high": 0.05}
    known = {"stage": "compare", "model": "tuned", "seed": 0, "set": "operand", "site": "mlp_post", "unit": "share",
             "n": 112, "n_unit": "pair", **null, **more}  # fmt: skip
    return Measurement(statistic=statistic, value=value, low=value - half, high=value + half, **known)  # type: ignore[arg-type]


def the(claims: list[Claim], name: str) -> Claim:
    return next(claim for claim in claims if claim.id == name)


@pytest.mark.parametrize("control", [0.1, 0.7, None])
def test_a_claim_has_its_value_beside_its_null_and_the_control_and_no_word(control: float | None) -> None:
    beside = [] if control is None else [line(value=control, model="other", half=0.02)]
    claim = the(prompt_claims(Lines([line()], beside, None if control is None else "other")), "clusters/operand")
    assert claim.exploratory
    assert (claim.value, claim.n, claim.n_unit, claim.low) == (0.5, 112, "pair", 0.4)
    nulls = {null.kind: null.mean for null in claim.nulls}
    assert nulls == {"label_permutation": 0.0, **({} if control is None else {"control:other": control})}
    assert {answer.word for answer in claim.answers} == {None}
    values = {answer.question: answer.value for answer in claim.answers}
    assert values == pytest.approx({"seen": 0.5, **({} if control is None else {"other": 0.5 - control})})


def test_layers_and_other_sets_are_not_read() -> None:
    lines = [line(value=9.0, layer=3), line(value=8.0, set="pairs/forbidden"), line(value=7.0, site="mlp_in")]
    assert prompt_claims(Lines(lines)) == []


def test_each_attack_has_a_claim_beside_the_control_under_it() -> None:
    kind: dict[str, Any] = {
        "null_kind": "exchangeable_with_source", "n_unit": "prompt", "set": "operand/forbidden",
    }  # fmt: skip
    lines = [
        line("position", 0.9, attack="prefill", **kind),
        line("position", 0.1, attack="co_task", **kind),
        line("gain_log_ratio_to_forbidden_in_situ_peak", -0.5, site="mlp_in", attack="prefill", **kind),
    ]
    control = [line("position", 0.3, attack="prefill", **kind), line("position", 0.9, attack="co_task", **kind)]
    control += [line("gain_log_ratio_to_forbidden_in_situ_peak", -0.5, site="mlp_in", attack="prefill", **kind)]
    beyond = {
        claim.id: next(answer.value for answer in claim.answers if answer.question == "other")
        for claim in prompt_claims(Lines(lines, control, "other"))
    }
    assert beyond == pytest.approx(
        {"attack-looks-allowed/prefill": 0.6, "attack-looks-allowed/co_task": -0.8, "attack-escapes-update/prefill": 0}
    )


def test_a_claim_about_weights_stands_beside_the_same_matrices_of_the_control() -> None:
    kind: dict[str, Any] = {"module": "mlp.up_proj", "set": None, "site": None, "n": 4, "n_unit": "layer"}

    def of_weights(value: float, module: str = "mlp.up_proj") -> Measurement:
        shared = {**kind, "module": module, "null_kind": "row_sign_flip", "null_mean": 0.75}
        return replace(line("null_energy_left", value, **shared), low=None, high=None)

    lines = Lines([of_weights(0.8)], [of_weights(0.2, "mlp.gate_proj"), of_weights(0.5)], "other")
    (claim,) = weight_claims(["mlp.up_proj", "mlp.gate_proj"], lines)
    assert (claim.id, claim.value, claim.n, claim.n_unit) == ("null-space/mlp.up_proj", 0.8, 1, "pair")
    answers = {answer.question: answer.value for answer in claim.answers}
    assert answers == pytest.approx({"seen": np.log(4), "shape": np.log(4 / 3), "other": np.log(4)})


def test_every_claim_asked_is_one_of_the_study_read_where_the_study_reads_it() -> None:
    for prefix in OF_WEIGHTS:
        assert any(statement.id.startswith(f"{prefix}/") for statement in STATEMENTS)
    for prefix, asked in {**ASKED, **OF_ATTACKS}.items():
        known = next(statement for statement in STATEMENTS if statement.id.startswith(f"{prefix}/"))
        site = dict(known.query.where).get("site")
        attack = "prefill" if prefix in OF_ATTACKS else None
        place: dict[str, Any] = {"set": asked.set.format(contrast="operand"), "site": site, "attack": attack}
        measured = line(known.query.statistic, **place)
        claims = prompt_claims(Lines([measured]))
        claim = the(claims, f"{prefix.partition('/')[0]}/{attack or 'operand'}")
        assert (claim.smallest_effect, claim.direction) == (known.smallest_effect, known.direction)
        assert claim.observation == known.observation
        elsewhere = "resid_out" if site == "mlp_post" else "mlp_post"
        moved = {other.id for other in prompt_claims(Lines([replace(measured, site=elsewhere)]))}
        assert claim.id not in moved or site is None
