"""The page: one self-contained HTML file, from a run's results."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from deltaw.charts.figure import Drawing
from deltaw.charts.style import COLOURS, Series, number, set_name, share
from deltaw.charts.tables import Table, Tables, ends, rate, values
from deltaw.errors import DeltawError
from deltaw.report.added import Added, added
from deltaw.report.figures.behaviour import ENDS, STRATA
from deltaw.report.pages import claims_table
from deltaw.report.pages import compare as comparison
from deltaw.report.pages.attacks_table import attack_tables
from deltaw.report.pages.grid import Grid, grid_figure, tables_of
from deltaw.report.pages.seed_spread import spread_table
from deltaw.report.sections import SECTIONS, sections
from deltaw.results import Results, load, write_text_atomic

TABLES = "tables.md"
CONTENTS = (
    ("claims", "Claims"), ("behaviour", "Behaviour"), ("training", "Training"), ("clusters", "1 Clusters"),
    ("null-space", "2 Null space"), ("row-space", "3 Row space"), ("sensitivity", "4 Sensitivity"),
    ("subspaces", "Ranks and angles"), ("function", "Function"), ("interventions", "Interventions"),
    ("attacks", "5 Attacks"), ("prompts", "Prompts"), ("time", "Time"), ("words", "How to read"), ("files", "Files"),
)  # fmt: skip
_STAGES = {
    "world": "world: Bayes ceiling", "base": "base model", "reference": "log-probabilities of the base model",
    "tune": "tuning", "behaviour": "behaviour and attacks", "analysis": "analyses",
    "interventions": "interventions", "samples": "decoded prompts",
}  # fmt: skip


def write_report(run_dir: Path) -> Path:
    """Writes report.html, figures/*.svg and, where attacks were many, tables.md into a finished run; returns the page's
    path.

    DeltawError if the run has not come to its end or a file of it is damaged.
    """
    results = load(run_dir)
    try:
        return _report(run_dir, results)
    except DeltawError:
        raise
    except Exception as error:
        # Each line is valid by itself; that all of them make a figure is known only when it is drawn.
        raise DeltawError(
            f"the page of {run_dir} cannot be made from its files ({type(error).__name__}: {error}); if they were "
            "changed by hand or by another version, make them again; if not, this is a fault of deltaw: report it"
        ) from error


def _report(run_dir: Path, results: Results) -> Path:
    if (results.manifest.get("config") or {}).get("cells"):
        grid = Grid(results)
        charts = (grid_figure(grid, tuned) for tuned in grid.tuned)
        drawings = [chart.draw() for chart in charts if chart is not None]
        return _write(run_dir, {"grid": drawings}, render_grid(results, grid, drawings), tables_of(grid))
    if "comparison" in results.manifest:
        pair = comparison.Pair(results)
        figures, lacking = comparison.drawn(pair)
        more = added(results.manifest.get("prompts") or {}, pair.tables)
        for one in more:
            figures[f"added-{one.name}"] = list(one.figures)
            lacking[f"added-{one.name}"] = [one.missing] if one.missing else []
        charts_ = {name: [figure.draw() for figure in listed] for name, listed in figures.items()}
        return _write(run_dir, charts_, render_comparison(results, pair, charts_, lacking, more))
    tables = Tables(results)
    found = sections(tables)
    drawn = {
        name: [figure.of_seeds(tables.seeds).draw() for figure in section.figures] for name, section in found.items()
    }
    missing = {name: section.missing for name, section in found.items()}
    attacked, more = attack_tables(tables), added(results.manifest, tables)
    for one in more:
        drawn[f"added-{one.name}"] = [figure.of_seeds(tables.seeds).draw() for figure in one.figures]
        missing[f"added-{one.name}"] = (one.missing,) if one.missing else ()
    return _write(run_dir, drawn, render(results, tables, drawn, missing, attacked, more), attacked)


def _write(
    run_dir: Path, drawn: Mapping[str, Sequence[Drawing]], text: str, tables: Sequence[Table] = ()
) -> Path:  # fmt: skip
    figures, page = run_dir / "figures", run_dir / "report.html"
    wanted = {f"{drawing.figure.name}.svg": drawing.file for drawings in drawn.values() for drawing in drawings}
    try:
        figures.mkdir(exist_ok=True)
        for stale in figures.glob("*.svg"):
            if stale.name not in wanted:
                stale.unlink()
        for name, svg in wanted.items():
            write_text_atomic(figures / name, svg)
        (run_dir / TABLES).unlink(missing_ok=True)
        if tables:
            texts = [f"{' '.join(table.title.split())}:\n\n{table.markdown()}\n" for table in tables]
            # Markdown lets markup through, and these are names and numbers.
            write_text_atomic(run_dir / TABLES, "\n".join(texts).replace("&", "&amp;").replace("<", "&lt;"))
        write_text_atomic(page, text)
    except OSError as error:
        raise DeltawError(
            f"{run_dir} cannot be written ({error.strerror or error}); its results are kept, and `deltaw report` "
            "writes the page again"
        ) from error
    return page


def render_grid(results: Results, grid: Grid, drawings: Sequence[Drawing]) -> str:
    """The page of a grid as text."""
    head = _head(results, grid.tables)
    template = _environment().get_template("grid.html")
    return template.render(css=_css(), head=head, drawings=drawings, tables=tables_of(grid))


def render_comparison(
    results: Results,
    pair: comparison.Pair,
    drawn: Mapping[str, Sequence[Drawing]],
    missing: Mapping[str, Sequence[str]],
    more: Sequence[Added] = (),
) -> str:
    """The page of a comparison as text. more: added observations."""
    claims: list[Mapping[str, Any]] = results.claims.to_dict("records")  # type: ignore[assignment]
    template = _environment().get_template("comparison.html")
    return template.render(
        css=_css(), script=_asset("page.js"), bundle=_bundle(), head=comparison.head(pair), drawn=drawn,
        missing=missing, claims=claims_table.groups(claims, {}), tables=comparison.tables_of(pair),
        contents=comparison.contents(pair), added=more,
    )  # fmt: skip


def render(
    results: Results,
    tables: Tables,
    drawn: Mapping[str, Sequence[Drawing]],
    missing: Mapping[str, Sequence[str]],
    attacked: Sequence[Table],
    more: Sequence[Added] = (),
) -> str:
    """The page as text. drawn, missing: figures, and what could not be drawn, by section. attacked: its tables. more:
    added observations, whose sections are called `added-NAME`.
    """
    labels = {one.model: one.label for one in tables.series}
    claims: list[Mapping[str, Any]] = results.claims.to_dict("records")  # type: ignore[assignment]
    measured = [claim for claim in claims if claims_table.is_measured(claim)]
    return (
        _environment()
        .get_template("page.html")
        .render(
            css=_css(),
            script=_asset("page.js"),
            bundle=_bundle(),
            drawn={**dict.fromkeys(SECTIONS, ()), **drawn},
            missing={**dict.fromkeys(SECTIONS, ()), **missing},
            added=more,
            head=_head(results, tables),
            contents=CONTENTS if not more else (*CONTENTS[:-4], ("added", "Added"), *CONTENTS[-4:]),
            claims=claims_table.groups(measured, labels),
            unmeasured=[claim["statement"] for claim in claims if not claims_table.is_measured(claim)],
            world=_world(tables),
            tables=_rate_tables(tables),
            attacked=attacked,
            rates_used=_learning_rates(results.manifest),
            prompts=_prompts(results.prompts, {series.model: series for series in tables.series}),
            components=_components(results.manifest),
            cost=_cost(results.manifest),
        )
    )


@cache
def _environment() -> Environment:
    loader = PackageLoader("deltaw.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _asset(name: str) -> str:
    return (files("deltaw.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _css() -> str:
    shades = ("light", "dark")
    variables = {
        f"{shade}_variables": " ".join(f"--{name}: {pair[number_]};" for name, pair in COLOURS.items())
        for number_, shade in enumerate(shades)
    }
    return Environment(autoescape=False).from_string(_asset("page.css")).render(variables)  # noqa: S701 (a style sheet)


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed in one script, safe inside a script element."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets the default
    return str(bundle).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _head(results: Results, tables: Tables) -> dict[str, Any]:
    manifest = results.manifest
    seeds = [str(seed) for seed in manifest.get("seeds") or []]
    processor, engine, seconds = (manifest.get(name) or {} for name in ("processor", "engine", "seconds"))
    facts = [
        ("recipe", manifest.get("recipe")), ("seed" if len(seeds) == 1 else "seeds", ", ".join(seeds)),
        ("pooled from", _runs(manifest.get("pooled") or ())),
        ("finished", str(manifest.get("finished", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("processor", f"{processor.get('name', 'unknown')}, {processor.get('cores', '?')} cores"),
        ("engine", f"{engine.get('name', '?')}, workers: {engine.get('workers', '?')}" if engine else ""),
        ("stages took", duration(seconds.get("all_stages"))), ("peak memory", _bytes(manifest.get("peak_bytes"))),
    ]  # fmt: skip
    tuned = len(tables.series) - 1
    parameters = manifest.get("parameters")
    size = f" of {parameters:,} parameters".replace(",", " ") if parameters else ""
    about = (
        f"A small language model{size} learns to apply operators to texts, in a synthetic world where the truth about "
        f"safety is known exactly. {tuned} fine-tunings then teach it to refuse some requests, by several protocols "
        "and strengths, or, as controls, to do something else. This page shows what their weight updates ΔW do, how "
        "attacks get past them, and which claims of “What Makes and Breaks Safety Fine-tuning? A Mechanistic Study” "
        "(NeurIPS 2024) the measurements support. Every number has its value by chance or for a control."
    )
    several = len(seeds) > 1
    exploratory = (
        f"The recipe “{manifest.get('recipe')}” has {len(seeds)} seed{'s' if several else ''}: "
        + (
            ""
            if several
            else "its intervals are over prompts, not over models, so they say nothing about another model. "
        )
        + "All verdicts below are exploratory: they suggest what to test, and decide nothing."
    )
    if several:
        about += " Values are means over seeds; their whiskers span the seeds."
    return {
        "recipe": manifest.get("recipe"), "facts": [(name, value) for name, value in facts if value], "about": about,
        "exploratory": exploratory if manifest.get("exploratory") else None,
        "version": (manifest.get("versions") or {}).get("deltaw", ""),
    }  # fmt: skip


def _runs(pooled: Sequence[Mapping[str, Any]]) -> str:
    """The runs that were taken as one: how many, when each was finished, and whether one code made them."""
    if not pooled:
        return ""
    days, codes = ", ".join(str(one.get("finished", ""))[:10] for one in pooled), {one.get("code") for one in pooled}
    code = "" if len(codes) == 1 and None not in codes else "; by different versions of the code, or unknown ones"
    return f"{len(pooled)} runs, finished {days}{code}"


def _world(tables: Tables) -> str:
    """What is known exactly about this world, in a sentence for each measurement there is."""
    said = []
    for statistic, text in (
        ("bayes_accuracy", "Here that is {} % of windows."),
        ("bayes_accuracy_before_redraw", "Before unclear windows were redrawn it was {} %;"),
        ("redrawn_share", "{} % were redrawn."),
        ("two_responses_probability", "Chance that one prompt has two right responses: {} %."),
    ):
        frame = tables.take(statistic)
        if len(frame):
            said.append(text.format(number(100 * float(frame["value"].mean()), 4)))
    return " ".join(said)


def _learning_rates(manifest: Mapping[str, Any]) -> str:
    rates: dict[str, set[float]] = {}
    for tuning in (manifest.get("config") or {}).get("tunings", []):
        rate = ((tuning.get("config") or {}).get("optimiser") or {}).get("peak_lr")
        if rate is not None and tuning.get("strength"):
            rates.setdefault(tuning["strength"], set()).add(float(rate))
    listed = [f"{strength}: {', '.join(map(number, sorted(found)))}" for strength, found in rates.items()]
    return f" ({'; '.join(listed)})" if listed else ""


def _components(manifest: Mapping[str, Any]) -> Table | None:
    """Protocols, controls, attacks and the like that the study had, with a sentence each."""
    rows = [
        tuple(str(told.get(name, "")) for name in ("kind", "label", "name", "sentence"))
        for told in manifest.get("components") or ()
    ]
    columns = ("kind", "label", "name", "what it is")
    return Table("What was tuned, attacked and measured", columns, tuple(rows)) if rows else None


def _rate_tables(tables: Tables) -> list[dict[str, Any]]:
    """The numbers of the behaviour figure, at the end and at the matched checkpoint, and the base's strata."""
    found, between = [], ends(tables)
    for stage, title in (
        ("behaviour", "at the end"),
        ("matched", "at the matched checkpoint, the first that refuses enough"),
    ):
        rows: dict[str, list[str]] = {}
        for place, (statistic, name, _) in enumerate(ENDS):
            for row in values(tables.take(statistic, stage=stage, attack=None, set=name)).to_dict("records"):
                line = rows.setdefault(str(row["series"]), [f"{row['step']:.0f}", *["–"] * len(ENDS)])
                line[place + 1] = rate(row)
        if rows:
            order = [one.label for one in tables.series if one.label in rows]
            body = [[label, *rows[label]] for label in order] + _ceiling(tables)
            columns = [
                "model",
                "update",
                *(f"{statistic.removesuffix('_rate')}, {set_name(name)}" for statistic, name, _ in ENDS),
            ]
            found.append({"title": f"Behaviour {title}, in per cent [{between}]", "columns": columns, "rows": body})
    found += _targets(tables)
    strata = values(
        tables.take("comply_rate", stage="pretrain", last=True, set=tuple(f"pretrain/{name}" for name in STRATA))
    )
    if len(strata):
        rows_ = [
            [str(row["set"]).removeprefix("pretrain/").replace("_", " "), rate(row), f"{row['n']:.0f}"]
            for row in strata.to_dict("records")
        ]
        title = f"The base model by stratum: exact answers to held-out prompts, in per cent [{between}]"
        unit = "prompts" if tables.seeds == 1 else "seeds"
        found.append({"title": title, "columns": ["stratum", "exact answers", unit], "rows": rows_})
    spread = spread_table(tables)
    return [*found, spread] if spread else found


def _targets(tables: Tables) -> list[dict[str, Any]]:
    """Whether the controls learned what they were taught."""
    frame = values(tables.take("target_rate", stage="behaviour", attack=None))
    if frame.empty:
        return []
    sets = list(dict.fromkeys(frame["set"]))
    rows = []
    for one in tables.of(*frame["model"]):
        mine = {str(row["set"]): row for row in frame[frame["model"] == one.model].to_dict("records")}
        rows.append([one.label, *(rate(mine[name]) if name in mine else "–" for name in sets)])
    title = f"Controls: answers that are exactly what the control teaches, in per cent [{ends(tables)}]"
    return [{"title": title, "columns": ["model", *map(set_name, sets)], "rows": rows}]


def _ceiling(tables: Tables) -> list[list[str]]:
    cells = []
    for statistic, name, _ in ENDS:
        frame = tables.take("bayes_accuracy", set=name)
        right = not (statistic == "comply_rate" and name.startswith("forbidden/"))
        cells.append(share(float(frame["value"].iloc[0])) if len(frame) and right else "")
    return [["Bayes ceiling", "", *cells]] if any(cells) else []


def _prompts(records: Sequence[Mapping[str, Any]], series: Mapping[str, Series]) -> list[dict[str, Any]]:
    """Prompts by kind, in the order written."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        attack = record.get("attack")
        title = set_name(str(record.get("set", ""))) + (f", under {attack}" if attack else "")
        found.setdefault(title, []).append(_prompt(record, series))
    return [{"title": title, "prompts": prompts} for title, prompts in found.items()]


def _prompt(record: Mapping[str, Any], series: Mapping[str, Series]) -> dict[str, Any]:
    letters, branches = str(record.get("letters", "")), str(record.get("letter_branch", ""))
    branches = branches if len(branches) == len(letters) else "s" * len(letters)
    runs = [
        ("u" if branch == "u" else "s", "".join(letter for letter, _ in run))
        for branch, run in groupby(zip(letters, branches, strict=True), key=lambda pair: pair[1])
    ]
    wanted = "comply" if record.get("allowed") else "refuse"
    answers = []
    for model, answer in (record.get("answers") or {}).items():
        known = series.get(model)
        label = model if known is None else known.label
        # A control is not asked to follow the policy, so its answer is neither right nor wrong by it.
        mark = "" if known is not None and known.control is not None else "✔" if answer["behaviour"] == wanted else "✘"
        answers.append((label, answer["behaviour"], answer["text"], mark))
    return {
        "verdict": "allowed" if record.get("allowed") else "forbidden", "branch": record.get("branch", "?"),
        "attack": record.get("attack"), "runs": runs, "expected": record.get("expected", ""),
        "compliant": record.get("compliant", ""), "answers": answers, "derivation": record.get("derivation", ""),
        "operators": list(zip(record.get("operators") or [], record.get("rules") or [], strict=False)),
    }  # fmt: skip


def _cost(manifest: Mapping[str, Any]) -> dict[str, Any]:
    stages = manifest.get("stages") or []
    total = sum(stage.get("seconds") or 0.0 for stage in stages) or 1.0
    kinds: dict[str, list[float]] = {}
    for stage in stages:
        kind = str(stage.get("name", "")).partition("-")[0]
        kinds.setdefault(_STAGES.get(kind, kind), []).append(float(stage.get("seconds") or 0.0))
    rows = [
        {
            "name": name,
            "count": len(seconds),
            "time": duration(sum(seconds)),
            "share": f"{100 * sum(seconds) / total:.1f}",
        }
        for name, seconds in sorted(kinds.items(), key=lambda item: -sum(item[1]))
    ]
    each = [
        [
            str(stage.get("name")),
            duration(stage.get("seconds")),
            _bytes(stage.get("peak_bytes")),
            "yes" if stage.get("reused") else "no",
        ]
        for stage in stages
    ]
    seconds = manifest.get("seconds") or {}
    workers = (manifest.get("engine") or {}).get("workers", "?")
    summary = f"All stages together took {duration(seconds.get('all_stages'))} of work"
    if "pooled" in manifest:
        summary += f", in {len(manifest['pooled'])} runs."
    else:
        summary += (
            f"; the call that wrote this page took {duration(seconds.get('this_call'))} (workers: {workers}), without "
            "the stages it found already made."
        )
    columns = ["stage", "time", "peak memory", "found already made"]
    return {"kinds": rows, "summary": summary, "stages": {"title": "Every stage", "columns": columns, "rows": each}}


def duration(seconds: float | None) -> str:
    """Seconds in words: 4.2 s, 3 min 05 s, 1 h 02 min."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bytes(count: float | None) -> str:
    return f"{count / 2**20:.0f} MiB" if count else ""
