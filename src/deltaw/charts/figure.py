"""`Figure`, and how one definition becomes a chart in the page and an SVG file."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import vl_convert

from deltaw.charts.primitives import Panel
from deltaw.charts.style import light, themed

FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

INK, MUTED, GRID = light("ink"), light("muted"), light("grid")


def _lettering(part: str, colour: str, size: float, **more: str | float) -> dict[str, str | float]:
    """Options of the `label` or the `title` of axes and legends."""
    return {f"{part}{name}": option for name, option in {"Color": colour, "FontSize": size, **more}.items()}


CONFIG = {
    "background": light("paper"),
    "font": FONT,
    "padding": 4,
    "aria": False,  # the page labels whole figures
    "view": {"stroke": None},
    "axis": {
        **_lettering("label", MUTED, 10.5, Padding=4),
        **_lettering("title", MUTED, 11, FontWeight="normal", Padding=6),
        **dict.fromkeys(("gridColor", "domainColor", "tickColor"), GRID),
    },
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 8},
    "legend": {
        "orient": "top",
        "columns": 5,
        "columnPadding": 16,
        "offset": 14,
        **_lettering("label", INK, 11.5, Limit=260),
        **_lettering("title", MUTED, 11, FontWeight="normal", Orient="left"),
    },
}


@dataclass(frozen=True)
class Figure:
    """A figure: panels that wrap, what it shows, how to read it, and the statistics it draws.

    name: of its file. title: what is shown, with units. marks: what the marks are, nulls included. width: of the
    widest panel with its axis, in pixels. shared: whether colours and dashes mean the same in all panels. whiskers:
    what they are, if there are any. params: Vega-Lite's, which the page's choices set.
    """

    name: str
    title: str
    marks: str
    statistics: tuple[str, ...]
    panels: tuple[Panel, ...]
    columns: int = 3
    width: int = 345
    shared: bool = True
    whiskers: str = ""
    params: Sequence[Mapping[str, Any]] = ()

    @property
    def caption(self) -> str:
        """How to read it."""
        return f"{self.marks} Whiskers: {self.whiskers}." if self.whiskers else self.marks

    def of_seeds(self, seeds: int) -> "Figure":
        """The figure of so many seeds: of several, whiskers are their ends."""
        if seeds == 1 or not self.whiskers:
            return self
        return replace(self, whiskers="least to greatest of the seeds")

    def spec(self) -> dict[str, Any]:
        """The panels as one Vega-Lite chart, without the title: the page has it as text."""
        # Nothing is validated, which takes longer than drawing: a test draws every figure.
        datasets: dict[str, Any] = {}
        for panel in self.panels:
            datasets |= panel["datasets"]
        panels = [{key: value for key, value in panel.items() if key != "datasets"} for panel in self.panels]
        looks = dict.fromkeys(("color", "strokeDash"), "shared" if self.shared else "independent")
        return {
            **({"params": list(self.params)} if self.params else {}),
            "concat": panels,
            "columns": self.columns,
            "spacing": 26,
            "datasets": datasets,
            "config": CONFIG,
            "resolve": {"scale": looks, "legend": {**looks, "shape": "shared"}},
        }

    def draw(self) -> "Drawing":
        """The chart in all the forms in which it is published."""
        spec = self.spec()
        across = min(self.columns, len(self.panels))
        chart = _lean(vl_convert.vegalite_to_svg(spec))
        page = {**spec, "usermeta": {"columns": self.columns, "width": self.width}}
        return Drawing(
            self,
            # "<" begins an end tag or a comment, and after a comment's sign a script does not end where it should.
            spec=themed(json.dumps(page, separators=(",", ":"), ensure_ascii=False)).replace("<", "\\u003c"),
            inline=themed(_own_ids(chart, self.name)),
            file=_with_heading(chart, _wrapped(self.title, 48 * across), _wrapped(self.caption, 62 * across)),
        )


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn.

    spec: Vega-Lite, as JSON that is safe inside a script element; colours are the page's variables. inline: the SVG
    that stands in the page until scripts run, likewise. file: the SVG that stands alone: light, with title and caption.
    """

    figure: Figure
    spec: str
    inline: str
    file: str


def _lean(svg: str) -> str:
    """The drawing with a hundredth of a pixel's precision, a third smaller."""
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)


def _with_heading(chart: str, title: Sequence[str], caption: Sequence[str]) -> str:
    """The chart, an SVG, below its title and its caption. Drawing it once more with both would take as long again."""
    size = re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', chart)
    if size is None:
        raise ValueError(f"a chart begins with {chart[:80]!r}, without its size")
    lines, y = [], 8.0
    for texts, pitch, style in (
        (title, 18, f'font-size="14" font-weight="bold" fill="{INK}"'),
        (caption, 14, f'font-size="11" fill="{MUTED}"'),
    ):
        for text in texts:
            y += pitch
            lines.append(f'<text x="8" y="{y:g}" {style}>{escape(text)}</text>')
    width, top = float(size[1]), y + 12
    whole = f'width="{width:g}" height="{top + float(size[2]):g}"'
    chart = chart.replace("<svg ", f'<svg y="{top:g}" ', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" version="1.1" {whole} font-family="{escape(FONT)}">'
        f'<rect width="100%" height="100%" fill="{light("paper")}"/>{"".join(lines)}{chart}</svg>'
    )


def _own_ids(svg: str, name: str) -> str:
    """Several drawings in one page must not share ids: each clip path gets the figure's name."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def figure(
    name: str,
    title: str,
    marks: str,
    statistics: Sequence[str],
    panels: Sequence[Panel | None],
    *,
    columns: int = 3,
    width: int = 345,
    shared: bool = True,
    whiskers: str = "",
) -> Figure | None:
    """A figure of the panels that could be drawn; None if none could."""
    drawn = tuple(panel for panel in panels if panel is not None)
    return Figure(name, title, marks, tuple(statistics), drawn, columns, width, shared, whiskers) if drawn else None
