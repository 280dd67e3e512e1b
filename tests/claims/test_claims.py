import pytest

from deltaw.claims import STATEMENTS, decide, judge
from deltaw.claims.statements import OTHER, PROTOCOLS
from deltaw.results import Measurement
from deltaw.results.schema import Null
from deltaw.statistics import Interval

NULL = Null(kind="chance", mean=0.1, low=0.0, high=0.3)


@pytest.mark.parametrize(
    ("low", "high", "direction", "verdict"),
    [
        (0.4, 0.6, "greater", "holds"),  # beyond the smallest effect 0.2 and the null's 0.3
        (0.25, 0.6, "greater", "undecided"),  # reaches into the null's band
        (0.22, 0.28, "greater", "fails"),  # beyond the smallest effect, wholly within the null's band
        (0.05, 0.15, "greater", "fails"),  # smaller than what is of interest
        (-0.6, -0.4, "greater", "fails"),  # on the other side
        (-0.6, -0.4, "less", "holds"),
        (0.4, 0.6, "less", "fails"),
    ],
)
def test_the_decision_rule(low: float, high: float, direction: str, verdict: str) -> None:
    effect = 0.2 if direction == "greater" else -0.2
    found, why = judge((low + high) / 2, Interval(low, high), effect, [NULL], direction)
    assert found == verdict
    assert why


def test_a_null_must_be_beaten_even_where_the_effect_is_large() -> None:
    control = Null(kind="control:other", mean=0.9, low=0.8, high=1.0)
    verdict, why = judge(0.5, Interval(0.45, 0.55), 0.2, [NULL, control], "greater")
    assert verdict == "fails"
    assert "control:other" in why
    assert "chance" not in why


def test_one_seed_without_an_interval_decides_nothing() -> None:
    verdict, why = judge(0.9, None, 0.2, [NULL], "greater")
    assert verdict == "undecided"
    assert "beyond" in why


def line(model: str, value: float, seed: int, **fields: object) -> Measurement:
    return Measurement(
        **{  # type: ignore[arg-type]
            "stage": "analysis", "model": model, "seed": seed, "step": 480, "statistic": "update_relative_norm",
            "module": "mlp.in_proj", "value": value, **fields,
        }
    )  # fmt: skip


def claim_of(measurements: list[Measurement], name: str = "update-is-small/ssft-medium"):  # type: ignore[no-untyped-def]
    return next(claim for claim in decide(measurements, exploratory=True) if claim.id == name)


def test_several_seeds_decide_by_their_spread() -> None:
    near = [line("ssft-medium", 0.05 + 0.001 * seed, seed) for seed in range(6)]
    assert claim_of(near).verdict == "holds"
    assert claim_of(near).n == 6
    assert claim_of(near).n_unit == "seed"
    wide = [line("ssft-medium", value, seed) for seed, value in enumerate((0.01, 0.2, 0.02, 0.15))]
    assert claim_of(wide).verdict == "undecided"
    assert claim_of([line("ssft-medium", 0.5 + 0.001 * s, s) for s in range(4)]).verdict == "fails"


def test_one_seed_is_undecided_and_a_missing_measurement_is_said() -> None:
    assert claim_of([line("ssft-medium", 0.05, 0)]).verdict == "undecided"
    assert "no measurement" in claim_of([line("dpo-medium", 0.05, 0)]).why


def test_only_the_last_checkpoint_and_the_mean_over_layers_count() -> None:
    lines = [line("ssft-medium", 0.05, s) for s in range(3)]
    noise = [line("ssft-medium", 9.0, s, step=10) for s in range(3)]
    noise += [line("ssft-medium", 9.0, s, layer=1) for s in range(3)]
    assert claim_of(noise + lines).value == pytest.approx(0.05)


def test_a_claim_is_not_held_while_a_null_or_control_is_missing() -> None:
    lines = [line("ssft-medium", 0.95, s, statistic="null_energy_left") for s in range(3)]
    claim = claim_of(lines, "update-in-null-space/ssft-medium")
    assert claim.verdict == "undecided"
    assert "row_sign_flip" in claim.why
    assert "control:other" in claim.why


