"""A report as text for terminals (80 columns, some fifteen lines) and as HTML for notebooks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .events import FunctionLog
    from .report import Report

WIDTH = 80
MAX_FUNCTIONS = 4
NAME_WIDTH = 34


def text(report: Report) -> str:
    """Return a report as plain text without a newline at the end."""
    lines = [line[2:] for line in _wrapped([("grainwise: ", headline(report))])]
    lines += _wrapped((f"{label:<10}", words) for label, words in facts(report))
    rows = [_row(report, log) for log in report.functions[:MAX_FUNCTIONS]]
    if rows:
        lines.append(f"  {'function':<{NAME_WIDTH}}{'tasks':>13}{'a task':>10}{'in all':>10}{'share':>7}")
        lines += [
            f"  {_cut(row[0], NAME_WIDTH - 1):<{NAME_WIDTH}}{row[1]:>13}{row[2]:>10}{row[3]:>10}{row[4]:>7}"
            for row in rows
        ]
    if len(report.functions) > MAX_FUNCTIONS:
        lines.append(f"  and {len(report.functions) - MAX_FUNCTIONS} more")
    for number, finding in enumerate(report.findings, 1):
        lines += _wrapped([(f"{number}. ", finding.text), ("   ", finding.fix)])
    return "\n".join(lines)


def html(report: Report) -> str:
    """Return a report as a piece of HTML that needs nothing from elsewhere."""
    from html import escape

    def cells(row: tuple[str, ...], tag: str) -> str:
        left = ' style="text-align:left"'
        return "".join(f"<{tag}{'' if i else left}>{escape(cell)}</{tag}>" for i, cell in enumerate(row))

    parts = [f"<div><p><strong>{escape(headline(report))}</strong></p><table>"]
    for label, words in facts(report):
        left = ' style="text-align:left"'
        parts.append(f"<tr><th{left}>{escape(label)}</th><td{left}>{escape(words)}</td></tr>")
    parts.append("</table>")
    if report.functions:
        parts.append(f"<table><tr>{cells(('function', 'tasks', 'a task', 'in all', 'share'), 'th')}</tr>")
        for log in report.functions[:MAX_FUNCTIONS]:
            parts.append(f"<tr>{cells(_row(report, log), 'td')}</tr>")
        parts.append("</table>")
    if report.findings:
        parts.append("<ol>")
        for finding in report.findings:
            parts.append(f"<li>{escape(finding.text)}<br><em>{escape(finding.fix)}</em></li>")
        parts.append("</ol>")
    return "".join([*parts, "</div>"])


def headline(report: Report) -> str:
    """Return what was done, in one sentence."""
    if not report.num_tasks:
        return "no task has come back"
    if not report.num_batches:
        return f"{_number(report.num_tasks, 'task')} ran"
    mean = ""
    if report.num_tasks > report.num_batches > 0:
        per_batch = report.tasks_per_batch
        each = f"{per_batch:,.0f}" if per_batch >= 10 else f"{per_batch:.1f}"
        mean = f" of about {seconds(report.grain_s)} ({each} tasks each)"
    return f"{_number(report.num_tasks, 'task')} ran in {_number(report.num_batches, 'batch')}{mean}"


def facts(report: Report) -> list[tuple[str, str]]:
    """Return the lines between the headline and the functions: (label, words)."""
    lines = []
    if report.num_tasks:
        cpus = "1 CPU was" if report.num_cpus == 1 else f"{report.num_cpus:g} CPUs were"
        busy = f"{cpus} {share(report.utilization)} busy with tasks in the {seconds(report.active_s)}"
        overhead = share(report.overhead_share)
        lines.append(("time", f"{busy} that work was under way; overhead {overhead}"))
    if report.saved_bytes:
        stored, shared = size(report.deduplicated_bytes), size(report.shared_bytes)
        words = (
            f"{size(report.saved_bytes)} not copied: {stored} recognised as stored, {shared} read in place"
        )
        lines.append(("memory", words))
    also = [
        words
        for num, words in (
            (report.num_taken_back, f"{count(report.num_taken_back)} taken back for idle workers"),
            (report.num_in_place, f"{count(report.num_in_place)} run in place by the task that waited"),
            (report.num_retries, _number(report.num_retries, "retry")),
            (report.num_crashes, _number(report.num_crashes, "crash") + " of workers"),
            (report.num_failed, f"{count(report.num_failed)} failed"),
            (report.spilled_bytes, f"{size(report.spilled_bytes)} spilled to disk"),
            (report.num_dropped_events, f"{count(report.num_dropped_events)} old events not kept"),
        )
        if num
    ]
    if also:
        lines.append(("also", ", ".join(also)))
    return lines


def _row(report: Report, log: FunctionLog) -> tuple[str, str, str, str, str]:
    return (
        log.name,
        count(log.num_tasks),
        seconds(log.run_s / log.num_tasks),
        seconds(log.run_s),
        share(log.run_s / report.run_s if report.run_s else 0.0),
    )


def _wrapped(items: Iterable[tuple[str, str]]) -> list[str]:
    """Return labelled paragraphs as indented lines of at most `WIDTH` characters."""
    from textwrap import wrap

    lines: list[str] = []
    for label, words in items:
        indent = "  " + " " * len(label)
        lines += wrap(words, WIDTH, initial_indent=f"  {label}", subsequent_indent=indent)
    return lines


def _number(num: int, word: str) -> str:
    if num == 1:
        return f"1 {word}"
    plural = {"batch": "batches", "crash": "crashes", "retry": "retries"}.get(word, word + "s")
    return f"{count(num)} {plural}"


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


# -- quantities ------------------------------------------------------------------------------------------


def count(num: int) -> str:
    """Return a number with commas: 100,000."""
    return f"{num:,}"


def share(part: float) -> str:
    """Return a share between 0 and 1 as percent: 97 %."""
    return f"{100 * part:.0f} %" if part >= 0.0995 or part <= 0 else f"{100 * part:.1f} %"


def seconds(duration_s: float) -> str:
    """Return a duration with two or three digits and its unit: 12 µs, 5.1 ms, 1.25 s, 3 min."""
    if duration_s >= 100:
        return f"{duration_s / 60:.1f} min"
    for unit_s, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if duration_s >= 0.9995 * unit_s:
            return f"{_digits(duration_s / unit_s)} {unit}"
    return f"{duration_s * 1e9:.0f} ns"


def size(nbytes: int) -> str:
    """Return a size in decimal units: 300 MB, 1.8 GB."""
    for unit_bytes, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if nbytes >= 0.9995 * unit_bytes:
            return f"{_digits(nbytes / unit_bytes)} {unit}"
    return f"{nbytes} bytes"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
