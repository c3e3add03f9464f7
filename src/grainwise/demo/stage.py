"""How the demo looks on a terminal: headings, code, bars that appear as runs end, the closing table.

Plain text at 100 columns that reads well without colour. Colour is added only on a terminal and never when
`NO_COLOR` is set; a terminal or file whose encoding has no box drawing gets ASCII.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from grainwise.demo.story import LEVEL, ratio, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from grainwise.demo.story import Times

WIDTH = 100
LABEL_WIDTH = 22
PLAIN_CELLS = 20  # how long the bar of plain Python is: the other two are drawn to its scale
MOST_CELLS = 50  # where a bar is cut off and ends in an arrow

_HEAD = ("story", "tasks", "plain Python", "Pool", "grainwise", "against plain", "against Pool", "results")
_BOLD, _DIM, _GREEN, _RED = "1", "2", "32", "31"


@dataclass(frozen=True)
class Glyphs:
    """The characters that are drawn with, in one of two sets."""

    rule: str
    side: str
    full: str
    parts: str  # a cell filled by 1/8, 2/8, ...; empty where cells cannot be split
    cut_off: str
    dot: str


BOXES = Glyphs("─", "│", "█", "▏▎▍▌▋▊▉", "▶", "·")
ASCII = Glyphs("-", "|", "#", "", ">", "-")
_IN_ASCII = str.maketrans({"×": "x", "±": "+-"})


@dataclass(frozen=True)
class Line:
    """One story's line of the closing table."""

    name: str
    n_tasks: int
    times: Times
    is_equal: bool


def bar(cells: float, glyphs: Glyphs, most: int = MOST_CELLS) -> str:
    """Draw a bar that many cells long, to an eighth of a cell, cut off with an arrow beyond `most`."""
    if cells > most:
        return glyphs.full * (most - 1) + glyphs.cut_off
    if not glyphs.parts:
        return glyphs.full * max(1, round(cells))
    whole, eighths = divmod(max(1, round(cells * 8)), 8)
    return glyphs.full * whole + (glyphs.parts[eighths - 1] if eighths else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], glyphs: Glyphs = BOXES) -> list[str]:
    """Lay out a table, the first column to the left and the others to the right, a rule below the head.

    Args:
        head: One title for each column.
        rows: The cells, as many in each row as there are titles.
        glyphs: What the rule is drawn with.

    Returns:
        The lines, without trailing spaces.
    """
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("   ".join([first, *others]).rstrip())
    lines.insert(1, glyphs.rule * max(len(line) for line in lines))
    return lines


def wants_colour(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether to colour: only on a terminal that can, and never when `NO_COLOR` is set and not empty."""
    return out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def glyphs_for(encoding: str | None) -> Glyphs:
    """Choose box drawing where the encoding has it, else ASCII; a stream without one takes any text."""
    try:
        "".join(vars(BOXES).values()).encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BOXES


class Stage:
    """Prints the demo to one text stream, each line as soon as it is known.

    Args:
        out: Where to print.
        environ: The environment variables that decide on colour.
    """

    def __init__(self, out: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self._out = out
        self._has_colour = wants_colour(out, environ)
        self._glyphs = glyphs_for(out.encoding)

    def opening(self, title: str, note: str) -> None:
        """Print the first lines of the demo."""
        self._line()
        self._line(self._painted(title, _BOLD))
        for line in self._wrapped(note, WIDTH):
            self._line(line)

    def heading(self, number: int, n_stories: int, name: str, title: str) -> None:
        """Print the heading of one story between two rules."""
        place = f" {number} of {n_stories} {self._glyphs.dot} {name} "
        self._line()
        self._line(self._painted(2 * self._glyphs.rule + place.ljust(WIDTH - 2, self._glyphs.rule), _DIM))
        self._line(self._painted(self._fitting(title), _BOLD))

    def fact(self, label: str, text: str) -> None:
        """Print wrapped text in the column behind a label, which may be empty."""
        lead = f"  {label.ljust(LABEL_WIDTH)}"
        first, *others = self._wrapped(text, WIDTH - len(lead))
        self._line(self._painted(lead, _DIM) + first)
        for line in others:
            self._line(" " * len(lead) + line)

    def code(self, lines: Sequence[str]) -> None:
        """Print source code, set off by a line at its side."""
        self._line()
        side = self._painted(self._glyphs.side, _DIM)
        for line in lines:
            self._line(f"  {side} {self._fitting(line)}".rstrip())
        self._line()

    def running(self, label: str) -> None:
        """Print the beginning of a form's line, so that the screen says what runs now."""
        self._out.write(f"  {label.ljust(LABEL_WIDTH)}")
        self._out.flush()

    def ran(self, taken_s: float, plain_s: float, is_ours: bool = False) -> None:
        """Print the rest of a form's line: its bar, to the scale of plain Python's, and its time."""
        drawn = bar(PLAIN_CELLS * taken_s / plain_s, self._glyphs).ljust(MOST_CELLS)
        clock = seconds(taken_s).rjust(9)
        self._line(f"{self._painted(drawn, _GREEN if is_ours else _DIM)}{self._painted(clock, _BOLD)}")

    def equality(self, is_equal: bool) -> None:
        """Print whether the three results are equal."""
        self._line()
        if is_equal:
            self.fact("checked", "all three results are equal")
        else:
            self.fact("checked", self._painted("THE RESULTS DIFFER: please report this", _RED))

    def closing(self, lines: Sequence[Line], total_s: float) -> None:
        """Print the table of all stories and how long the demo took."""
        self._line()
        self._line(self._painted(self._glyphs.rule * WIDTH, _DIM))
        laid_out = table(_HEAD, [self._cells(line) for line in lines], self._glyphs)
        for number, text in enumerate(laid_out):
            self._line("  " + self._painted(text, _BOLD if number == 0 else _DIM if number == 1 else ""))
        self._line()
        n_behind = sum(line.times.grainwise_s > LEVEL * line.times.plain_s for line in lines)
        behind = f" Plain Python won {n_behind} of {len(lines)}." if n_behind else ""
        note = f'"against": how many times as fast as that form grainwise is.{behind}'
        for text in self._wrapped(f"{note} The whole took {seconds(total_s)}.", WIDTH - 2):
            self._line(f"  {text}")

    def _cells(self, line: Line) -> list[str]:
        times = line.times
        return [
            line.name,
            f"{line.n_tasks:,}",
            seconds(times.plain_s),
            seconds(times.pool_s),
            seconds(times.grainwise_s),
            self._fitting(ratio(times.plain_s, times.grainwise_s)),
            self._fitting(ratio(times.pool_s, times.grainwise_s)),
            "equal" if line.is_equal else "DIFFER",
        ]

    def _wrapped(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(self._fitting(text), width)

    def _painted(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._has_colour and code else text

    def _fitting(self, text: str) -> str:
        """Rewrite what the stream's encoding cannot carry."""
        if self._glyphs is BOXES:
            return text
        return text.translate(_IN_ASCII).encode("ascii", "replace").decode()

    def _line(self, text: str = "") -> None:
        self._out.write(text + "\n")
        self._out.flush()
