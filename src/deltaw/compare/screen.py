"""`deltaw screen`: many LoRA adapters of one base, ranked by the spectra of their updates, each beside its chance.

Of an adapter, over all its matrices ΔW = scale · B A of rank r:

    adapter_norm         √Σ ‖ΔW‖²; with the base's weights also `adapter_relative_norm`, over √Σ ‖W‖² of the same
                         matrices
    stable_rank          ‖ΔW‖² / σ₁², mean over matrices
    top_excess           σ₁ / ‖ΔW‖ over its mean in a random update of the same shape and rank, geometric mean over
                         matrices: 1 is chance, more is one direction that stands out
    effective_layers     (Σ e)² / Σ e² of the energies e of the layers: how many layers share the update

Nulls. `gaussian_factors`: A and B of independent normal entries (their spectrum depends on shape and rank alone, so
norms play no part). `equal_entries`: layers as large as their factors' sizes make them. A trained adapter is expected
to exceed the first: what tells adapters apart is each one's distance from the others, as a robust z (median and median
absolute deviation, of logarithms; no less than eight adapters). `unusual` is the largest |z| of norm, top_excess and
effective_layers, beside what the largest of as many normal adapters exceeds in one folder of twenty.

Files are read one adapter at a time, and no model is loaded: two thin QRs a matrix.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import altair as alt
import numpy as np
import pandas as pd

from deltaw.analysis.gram_moments import factor_nulls
from deltaw.analysis.large_matrices import low_rank_directions
from deltaw.charts.figure import figure
from deltaw.charts.primitives import Axis, domain_of, layered, rule
from deltaw.charts.style import light, number
from deltaw.errors import DeltawError
from deltaw.models.adapter_config import CONFIG, WEIGHTS
from deltaw.models.checkpoint_files import Checkpoint, Stored, open_checkpoint, tensors_of
from deltaw.models.lora import Adapter, is_adapter, open_adapter
from deltaw.results import write_measurements
from deltaw.results.files import write_text_atomic
from deltaw.results.markdown import markdown_table
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, from_draws

By = Literal["top_excess", "norm", "effective_layers", "unusual"]
LEAST = 8
"""Adapters that a robust z needs."""
FARTHEST = 99.0
"""A robust z is not said to be larger."""
_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.\w+)?\.weight")
_LAYER = re.compile(r"\.(\d{1,6})\.")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Spectrum:
    """What is measured of one adapter."""

    name: str
    """Its path inside the folder."""
    rank: int
    """The largest of its matrices' factors."""
    matrices: int
    """How many it updates."""
    unread: int
    """Tensors of its file that are no factors of these: biases, embeddings, layers trained whole."""
    norm: float
    relative_norm: float | None
    """None without the base's weights."""
    stable_rank: float
    stable_rank_null: Null
    top_excess: float
    top_excess_null: Null
    effective_layers: float | None
    """None if its matrices name no layers."""
    effective_layers_null: Null | None
    peak_layer: int | None
    """The layer with the most energy."""


@dataclass(frozen=True)
class Screen:
    """A folder of adapters."""

    adapters: tuple[Spectrum, ...]
    """The first of the ranking first."""
    skipped: dict[str, str]
    """Adapters that could not be read, and why."""
    base: str
    """What the adapters call their base model; empty if they do not say."""
    unusual: dict[str, float]
    """The largest |z| of each adapter; empty with fewer than `LEAST`."""
    by_chance: float
    """A largest |z| over all adapters that one folder in twenty would exceed by chance."""

    @property
    def marked(self) -> set[str]:
        """The adapters whose largest |z| exceeds that."""
        return {name for name, score in self.unusual.items() if score > self.by_chance}


