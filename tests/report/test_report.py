"""The report: complete, self-contained, safe, and able to cope with studies that measured less."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from handmade import EVIL, TUNED, claims, manifest, measurements, write_run

import deltaw
from deltaw.charts.primitives import domain_of
from deltaw.charts.shared import families
from deltaw.charts.style import ATTACKS, COLOURS, attack_shapes, light, number, protocol_name, series_of, themed
from deltaw.charts.tables import Tables, nulls, values
from deltaw.errors import DeltawError
from deltaw.report import write_report
from deltaw.report.pages import claims_table
from deltaw.report.pages.decoded_prompts import decoded_prompt
from deltaw.report.pages.seed_spread import spread_table
from deltaw.report.pages.time_table import duration
from deltaw.report.sections import SECTIONS, sections
from deltaw.results import write_claims, write_measurements


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_run(tmp_path_factory.mktemp("runs") / "handmade")
    write_report(directory)
    return directory


class Elements(HTMLParser):
    """Every start tag with its attributes, in order, and the text of elements that are not scripts or styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.texts.append(data)


def attributes(elements: Elements, *names: str) -> Iterator[str]:
    for _, found in elements.tags:
        for name in names:
            value = found.get(name)
            if value is not None:
                yield value


def test_every_figure_is_drawn_as_valid_xml(run: Path) -> None:
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in (run / "figures").glob("*.svg")}
    assert len(drawn) == sum(len(makers) for makers in SECTIONS.values())
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg"), name
        marks = [
            e
            for e in root.iter()
            if e.get("class", "").startswith(("mark-symbol role-mark", "mark-line role-mark", "mark-rect role-mark"))
        ]
        assert any(len(mark) for mark in marks), f"{name} shows nothing"
        assert "var(--" not in svg  # a file stands alone
        assert "NaN" not in svg
        assert "undefined" not in svg


def test_attacks_are_tables_of_the_same_numbers(run: Path) -> None:
    text = (run / "tables.md").read_text(encoding="utf-8")
    results = deltaw.load(run)
    where = {"stage": "behaviour", "attack": "soft_4", "set": "forbidden/conditional/unsafe"}
    measured = results.select("comply_rate", **where).set_index("model")
    labels = {one.model: one.label for one in Tables(results).series}
    titles, tables = text.split("\n\n")[::2], text.split("\n\n")[1::2]
    head, _, *rows = [line.strip("| ").split(" | ") for line in tables[0].splitlines()]
    column = head.index(labels["ssft-medium"])
    cells = {row[0]: row[column] for row in rows}
    one = measured.loc["ssft-medium"]
    assert cells["soft_4"] == f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
    names = [row[0] for row in rows]
    assert names.index("co_task") < names.index("soft_weak") < names.index("soft_weak/random") < names.index("soft_4")
    assert [title.split()[0] for title in titles] == ["Forbidden", "Allowed", "Position"]
    assert "<summary>The attacks in numbers" in (run / "report.html").read_text(encoding="utf-8")


def test_a_study_without_attacks_on_models_has_no_such_tables(tmp_path: Path) -> None:
    lines = [
        line for line in measurements(0) if line.attack != "none" and line.statistic in ("comply_rate", "position")
    ]
    write_report(write_run(tmp_path / "run", lines))
    assert not (tmp_path / "run" / "tables.md").exists()
    assert "<summary>The attacks in numbers" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    elements = Elements(text)
    for link in attributes(elements, "src", "href", "xlink:href", "data", "action", "poster", "srcset"):
        assert link.startswith(("#", "data:")), link
    assert not any(
        tag in ("link", "iframe", "object", "embed", "base") and found.get("rel") != "icon"
        for tag, found in elements.tags
    )
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(styles) == 1
    assert "@import" not in styles[0]
    assert "url(" not in styles[0]
    assert not re.search(r"url\((?!#)", "".join(attributes(elements, "style", "fill", "clip-path")))
    assert "$schema" not in "".join(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL))


