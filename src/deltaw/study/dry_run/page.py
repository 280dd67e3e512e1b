"""A plan as a person reads it (tables on a terminal, plain lines in a log), or as one JSON object."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from deltaw.models import choose_precision
from deltaw.pipeline.artifacts import plain
from deltaw.recipes.config import Recipe
from deltaw.recipes.tuned import Tuned
from deltaw.study.dry_run.plan import Plan, StageCost
from deltaw.training import OptimiserConfig
from deltaw.world import VIEWS, GrammarConfig, WorldConfig, language

Section = tuple[str, list[tuple[str, str]]]
Row = tuple[str, ...]
COLUMNS = ("stage", "stages", "updates", "tokens", "FLOPs", "with attention", "memory", "time")


def show(plan: Plan, stream: IO[str] | None = None) -> None:
    """Print a plan to `stream` (standard output by default): tables if it is a terminal, else plain lines."""
    target = sys.stdout if stream is None else stream
    sections, rows = list(configuration(plan)), stage_rows(plan)
    if target.isatty():
        console = Console(file=target)
        for title, entries in sections:
            console.print(_grid(title, entries))
        console.print(_table(rows))
        for line in closing(plan):
            console.print(line, highlight=False)
        return
    for title, entries in sections:
        print(title, *(f"  {name}: {value}" for name, value in entries), sep="\n", file=target)
    print("stages", *_aligned([COLUMNS, *rows]), "", *closing(plan), sep="\n", file=target)


def to_json(plan: Plan) -> dict[str, Any]:
    """The whole plan, every stage by itself, as JSON values."""
    return {
        "recipe": plan.recipe.name,
        "config": plain(plan.recipe),
        "model": plain(plan.model),
        "parameters": plan.parameters,
        "stages": [
            {
                "name": stage.name,
                "threads": stage.threads,
                "work": None if stage.work is None else plain(stage.work),
                "flops": stage.operations,
                "flops_with_attention": stage.operations_with_attention,
                "memory_bytes": stage.memory,
                "seconds": stage.seconds,
            }
            for stage in plan.stages
        ],
        "engine": {"name": plan.engine, "workers": plan.workers},
        "seconds": {"all_stages": plan.seconds, "longest_chain": plan.chain, "wall": plan.wall},
        "not_estimated": plan.unknown,
        "measured": list(plan.notes),
    }


def configuration(plan: Plan) -> Iterator[Section]:
    """The resolved configuration in groups: what there is to say of each, without the defaults of every tuning."""
    recipe = plan.recipe
    yield f"recipe {recipe.name}", _recipe(recipe)
    yield "world", _world(recipe.world)
    if recipe.base_world is not None:
        differing = set(_world(recipe.base_world)) - set(_world(recipe.world))
        yield "world of pre-training, where it differs", sorted(differing)
    shape = _flat(plain(plan.model))
    yield "model", [*shape, ("parameters", f"{plan.parameters:,}")]
    fields = {k: v for k, v in plain(recipe.pretraining).items() if k not in plain(plan.model) and k != "views"}
    views = [(f"views at sample {place:,}", _shares(shares)) for place, shares in recipe.pretraining.views.knots]
    fields["optimiser"] = _optimiser(recipe.pretraining.optimiser)
    yield "pre-training", [*_flat(fields), *views]
    shared = recipe.tunings[0].config
    yield (
        "tuning, all",
        [
            ("prompts an update", str(shared.batch)),
            ("device", shared.device),
            ("compute_dtype", choose_precision(shared.device).reason.rstrip(".")),
        ],
    )
    for strength, tunings in groupby(sorted(recipe.tunings, key=lambda tuned: tuned.strength), lambda t: t.strength):
        listed = list(tunings)
        optimiser = _flat(_optimiser(listed[0].config.optimiser))
        yield f"tuning, {strength}", [*optimiser, *((tuned.name, _protocol(tuned)) for tuned in listed)]
    sizes = {name: value for name, value in plain(recipe.sizes).items() if value is not None}
    yield "prompts behind each number", _flat(sizes)


def _optimiser(config: OptimiserConfig) -> dict[str, Any]:
    """Its fields, without Muon's where it is not Muon."""
    chosen: dict[str, Any] = plain(config)
    return {name: value for name, value in chosen.items() if name != "momentum" or config.method == "muon"}


def _world(world: WorldConfig) -> list[tuple[str, str]]:
    """One line a grammar, with operators by number; of what the published data hold instead, what is switched on."""
    fields = plain(world)
    del fields["grammars"], fields["compat"]
    switched = [
        name if value is True else f"{name} {value}"
        for name, value in plain(world.compat).items()
        if name != "type" and value
    ]
    return [
        *((f"grammar {grammar.number}", _grammar(world, grammar)) for grammar in world.grammars),
        *_flat(fields),
        ("as in the published data", ", ".join(switched) or "nothing"),
    ]


