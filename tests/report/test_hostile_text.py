"""Text from files is text on the page: a run and a comparison whose every string holds markup."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from handmade import claims, manifest, measurements, prompt, write_run

from deltaw.report import sections as charts
from deltaw.report import write_report
from deltaw.report.pages.grid import _file_name
from deltaw.results import Claim, Measurement, Null, write_claims

HOSTILE = (
    "</script></style></svg><!--<script>pwned()</script><img src=x onerror=pwned()>"
    "\"' onload=pwned() x='{{7*7}}|\n../../x"
)
SELECTED = ("stage", "statistic", "site", "role", "module", "set", "intervention", "attack")
"""Fields by whose values figures choose their lines: where these are hostile, nothing is drawn."""
MODELS = (None, "base", "ssft-medium", "other-ssft-medium")
FAMILIES = ("comply_rate", "refuse_rate")


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts.append(data)


def hostile(value: Any, but: Iterable[str] = ()) -> Any:
    """The JSON value with markup after every string."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return {key: inner if key in but else hostile(inner, but) for key, inner in value.items()}
    return [hostile(inner, but) for inner in value] if isinstance(value, list) else value


def changed(line: Measurement, but: Iterable[str]) -> Measurement:
    texts: dict[str, Any] = {
        name: value for name, value in vars(line).items() if isinstance(value, str) and name not in but
    }
    if line.model == "base":
        texts.pop("model", None)
    return replace(line, **{name: value + HOSTILE for name, value in texts.items()})


def hostile_claim(claim: Claim) -> Claim:
    nulls = tuple(Null(kind=f"control:{null.kind}{HOSTILE}", mean=null.mean) for null in claim.nulls)
    names = ("id", "statement", "statistic", "site", "n_unit")
    changes: dict[str, Any] = {name: f"{getattr(claim, name)}{HOSTILE}" for name in names}
    answers = tuple(replace(answer, why=f"{answer.why}{HOSTILE}") for answer in claim.answers)
    return replace(claim, nulls=nulls, answers=answers, **changes)


def written(directory: Path, but: tuple[str, ...]) -> Path:
    lines = [line for line in measurements() if line.model in MODELS and line.statistic.startswith(FAMILIES)]
    write_run(directory, [changed(line, but) for line in lines])
    write_claims(directory / "claims.json", [hostile_claim(claim) for claim in claims()])
    (directory / "manifest.json").write_text(json.dumps(hostile(manifest(), but=("path", "code"))))
    shown = [hostile(prompt(name, name)) for name in ("allowed", "forbidden")]
    for record in shown:
        record["answers"] = {key + HOSTILE: answer for key, answer in record["answers"].items()}
    (directory / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in shown))
    write_report(directory)
    return directory


def check(directory: Path, figures: int) -> None:
    text = (directory / "report.html").read_text(encoding="utf-8")
    elements = Elements(text)
    allowed = re.compile(r"[a-zA-Z][\w:.-]*")
    for tag, attributes in elements.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert allowed.fullmatch(name), (tag, name)
            if name in ("href", "src", "xlink:href"):
                assert str(value).startswith(("#", "data:,")), value
            if name == "id":
                assert "<" not in str(value) or tag == "tr", value
    assert "pwned" in text  # or nothing was asked
    specs = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    scripts = [attributes for tag, attributes in elements.tags if tag == "script"]
    assert len(scripts) == len(specs) + 2
    for spec in specs:
        assert "<" not in spec
        json.loads(spec)
    assert not any("pwned" in script and "<" in script for script in elements.scripts)
    drawn = list((directory / "figures").glob("*.svg"))
    assert len(drawn) >= figures
    for path in drawn:
        for element in ElementTree.fromstring(path.read_text(encoding="utf-8")).iter():
            assert element.tag.rpartition("}")[2] not in ("script", "img", "foreignObject", "a")
            assert not any(name.startswith("on") or "href" in name for name in element.attrib)
    assert sorted(path.name for path in directory.parent.iterdir()) == [directory.name]
    for page in directory.glob("*.md"):
        assert "<" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("but", "figures"), [(SELECTED, 1), ((), 0)], ids=["where figures are drawn", "everywhere"])
def test_markup_in_any_field_of_a_run_stays_text(
    tmp_path: Path, but: tuple[str, ...], figures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing takes seconds, and all figures take their text the same way.
    few = {name: charts.SECTIONS[name][:1] for name in ("behaviour",)}
    monkeypatch.setattr(charts, "SECTIONS", few)
    check(written(tmp_path / "run", but), figures)


def test_markup_in_any_field_of_a_comparison_stays_text(tmp_path: Path) -> None:
    directory, inner = tmp_path / "pair", f"blocks.0.mlp.in_proj{HOSTILE}"
    lines = [
        Measurement(
            stage="compare", model=HOSTILE, module=inner, layer=0, statistic=statistic, value=0.5, unit=HOSTILE,
            n_unit=HOSTILE, null_kind=kind, null_mean=0.4,
        )
        for statistic in ("update_relative_norm", "null_energy_left", "stable_rank", "cosine_with_weight")
        for kind in ("rotation", "row_sign_flip", HOSTILE)
    ]  # fmt: skip
    write_run(directory, lines)
    write_claims(directory / "claims.json", [hostile_claim(claim) for claim in claims()])
    pair = {
        "names": [HOSTILE, HOSTILE], "model_type": HOSTILE, "matrices": 1, "finished": HOSTILE, "adapter": False,
        "skipped": {HOSTILE: HOSTILE}, "absent": {inner: {HOSTILE: HOSTILE}}, "comparison": {"version": HOSTILE},
        "prompts": {"control": HOSTILE, "absent": {HOSTILE: HOSTILE}}, "exploratory": True, "seeds": [], "models": [],
        "recipe": HOSTILE,
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(pair))
    (directory / "prompts.jsonl").write_text("")
    write_report(directory)
    check(directory, 2)


def test_a_tuning_of_a_grid_names_no_other_directory() -> None:
    assert _file_name(f"../..{HOSTILE}").replace("-", "").isalnum()
    assert _file_name("ssft-medium") == "ssft-medium"
