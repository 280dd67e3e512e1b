"""The report of a comparison: everything that was measured and everything that was not, on a page of its own."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from checkpoints import D, F, config, tensors, write

from deltaw import cli
from deltaw.charts.figure import Figure
from deltaw.compare import compare
from deltaw.report import write_report
from deltaw.report.pages import compare as comparison
from deltaw.report.pages.compare_tables import BELOW, tables_of
from deltaw.results import load

EVIL = "<b>evil&"


def make(root: Path, family: str = "llama", dtype: torch.dtype = torch.float32, name: str = "tuned") -> Path:
    """A comparison: one matrix below the floor, one unchanged, one of another shape."""
    base, other = tensors(family), tensors(family, 1)
    after = {key: x + 0.05 * other[key] for key, x in base.items()}
    if family == "llama":
        stem = "model.layers.0.mlp"
        after[f"{stem}.up_proj.weight"] = base[f"{stem}.up_proj.weight"] * (1 + 1e-5)
        after["model.layers.1.self_attn.q_proj.weight"] = base["model.layers.1.self_attn.q_proj.weight"]
        after[f"{stem}.down_proj.weight"] = torch.zeros(D, F + 1)
    a, b = (
        write(root / label, {key: x.to(dtype) for key, x in state.items()}, config(family))
        for label, state in (("base", base), (name, after))
    )
    compare(a, b, root / "out")
    return root / "out"


def without_figures(_: comparison.Pair) -> tuple[dict[str, list[Figure]], dict[str, list[str]]]:
    """Drawing takes seconds."""
    return {name: [] for name in comparison.SECTIONS}, {name: [] for name in comparison.SECTIONS}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make(tmp_path_factory.mktemp("pair"), dtype=torch.bfloat16, name=EVIL)
    write_report(directory)
    return directory


def test_every_statistic_is_drawn_and_nothing_comes_from_elsewhere(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in (out / "figures").glob("*.svg")}
    assert set(drawn) == {
        "pair-size", "pair-null-energy-left", "pair-null-energy-right", "pair-curve-left", "pair-curve-right",
        "pair-profile-left", "pair-profile-right",
        "pair-ranks", "pair-residual-energy", "pair-cosine",
    }  # fmt: skip
    for name, svg in drawn.items():
        ElementTree.fromstring(svg)
        assert "NaN" not in svg
        assert "undefined" not in svg
        assert f'id="spec-{name}"' in text
    assert "Not drawn" not in text
    measured = {x for x in load(out).measurements["statistic"] if x not in ("singular_value", "weight_rank")}
    said = re.findall(r"<code>(\w+)</code>", text)
    assert measured - set(said) == {"identical_share", "other_relative_norm"}
    assert "identical entries" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert EVIL not in text
    assert "&lt;b&gt;evil&amp;" in text


def test_what_is_skipped_or_absent_stands_there_with_the_reason(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    assert f"it is ({D}, {F}) in the base model and ({D}, {F + 1}) in the tuned one" in text
    assert BELOW in text or "the update is zero" in text
    assert f"W is {D} × {D} of full rank, so it has no null space on either side" in text
    table = tables_of(comparison.Pair(load(out)))["matrices"]
    assert table is not None
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(table.rows) == manifest["matrices"]
    cells = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert cells["model.layers.1.self_attn.q_proj"]["‖ΔW‖/‖W‖"] == "0"
    assert cells["model.layers.1.self_attn.q_proj"]["null-space energy"] == "–"
    assert cells["model.layers.1.mlp.gate_proj"]["chance"] == f"{1 - D / F:.3g}"


def test_many_layers_and_matrices_outside_layers_are_drawn_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {f"net.{i}.w.weight": torch.randn(20, 8, generator=generator) for i in range(14)}
    base["head.weight"] = torch.randn(20, 8, generator=generator)
    after = {key: x + 0.01 * torch.randn(x.shape, generator=generator) for key, x in base.items()}
    a, b = (write(tmp_path / key, state, {"model_type": "mine"}) for key, state in (("a", base), ("b", after)))
    compare(a, b, tmp_path / "out", ["net.{layer}.w", "head"])
    text = write_report(tmp_path / "out").read_text(encoding="utf-8")
    pair = comparison.Pair(load(tmp_path / "out"))
    assert pair.kinds == ["w"]
    table = tables_of(pair)["matrices"]
    assert table is not None
    assert [row[0] for row in table.rows][:1] == ["head"]
    assert len(table.rows) == 15
    assert "Not drawn, because there is no measurement of it: energy in the right null space" in text


def test_an_unchanged_pair_has_a_page(tmp_path: Path) -> None:
    a = write(tmp_path / "a", tensors("opt"), config("opt"))
    compare(a, a, tmp_path / "out")
    text = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "the update is zero, so it has no direction" in text
    assert "No claim could be tested" in text


def test_the_command_says_what_it_skipped_and_where_the_report_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make(tmp_path)
    monkeypatch.setattr(comparison, "drawn", without_figures)
    arguments = ["deltaw", "compare", str(tmp_path / "base"), str(tmp_path / "tuned"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit:
        cli.main()
    said = capsys.readouterr().out
    assert exit.value.code == 0
    assert "Skipped: model.layers.0.mlp.down_proj, because it is" in said
    assert f"Report: {out / 'report.html'}" in said
    assert (out / "report.html").is_file()


def test_a_stopped_comparison_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deltaw.compare.compare", stop)
    monkeypatch.setattr(sys, "argv", ["deltaw", "compare", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 130
    assert "goes on from the last finished matrix" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_sentence(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write: Callable[..., None] = full
    monkeypatch.setattr("deltaw.report.render.write_text_atomic", write)
    monkeypatch.setattr(comparison, "drawn", without_figures)
    monkeypatch.setattr(sys, "argv", ["deltaw", "report", "--run", str(out)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