def _grammar(world: WorldConfig, grammar: GrammarConfig) -> str:
    def numbers(operators: tuple[int, ...]) -> str:
        return " ".join(map(str, operators)) or "none"

    name = language(grammar.source, world.unsafe_level_5).name
    lists = {"never": grammar.never, "always": grammar.always, "aliases of": world.aliases_of(grammar)}
    listed = "; ".join(f"{label} {numbers(operators)}" for label, operators in lists.items())
    return f"{name}; operators {listed}; seed {grammar.operator_seed}"


def _shares(shares: tuple[float, ...]) -> str:
    return ", ".join(f"{name} {share:g}" for name, share in zip(VIEWS, shares, strict=True))


def _recipe(recipe: Recipe) -> list[tuple[str, str]]:
    return [
        ("seeds", _text(recipe.seeds)),
        ("answers", "exploratory" if recipe.exploratory else "deciding"),
        ("base checkpoints", _text(recipe.base_checkpoints)),
        ("tuning checkpoints", _text(recipe.checkpoints)),
        ("matched at a refusal rate of", str(recipe.refusal_threshold)),
        *([] if recipe.base_gate is None else [("exact answers asked of the base", str(recipe.base_gate))]),
    ]


def _protocol(tuned: Tuned) -> str:
    config = tuned.config
    described = config.protocol.described()
    named = str(described.pop("name"))
    options = ", ".join(f"{name} {_text(value)}" for name, value in described.items())
    notes = [f"control {tuned.control}"] if tuned.control else []
    if config.allowed_batches is not None:
        notes.append(f"{config.allowed_batches:g} of batches allowed, the rest forbidden")
    if config.borrow_masks:
        notes.append("masks borrowed")
    return ", ".join([named + (f" ({options})" if options else ""), *notes])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            entries += _flat(value, f"{prefix}{name}.")
        elif name != "type":
            entries.append((prefix + name, _text(value)))
    return entries


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        options = (f"{name} {_text(part)}" for name, part in value.items() if name != "type" and part is not None)
        return f"({'; '.join(options)})"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def stage_rows(plan: Plan) -> list[Row]:
    """One row for all stages of a kind and protocol that cost the same, as strings in the order of `COLUMNS`."""

    def label(stage: StageCost) -> str:
        work = stage.work
        if work is None:
            return stage.name
        return f"{work.kind} {work.protocol}" if work.kind == "tuning" else work.kind

    groups: dict[tuple[str, float | None], list[StageCost]] = {}
    for stage in plan.stages:
        groups.setdefault((label(stage), stage.seconds), []).append(stage)
    rows = [_row(name, stages) for (name, _), stages in groups.items()]
    total = _row("all", plan.stages)
    return [*rows, (*total[:-2], f"{total[-2]}", duration(plan.seconds))]


def _row(name: str, stages: Sequence[StageCost]) -> Row:
    works = [stage.work for stage in stages if stage.work is not None]
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    stage_time = duration(known[0]) if known else "not estimated"
    return (
        name,
        str(len(stages)),
        f"{sum(work.updates for work in works):,}" if any(work.updates for work in works) else "",
        amount(sum(work.trained + work.read for work in works)),
        amount(sum(stage.operations for stage in stages)),
        amount(sum(stage.operations_with_attention for stage in stages)),
        f"{max(stage.memory for stage in stages) / 1e9:.1f} GB" if works else "",
        stage_time if len(stages) == 1 or not known else f"{len(stages)} x {stage_time}",
    )


def closing(plan: Plan) -> list[str]:
    """What the whole takes, and how that is known."""
    device = plan.recipe.pretraining.device
    workers = "one stage at a time" if plan.engine == "inline" else f"{plan.workers} workers"
    lines = [
        f"{plan.parameters:,} parameters; {amount(plan.operations)} floating-point operations with attention.",
        f"About {duration(plan.wall)} with {workers} on {device}; {duration(plan.seconds)} of work, longest chain "
        f"{duration(plan.chain)}.",
    ]
    if device != "cpu":
        lines.append(
            "The workers share one card, and each is timed alone: together they are slower where the card is full."
        )
    if plan.unknown:
        lines.append(f"Not estimated, so not in the total: {', '.join(plan.unknown)}.")
    lines.append(
        "Tokens count padding, and of a pair its prompt once and both responses. FLOPs: 6 a parameter and trained"
    )
    lines.append(
        "token, 2 a read one. Time is that of the work alone: whatever else runs on the machine makes it longer."
    )
    return [*lines, "Measured:", *(f"  {note}" for note in plan.notes)]


def amount(value: float) -> str:
    """A count in three digits and a power of ten, as readers of FLOPs expect: 1.49e17."""
    return f"{value:.0f}" if value < 1000 else f"{value:.2e}".replace("e+", "e")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 min, 3.5 h, 6.1 days."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if seconds / unit < 10 else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"


def _aligned(rows: Sequence[Row]) -> list[str]:
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"  {name:<{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, *cells in rows
    ]


def _grid(title: str, entries: Sequence[tuple[str, str]]) -> Table:
    grid = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    for entry in entries:
        grid.add_row(*entry)
    return grid


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="stages", title_justify="left", title_style="bold")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if number == len(rows) - 1 else None)
    return table
