"""The numbers of a session, put together from what was noted."""

from __future__ import annotations

from . import show
from .findings import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .events import Capture, FunctionLog, Record
    from .findings import Finding


class Report:
    """What a session did, in numbers and in words: `print` it, or leave it as a notebook cell's last line.

    Times are in seconds, sizes in bytes, shares between 0 and 1.

    Attributes:
        session_s: from the start of the engine to its end, or to now.
        active_s: how much of that some task was under way (sent to a worker and not back).
        wait_s: how long the program waited in `get` and `wait`, all threads together.
        num_cpus: CPUs that the session could use; available_cpus: those that it might have.
        num_workers: worker processes that ran something.
        num_tasks: results that came back, errors included, and tasks run in place.
        num_in_place: of those, the children that a task which waited for them ran itself, without a message.
        num_batches: messages that carried the others.
        tasks_per_batch, grain_s: the mean batch: its tasks, and how long they ran.
        run_s: time that workers spent in tasks, reading arguments and writing results included.
        pack_s: the part of `run_s` that went into writing large results, 64 KB and more.
        occupied_s: time in which a worker had something to run: from when a batch was there and those before
            it had ended until its last result was reported; waits for other tasks are left out.
        overhead_share: `1 - (run_s - pack_s) / occupied_s`: what workers with something to run spent on
            waking up, reading and claiming tasks, and passing results on. Waiting for work is not in it: that
            is in `utilization`.
        utilization: `run_s / (num_cpus * active_s)`: the share of the CPUs' time that tasks filled while
            something was under way. The start of worker processes counts as time that was not filled.
        deduplicated_bytes: arguments that were recognised as stored already, and so not copied.
        shared_bytes: large objects that were read in place, each time that a task was given or returned one.
        saved_bytes: both together: what a pool of processes would have copied once more.
        spilled_bytes: written to disk for want of room.
        num_taken_back: tasks taken back from a busy worker for one that had nothing to do.
        num_retries, num_crashes: tasks run once more; workers that died at work.
        num_failed: tasks that ended in an error.
        num_dropped_events: single events too old to be kept: missing in the timeline, not in these totals.
        functions: totals by function, the longest first.
        findings: what only the user can change, at most three, the most costly first.
    """

    def __init__(self, record: Record, available_cpus: int) -> None:
        now = record.clock() if record.end_s is None else record.end_s
        totals = record.read_totals()
        self.session_s = now - record.begin_s
        self.active_s = record.active_until(now)
        self.wait_s = record.wait_s
        self.num_cpus = record.num_cpus
        self.available_cpus = available_cpus
        self.num_workers = len(record.workers)
        self.num_in_place = record.num_own
        self.num_batches = sum(log.num_batches for log in list(record.functions.values()))
        self.functions: list[FunctionLog] = sorted(
            (log for log in list(record.functions.values()) if log.num_tasks),
            key=lambda log: log.run_s,
            reverse=True,
        )
        num_in_batches = sum(log.num_tasks for log in self.functions)
        self.num_tasks = num_in_batches + record.num_own
        in_batches_s = sum(log.run_s for log in self.functions)
        self.run_s = in_batches_s + record.own_s
        self.pack_s = sum(log.pack_s for log in self.functions)
        self.tasks_per_batch = num_in_batches / max(1, self.num_batches)
        self.grain_s = in_batches_s / max(1, self.num_batches)
        self.occupied_s = max(record.occupied_s, self.run_s)
        self.overhead_share = _share(self.occupied_s - self.run_s + self.pack_s, self.occupied_s)
        self.utilization = _share(self.run_s, self.num_cpus * self.active_s)
        self.deduplicated_bytes = totals.get("saved_bytes", 0)
        self.shared_bytes = totals.get("lent_bytes", 0) + record.returned_bytes
        self.saved_bytes = self.deduplicated_bytes + self.shared_bytes
        self.spilled_bytes = totals.get("spilled_bytes", 0)
        self.capacity_bytes = totals.get("capacity_bytes", 0)
        self.num_taken_back = record.num_taken_back
        self.num_retries = record.num_retries
        self.num_crashes = record.num_crashes
        self.num_failed = record.num_failed
        self.num_lone_waits = record.num_lone_waits
        self.lone_wait_s = record.lone_wait_s
        self.num_dropped_events = record.ring.num_dropped
        self.exports: dict[tuple[str, str], list[float]] = dict(record.exports)
        self.codes = dict(record.codes)
        self.captures: list[Capture] = list(record.captures)
        self.findings: list[Finding] = find(self)

    def __str__(self) -> str:
        return show.text(self)

    def __repr__(self) -> str:
        return f"<Report: {self.num_tasks:,} tasks in {self.num_batches:,} batches>"

    def _repr_html_(self) -> str:
        return show.html(self)


Report.__module__ = "grainwise"


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