def screen(folder: Path, base: str | None = None, by: By = "top_excess", say: Say = lambda text: None) -> Screen:
    """Measure every adapter in a folder and its subfolders, and rank them, the largest first.

    base: the checkpoint that they are of, for relative norms and to check names and shapes. DeltawError, one sentence:
    no folder, no adapter that can be read, adapters of several bases, or a ranking that there are too few for.
    """
    if by not in get_args(By):
        raise DeltawError(f"adapters cannot be ranked by {by!r}; choose {', '.join(get_args(By))}")
    directories = _adapters_in(folder)
    checkpoint = None if base is None else open_checkpoint(base)
    spectra: list[Spectrum] = []
    skipped: dict[str, str] = {}
    bases: Counter[str] = Counter()
    weights: dict[str, float] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for place, directory in enumerate(directories, start=1):
        name = str(directory.relative_to(folder)) if directory != folder else directory.resolve().name
        try:
            adapter = open_adapter(directory, checkpoint.tensors if checkpoint else _own_tensors(directory))
            spectra.append(_spectrum(name, adapter, checkpoint, weights, shapes))
        except DeltawError as error:
            skipped[name] = str(error)
            continue
        bases[str(adapter.checkpoint.config.get("base_model_name_or_path") or "")] += 1
        if place % 50 == 0 or place == len(directories):
            say(f"{place}/{len(directories)} adapters")
    if not spectra:
        name, reason = next(iter(skipped.items()))
        raise DeltawError(f"none of the {len(directories)} adapters in {folder} can be read; of {name}: {reason}")
    _check_one_base(folder, bases)
    unusual = _unusual(spectra)
    if by == "unusual" and not unusual:
        raise DeltawError(f"{len(spectra)} adapters are too few to say which is unusual; expected at least {LEAST}")
    ranked = sorted(spectra, key=lambda x: (-(unusual[x.name] if by == "unusual" else getattr(x, by) or 0.0), x.name))
    return Screen(tuple(ranked), skipped, next((b for b in bases if b), ""), unusual, _largest_by_chance(len(spectra)))


def _adapters_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DeltawError(f"{folder} is no directory; give the folder that holds the adapters")
    directories = sorted(path.parent for path in folder.rglob(CONFIG) if is_adapter(path.parent))
    if not directories:
        raise DeltawError(f"{folder} holds no LoRA adapter: no folder in it has {CONFIG} and {WEIGHTS}")
    return directories


def _own_tensors(directory: Path) -> dict[str, Stored]:
    """What the base must have for an adapter to fit, from the shapes of its factors."""
    if not (directory / WEIGHTS).is_file():
        return {}  # `open_adapter` says what is there instead
    halves: dict[str, dict[str, Stored]] = {}
    for name, stored in tensors_of({directory / WEIGHTS: None}).items():
        match = _FACTOR.fullmatch(name)
        if match is not None and len(stored.shape) == 2:
            halves.setdefault(match["module"], {})[match["factor"]] = stored
    return {
        f"{module}.weight": Stored(half["A"].file, (half["B"].shape[0], half["A"].shape[1]), half["A"].dtype)
        for module, half in halves.items()
        if len(half) == 2
    }


def _check_one_base(folder: Path, bases: Counter[str]) -> None:
    named = [(base, count) for base, count in bases.most_common() if base]
    if len(named) > 1:
        listed = ", ".join(f"{base} ({count})" for base, count in named[:4])
        raise DeltawError(
            f"the adapters in {folder} are of several base models: {listed}; screen those of one base in a folder of "
            "their own"
        )


def _spectrum(
    name: str,
    adapter: Adapter,
    base: Checkpoint | None,
    weights: dict[str, float],
    shapes: dict[str, tuple[int, int]],
) -> Spectrum:
    """weights: energies of the base's matrices that are known already. shapes: of matrices in other adapters."""
    if not adapter.factors:
        raise DeltawError(f"{adapter.checkpoint.directory} updates no matrix by two factors, so it has no spectrum")
    energies, ranks, draws, sizes, layers = [], [], [], [], []
    for tensor in sorted(adapter.factors):
        update = adapter.update(tensor)
        rank = min(int(update.left.shape[1]), *update.shape)
        sigma = low_rank_directions(update)[0]
        energy = float((sigma**2).sum())
        if shapes.setdefault(tensor, update.shape) != update.shape:
            raise DeltawError(
                f"its update of {tensor} is {update.shape}, and {shapes[tensor]} in other adapters; it is of another "
                "base"
            )
        match = _LAYER.search(tensor)
        layers.append(int(match[1]) if match else None)
        sizes.append(float(rank * update.shape[0] * update.shape[1]))
        energies.append(energy)
        if energy > 0:
            ranks.append(energy / float(sigma[0]) ** 2)
            draws.append(_null_ranks(update.shape, rank))
    if not ranks:
        raise DeltawError(f"{adapter.checkpoint.directory} updates nothing: all its factors' products are zero")
    stable, excess = _over_matrices(np.array(ranks), draws, zlib.crc32(name.encode()))
    total = float(sum(energies))
    by_layer, by_size = (_by_layer(layers, values) for values in (energies, sizes))
    shared = _participation(by_layer)
    chance = _participation(by_size)
    if base is not None:
        for tensor in adapter.factors:
            if tensor not in weights:
                weights[tensor] = float(base.read(tensor).double().square().sum())
    whole = sum(weights.get(tensor, 0.0) for tensor in adapter.factors)
    return Spectrum(
        name=name,
        rank=max(min(adapter.checkpoint.tensors[x.a].shape) for x in adapter.factors.values()),
        matrices=len(adapter.factors),
        unread=len(adapter.checkpoint.tensors) - 2 * len(adapter.factors),
        norm=total**0.5,
        relative_norm=(total / whole) ** 0.5 if whole > 0 else None,
        stable_rank=float(np.mean(ranks)),
        stable_rank_null=stable,
        top_excess=excess[0],
        top_excess_null=excess[1],
        effective_layers=shared,
        effective_layers_null=None if chance is None else Null("equal_entries", chance, chance, chance),
        peak_layer=max(by_layer, key=lambda layer: by_layer[layer]) if by_layer else None,
    )


