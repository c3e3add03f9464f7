"""Small pictures by hand: lines over two axes, and bars on rows, as SVG text without any library.

Made for a light background, readable at 700 pixels: few colours (Okabe and Ito's, told apart by everybody),
each line named at its end rather than in a legend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 470
LEFT, RIGHT, TOP, BOTTOM = 76, 210, 78, 62
INK, FAINT, GRID = "#1f2933", "#5f6c7b", "#e3e8ee"
BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a94a0",
)  # fmt: skip
LABEL_GAP = 17.0
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Axis:
    """One axis from `low` to `high`, with (value, label) ticks."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Line:
    """A named line through points; a bold one is what the picture is about."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    is_bold: bool = False
    is_dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar on a row, from one time to another."""

    row: int
    begin: float
    end: float
    color: str
    text: str = ""
    hint: str = ""


@dataclass
class Picture:
    """A title, what was measured, two axes, and what is drawn between them.

    Attributes:
        rows: Names of the rows of bars, from the top; the y axis is not shown then.
        key: (color, name) of kinds of bars, shown above the plot.
    """

    title: str
    subtitle: str
    x: Axis
    y: Axis
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    rows: Sequence[str] = ()
    key: Sequence[tuple[str, str]] = ()
    width: int = WIDTH
    height: int = HEIGHT

    def to_svg(self) -> str:
        """Return the whole picture."""
        parts = [
            self._opening(),
            f"<title>{escape(self.title)}</title>",
            f"<rect width='{self.width}' height='{self.height}' fill='#ffffff'/>",
            text(18, 30, self.title, 18, INK, weight=600),
            text(18, 52, self.subtitle, 12.5, FAINT),
            *self._axes(),
            *self._bars(),
            *self._lines(),
            *self._key(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _opening(self) -> str:
        size = f"viewBox='0 0 {self.width} {self.height}' width='{self.width}' height='{self.height}'"
        return f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' {FONT}>"

    @property
    def _right(self) -> float:
        """Pixels right of the plot: lines have their names there."""
        return RIGHT if self.lines else 24

    def at_x(self, value: float) -> float:
        return LEFT + self.x.share(value) * (self.width - LEFT - self._right)

    def at_y(self, value: float) -> float:
        return self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)

    def _axes(self) -> list[str]:
        low, high = self.height - BOTTOM, TOP
        left, right = LEFT, self.width - self._right
        parts = []
        for value, label in self.x.ticks:
            x = self.at_x(value)
            parts.append(line(x, high, x, low, GRID))
            parts.append(text(x, low + 20, label, 12.5, FAINT, anchor="middle"))
        if not self.rows:
            for value, label in self.y.ticks:
                y = self.at_y(value)
                parts.append(line(left, y, right, y, GRID))
                parts.append(text(left - 9, y + 4, label, 12.5, FAINT, anchor="end"))
            middle = (low + high) / 2
            parts.append(
                f"<g transform='rotate(-90 20 {middle:.1f})'>"
                + text(20, middle, self.y.title, 13, INK, anchor="middle")
                + "</g>"
            )
        parts.append(line(left, low, right, low, FAINT))
        parts.append(text((left + right) / 2, low + 44, self.x.title, 13, INK, anchor="middle"))
        return parts

    def _lines(self) -> list[str]:
        parts = []
        ends = {i: self.at_y(each.points[-1][1]) for i, each in enumerate(self.lines) if each.points}
        places = spread(ends, LABEL_GAP, TOP, self.height - BOTTOM)
        for i, each in sorted(enumerate(self.lines), key=lambda item: item[1].is_bold):
            if not each.points:
                continue
            spots = [(self.at_x(x), self.at_y(y)) for x, y in each.points]
            path = " ".join(f"{'L' if n else 'M'}{x:.1f},{y:.1f}" for n, (x, y) in enumerate(spots))
            dash = " stroke-dasharray='5 4'" if each.is_dashed else ""
            thick = 3.2 if each.is_bold else 1.8
            parts.append(
                f"<path d='{path}' fill='none' stroke='{each.color}' stroke-width='{thick}' "
                f"stroke-linejoin='round'{dash}/>"
            )
            radius = 4.2 if each.is_bold else 2.8
            if not each.is_dashed:
                parts += [
                    f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius}' fill='{each.color}'/>" for x, y in spots
                ]
            x, y = spots[-1]
            label_x = self.width - self._right + 16
            parts.append(line(x + 5, y, label_x - 3, places[i], each.color, 0.8))
            weight = 700 if each.is_bold else 400
            parts.append(text(label_x, places[i] + 4, each.name, 12.5, each.color, weight=weight))
        return parts

    def _bars(self) -> list[str]:
        if not self.rows:
            return []
        step = (self.height - TOP - BOTTOM) / len(self.rows)
        thick = step * 0.74
        parts = [
            text(LEFT - 9, TOP + (i + 0.5) * step + 4, name, 12.5, FAINT, anchor="end")
            for i, name in enumerate(self.rows)
        ]
        for bar in self.bars:
            begin, end = self.at_x(max(bar.begin, self.x.low)), self.at_x(min(bar.end, self.x.high))
            y = TOP + bar.row * step + (step - thick) / 2
            hint = f"<title>{escape(bar.hint)}</title>" if bar.hint else ""
            parts.append(
                f"<rect x='{begin:.1f}' y='{y:.1f}' width='{max(0.6, end - begin - 0.8):.1f}' "
                f"height='{thick:.1f}' rx='2' fill='{bar.color}'>{hint}</rect>"
            )
            if bar.text and end - begin > 7.5 * len(bar.text) + 4:
                middle = (begin + end) / 2
                parts.append(text(middle, y + thick / 2 + 4, bar.text, 12, "#ffffff", anchor="middle"))
        return parts

    def _key(self) -> list[str]:
        parts = []
        x = float(LEFT)
        for color, name in self.key:
            parts.append(f"<rect x='{x:.1f}' y='{TOP - 16}' width='11' height='11' rx='2' fill='{color}'/>")
            parts.append(text(x + 16, TOP - 6.5, name, 12, FAINT))
            x += 34 + 6.4 * len(name)
        return parts


def text(
    x: float, y: float, words: str, size: float, color: str, *, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size:g}' fill='{color}' text-anchor='{anchor}' "
        f"font-weight='{weight}'>{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, color: str, thick: float = 1.0) -> str:
    return (
        f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{color}' "
        f"stroke-width='{thick:g}'/>"
    )


def spread(places: dict[int, float], gap: float, low: float, high: float) -> dict[int, float]:
    """Move labels apart until neighbours are `gap` pixels from each other, within `low` and `high`."""
    order = sorted(places, key=lambda i: places[i])
    spots = [places[i] for i in order]
    for n in range(1, len(spots)):
        spots[n] = max(spots[n], spots[n - 1] + gap)
    limit = high
    for n in range(len(spots) - 1, -1, -1):
        spots[n] = min(spots[n], limit)
        limit = spots[n] - gap
    if spots and spots[0] < low:
        spots = [low + n * gap for n in range(len(spots))]
    return dict(zip(order, spots, strict=True))
