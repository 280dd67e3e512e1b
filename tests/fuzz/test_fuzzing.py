"""A sample of `make fuzz`, and that it sees what it is there to see."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import fuzzing
import kinds
import pytest
from kinds import KINDS, Draw, Input, Read

from deltaw.errors import DeltawError

SLOW = {"command lines": 40, "manifest.json": 40, "claims.json": 40, "prompts.jsonl": 40}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_are_nearly_right_are_taken_or_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    tally = fuzzing.fuzz(kind, SLOW.get(kind, 120), 1, tmp_path)
    assert not tally.faults, tally.faults[0]
    assert tally.refused >= 10
    # Else nothing is known of what comes after the first check; a changed study.json is another study.
    assert tally.accepted or kind in ("command lines", "study.json")


def test_an_input_is_drawn_again_from_its_seed_and_number(tmp_path: Path) -> None:
    draw, _ = KINDS["grammar files"](tmp_path)
    assert draw(Random("1/x/2")) == draw(Random("1/x/2"))
    assert len({draw(Random(f"1/x/{number}"))["x.grammar"] for number in range(20)}) > 10


def hangs(_: Input) -> None:
    time.sleep(60)


def breaks(_: Input) -> None:
    raise KeyError("x")


def writes(_: Input) -> None:
    Path("../../x").write_text("x")


def babbles(_: Input) -> None:
    raise DeltawError("")


@pytest.mark.parametrize(
    ("read", "said"),
    [(hangs, "no answer after"), (breaks, "KeyError"), (writes, "outside the directory"), (babbles, "no sentence")],
)
def test_each_fault_is_seen(
    read: Callable[[Input], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(root: Path) -> tuple[Draw, Read]:
        os.chdir(root)
        return lambda rng: {"x": rng.randbytes(4)}, read

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(kinds.KINDS, "broken", kind)
    monkeypatch.setattr(fuzzing, "LIMIT", 0.2)
    tally = fuzzing.fuzz("broken", 2, 0, tmp_path / "saved")
    os.chdir(tmp_path)
    assert len(tally.faults) == 2
    assert all(said in fault for fault in tally.faults)
    assert len((tmp_path / "saved" / "broken-0" / "x").read_bytes()) == 4
