"""Draws a run in a terminal: its graph with rails, as histories of versions are drawn, and a timeline.

●─╮    split   done     12 ms  ━━╸
│ ●    count   done    1.2 s     ━━━━━━━━━━━
●─╯    join    done     3 ms               ╺
"""

from __future__ import annotations

import time
from typing import Any

from .runs import show_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .read_run import NodeInfo, WholeRun

MARKS = {"done": "●", "failed": "✗", "running": "◐", "cancelled": "○", "waiting": "·", "lost": "✗"}
MIN_BAR = 20


def draw(run: WholeRun, width: int, *, is_long: bool, has_values: bool) -> list[str]:
    """Return the lines of a picture of a run.

    Args:
        run: the run.
        width: columns of the terminal.
        is_long: with tracebacks.
        has_values: with what went in and came out.
    """
    lines = _head(run)
    if has_values:
        lines += [f"  {role}: {name} = {text}" for role, name, text in run.values]
    rows = [*_rows(run.nodes, "")]
    if rows:
        lines += ["", *_table(run, rows, width, has_values=has_values)]
    failures = [(node, each) for _, node in rows for each in node.failures]
    if failures:
        lines += ["", "Elements that failed:"]
        for node, each in failures:
            runs = "1 run" if each["attempts"] == 1 else f"{each['attempts']} runs"
            lines.append(f"  {node.path} element {each['element']}: {each['error']} ({runs})")
            if is_long:
                lines += [f"      {line}" for line in each["traceback"].rstrip().splitlines()]
        n_more = sum(node.n_failed - len(node.failures) for _, node in rows)
        if n_more:
            lines.append(f"  and {n_more:,} more (--failures)")
    if is_long:
        lines += _tracebacks(run, rows)
    return lines


def _head(run: WholeRun) -> list[str]:
    info = run.info
    end_s = time.time() if info.state == "running" else info.ended_s
    took = "" if end_s is None else f" after {show_duration(end_s - info.started_s)}"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.started_s))
    resumed = (
        f", resumed {info.n_resumes} times" if info.n_resumes > 1 else ", resumed" if info.n_resumes else ""
    )
    lines = [
        f"run {info.run_id}  {info.name}",
        f"{info.state}{took}; began {began} in process {info.pid}, {info.mode}{resumed}",
    ]
    if info.error:
        lines.append(info.error)
    if info.state in ("failed", "cancelled", "lost") and info.file is not None:
        lines.append(f"go on: grainwise run --resume {info.run_id[:8]}")
    return lines


def _tracebacks(run: WholeRun, rows: list[tuple[str, NodeInfo]]) -> list[str]:
    lines: list[str] = []
    for _, node in rows:
        for attempt in node.attempts:
            if attempt["traceback"] and not node.failures:
                lines += [
                    "",
                    f"{node.path} {node.name}, run {attempt['attempt']}:",
                    attempt["traceback"].rstrip(),
                ]
    if not lines and run.info.traceback:
        lines = ["", run.info.traceback.rstrip()]
    return lines


# -- the table -------------------------------------------------------------------------------------------


def _table(run: WholeRun, rows: list[tuple[str, NodeInfo]], width: int, *, has_values: bool) -> list[str]:
    cells = [
        (rails, node.path, node.name, node.facts["state"], _took(run, node), _notes(node))
        for rails, node in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(6)]
    room = width - sum(widths) - 12
    begin_s, end_s = _span(run, [node for _, node in rows])
    lines = []
    for (_, node), row in zip(rows, cells):
        texts = [
            text.rjust(size) if at == 4 else text.ljust(size)
            for at, (text, size) in enumerate(zip(row, widths))
        ]
        bar = _bar(run, node, begin_s, end_s, max(MIN_BAR, room))
        lines.append("  ".join([*texts[:5], bar.ljust(max(MIN_BAR, room)), texts[5]]).rstrip())
        if has_values:
            blank = " " * widths[0]
            lines += [f"{blank}    {role}: {name} = {text}" for role, name, text in node.values]
    return lines


def _span(run: WholeRun, nodes: list[NodeInfo]) -> tuple[float, float]:
    ends = [
        node.facts[key] for node in nodes for key in ("queued_s", "ended_s") if node.facts[key] is not None
    ]
    end_s = time.time() if run.info.state == "running" else run.info.ended_s
    ends += [] if end_s is None else [end_s]
    return run.info.started_s, max([*ends, run.info.started_s + 1e-6])


