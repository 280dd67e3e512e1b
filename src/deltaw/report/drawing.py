"""`Figure`, and how one definition becomes a chart in the page and an SVG file."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from deltaw.report.looks import light, themed

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """A figure: panels that wrap, what it shows, how to read it, and the statistics it draws.

    name: of its file. title: what is shown, with units. caption: what the marks are, nulls included. width: of the widest
    panel with its axis, in pixels.
    """

    name: str
    title: str
    caption: str
    statistics: tuple[str, ...]
    panels: tuple[alt.LayerChart, ...]
    columns: int = 3
    width: int = 345

    def chart(self, titled: bool = False) -> alt.ConcatChart:
        """The panels as one chart; titled: with the title in it, for a file that stands alone."""
        options: dict[str, Any] = {}
        if titled:
            lines = _wrapped(self.caption, 62 * min(self.columns, len(self.panels)))
            options["title"] = alt.Title(
                _wrapped(self.title, 48 * min(self.columns, len(self.panels))), subtitle=lines, anchor="start",
                fontSize=14, subtitleFontSize=11, subtitleColor=light("muted"), subtitlePadding=5, offset=12,
            )  # fmt: skip
        joined = alt.concat(*self.panels, columns=self.columns, spacing=26, **options)
        return _configured(joined.resolve_legend(color="shared", strokeDash="shared", shape="shared"))

    def spec(self) -> str:
        """The page's chart as JSON: colours are the page's variables."""
        spec = self.chart().to_dict()
        spec.pop("$schema", None)  # an address, and the page needs none
        spec["usermeta"] = {"columns": self.columns, "width": self.width}
        return themed(json.dumps(spec, separators=(",", ":"), allow_nan=False)).replace("</", "<\\/")

    def inline_svg(self) -> str:
        """The SVG that stands in the page until scripts run: colours are the page's variables, ids its own."""
        return themed(_own_ids(vl_convert.vegalite_to_svg(self.chart().to_dict()), self.name))

    def file_svg(self) -> str:
        """The SVG that stands alone: light, titled, with the caption as its description."""
        return str(vl_convert.vegalite_to_svg(self.chart(titled=True).to_dict()))


def _configured(chart: alt.ConcatChart) -> alt.ConcatChart:
    ink, muted, grid = light("ink"), light("muted"), light("grid")
    return (
        chart.configure(background=light("paper"), font=FONT, padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=muted, titleColor=muted, titleFontWeight="normal", titleFontSize=11, labelFontSize=10.5,
            gridColor=grid, domainColor=grid, tickColor=grid, labelPadding=4, titlePadding=6,
        )
        .configure_title(color=ink, fontSize=12, fontWeight=600, anchor="start", offset=8)
        .configure_legend(
            orient="top", labelColor=ink, labelFontSize=11.5, titleColor=muted, titleFontSize=11, titleFontWeight="normal",
            titleOrient="left", columns=5, columnPadding=16, labelLimit=260, offset=14,
        )
        .configure_header(labelColor=ink)
    )  # fmt: skip


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
    name: str, title: str, caption: str, statistics: Sequence[str], panels: Sequence[alt.LayerChart | None],
    *, columns: int = 3, width: int = 345,
) -> Figure | None:  # fmt: skip
    """A figure of the panels that could be drawn; None if none could."""
    drawn = tuple(panel for panel in panels if panel is not None)
    if not drawn:
        return None
    return Figure(name, title, caption, tuple(statistics), drawn, columns, width)