def test_a_control_that_does_as_much_makes_the_claim_fail() -> None:
    fields = {"statistic": "gain_log_ratio", "set": "contrast/conditional", "site": "mlp_in", "module": None}
    values = {"ssft-medium": 0.5, "other-ssft-medium": 0.8, "operators-ssft-medium": 0.0}
    lines = [line(m, v + 0.01 * s, s, **fields) for m, v in values.items() for s in range(3)]
    claim = claim_of(lines, "acts-on-forbidden/ssft-medium")
    assert claim.verdict == "fails"
    assert "other" in claim.why
    assert "operators" not in claim.why


def test_differences_between_models_are_taken_seed_by_seed() -> None:
    """Seeds differ more than strengths do: only the paired difference shows the effect."""
    fields = {"statistic": "tau_gap_relative_change", "set": "contrast/conditional", "site": "mlp_post", "module": None}
    lines = [line("ssft-medium", 1.0 * s + 0.5 + 0.01 * (s % 2), s, **fields) for s in range(6)]
    lines += [line("ssft-small", 1.0 * s, s, **fields) for s in range(6)]
    for strength, more in (("medium", 0.1), ("small", 0.0)):
        lines += [line(f"other-ssft-{strength}", 2.0 * s + more + 0.01 * (s % 3), s, **fields) for s in range(6)]
    claim = claim_of(lines, "clusters-grow-with-strength/ssft")
    assert claim.verdict == "holds"
    assert claim.value == pytest.approx(0.505)


@pytest.mark.parametrize(("of_others", "verdict"), [((0.1, 0.1, 0.1), "holds"), ((0.1, 0.2, 0.3), "fails")])
def test_a_difference_between_protocols_must_be_larger_than_between_their_controls(
    of_others: tuple[float, ...], verdict: str
) -> None:
    fields = {"statistic": "tau_gap_relative_change", "set": "contrast/conditional", "site": "mlp_post", "module": None}
    lines = []
    for s in range(6):
        for model, value, other in zip(PROTOCOLS, (0.1, 0.2, 0.3), of_others, strict=True):
            lines.append(line(model, value + 0.001 * s, s, **fields))
            lines.append(line(f"other-{model}", other + 0.001 * (s % 2), s, **fields))
    claim = claim_of(lines, "contrastive-separate-more")
    (control,) = claim.nulls
    assert (claim.value, control.kind) == (pytest.approx(0.15), "control:other")
    assert control.mean == pytest.approx(of_others[1] / 2 + of_others[2] / 2 - of_others[0], abs=1e-3)
    assert claim.verdict == verdict


def test_a_protocol_is_compared_with_its_own_other() -> None:
    fields = {"statistic": "null_energy_left", "null_kind": "rotation", "null_mean": 0.75}
    values = {"dpo-medium": 0.85, "other-dpo-medium": 0.8, "other-ssft-medium": 0.9, "operators-ssft-medium": 0.7}
    lines = [line(model, value + 0.001 * s, s, **fields) for s in range(6) for model, value in values.items()]
    found = {null.kind: null.mean for null in claim_of(lines, "update-in-null-space/dpo-medium").nulls}
    assert found["control:other"] == pytest.approx(0.8025, abs=1e-3)


def test_every_statement_is_complete() -> None:
    assert len({s.id for s in STATEMENTS}) == len(STATEMENTS)
    for statement in STATEMENTS:
        assert statement.paper
        assert statement.failing
        assert statement.direction in ("greater", "less")
        assert 1 <= statement.observation <= 5
        assert bool(statement.controls) is not bool(statement.uncontrolled)  # it has controls, or says why not
    assert {s.observation for s in STATEMENTS} == {1, 2, 3, 4, 5}
    about_forbidden = [s for s in STATEMENTS if s.observation in (3, 4)]
    assert all(OTHER in s.controls for s in about_forbidden)
    assert all(
        set(s.query.models) <= set(PROTOCOLS) | {f"{p}-small" for p in ("ssft", "dpo", "unlearn")} for s in STATEMENTS
    )