def _ended_s(run: WholeRun, node: NodeInfo) -> float | None:
    if node.facts["ended_s"] is not None:
        return float(node.facts["ended_s"])
    return time.time() if run.info.state == "running" and node.facts["state"] == "running" else None


def _took(run: WholeRun, node: NodeInfo) -> str:
    begin_s, end_s = node.facts["queued_s"], _ended_s(run, node)
    return "" if begin_s is None or end_s is None else show_duration(max(0.0, end_s - begin_s))


def _bar(run: WholeRun, node: NodeInfo, begin_s: float, end_s: float, width: int) -> str:
    """Return when a node waited (dotted) and ran (a line)."""
    queued_s, ended_s = node.facts["queued_s"], _ended_s(run, node)
    if queued_s is None:
        return ""
    started_s = next((each["started_s"] for each in node.attempts if each["started_s"]), None)
    started_s = max(queued_s, started_s or node.facts["started_s"] or queued_s)
    ended_s = end_s if ended_s is None else max(ended_s, started_s)
    scale = (width - 1) / (end_s - begin_s)
    waits, runs, ends = (round((at - begin_s) * scale) for at in (queued_s, started_s, ended_s))
    return " " * waits + "┄" * (runs - waits) + "━" * max(1, ends - runs)


def _notes(node: NodeInfo) -> str:
    facts = node.facts
    notes = []
    if facts["is_cached"]:
        notes.append("cached")
    if facts["session"] and facts["state"] == "done":
        notes.append("resumed")
    if len(node.attempts) > 1:
        notes.append(f"{len(node.attempts)} runs")
    if facts["kind"] == "map":
        notes.append(f"{node.n_done:,} of {facts['n_elements'] or 0:,} elements in {node.n_chunks:,} chunks")
        for number, word in (
            (node.n_cached, "cached"),
            (node.n_failed, "failed"),
            (node.n_retried, "retries"),
        ):
            if number:
                notes.append(f"{number:,} {word}")
    if facts["environment"]:
        notes.append(f"in {facts['environment']}")
    if facts["error"] and not node.failures and not node.inner:
        notes.append(facts["error"][:80])
    return ", ".join(notes)


# -- the graph -------------------------------------------------------------------------------------------


def _rows(nodes: list[NodeInfo], indent: str) -> Any:
    """Yield each node with the rails before it; those within a node follow it, further in."""
    followers: dict[str, int] = {}
    for node in nodes:
        for other in node.after:
            followers[other] = followers.get(other, 0) + 1
    lanes: list[str | None] = []
    for node in nodes:
        rails = _place(node, lanes, followers)
        yield indent + rails, node
        passing = "".join("│ " if lane is not None else "  " for lane in lanes)
        yield from _rows(node.inner, f"{indent}{passing}  ")


def _place(node: NodeInfo, lanes: list[str | None], followers: dict[str, int]) -> str:
    """Draw the rails of a node's line, and change the lanes to those below it."""
    before = list(lanes)
    joined = [at for at, lane in enumerate(lanes) if lane is not None and lane in node.after]
    for other in node.after:
        followers[other] -= 1
    ended = [at for at in joined if not followers[lanes[at] or ""]]
    for at in ended:
        lanes[at] = None
    if ended:
        own = ended[0]
    else:
        own = next((at for at, lane in enumerate(lanes) if lane is None), len(lanes))
        if own == len(lanes):
            lanes.append(None)
    lanes[own] = node.id if followers.get(node.id) else None
    span = range(min([own, *joined]), max([own, *joined]) + 1)
    text = ""
    for at in range(max(len(before), own + 1)):
        is_open = at < len(before) and before[at] is not None
        if at == own:
            mark = MARKS.get(node.facts["state"], "●")
        elif at in joined:
            mark = ("╰" if at < own else "╯") if at in ended else ("├" if at < own else "┤")
        elif is_open:
            mark = "┼" if at in span else "│"
        else:
            mark = "─" if at in span else " "
        text += mark + ("─" if at in span and at + 1 in span else " ")
    while lanes and lanes[-1] is None:
        lanes.pop()
    return text
