"""The events of a session in Chrome's trace format, which https://ui.perfetto.dev opens.

| row | what |
|---|---|
| program / thread | `get` and `wait` while they blocked; in between, how much was submitted |
| workers / worker n | batches with function and number of tasks; blocked tasks; tasks taken back; crashes |
| tasks under way | a counter |

Times are microseconds since the session began. A slice inside another one runs on top of it: a batch that was
run in place by a task that waited for it.
"""

from __future__ import annotations

from .events import BATCH, BLOCKED, CRASH, TAKEN, WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .events import Record

    Row = tuple[float, ...]
    Event = dict[str, Any]

PROGRAM = 1
WORKERS = 2


def trace(record: Record, main_thread: int = 0) -> list[Event]:
    """Return the events of a record, in order of time.

    Args:
        record: what was noted.
        main_thread: the identity of the program's main thread, whose row comes first.
    """
    rows = record.ring.rows()
    names = list(record.names)
    start_s = record.begin_s
    workers = _numbered(int(row[3]) for row in sorted(rows) if row[0] != WAIT)
    threads = _numbered([main_thread, *(int(row[3]) for row in rows if row[0] == WAIT)])

    def at(time_s: float) -> float:
        return round((time_s - start_s) * 1e6, 3)

    def slice_(row: Row, name: str, category: str, pid: int, tid: int, **args: object) -> Event:
        begin = at(row[1])
        duration = max(0.0, round(at(row[2]) - begin, 3))
        return {
            "name": name, "cat": category, "ph": "X", "ts": begin, "dur": duration, "pid": pid, "tid": tid,
            "args": args,
        }  # fmt: skip

    def instant(row: Row, name: str, **args: object) -> Event:
        return {
            "name": name, "cat": "worker", "ph": "i", "s": "t", "ts": at(row[1]), "pid": WORKERS,
            "tid": workers[int(row[3])], "args": args,
        }  # fmt: skip

    def name_of(row: Row) -> str:
        return names[int(row[4])]

    events: list[Event] = []
    for row in rows:
        kind, where = row[0], int(row[3])
        if kind == BATCH:
            since_sent, run = round(at(row[1]) - at(row[6]), 3), round(row[7] * 1e6, 3)
            args = {"tasks": int(row[5]), "run_us": run, "from_sent_us": since_sent}
            events.append(slice_(row, name_of(row), "batch", WORKERS, workers[where], **args))
        elif kind == BLOCKED:
            events.append(slice_(row, f"{name_of(row)} waits", "blocked", WORKERS, workers[where]))
        elif kind == TAKEN:
            events.append(instant(row, "taken back", tasks=int(row[5])))
        elif kind == CRASH:
            events.append(instant(row, "worker died"))
        elif kind == WAIT:
            words = "wait for the only task" if row[5] else "wait"
            events.append(slice_(row, words, "program", PROGRAM, threads[where]))
    events += _submissions(rows, main_thread, at)
    events += _under_way(rows, at)
    events.sort(key=lambda event: (event["ts"], -event.get("dur", 0.0)))
    return [*_labels(workers, threads), *events]


def _submissions(rows: list[Row], main_thread: int, at: Any) -> list[Event]:
    """Return a slice for each stretch of the main thread, between waits, in which batches went out."""
    waits = sorted((row[1], row[2]) for row in rows if row[0] == WAIT and int(row[3]) == main_thread)
    sends = sorted((row[6], row[5]) for row in rows if row[0] == BATCH)
    stretches: list[tuple[float, float]] = []
    begin_s = 0.0
    for wait_begin_s, wait_end_s in waits:
        stretches.append((begin_s, wait_begin_s))
        begin_s = wait_end_s
    stretches.append((begin_s, float("inf")))
    events = []
    index = 0
    for begin_s, end_s in stretches:
        while index < len(sends) and sends[index][0] < begin_s:
            index += 1  # sent while it waited
        first = index
        while index < len(sends) and sends[index][0] < end_s:
            index += 1
        if index > first:
            begin = at(sends[first][0])
            last_s = sends[index - 1][0]
            tasks = int(sum(tasks for _, tasks in sends[first:index]))
            events.append(
                {
                    "name": "submit", "cat": "program", "ph": "X", "ts": begin, "pid": PROGRAM, "tid": 1,
                    "dur": round(at(last_s) - begin, 3), "args": {"batches": index - first, "tasks": tasks},
                }
            )  # fmt: skip
    return events


def _under_way(rows: list[Row], at: Any) -> list[Event]:
    """Return the counter of tasks that were sent and had not come back, by whole batches."""
    steps: list[tuple[float, int]] = []
    for row in rows:
        if row[0] == BATCH:
            steps += [(row[6], int(row[5])), (row[2], -int(row[5]))]
    steps.sort()
    total = 0
    events = []
    for time_s, change in steps:
        total += change
        events.append(
            {
                "name": "tasks under way", "ph": "C", "ts": at(time_s), "pid": PROGRAM, "tid": 0,
                "args": {"tasks": total},
            }
        )  # fmt: skip
    return events


def _labels(workers: dict[int, int], threads: dict[int, int]) -> list[Event]:
    def label(kind: str, pid: int, tid: int, name: str) -> Event:
        return {"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": {"name": name}}

    return [
        label("process_name", PROGRAM, 0, "program"),
        label("process_name", WORKERS, 0, "workers"),
        *(
            label("thread_name", PROGRAM, n, "main thread" if n == 1 else f"thread {n}")
            for n in threads.values()
        ),
        *(label("thread_name", WORKERS, n, f"worker {n}") for n in workers.values()),
    ]


def _numbered(identities: Any) -> dict[int, int]:
    """Return 1, 2, ... for identities in the order in which they first appear."""
    numbers: dict[int, int] = {}
    for identity in identities:
        numbers.setdefault(identity, len(numbers) + 1)
    return numbers
