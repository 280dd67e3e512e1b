"""Files that nobody's deltaw wrote: each class of fault that fuzzing found, by its smallest case."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deltaw import cli
from deltaw.errors import LONGEST, DeltawError
from deltaw.results import markdown_table
from deltaw.results.parsing import DEEPEST, parse_json
from deltaw.results.shapes import check_manifest, check_prompt


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested more than"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested more than"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested more than"),
        ("NaN", "not a finite number"),
        ("[-Infinity]", "not a finite number"),
        ("1e999", "not a finite number"),
        ("9" * 5000, "does not fit 64 bits"),
        (str(2**63), "does not fit 64 bits"),
        (r'"\ud800"', "half a surrogate pair"),
        (r'{"a": [{"\udfff": 1}]}', "half a surrogate pair"),
    ],
)
def test_json_that_later_code_would_stumble_over_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_json_that_is_unusual_and_right_is_read() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST) is not None
    assert parse_json(r'"\ud83d\ude00"') == "😀"
    assert parse_json(str(2**63 - 1)) == 2**63 - 1
    assert parse_json("[" + "{}," * 500 + "{}]") == [{}] * 501
    foreign = parse_json('{"limit": [0.0, Infinity], "length": 1000000000000000019884624838656}', foreign=True)
    assert foreign["limit"][1] == float("inf")
    with pytest.raises(ValueError, match="nested more than"):
        parse_json("[" * 100_000, foreign=True)


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    said = str(DeltawError("there is no 'a\nb\x1b[31m\ud800'; give another"))
    assert said == r"there is no 'a\nb\x1b[31m\ud800'; give another"
    assert str(DeltawError(said)) == said
    assert str(DeltawError("die Größe „x“ passt nicht")) == "die Größe „x“ passt nicht"
    long = str(DeltawError("x" * 10**6 + ", so mend it"))
    assert len(long) <= LONGEST
    assert long.endswith(", so mend it")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seeds": 3}, "seeds is a whole number; expected a list"),
        ({"seeds": [True]}, "seeds.0 is true or false; expected a whole number"),
        ({"config": {"tunings": [{"config": {"optimiser": {"peak_lr": "x"}}}]}}, "peak_lr is a string"),
        ({"config": {"cells": [{"name": "a"}]}}, "config.cells.0 has no world"),
        ({"comparison": {"version": "1"}}, "it has no names"),
        ({"comparison": None}, "it has no comparison"),
        ({"skipped": {"a": 1}}, "skipped.a is a whole number; expected a string"),
        ({"stages": ["x"]}, "stages.0 is a string; expected an object"),
    ],
)
def test_a_manifest_of_another_shape_is_refused_by_the_field(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_manifest(changes)


def test_a_manifest_may_lack_and_add_what_no_page_reads() -> None:
    check_manifest({"seeds": None, "new": {"anything": [1, "x"]}})
    with pytest.raises(ValueError, match=r"answers\.base has no text"):
        check_prompt({"answers": {"base": {"behaviour": "comply"}}})


def test_a_name_cannot_end_a_cell_of_a_table() -> None:
    assert markdown_table(("a",), [["x|y\n| z"]]).splitlines()[-1] == r"| x\|y \| z |"


def run(argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["deltaw", *argv])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("deltaw: ")
    assert len(said.splitlines()) == 1
    return said


def test_a_path_that_the_system_refuses_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "File name too long" in run(["report", "--run", "x" * 300], monkeypatch, capsys)
    assert "File name too long" in run(["compare", "x" * 300, "b"], monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


def test_what_is_printed_may_hold_bytes_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["deltaw", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    print("\udcff", file=stream, flush=True)
    assert stream.buffer.getvalue().endswith(b"\\udcff\n")


def test_half_a_surrogate_in_a_run_is_said_by_its_line(tmp_path: Path) -> None:
    from deltaw.results.records import read_measurements

    path = tmp_path / "measurements.jsonl"
    path.write_text(json.dumps({"schema_version": 2, "stage": "\ud800"}) + "\n")
    with pytest.raises(DeltawError, match=r"line 1: .* half a surrogate pair"):
        read_measurements(path)
