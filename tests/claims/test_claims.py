"""What the statements read from measurements."""

import pytest

from deltaw.claims import STATEMENTS, decide
from deltaw.claims.statements import ATTACKS, CONTROLS, PRIMARY, PROTOCOLS, WORKING_ATTACKS
from deltaw.plugins import plugins, resolve
from deltaw.results import Claim, Measurement

GAIN = {"statistic": "gain_log_ratio_in_situ_peak", "set": "contrast/operator", "site": "mlp_in", "module": None}


def line(model: str, value: float, seed: int, **fields: object) -> Measurement:
    return Measurement(
        **{  # type: ignore[arg-type]
            "stage": "analysis", "model": model, "seed": seed, "step": 480, "statistic": "update_relative_norm",
            "module": "mlp.in_proj", "value": value, **fields,
        }
    )  # fmt: skip


def claim_of(measurements: list[Measurement], name: str = "update-is-small/ssft-medium") -> Claim:
    return next(claim for claim in decide(measurements, exploratory=True) if claim.id == name)


def words(claim: Claim) -> dict[str, str | None]:
    return {answer.question: answer.word for answer in claim.answers}


def test_a_size_is_compared_with_its_reference_on_a_log_scale() -> None:
    assert words(claim_of([line("ssft-medium", 0.05 + 0.001 * seed, seed) for seed in range(8)])) == {"seen": "seen"}
    assert words(claim_of([line("ssft-medium", 0.2 + 0.001 * seed, seed) for seed in range(8)])) == {"seen": "opposite"}


def test_only_the_last_checkpoint_and_what_is_of_no_single_layer_count() -> None:
    lines = [line("ssft-medium", 0.05, s) for s in range(3)]
    noise = [line("ssft-medium", 9.0, s, step=10) for s in range(3)]
    noise += [line("ssft-medium", 9.0, s, layer=1) for s in range(3)]
    assert claim_of(noise + lines).value == pytest.approx(0.05)


def test_what_was_not_measured_is_said() -> None:
    assert claim_of([line("dpo-medium", 0.05, 0)]).value is None


def test_each_protocol_is_compared_with_its_own_controls() -> None:
    values = {
        "dpo-medium": 0.9, "other-dpo-medium": 0.2, "constant-dpo-medium": 0.9, "other-ssft-medium": 3.0,
        "constant-ssft-medium": 3.0,
    }  # fmt: skip
    lines = [line(model, v + 0.01 * s, s, **GAIN) for s in range(8) for model, v in values.items()]
    claim = claim_of(lines, "gain/operator/dpo-medium")
    assert words(claim) == {"seen": "seen", "other": "more", "constant": "same"}
    assert {null.kind: null.mean for null in claim.nulls} == pytest.approx(
        {"control:other": 0.235, "control:constant": 0.935}
    )


def test_attacks_are_averaged_and_all_are_needed() -> None:
    fields = {
        "statistic": "gain_log_ratio_to_forbidden_in_situ_peak", "set": "forbidden/conditional/unsafe",
        "site": "mlp_in", "module": None,
    }  # fmt: skip
    by_attack = dict(zip(WORKING_ATTACKS, (-0.6, -0.4), strict=True))
    lines = [line("ssft-medium", v, s, attack=attack, **fields) for s in range(3) for attack, v in by_attack.items()]
    assert claim_of(lines, "attacked/ssft-medium").value == pytest.approx(-0.5)
    lacking = [one for one in lines if one.attack != WORKING_ATTACKS[1]]
    assert claim_of(lacking, "attacked/ssft-medium").value is None


def test_differences_between_models_are_taken_seed_by_seed() -> None:
    fields = {"statistic": "tau_gap_relative_change", "set": "contrast/conditional", "site": "mlp_post", "module": None}
    lines = [line("ssft-medium", 1.0 * s + 0.5 + 0.01 * (s % 2), s, **fields) for s in range(8)]
    lines += [line("ssft-small", 1.0 * s, s, **fields) for s in range(8)]
    claim = claim_of(lines, "clusters-grow-with-strength/ssft-medium")
    assert claim.value == pytest.approx(0.505)
    assert words(claim)["seen"] == "seen"


def test_the_primary_table_is_an_observation_by_protocol_and_contrast() -> None:
    by_observation = {number: [s for s in PRIMARY if s.observation == number] for number in range(1, 6)}
    assert {number: len(rows) for number, rows in by_observation.items()} == {1: 6, 2: 3, 3: 6, 4: 3, 5: 3}
    assert all(statement.controls == CONTROLS for statement in PRIMARY)
    assert {statement.id.rpartition("/")[2] for statement in PRIMARY} == set(PROTOCOLS)
    assert {statement.id for statement in PRIMARY if statement.shape} == {f"null-space/{model}" for model in PROTOCOLS}


def test_every_statement_is_complete() -> None:
    assert len({s.id for s in STATEMENTS}) == len(STATEMENTS)
    for statement in STATEMENTS:
        assert statement.paper
        assert statement.site
        assert statement.direction in ("greater", "less")
        assert statement.smallest_effect > 0
        assert statement.margin > 0
        assert statement.spread > 0
        assert bool(statement.controls) is not bool(statement.uncontrolled)  # it has controls, or says why not
        assert statement.shape is None or statement.shape in statement.nulls
        assert set(statement.query.models) <= {
            f"{name}-{rate}" for name in ("ssft", "dpo", "unlearn") for rate in ("medium", "small")
        }
        assert set(statement.query.attacks) <= set(ATTACKS)


def test_every_statistic_that_is_read_is_measured_by_an_observation() -> None:
    observations = [resolve("observation", plugin.name) for plugin in plugins() if plugin.kind == "observation"]
    measured = {statistic.name for observation in observations for statistic in observation.statistics}
    of_observations = {s.query.statistic for s in STATEMENTS if "stage" not in dict(s.query.where)}
    assert of_observations <= measured
