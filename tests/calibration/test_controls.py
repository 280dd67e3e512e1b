"""Control against control, on planted measurements."""

from deltaw.calibration.between_controls import compare_controls, table
from deltaw.results import Measurement

OTHER, OPERATORS = "other-ssft-medium", "operators-ssft-medium"


def energy(model: str, value: float, seed: int) -> Measurement:
    nulls = {"null_kind": "rotation", "null_mean": 0.75, "null_low": 0.74, "null_high": 0.76}
    return Measurement(
        stage="analysis", model=model, seed=seed, step=9, statistic="null_energy_left", module="mlp.in_proj",
        value=value + 0.001 * seed, **nulls,  # type: ignore[arg-type]
    )  # fmt: skip


def test_each_control_is_judged_beside_the_other() -> None:
    lines = [energy(model, value, s) for model, value in ((OTHER, 0.9), (OPERATORS, 0.8)) for s in range(6)]
    found = {one.control: one.claim for one in compare_controls(lines)}
    assert set(found) == {OTHER, OPERATORS}  # once each: those of other protocols are not tuned alike
    assert found[OPERATORS].verdict == "fails"
    assert f"control:{OPERATORS}" in (found[OTHER].beats or ())
    assert found[OTHER].verdict == "undecided"  # two of its three nulls are not there
    text = table(compare_controls(lines))
    assert text.count("update-in-null-space") == 2
    assert "fails" in text


def test_what_was_not_measured_is_not_listed() -> None:
    assert compare_controls([]) == []
