"""Measurements and claims: what passes, what is refused, and that files give back what was written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaw.errors import DeltawError
from deltaw.results import (
    Answer,
    Claim,
    Measurement,
    Null,
    read_claims,
    read_measurements,
    write_claims,
    write_measurements,
)
from deltaw.results.schema import MEASUREMENT_FIELDS

CONTRACT = (
    "schema_version, stage, model, protocol, strength, control, seed, step, module, layer, site, role, set, attack, "
    "intervention, dose, statistic, unit, value, low, high, n, n_unit, null_kind, null_mean, null_low, null_high"
)
finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.none() | st.text(min_size=1)


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "null-space-energy",
        "observation": 2,
        "statement": "The update lies mostly in the left null space of W.",
        "statistic": "null_energy_left",
        "value": 0.9,
        "low": 0.85,
        "high": 0.95,
        "n": 8,
        "n_unit": "seeds",
        "nulls": (Null(kind="rotation", mean=0.75), Null(kind="row_signs", mean=0.7, low=0.6, high=0.8)),
        "answers": (Answer(question="seen", word="seen", value=2.2, low=1.7, high=2.9, n=8, p=0.01, p_adjusted=0.03),),
        "exploratory": True,
        "scale": "logit",
    }
    return Claim(**{**fields, **changes})


def test_the_fields_are_the_contracts() -> None:
    assert ", ".join(MEASUREMENT_FIELDS) == CONTRACT
    assert list(json.loads(Measurement(stage="a", statistic="b", value=1.0).to_line())) == CONTRACT.split(", ")


@given(value=finite, ends=st.none() | st.tuples(finite, finite), where=text, n=st.none() | st.integers(1, 10**12))
def test_a_line_round_trips_to_the_last_bit(
    value: float, ends: tuple[float, float] | None, where: str | None, n: int | None
) -> None:
    low, high = sorted(ends) if ends else (None, None)
    before = Measurement(stage="a", model=where, statistic="b", value=value, low=low, high=high, n=n)
    assert Measurement.from_line(before.to_line()) == before


def test_a_file_round_trips(tmp_path: Path) -> None:
    lines = [Measurement(stage="a\u2028b", statistic="s", value=v) for v in (0.1, 1e-300, -0.0)]
    write_measurements(tmp_path / "m.jsonl", lines)
    assert read_measurements(tmp_path / "m.jsonl") == lines
    write_measurements(tmp_path / "m.jsonl", [])
    assert read_measurements(tmp_path / "m.jsonl") == []
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_line_of_the_first_version_is_one_in_which_no_intervention_applies() -> None:
    now = Measurement(stage="a", statistic="b", value=1.0)
    record = {name: value for name, value in json.loads(now.to_line()).items() if name not in ("intervention", "dose")}
    assert Measurement.from_line(json.dumps({**record, "schema_version": 1})) == now
    with pytest.raises(ValueError, match="unknown field dose in a line of schema version 1"):
        Measurement.from_line(json.dumps({**record, "schema_version": 1, "dose": 1.0}))
    with pytest.raises(ValueError, match="missing field intervention, dose"):
        Measurement.from_line(json.dumps(record))


def test_the_committed_results_of_the_first_version_can_be_read() -> None:
    path = Path(__file__).parents[2] / "docs" / "results" / "grid" / "measurements.jsonl"
    found = read_measurements(path)
    assert len(found) > 100
    assert {line.intervention for line in found} == {None}


def test_an_intervention_and_its_dose_round_trip() -> None:
    made = Measurement(stage="a", statistic="b", value=1.0, intervention="interpolation", dose=np.float32(1.5))  # type: ignore[arg-type]
    assert Measurement.from_line(made.to_line()) == made
    assert type(made.dose) is float


def test_numpys_scalars_become_pythons() -> None:
    made = Measurement(stage="a", statistic="b", value=np.float32(0.5), n=np.int64(3), layer=np.int32(0))  # type: ignore[arg-type]
    assert (type(made.value), type(made.n), type(made.layer)) == (float, int, int)
    made.to_line()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "value must be a finite number"),
        ({"value": float("inf")}, "value must be a finite number"),
        ({"value": None}, "value must be a number"),
        ({"value": "1"}, "value must be a number"),
        ({"value": True}, "value must be a number"),
        ({"low": 1.0, "high": 0.0}, "low must not exceed high"),
        ({"low": 1.0}, "both or neither"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 2.0}, "n must be an integer"),
        ({"layer": "0"}, "layer must be an integer"),
        ({"stage": ""}, "stage must be a non-empty string"),
        ({"model": 3}, "model must be a non-empty string"),
        ({"null_mean": 0.5}, "need a null_kind"),
        ({"null_kind": "rotation"}, "needs a null_mean"),
        ({"null_kind": "rotation", "null_mean": 0.5, "null_low": 1.0, "null_high": 0.0}, "null_low must not"),
        ({"schema_version": 3}, "reads version 2"),
    ],
)
def test_a_bad_value_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Measurement(**{"stage": "a", "statistic": "b", "value": 1.0, **changes})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: a line is a JSON object"),
        ('{"schema_version": 9}', "schema version 9"),
        ("EXTRA", "unknown field colour"),
        ("MISSING", "missing field role"),
        ("NAN", "NaN is not a finite number"),
        ("", "line 2"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, bad: str, message: str) -> None:
    good = Measurement(stage="a", statistic="b", value=1.0).to_line()
    record = json.loads(good)
    made = {
        "EXTRA": json.dumps({**record, "colour": "red"}),
        "MISSING": json.dumps({name: value for name, value in record.items() if name != "role"}),
        "NAN": good.replace("1.0", "NaN"),
    }
    path = tmp_path / "m.jsonl"
    path.write_text(f"{good}\n{made.get(bad, bad)}\n{good}\n")
    with pytest.raises(DeltawError, match=message) as caught:
        read_measurements(path)
    assert f"{path}, line 2" in str(caught.value)


def test_claims_round_trip(tmp_path: Path) -> None:
    claims = [claim(), claim(id="other", value=None, low=None, high=None, answers=(), nulls=())]
    write_claims(tmp_path / "claims.json", claims)
    assert read_claims(tmp_path / "claims.json") == claims
    entry = json.loads((tmp_path / "claims.json").read_text())[0]
    assert entry["nulls"][0] == {"kind": "rotation", "mean": 0.75, "low": None, "high": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ("seen",)}, "answers must be"),
        ({"observation": 6}, "1 to 5"),
        ({"value": None}, "without a value"),
        ({"exploratory": 1}, "true or false"),
        ({"nulls": ("rotation",)}, "nulls must be"),
        ({"low": 2.0}, "low must not exceed high"),
    ],
)
def test_a_bad_claim_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        claim(**changes)


def test_a_bad_entry_of_claims_is_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    path.write_text(json.dumps([claim().to_json(), {**claim().to_json(), "nulls": [{"kind": "x"}]}]))
    with pytest.raises(DeltawError, match="claim 2: missing field mean"):
        read_claims(path)
    path.write_text("{}")
    with pytest.raises(DeltawError, match="must hold a list"):
        read_claims(path)


def test_claims_of_the_rule_that_was_withdrawn_are_told(tmp_path: Path) -> None:
    record = {name: value for name, value in claim().to_json().items() if name != "answers"}
    (tmp_path / "claims.json").write_text(json.dumps([{**record, "verdict": "holds", "why": "beyond"}]))
    with pytest.raises(DeltawError, match=r"by a rule that is withdrawn.*Run the study again"):
        read_claims(tmp_path / "claims.json")


def test_an_answer_is_checked() -> None:
    with pytest.raises(ValueError, match="low must not exceed high"):
        Answer(question="seen", low=2.0, high=1.0)
    record = claim().to_json()
    with pytest.raises(ValueError, match="unknown field colour"):
        Claim.from_json({**record, "answers": [{**record["answers"][0], "colour": "red"}]})


def test_names_of_earlier_versions_are_read_as_todays() -> None:
    line = Measurement(
        stage="compare", model="tuned", statistic="gain_ratio", value=1.0, set="operand/harmful/alpha=0.5"
    )
    read = Measurement.from_line(line.to_line())
    assert (read.statistic, read.set) == ("gain_ratio_to_forbidden", "operand/forbidden/alpha=0.5")
    again = Measurement.from_line(read.to_line())
    assert again == read