def test_the_page_has_each_figure_static_and_interactive(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    elements = Elements(text)
    charts = [found["data-name"] for _, found in elements.tags if found.get("class") == "chart"]
    assert set(charts) == {path.stem for path in (run / "figures").glob("*.svg")}
    specs = dict(re.findall(r'<script type="application/json" id="spec-([\w-]+)">(.*?)</script>', text, re.DOTALL))
    for name in charts:
        assert json.loads(specs[str(name)])["concat"], name
    ids = list(attributes(elements, "id"))
    assert len(ids) == len(set(ids))
    assert "window.vegaEmbed" in text


def test_links_inside_the_page_lead_somewhere(run: Path) -> None:
    elements = Elements((run / "report.html").read_text(encoding="utf-8"))
    ids = set(attributes(elements, "id"))
    for name in attributes(elements, "href", "aria-labelledby", "aria-describedby"):
        if not name.startswith("data:"):
            assert name.removeprefix("#") in ids, name


def test_claims_come_before_every_figure(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    order = [
        text.index(mark)
        for mark in (
            'class="headline"',
            'class="claims"',
            "<figure",
            'id="h-training"',
            'id="h-clusters"',
            'id="h-prompts"',
            'id="h-files"',
        )
    ]
    assert order == sorted(order)


def test_what_data_says_is_text_and_never_markup(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert EVIL not in text
    shown = " ".join(Elements(text).texts)
    assert EVIL in shown  # the claim's statement, said as it is


def test_answers_are_told_by_word_and_mark(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    for word, mark in (("seen", "✔"), ("less", "✘"), ("absent", "="), ("unclear", "?")):
        assert f'<i aria-hidden="true">{mark}</i> {word}' in text
    assert "explores" in text


def test_the_primary_table_has_a_row_a_claim_and_an_answer_a_protocol() -> None:
    records: list[dict[str, Any]] = [claim.to_json() for claim in claims()]
    (row,) = claims_table.headline(records, {"ssft-medium": "SSFT"}, {})
    assert (row["observation"], row["name"]) == (1, "clusters/operator")
    assert "operator" in row["title"]
    seen, shape, other, constant = row["cells"]
    assert (shape, constant) == (None, None)
    assert [(answer["model"], answer["word"], answer["kind"]) for answer in seen] == [("SSFT", "seen", "yes")]
    assert [(answer["word"], answer["numbers"]) for answer in other] == [("less", "−0.2 [−0.3, −0.1]")]


def test_table_headers_have_a_scope(run: Path) -> None:
    elements = Elements((run / "report.html").read_text(encoding="utf-8"))
    headers = [found for tag, found in elements.tags if tag == "th"]
    assert headers
    assert all("scope" in found for found in headers)


def test_names_follow_the_configuration(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "DPO+NLL, medium" in text
    assert "plain DPO, medium" in text


def test_a_protocol_is_called_by_the_label_in_its_manifest() -> None:
    def named(protocol: str, config: Mapping[str, object]) -> str:
        return protocol_name(protocol, {"tunings": [{"protocol": protocol, "config": config}]})

    assert named("dpo", {"protocol": {"name": "dpo", "label": "DPO", "beta": 0.1, "sft_weight": 0.0}}) == "DPO"
    assert named("dpo", {"protocol": {"name": "dpo", "label": "DPO", "beta": 0.1, "sft_weight": 2.0}}) == "DPO+NLL"
    assert named("mine", {"protocol": {"name": "mine", "label": "My own"}}) == "My own"
    earlier = {"objective": "dpo", "options": {"beta": 0.1}}
    assert named("dpo", earlier) == "DPO"
    assert named("dpo", {"objective": "dpo", "options": {"beta": 0.1, "sft_weight": 1.0}}) == "DPO+NLL"


def test_a_study_that_measured_nothing_still_has_its_page(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", lines=[])
    (directory / "prompts.jsonl").write_text("", encoding="utf-8")
    write_claims(directory / "claims.json", [])
    bare = {"recipe": "bare", "models": []}
    (directory / "manifest.json").write_text(json.dumps(bare), encoding="utf-8")
    text = write_report(directory).read_text(encoding="utf-8")
    assert "<figure" not in text
    assert "Not drawn, because there is no measurement of it" in text
    assert list((directory / "figures").iterdir()) == []


def test_figures_cope_without_base_controls_nulls_or_one_statistic(tmp_path: Path) -> None:
    keep = [line for line in measurements() if line.model == "ssft-small" and line.null_kind is None]
    tables = Tables(deltaw.load(write_run(tmp_path / "one", keep)))
    found = sections(tables)
    drawn = {figure.name for section in found.values() for figure in section.figures}
    assert {"behaviour", "attacks", "training-tuned", "gain"} - drawn == {"gain"}  # a panel a model at the larger rate
    assert "gain by layer" in found["row-space"].missing
    for section in found.values():
        for figure in section.figures:
            ElementTree.fromstring(figure.draw().file)


def test_a_stale_figure_is_removed_and_another_file_is_not(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", lines=[])
    (directory / "figures").mkdir()
    for name in ("old.svg", "mine.txt"):
        (directory / "figures" / name).write_text("x", encoding="utf-8")
    write_report(directory)
    assert [path.name for path in (directory / "figures").iterdir()] == ["mine.txt"]


def test_an_unfinished_run_is_refused_with_nothing_written(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", lines=[])
    (directory / "claims.json").unlink()
    with pytest.raises(DeltawError, match=r"claims\.json missing"):
        write_report(directory)
    assert not (directory / "report.html").exists()
    assert not (directory / "figures").exists()


def test_several_seeds_become_a_mean_with_their_range(tmp_path: Path) -> None:
    seeds = (0, 1, 2)
    lines = [[line for line in measurements(seed) if line.statistic == "null_energy_left"] for seed in seeds]
    single = [Tables(deltaw.load(write_run(tmp_path / str(seed), lines[seed]))) for seed in seeds]
    joined = Tables(deltaw.load(write_run(tmp_path / "all", list(chain.from_iterable(lines)), seeds)))
    where: dict[str, Any] = {"model": "ssft-medium", "layer": 2.0, "site": None}
    each = [values(tables.take("null_energy_left", last=True, **where))["value"].item() for tables in single]
    row = values(joined.take("null_energy_left", last=True, **where)).iloc[0]
    assert row["value"] == pytest.approx(sum(each) / 3)
    assert (row["low"], row["high"], row["n"]) == (min(each), max(each), 3)
    assert len(nulls(joined.take("null_energy_left", last=True, **where))) == 4


@pytest.mark.slow
def test_captions_and_tables_of_several_seeds_say_what_their_ends_are(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "all", seeds=(0, 1))
    text = write_report(directory).read_text(encoding="utf-8")
    assert "least to greatest of the seeds" in text
    assert "least, greatest of the seeds" in text
    assert not re.search(r"[Ww]hiskers[^.;<]{0,30}95 % (?!bands)", text)
    once = write_report(write_run(tmp_path / "one")).read_text(encoding="utf-8")
    assert "of the seeds" not in once.partition('id="claims"')[2].partition('id="words"')[0]


def test_take_selects_and_values_counts_each_value_once(run: Path) -> None:
    tables = Tables(deltaw.load(run))
    lines = tables.take("null_energy_left", last=True, layer=1.0, model="dpo-medium")
    assert len(lines) == 4
    assert len(values(lines)) == 1
    assert len(nulls(lines)) == 4
    assert tables.take("null_energy_left", layer=None)["layer"].isna().all()
    assert tables.take("never measured").empty


def test_last_is_the_last_step_of_the_model_and_not_of_the_statistic(tmp_path: Path) -> None:
    keep = [line for line in measurements() if not (line.statistic == "position" and line.model == "ssft-medium")]
    early = [line for line in measurements() if line.statistic == "position" and line.model == "ssft-medium"]
    moved = [replace(line, step=10) for line in early]
    frame = Tables(deltaw.load(write_run(tmp_path / "run", keep + moved))).take("position", last=True)
    assert "ssft-medium" not in set(frame["model"])
    assert set(frame["step"]) == {160.0}


def test_matched_checkpoints_of_several_seeds_are_one_row(tmp_path: Path) -> None:
    lines = [
        replace(line, step=10 + 20 * seed) if line.stage == "matched" else line
        for seed in (0, 1)
        for line in measurements(seed)
    ]
    tables = Tables(deltaw.load(write_run(tmp_path / "run", lines)))
    name = "allowed/conditional/safe"
    row = tables.take("comply_rate", stage="matched", model="dpo-small", set=name, attack=None)
    assert row["step"].tolist() == [20.0]


def test_claims_rows_hold_value_and_every_null_on_one_scale() -> None:
    records: list[dict[str, Any]] = [{**claim.to_json()} for claim in claims()]
    groups = claims_table.groups(records, {"other-ssft-medium": "control: other answer"})
    words = [[answer["word"] for _, answer in group["claims"][0]["answers"]] for group in groups]
    assert words == [["seen", "less"], ["unclear"], ["absent"], []]
    first = groups[0]["claims"][0]["lines"]
    assert [line["name"] for line in first] == ["measured", "labels permuted"]
    assert first[0]["numbers"] == "0.6 [0.5, 0.7], n = 512 prompts"
    assert groups[3]["claims"][0]["lines"] == []
    for group in groups:
        for line in group["claims"][0]["lines"]:
            ElementTree.fromstring(line["svg"])


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_claims_cope_with_values_that_are_missing(missing: object) -> None:
    record = {
        **claims()[0].to_json(),
        "low": missing,
        "high": missing,
        "n": missing,
        "n_unit": missing,
        "site": missing,
        "smallest_effect": missing,
    }
    lines = claims_table.groups([record], {})[0]["claims"][0]["lines"]
    assert [line["numbers"] for line in lines] == ["0.6", "0 [−0.1, 0.1]"]


def test_the_order_and_looks_of_models() -> None:
    records = [
        {"model": name, "protocol": p, "strength": s, "control": c} for name, (p, s, c) in reversed(TUNED.items())
    ]
    series = series_of(records, manifest()["config"])
    assert [one.model for one in series][:4] == ["base", "ssft-medium", "dpo-medium", "unlearn-medium"]
    assert len({(one.colour, one.dash, one.shape) for one in series}) == len(series)
    assert [one.model for one in series if one.main] == ["ssft-medium", "dpo-medium", "unlearn-medium"]


def test_an_unknown_protocol_and_control_have_names_and_looks() -> None:
    records: list[dict[str, Any]] = [
        {"model": "kto-medium", "protocol": "kto", "strength": "medium", "control": None},
        {"model": "odd-ssft-medium", "protocol": "ssft", "strength": "medium", "control": "odd"},
    ]
    assert [one.label for one in series_of(records, {})] == ["base", "kto, medium", "control: odd"]


def test_an_added_protocol_has_a_colour_and_panels_of_its_own(tmp_path: Path) -> None:
    renamed = [
        replace(line, model=line.model.replace("unlearn", name), protocol=name)
        for line in measurements()
        if line.protocol == "unlearn" and line.control is None and line.model is not None
        for name in ("kto", "zephyr")
    ]
    few = [line for line in (*measurements(), *renamed) if line.statistic.startswith("tau_gap")]
    directory = write_run(tmp_path, few)
    known = manifest()
    told = {"kind": "protocol", "name": "kto", "label": "KTO", "sentence": "Learn from single answers."}
    (directory / "manifest.json").write_text(json.dumps({**known, "components": [told]}), encoding="utf-8")
    tables = Tables(deltaw.load(directory))
    looks = {one.model: one.colour for one in tables.series}
    assert len({looks[f"{name}-medium"] for name in ("ssft", "dpo", "unlearn", "kto", "zephyr")}) == 5
    assert [title for title, _ in families(tables)][-2:] == ["kto", "zephyr"]
    page = write_report(directory).read_text(encoding="utf-8")
    assert "Learn from single answers." in page


def test_a_control_is_called_what_the_manifest_calls_it_and_gets_no_mark() -> None:
    record = {"model": "odd-ssft-medium", "protocol": "ssft", "strength": "medium", "control": "odd"}
    config = {"tunings": [{"config": {"control": {"type": "Odd", "name": "odd", "label": "even prompts"}}}]}
    by_name = {one.model: one for one in series_of([record], config)}
    assert by_name["odd-ssft-medium"].label == "control: even prompts"
    old = {"tunings": [{"config": {"control": "other"}}]}  # before controls were plug-ins
    assert series_of([{**record, "control": "other"}], old)[1].label == "control: other answer"
    answers = {model: {"behaviour": "comply", "text": "a"} for model in ("base", "odd-ssft-medium", "control: none")}
    shown = decoded_prompt({"allowed": False, "answers": answers}, by_name)["answers"]
    assert [(label, mark) for label, _, _, mark in shown] == [
        ("base", "✘"), ("control: even prompts", ""), ("control: none", "✘"),
    ]  # fmt: skip


def test_added_controls_are_told_apart() -> None:
    records: list[dict[str, Any]] = [
        {"model": f"{control}-{protocol}-medium", "protocol": protocol, "strength": "medium", "control": control}
        for control in ("other", "letter", "shout")
        for protocol in ("ssft", "kto")
    ]
    config = {"tunings": [{"config": {"control": {"name": "letter", "label": "by first letter"}}}]}
    series = series_of(records, config)[1:]
    assert len({(one.dash, one.shape) for one in series}) == len(records)
    labels = {one.model: one.label for one in series}
    assert labels["letter-kto-medium"] == "control: by first letter, kto"


def test_themed_replaces_every_shade_once() -> None:
    text = " ".join(light(name) for name in COLOURS)
    assert themed(text.upper()) == " ".join(f"var(--{name})" for name in COLOURS)
    assert len({shades[0] for shades in COLOURS.values()}) == len(COLOURS)


@pytest.mark.parametrize(
    "name", [name for name in COLOURS if name not in ("paper", "grid", "band", "part-column", "part-rest")]
)
@pytest.mark.parametrize("shade", [0, 1])
def test_colours_stand_out_from_the_paper(name: str, shade: int) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    first, second = sorted((luminance(COLOURS[name][shade]), luminance(COLOURS["paper"][shade])))
    assert (second + 0.05) / (first + 0.05) >= 3  # WCAG 2.1, non-text contrast


def test_numbers_for_readers() -> None:
    shown = [number(value) for value in (None, float("nan"), 0, 0.12345, -12.345, 1234.5, 1e-5, -2.5e7)]
    assert shown == ["–", "–", "0", "0.123", "−12.3", "1234", "1e−5", "−2.5e7"]
    assert [duration(seconds) for seconds in (None, 4.21, 185, 3725)] == ["–", "4.2 s", "3 min 05 s", "1 h 02 min"]


def test_a_domain_has_room_even_for_one_number() -> None:
    low, high = domain_of(pd.Series([2.0, float("nan")]))
    assert low < 2 < high
    assert domain_of(pd.Series(dtype="float64")) == (0.0, 1.0)
    low, high = domain_of(pd.Series([0.0, 0.1, 10.0]), log=True)
    assert 0 < low < 0.1 < 10 < high


def test_a_broken_line_of_measurements_is_said_by_its_number(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", measurements()[:3])
    write_measurements(directory / "measurements.jsonl", measurements()[:2])
    with (directory / "measurements.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"value": NaN}\n')
    with pytest.raises(DeltawError, match="line 3"):
        write_report(directory)


@pytest.mark.slow
def test_spread_over_seeds_is_told_apart_where_a_tuning_was_done_twice(tmp_path: Path) -> None:
    """Bases that differ by 0.2 and tunings of one base by 0.01: nearly all spread is the bases'."""
    lines = []
    for seed in (0, 1, 2, 3):
        for line in measurements(seed):
            if line.model == "ssft-medium" and line.statistic == "null_energy_left" and line.layer is None:
                first = replace(line, value=0.4 + 0.2 * (seed % 2))
                again = replace(first, model="ssft-medium-again", protocol="ssft_again", value=first.value + 0.01)
                lines += [first, again]
            else:
                lines.append(line)
    tables = Tables(deltaw.load(write_run(tmp_path, lines, seeds=(0, 1, 2, 3))))
    table = spread_table(tables)
    assert table is not None
    (row,) = table["rows"]
    assert row[0] == "energy in the left null space"
    assert float(row[2]) == pytest.approx(0.1155, abs=0.001)
    assert float(row[3]) == pytest.approx(0.01 / 2**0.5, rel=0.02)
    assert float(row[4]) > 99
    assert row[5] == "4"
    assert spread_table(Tables(deltaw.load(write_run(tmp_path / "one")))) is None
    assert table["title"] in write_report(tmp_path).read_text(encoding="utf-8")


def test_added_attacks_are_in_the_figures_and_tables_by_their_labels(tmp_path: Path) -> None:
    """One on prompts and one on models, which no list of the report knows."""
    added = [
        replace(line, attack={"co_task": "mine", "soft_4": "shake", "soft_4/random": "shake/random"}[line.attack])
        for line in measurements()
        if line.attack in ("co_task", "soft_4", "soft_4/random")
    ]
    directory = write_run(tmp_path, [*(line for line in measurements() if line.attack), *added])
    told = [
        {"kind": "prompt-attack", "name": "mine", "label": "My prompts", "sentence": "Mine."},
        {"kind": "model-attack", "name": "shake", "label": "Shaken weights", "sentence": "Shaken."},
    ]
    (directory / "manifest.json").write_text(json.dumps({**manifest(), "components": told}), encoding="utf-8")
    write_report(directory)
    for name in ("attacks", "attack-positions", "attack-gains", "attack-success-against-position"):
        assert "My prompts" in (directory / "figures" / f"{name}.svg").read_text(encoding="utf-8"), name
    for name in ("attacks-inserted", "attacks-on-models-position", "attacks-on-models-gain"):
        text = (directory / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert "Shaken weights" in text, name
        assert "My prompts" not in text, name
    rows = [line.strip("| ").split(" | ")[0] for line in (directory / "tables.md").read_text("utf-8").splitlines()]
    assert {"mine", "shake", "shake/random"} <= set(rows)
    assert rows.index("mine") < rows.index("soft_weak") < rows.index("shake")


def test_every_attack_has_a_marker() -> None:
    shapes = attack_shapes(["soft_1", "mine", *ATTACKS, *(f"attack_{k}" for k in range(20))])
    assert len({shapes[name] for name in ATTACKS}) == len(ATTACKS)
    assert shapes["mine"] not in {shapes[name] for name in ATTACKS}
    assert shapes["attack_19"]
