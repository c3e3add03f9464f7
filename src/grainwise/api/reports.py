"""`report` and `timeline`: what the session did."""

from __future__ import annotations

from ..watch import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Any

    from ..watch.events import Record
    from ..watch.report import Report


def report() -> Report:
    """Return what the running session has done so far, or the last one did: numbers, and words when printed.

        print(grainwise.report())

    Says how many tasks ran in how many batches, how busy the CPUs were, what was not copied, and at most
    three findings about what only you can change, each with its fix. In a notebook it is a table. Attributes
    end in their unit: `run_s`, `saved_bytes`, `overhead_share`, ...; `functions` has totals by function,
    `findings` the findings.

    Costs nothing before it is called: the engine takes these notes anyway, a few microseconds for each batch.
    The next `init` begins a new record. With `GRAINWISE_REPORT=1` in the environment, the report of each
    session is printed on standard error when it ends.

    Raises:
        RuntimeError: there has been no session yet, or this is a worker.
    """
    from ..config import available_cpus
    from ..watch.report import Report

    return Report(_record("report()"), available_cpus())


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """Write what happened when, for https://ui.perfetto.dev (or chrome://tracing) to draw.

    Batches on their workers with function and number of tasks, blocked tasks, tasks taken back, crashes, and
    the waits of the program. Times are microseconds since the session began. The last 100,000 events are
    kept; `report().num_dropped_events` says how many older ones are missing.

    Args:
        filename: the file to write, as JSON; None returns the events instead.

    Returns:
        The list of events in Chrome's trace format if there is no `filename`.

    Raises:
        RuntimeError: there has been no session yet, or this is a worker.
        OSError: the file can't be written.
    """
    import threading

    from ..watch.timeline import trace

    traced = trace(_record("timeline()"), threading.main_thread().ident or 0)
    if filename is None:
        return traced
    import json

    with open(filename, "w", encoding="utf-8") as file:
        json.dump(traced, file)
    return None


def print_report() -> None:
    """Print the report of the session that has ended on standard error, if it ran anything."""
    import sys

    told = report()
    if told.num_tasks and sys.stderr is not None:
        try:
            sys.stderr.write(f"{told}\n")
        except (OSError, ValueError):
            pass  # nobody reads it


def _record(what: str) -> Record:
    record = events.last()
    if record is None:
        raise RuntimeError(
            f"{what} was called before any session - expected one that runs or has ended, in the process "
            f"that called init() - run a task first"
        )
    return record
