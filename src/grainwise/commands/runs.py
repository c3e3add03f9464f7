"""`grainwise runs ls|show|rm`: what runs did."""

from __future__ import annotations

import json
import time
from typing import Any

import click

STATES = ("running", "done", "failed", "cancelled", "lost")


@click.group()
def runs() -> None:
    """See and forget what runs did."""


@runs.command("ls")
@click.option("--limit", type=click.IntRange(1), default=20, help="So many at most; 20 by default.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object per line.")
def list_them(limit: int, state: str | None, is_json: bool) -> None:
    """List runs, the latest first."""
    found = _or_error(lambda flow: flow.list_runs(None if state else limit))
    chosen = [run for run in found if state in (None, run.state)][:limit]
    if is_json:
        for run in chosen:
            click.echo(json.dumps(_facts_of(run)))
        return
    if not chosen:
        click.echo("There are no runs.")
        return
    rows = [("RUN", "NAME", "STATE", "STARTED", "TOOK", "")]
    for run in chosen:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_s))
        ended_s = time.time() if run.state == "running" else run.ended_s
        took = "" if ended_s is None else show_duration(ended_s - run.started_s)
        rows.append((run.run_id[:8], run.name, run.state, began, took, (run.error or "")[:60]))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


@runs.command("show")
@click.argument("run", default="last")
@click.option("--json", "is_json", is_flag=True, help="All that is known, as one JSON object.")
@click.option(
    "--failures", "n_failures", type=click.IntRange(0), default=20, help="So many failed elements; 20."
)
@click.option("--traceback", "is_long", is_flag=True, help="With the tracebacks.")
@click.option("--values", "has_values", is_flag=True, help="With what went into nodes and came out, cut.")
def show(run: str, is_json: bool, n_failures: int, is_long: bool, has_values: bool) -> None:
    """Draw the graph and the timeline of RUN: its id, the beginning of it, or last."""
    from .draw_run import draw
    from .read_run import read_run

    found = _or_error(lambda flow: read_run(run, n_failures))
    if is_json:
        click.echo(json.dumps({**_facts_of(found.info), **found.as_json()}))
        return
    import shutil

    width = shutil.get_terminal_size((100, 24)).columns
    click.echo("\n".join(draw(found, width, is_long=is_long, has_values=has_values)))


@runs.command("rm")
@click.argument("names", metavar="RUN...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that are not under way.")
@click.option("--older-than", metavar="DAYS", type=float, help="Those that began earlier.")
def remove(names: tuple[str, ...], is_all: bool, older_than: float | None) -> None:
    """Forget runs and their values."""
    if bool(names) + is_all + (older_than is not None) != 1:
        raise click.UsageError("expected runs, --all or --older-than DAYS")
    chosen = list(names)
    if not names:
        before_s = time.time() - (older_than or 0.0) * 86400.0
        found = _or_error(lambda flow: flow.list_runs())
        chosen = [run.run_id for run in found if run.state != "running" and run.started_s < before_s]
    from grainwise.flow.record.reading import remove_runs

    removed = _or_error(lambda flow: remove_runs(chosen))
    click.echo(f"forgot {len(removed)} run{'' if len(removed) == 1 else 's'}")


def _or_error(act: Any) -> Any:
    from grainwise import flow

    try:
        return act(flow)
    except flow.RecordError as error:
        raise click.ClickException(str(error)) from None


def _facts_of(run: Any) -> dict[str, Any]:
    names = ("run_id", "name", "kind", "state", "mode", "file", "entity", "started_s", "ended_s", "error",
             "n_resumes", "pid", "folder", "command")  # fmt: skip
    return {name: getattr(run, name) for name in names}


def show_duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 1.0:
        return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"
    if seconds < 120.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
