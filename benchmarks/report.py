"""The Markdown table and the JSON beside it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Goal, format_range, format_value
from benchmarks.row import Form
from benchmarks.systems import SYSTEMS

MET = {True: "yes", False: "**no**", None: "not measured"}


def write(path: Path, header: dict[str, Any], rows: list[Figures]) -> None:
    """Write `path` (Markdown) and the same with `.json`; called after each row, so nothing is lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_markdown(header, rows))
    path.with_suffix(".json").write_text(json.dumps(to_json(header, rows), indent=1) + "\n")


def to_markdown(header: dict[str, Any], rows: list[Figures]) -> str:
    lines = ["# Benchmark results", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(str(value))} |" for name, value in header.items()]
    lines += [
        "",
        "How to read this: `benchmarks/README.md`. Times are medians over alternating rounds; a ratio is the",
        "median over rounds of this form ÷ the row's reference in the same round (above 1: slower).",
        "",
        "## Goals",
        "",
        "| row | goal | measured | met |",
        "|---|---|---|---|",
    ]
    for figures in rows:
        lines += [_goal_line(figures.row.id, goal) for goal in figures.row.judge(figures)]
    for figures in rows:
        lines += _section(figures)
    return "\n".join(lines) + "\n"


def _goal_line(row_id: str, goal: Goal) -> str:
    return f"| {row_id} | {_cell(goal.text)} | {_cell(goal.measured)} | {MET[goal.is_met]} |"


def _section(figures: Figures) -> list[str]:
    row = figures.row
    lines = ["", f"## {row.id}: {row.title}", ""]
    if "row" in figures.notes:
        return [*lines, figures.notes["row"]]
    goals = row.judge(figures)
    lines += ["| goal | measured | met |", "|---|---|---|"]
    lines += [f"| {_cell(goal.text)} | {_cell(goal.measured)} | {MET[goal.is_met]} |" for goal in goals]
    for metric, unit in row.units.items():
        forms = [form for form in row.forms if figures.has(form.key, metric)]
        if forms:
            lines += ["", *_metric_table(figures, metric, unit, forms)]
    lines += _notes(figures)
    return [*lines, "", f"({figures.seconds:.0f} s in all)"]


def _metric_table(figures: Figures, metric: str, unit: str, forms: list[Form]) -> list[str]:
    row = figures.row
    has_reference = figures.has(row.reference, metric)
    lines = [
        f"**{metric}** (ratio to {row.reference})",
        "",
        "| system | form | kind | median | min - max | first | n | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for form in sorted(forms, key=lambda form: figures.median(form.key, metric)):
        values = figures.values(form.key, metric)
        ratio = f"{figures.ratio(form.key, row.reference, metric):.2f}" if has_reference else "-"
        is_ours = form.kind.startswith("ours")
        name = SYSTEMS[form.system][0]
        cells = [
            f"**{name}**" if is_ours else name,
            form.label,
            form.kind,
            format_value(statistics.median(values), unit),
            format_range(values, unit),
            format_value(values[0], unit),
            str(len(values)),
            ratio,
        ]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return lines


def _notes(figures: Figures) -> list[str]:
    """Forms without figures, those with the same reason on one line."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in figures.notes.items():
        # What holds for a whole system is said once.
        is_of_system = reason.startswith(("left out by --peers", "skipped: not installed"))
        keys = by_reason.setdefault(reason, [])
        shown = key.partition(":")[0] if is_of_system else key
        if shown not in keys:
            keys.append(shown)
    lines = [f"- {'; '.join(keys)}: {_cell(reason)}" for reason, keys in by_reason.items()]
    return ["", *lines] if lines else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def to_json(header: dict[str, Any], rows: list[Figures]) -> dict[str, Any]:
    """Header, goals and every single sample, in seconds or bytes, with its round."""
    return {
        "header": header,
        "rows": [
            {
                "id": figures.row.id,
                "title": figures.row.title,
                "reference": figures.row.reference,
                "workers": figures.n_workers,
                "goals": [vars(goal) for goal in figures.row.judge(figures)],
                "kinds": {form.key: form.kind for form in figures.row.forms},
                "samples": figures.samples,
                "notes": figures.notes,
                "seconds": round(figures.seconds, 1),
            }
            for figures in rows
        ],
    }