@cache
def _null_ranks(shape: tuple[int, int], rank: int) -> FloatArray:
    """Stable ranks of random updates."""
    generator = np.random.default_rng([*shape, rank])
    draws = factor_nulls(shape, rank, generator).stable_rank.draws
    if draws is None:
        raise ValueError("the null of an update by factors has draws")
    return draws


def _over_matrices(ranks: FloatArray, draws: Sequence[FloatArray], seed: int) -> tuple[Null, tuple[float, Null]]:
    """The null of the mean stable rank, and the excess with its null."""
    generator, count = np.random.default_rng(seed), min(map(len, draws))
    # Matrices of one shape share their draws: in an order of its own each, they are as independent as they should be.
    mixed = np.stack([generator.permutation(drawn)[:count] for drawn in draws])
    # Of the middle of log σ₁/‖ΔW‖, so that a random update has an excess of 1 on average.
    middle = np.array([-0.5 * np.log(drawn).mean() for drawn in draws])
    excess = float(np.exp(np.mean(-0.5 * np.log(ranks) - middle)))
    by_chance = np.exp((-0.5 * np.log(mixed) - middle[:, None]).mean(0))
    return from_draws("gaussian_factors", mixed.mean(0)), (excess, from_draws("gaussian_factors", by_chance))


def _by_layer(layers: Sequence[int | None], values: Sequence[float]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for layer, value in zip(layers, values, strict=True):
        if layer is not None:
            sums[layer] = sums.get(layer, 0.0) + value
    return sums


def _participation(by_layer: dict[int, float]) -> float | None:
    values = np.array(list(by_layer.values()))
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else None


def _unusual(spectra: Sequence[Spectrum]) -> dict[str, float]:
    if len(spectra) < LEAST:
        return {}
    logs = np.log([[x.norm, x.top_excess, x.effective_layers or 1.0] for x in spectra])
    return {x.name: float(score) for x, score in zip(spectra, _robust(logs).max(1), strict=True)}


def _robust(columns: FloatArray) -> FloatArray:
    """|z| of each number (N, K) in its column, by median and median absolute deviation; at most `FARTHEST`."""
    away = np.abs(columns - np.median(columns, axis=0))
    away[away < 1e-12] = 0.0  # columns without spread differ by rounding
    spread = np.median(away, axis=0) / 0.6745
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(away > 0, away / spread, 0.0)
    return np.asarray(np.minimum(scores, FARTHEST))


@cache
def _largest_by_chance(count: int) -> float:
    """The largest robust |z| of three statistics of `count` normal adapters: the 0.95 quantile of draws."""
    generator = np.random.default_rng(count)
    draws = [float(_robust(generator.standard_normal((count, 3))).max()) for _ in range(400)]
    return float(np.quantile(draws, 0.95))


COLUMNS = (
    "adapter",
    "r",
    "matrices",
    "norm",
    "stable rank (chance)",
    "top excess (95 % of chance)",
    "layers (chance)",
    "peak layer",
    "unusual",
)


def rows_of(ranking: Screen, most: int | None = None) -> list[tuple[str, ...]]:
    """The table: a row an adapter, with `COLUMNS` above."""
    rows: list[tuple[str, ...]] = []
    marked = ranking.marked
    for x in ranking.adapters[:most]:
        null = x.top_excess_null
        size = number(x.norm) + ("" if x.relative_norm is None else f" ({x.relative_norm:.2%} of ‖W‖)")
        chance = "" if x.effective_layers_null is None else f" ({number(x.effective_layers_null.mean)})"
        odd = f"{ranking.unusual[x.name]:.1f}" if ranking.unusual else "–"
        cells = (
            x.name,
            str(x.rank),
            str(x.matrices),
            size,
            f"{number(x.stable_rank)} ({number(x.stable_rank_null.mean)})",
            f"{number(x.top_excess)} ({number(null.low)} to {number(null.high)})",
            number(x.effective_layers) + chance,
            "–" if x.peak_layer is None else str(x.peak_layer),
            odd + (" *" if x.name in marked else ""),
        )
        rows.append(cells)
    return rows


def write_screen(ranking: Screen, folder: Path, out: Path) -> Path:
    """OUT/measurements.jsonl, OUT/screen.svg and OUT/report.md; returns the last."""
    out.mkdir(parents=True, exist_ok=True)
    sheet = Sheet(stage="screen")
    for x in ranking.adapters:
        view = sheet.with_(model=x.name, n=x.matrices, n_unit="matrix")
        view.add("adapter_norm", x.norm, unit="norm")
        if x.relative_norm is not None:
            view.add("adapter_relative_norm", x.relative_norm, unit="share of norm")
        view.add("stable_rank", x.stable_rank, nulls=[x.stable_rank_null], unit="dimensions")
        view.add("top_excess", x.top_excess, nulls=[x.top_excess_null], unit="ratio")
        if x.effective_layers is not None and x.effective_layers_null is not None:
            view.add("effective_layers", x.effective_layers, nulls=[x.effective_layers_null], unit="layers")
        if ranking.unusual:
            view.add("unusual", ranking.unusual[x.name], unit="robust z")
    write_measurements(out / "measurements.jsonl", sheet.lines)
    write_text_atomic(out / "screen.svg", _drawn(ranking))
    write_text_atomic(out / "report.md", _report(ranking, folder))
    return out / "report.md"


def _report(ranking: Screen, folder: Path) -> str:
    count = len(ranking.adapters)
    lines = [
        f"# {count} adapters in {folder.resolve().name}",
        "",
        f"Base model: {ranking.base or 'not named by the adapters'}. What the numbers mean is in docs/questions.md.",
        "",
        "![Norm and top excess of each adapter](screen.svg)",
        "",
    ]
    if ranking.unusual:
        lines += [
            f"{len(ranking.marked)} of {count} differ from the others by more than {ranking.by_chance:.1f} robust "
            "standard deviations (marked *), which chance would do to any of them in one folder of twenty.",
            "",
        ]
    else:
        lines += [f"With fewer than {LEAST} adapters, none can be called unusual.", ""]
    lines += [markdown_table(COLUMNS, rows_of(ranking)), ""]
    if ranking.skipped:
        lines += ["## Not read", "", *(f"- {name}: {reason}" for name, reason in ranking.skipped.items()), ""]
    return "\n".join(lines)


def _drawn(ranking: Screen) -> str:
    marked = ranking.marked
    frame = pd.DataFrame(
        {
            "norm": [x.norm for x in ranking.adapters],
            "excess": [x.top_excess for x in ranking.adapters],
            "adapter": [x.name for x in ranking.adapters],
            "ink": [light("ssft" if x.name in marked else "muted") for x in ranking.adapters],
        }
    )
    x_axis = Axis("norm of the update", domain_of(frame["norm"], log=True), format=".2~g", log=True)
    y_axis = Axis("top excess", domain_of(frame["excess"], include=(1.0,)))
    marks = (
        alt.Chart(frame, width=420, height=260)
        .mark_point(filled=True, size=46, opacity=0.8)
        .encode(
            x=alt.X("norm:Q", scale=x_axis.scale(), axis=x_axis.axis()),
            y=alt.Y("excess:Q", scale=y_axis.scale(), axis=y_axis.axis()),
            color=alt.Color("ink:N", scale=None),
            tooltip=[alt.Tooltip("adapter:N")],
        )
    )
    panel = layered(marks, rule(1.0, "random update", y_axis), title=None, width=420, height=260)
    drawn = figure(
        "screen",
        "Adapters of one base: size, and how far one direction stands out",
        "Top excess: the largest singular value over that of a random update of the same rank and norm. Coloured: "
        "unusual among the others.",
        ("adapter_norm", "top_excess"),
        [panel],
        columns=1,
        width=480,
    )
    if drawn is None:
        raise ValueError("a panel that was given is drawn")
    return drawn.draw().file
