"""The page of claims: up to date, complete, and its numbers of seeds right on planted measurements."""

from pathlib import Path

import pytest

from deltaw.claims import STATEMENTS
from deltaw.claims.docs_page import LATE, PLAN, SEEDS, Planned, page, planned, read_plan, write
from deltaw.results import Measurement, write_measurements
from deltaw.statistics import seeds_needed, tolerated_sd

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    (source, plan), (_, late) = read_plan(DOCS / PLAN), read_plan(DOCS / LATE)
    assert (DOCS / "claims.md").read_text(encoding="utf-8") == page(plan, source, late=late), "run `make ledger`"
    assert not plan.keys() & late.keys()
    assert {statement.id for statement in STATEMENTS} == plan.keys() | late.keys()


def test_every_claim_is_on_the_page_with_all_that_decides_it() -> None:
    text = page({})
    for statement in STATEMENTS:
        _, _, entry = text.partition(f"### `{statement.id}`\n")
        entry = entry.partition("###")[0]
        wanted = (statement.text, statement.paper, statement.failing, f"{statement.smallest_effect:.3g}")
        assert all(word in entry for word in wanted)
        assert all(f"`{name}`" in entry for name in (*statement.nulls, *statement.controls, *statement.query.models))
        assert text.count(f"| `{statement.id}` |") == 1  # its line in the table of seeds


def gain(model: str, value: float, **fields: object) -> Measurement:
    return Measurement(
        **{  # type: ignore[arg-type]
            "stage": "analysis", "model": model, "seed": 0, "step": 9, "statistic": "gain_log_ratio", "value": value,
            "set": "contrast/conditional", "site": "mlp_in", "low": value - 0.196, "high": value + 0.196, "n": 40,
            "null_kind": "label_permutation", "null_mean": 0.0, "null_low": -0.05, "null_high": 0.05, **fields,
        }
    )  # fmt: skip


def test_seeds_are_planned_from_the_hardest_bar() -> None:
    """Control `other` at 0.3 is harder than the smallest effect log 1.1 = 0.095 and the null's edge 0.05."""
    found = planned([gain("ssft-medium", 0.5), gain("other-ssft-medium", 0.3), gain("operators-ssft-medium", 0.1)])
    one = found["acts-on-forbidden/ssft-medium"]
    assert one.bar == "the null control:other"
    assert one.margin == pytest.approx(0.2)
    assert one.within == pytest.approx(0.1, rel=1e-4)
    assert one.seeds == seeds_needed(0.2, one.within or 0, least=5)
    assert one.tolerated == tolerated_sd(one.margin, SEEDS)
    assert list(found) == ["acts-on-forbidden/ssft-medium"]
    assert one.controls == ("other", "operators-ssft-medium")  # `constant` is not among what was measured
    row = next(line for line in page(found).splitlines() if line.startswith("| `acts-on-forbidden/ssft-medium` | 0.5"))
    assert "| constant |" in row


def test_on_the_near_side_seeds_are_for_failing() -> None:
    found = planned([gain("ssft-medium", 0.1), gain("other-ssft-medium", 0.6)])
    one = found["acts-on-forbidden/ssft-medium"]
    assert one.margin == pytest.approx(-0.5)
    assert one.seeds == seeds_needed(0.5, one.within or 0) == 3


def test_a_statistic_of_weights_alone_has_no_spread() -> None:
    one = Planned(0.05, "smallest", 0.05, None)
    assert one.seeds == 5  # of which the sign-flip test needs as many
    assert one.tolerated > 0


def test_written_from_a_run(tmp_path: Path) -> None:
    run, docs = tmp_path / "quick", tmp_path / "docs"
    run.mkdir()
    docs.mkdir()
    write_measurements(run / "measurements.jsonl", [gain("ssft-medium", 0.5)])
    write(docs, run)
    first = (docs / "claims.md").read_text(encoding="utf-8")
    write(docs)  # from what is kept of the run
    assert (docs / "claims.md").read_text(encoding="utf-8") == first
    assert "| `acts-on-forbidden/ssft-medium` | 0.5 |" in first


def test_what_was_planned_late_is_told_apart(tmp_path: Path) -> None:
    """What the first run has measured stays as it was planned, whatever later runs say."""
    runs = {"quick": [gain("ssft-medium", 0.5)], "later": [gain("ssft-medium", 0.7), gain("dpo-medium", 0.6)]}
    for name, lines in runs.items():
        (tmp_path / name).mkdir()
        write_measurements(tmp_path / name / "measurements.jsonl", lines)
    docs = tmp_path / "docs"
    docs.mkdir()
    write(docs, tmp_path / "quick")
    assert "Planned too late" not in (docs / "claims.md").read_text(encoding="utf-8")
    write(docs, late=(tmp_path / "later",))
    early, _, late = (docs / "claims.md").read_text(encoding="utf-8").partition("### Planned too late")
    assert "| `acts-on-forbidden/ssft-medium` | 0.5 |" in early
    assert "acts-on-forbidden/ssft-medium" not in late
    assert "| `acts-on-forbidden/dpo-medium` | 0.6 |" in late
    assert "| `acts-on-forbidden/dpo-medium` |" not in early
