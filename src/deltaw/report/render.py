"""The page: one self-contained HTML file, from a run's results."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from altair.utils.schemapi import debug_mode
from jinja2 import Environment, PackageLoader, StrictUndefined

from deltaw.charts.figure import Drawing
from deltaw.charts.style import COLOURS, number
from deltaw.charts.tables import Table, Tables
from deltaw.errors import DeltawError
from deltaw.report.added import Added, added, added_interventions
from deltaw.report.cards import behaviour, cards, choices, committed
from deltaw.report.pages import claims_table, several_figures
from deltaw.report.pages import compare as comparison
from deltaw.report.pages import several as several_models
from deltaw.report.pages.attacks_table import attack_tables
from deltaw.report.pages.behaviour_tables import rate_tables
from deltaw.report.pages.compare_tables import tables_of as comparison_tables
from deltaw.report.pages.decoded_prompts import decoded
from deltaw.report.pages.grid import Grid, grid_figure, tables_of
from deltaw.report.pages.time_table import bytes_text, cost_table, duration
from deltaw.report.sections import SECTIONS, sections
from deltaw.results import Results, load, write_text_atomic

TABLES = "tables.md"
CONTENTS = (
    ("glance", "At a glance"),
    ("claims", "Claims"),
    ("behaviour", "Behaviour"),
    ("training", "Training"),
    ("clusters", "1 Clusters"),
    ("null-space", "2 Null space"),
    ("row-space", "3 Row space"),
    ("sensitivity", "4 Sensitivity"),
    ("subspaces", "Ranks and angles"),
    ("function", "Function"),
    ("interventions", "Interventions"),
    ("attacks", "5 Attacks"),
    ("prompts", "Prompts"),
    ("time", "Time"),
    ("words", "How to read"),
    ("files", "Files"),
)


def write_report(run_dir: Path) -> Path:
    """Writes report.html, figures/*.svg and, where attacks were many, tables.md into a finished run; returns the page's
    path.

    DeltawError if the run has not come to its end or a file of it is damaged.
    """
    results = load(run_dir)
    try:
        with debug_mode(False):  # Altair checks every part of a chart by its schema; a test draws every figure
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
    if "several" in results.manifest:
        several = several_models.Several(results)
        layers = [chart.draw() for chart in several_figures.drawn(several)]
        return _write(run_dir, {"layers": layers}, render_several(several, layers))
    if "comparison" in results.manifest:
        pair = comparison.Pair(results)
        figures, lacking = comparison.drawn(pair)
        more = added(results.manifest.get("prompts") or {}, pair.tables)
        for part in more:
            figures[f"added-{part.name}"] = list(part.figures)
            lacking[f"added-{part.name}"] = [part.missing] if part.missing else []
        by_section = {name: [figure.draw() for figure in listed] for name, listed in figures.items()}
        return _write(run_dir, by_section, render_comparison(results, pair, by_section, lacking, more))
    tables = Tables(results)
    attacked, more = attack_tables(tables), added(results.manifest, tables)
    made = {name: (section.figures, section.missing) for name, section in sections(tables).items()}
    made |= {f"added-{part.name}": (part.figures, (part.missing,) if part.missing else ()) for part in more}
    drawn = {name: [figure.of_seeds(tables.seeds).draw() for figure in parts] for name, (parts, _) in made.items()}
    missing = {name: lacking for name, (_, lacking) in made.items()}
    return _write(run_dir, drawn, render(results, tables, drawn, missing, attacked, more), attacked)


def _write(run_dir: Path, drawn: Mapping[str, Sequence[Drawing]], text: str, tables: Sequence[Table] = ()) -> Path:
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


def render_several(several: several_models.Several, layers: Sequence[Drawing]) -> str:
    """The page of several tuned models as text. layers: its figures."""
    tables = several_models.tables_of(several)
    asked = [("refusals", "Who refuses what")] if tables["refusals"] else []
    contents = [("pairs", "Every two updates"), *asked, ("layers", "Layer by layer"), ("models", "The models")]
    missing = [] if layers else ["every two updates, layer by layer"]
    return (
        _environment()
        .get_template("several.html")
        .render(
            css=_css(),
            script=_asset("page.js"),
            bundle=_bundle(),
            head=several_models.head(several),
            tables=tables,
            drawn={"layers": layers},
            missing={"layers": missing},
            contents=[*contents, ("words", "How to read")],
            added=(),
        )
    )


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
        css=_css(),
        script=_asset("page.js"),
        bundle=_bundle(),
        head=comparison.head(pair),
        drawn=drawn,
        missing=missing,
        claims=claims_table.groups(claims, {}),
        tables=comparison_tables(pair),
        contents=comparison.contents(pair),
        added=more,
    )


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
    labels = {series.model: series.label for series in tables.series}
    protocols = {model: label.partition(",")[0] for model, label in labels.items()}
    chosen, decided = choices(tables), committed()
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
            intervened=added_interventions(results.manifest, tables),
            head=_head(results, tables),
            contents=CONTENTS if not more else (*CONTENTS[:-4], ("added", "Added"), *CONTENTS[-4:]),
            choices=chosen,
            cards=cards(tables, chosen),
            committed=decided,
            behaviour=behaviour(tables),
            headline=claims_table.headline(measured, protocols, decided["words"]),
            questions=list(claims_table.QUESTIONS.values()),
            claims=claims_table.groups(measured, labels),
            unmeasured=[claim["statement"] for claim in claims if not claims_table.is_measured(claim)],
            world=_world(tables),
            tables=rate_tables(tables),
            attacked=attacked,
            rates_used=_learning_rates(results.manifest),
            prompts=decoded(results.prompts, {series.model: series for series in tables.series}),
            components=_components(results.manifest),
            cost=cost_table(results.manifest),
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
    variables = {
        f"{shade}_variables": " ".join(f"--{name}: {shades[place]};" for name, shades in COLOURS.items())
        for place, shade in enumerate(("light", "dark"))
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
        ("recipe", manifest.get("recipe")),
        ("seed" if len(seeds) == 1 else "seeds", ", ".join(seeds)),
        ("pooled from", _runs(manifest.get("pooled") or ())),
        ("finished", str(manifest.get("finished", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("processor", f"{processor.get('name', 'unknown')}, {processor.get('cores', '?')} cores"),
        ("engine", f"{engine.get('name', '?')}, workers: {engine.get('workers', '?')}" if engine else ""),
        ("stages took", duration(seconds.get("all_stages"))),
        ("peak memory", bytes_text(manifest.get("peak_bytes"))),
    ]
    tuned = len(tables.series) - 1
    parameters = manifest.get("parameters")
    size = f" of {parameters:,} parameters".replace(",", " ") if parameters else ""
    about = (
        f"A small language model{size} learns to apply operators to texts in a synthetic world. {tuned} fine-tunings "
        "teach it to refuse some of them or, as controls, something else. The page shows what their weight updates ΔW "
        "do and how attacks get past them, beside what “What Makes and Breaks Safety Fine-tuning? A Mechanistic Study” "
        "(NeurIPS 2024) claims."
    )
    several = len(seeds) > 1
    exploratory = "It decides nothing: " + (
        "it was made to explore." if several else "intervals are over prompts, and say nothing about another model."
    )
    if several:
        about += " Values are means over seeds; their whiskers span the seeds."
    return {
        "recipe": manifest.get("recipe"),
        "facts": [(name, value) for name, value in facts if value],
        "about": about,
        "exploratory": exploratory if manifest.get("exploratory") else None,
        "version": (manifest.get("versions") or {}).get("deltaw", ""),
    }


def _runs(pooled: Sequence[Mapping[str, Any]]) -> str:
    """The runs that were taken as one: how many, when each was finished, and whether one code made them."""
    if not pooled:
        return ""
    days, codes = ", ".join(str(run.get("finished", ""))[:10] for run in pooled), {run.get("code") for run in pooled}
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
    listed = [f"{strength}: {', '.join(map(number, sorted(used)))}" for strength, used in rates.items()]
    return f" ({'; '.join(listed)})" if listed else ""


def _components(manifest: Mapping[str, Any]) -> Table | None:
    """Protocols, controls, attacks and the like that the study had, with a sentence each."""
    rows = [
        tuple(str(told.get(name, "")) for name in ("kind", "label", "name", "sentence"))
        for told in manifest.get("components") or ()
    ]
    columns = ("kind", "label", "name", "what it is")
    return Table("What was tuned, attacked and measured", columns, tuple(rows)) if rows else None
