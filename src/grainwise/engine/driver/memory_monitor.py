"""Who is killed when memory runs short: a worker, chosen here before the kernel chooses; never the driver.

Two things are looked at while work is outstanding, by the backstop:

* What a process takes that was started with `memory=`. Beyond that it is killed, and what it runs fails with
  `OutOfMemoryError`: it would come to the same end again. Counted is what is its own (`RssAnon`); objects in
  shared memory are the store's.
* What the machine, or the control group, has in use. Beyond the threshold the newest task that may be run
  again is killed, and runs again a while later; if there is none, the newest of the others, which fails. A
  task that is alone fails as well: there is nobody left to make room for it. One process at a time, until it
  is gone.

Runs that end like that are not charged to `max_retries`, but to `task_oom_retries`. Workers also tell the
kernel to take them first (`processes.process.die_before_others`), should memory go faster than we look.
"""

from __future__ import annotations

import heapq
import itertools
import os
from time import monotonic

from ...errors import OutOfMemoryError
from ...errors import size_text as shown
from ..wire import control
from .crash import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from .batches import SentBatch
    from .engine import Engine

LIMITS_LOOK_S = 0.02
"""Processes with a limit are looked at so often: a task fills gigabytes in a second."""
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
"""A task that was killed runs again after so long, twice as long each time."""
NUM_SHOWN = 5
CGROUP = "/sys/fs/cgroup"


class MemoryMonitor:
    """See the module docstring. Used under the engine's turn."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_limits = 0.0
        self._next_machine = 0.0
        self._later: list[tuple[float, int, ObjectRef[Any]]] = []
        self._numbers = itertools.count()
        self._num_killed: dict[ObjectRef[Any], int] = {}

    def has_work(self) -> bool:
        """Say whether a task waits to be run again."""
        return bool(self._later)

    def look(self) -> None:
        """Kill whom it must be, and let run again what has waited long enough; called all the time."""
        now = monotonic()
        while self._later and self._later[0][0] <= now:
            self._engine.dispatcher.queue_first([heapq.heappop(self._later)[2]])
        if now >= self._next_limits:
            self._next_limits = now + LIMITS_LOOK_S
            for handle in list(self._engine.pool.workers.values()):
                if handle.limit_bytes and handle.pid and handle.verdict is None:
                    used_bytes = private_bytes(handle.pid)
                    if used_bytes > handle.limit_bytes:
                        self._kill_over_limit(handle, used_bytes)
        refresh_s = self._engine.settings.memory_monitor_refresh_s
        if refresh_s and now >= self._next_machine:
            self._next_machine = now + refresh_s
            used_bytes, total_bytes = read_memory()
            if used_bytes > self._engine.settings.memory_usage_threshold * total_bytes:
                self._make_room(used_bytes, total_bytes)

    # -- whom ------------------------------------------------------------------------------------------

    def _kill_over_limit(self, handle: WorkerHandle, used_bytes: int) -> None:
        name, _ = _running(handle)
        error = OutOfMemoryError(
            task_name=name, pid=handle.pid, used_bytes=used_bytes, limit_bytes=handle.limit_bytes,
            detail=self._describe(*read_memory()),
        )  # fmt: skip
        self._kill(handle, Verdict(error))

    def _make_room(self, used_bytes: int, total_bytes: int) -> None:
        """Kill the newest task that may be run again, else the newest of all."""
        handles = [handle for handle in self._engine.pool.workers.values() if handle.pid]
        if any(handle.verdict is not None for handle in handles):
            return  # it is on its way out: look again when it is gone
        rated = [(rank, handle) for handle in handles if (rank := _rank(handle)) is not None]
        if not rated:
            return
        (is_retriable, _), handle = max(rated, key=lambda each: each[0])
        name, item = _running(handle)
        error = OutOfMemoryError(
            task_name=name, pid=handle.pid, used_bytes=private_bytes(handle.pid),
            machine_used_bytes=used_bytes, machine_total_bytes=total_bytes,
            threshold=self._engine.settings.memory_usage_threshold,
            detail=self._describe(used_bytes, total_bytes),
        )  # fmt: skip
        num_running = sum(1 for _, each in rated if each.batches)
        again_s = self._delay_s(handle, item) if is_retriable and num_running > 1 else None
        self._kill(handle, Verdict(error, item, again_s))

    def _delay_s(self, handle: WorkerHandle, item: tuple[int, int] | None) -> float | None:
        """Return after how long the running task may be run again, None if it may not."""
        batch = handle.batches.get(item[0]) if item is not None else None
        if batch is None or item is None or batch.run is not None or handle.actor is not None:
            return None
        most = self._engine.settings.task_oom_retries
        num_killed = self._num_killed.get(batch.refs[item[1]], 0)
        return None if 0 <= most <= num_killed else min(FIRST_DELAY_S * 2**num_killed, MAX_DELAY_S)

    def _kill(self, handle: WorkerHandle, verdict: Verdict) -> None:
        handle.verdict = verdict
        self._engine.pool.kill(handle)

    # -- again -----------------------------------------------------------------------------------------

    def put_off(self, ref: ObjectRef[Any], delay_s: float) -> None:
        """Run a task that was killed again after a while."""
        if ref not in self._num_killed:
            self._engine.results.watch(ref, self._forget)
        self._num_killed[ref] = self._num_killed.get(ref, 0) + 1
        self._engine.counters.retries += 1
        self._engine.record.retried(ref._state.name)
        heapq.heappush(self._later, (monotonic() + delay_s, next(self._numbers), ref))

    def _forget(self, ref: ObjectRef[Any]) -> None:
        self._num_killed.pop(ref, None)

    def fail_all(self, error: BaseException) -> None:
        """Fail what waits to be run again."""
        later, self._later = self._later, []
        for _, _, ref in later:
            self._engine.results.fail(ref, error)

    # -- messages --------------------------------------------------------------------------------------

    def _describe(self, used_bytes: int, total_bytes: int) -> str:
        """Return the machine's memory and the largest processes of the session."""
        rows = [(private_bytes(os.getpid()), os.getpid(), "the program itself")]
        for handle in self._engine.pool.workers.values():
            if handle.pid:
                name = handle.actor.options.class_name if handle.actor is not None else _running(handle)[0]
                rows.append((private_bytes(handle.pid), handle.pid, name or "an idle worker"))
        lines = [f"memory of the machine in use: {shown(used_bytes)} of {shown(total_bytes)}"]
        lines.append("largest processes of this session:")
        for size, pid, name in sorted(rows, reverse=True)[:NUM_SHOWN]:
            lines.append(f"  {shown(size):>10}  pid {pid}  {name}")
        return "\n".join(lines)


def _running(handle: WorkerHandle) -> tuple[str, tuple[int, int] | None]:
    """Return the name of what a worker runs, and its batch and index; "" and None if it runs nothing."""
    batch = _batch(handle)
    if batch is None:
        return (handle.actor.options.class_name if handle.actor is not None else ""), None
    at = batch.stop - 1 if batch.is_blocked else handle.words[control.STARTED]
    if not batch.base <= at < batch.stop:
        at = batch.base
    if at >= batch.stop:
        return batch.spec.name, None
    return batch.spec_at(at).name, (batch.seq, at)


def _batch(handle: WorkerHandle) -> SentBatch | None:
    """Return the batch that a worker runs, None if it has not begun any: killing it would free nothing."""
    running = handle.batches.get(handle.words[control.SEQ]) if handle.is_up else None
    if running is None and handle.actor is not None:  # whose calls run at once, or that waits for one
        running = next(reversed(handle.batches.values()), None)
    return running


def _rank(handle: WorkerHandle) -> tuple[bool, float] | None:
    """Return whether what a worker runs may run again, and since when it runs; None if it runs nothing."""
    if not handle.is_up:
        return None  # it has no memory to give, and would look like one that can't start
    batch = _batch(handle)
    if handle.actor is not None:
        return handle.actor.may_restart(), 0.0 if batch is None else batch.sent_s
    if batch is None:
        return None
    _, item = _running(handle)
    spec = batch.spec if item is None else batch.spec_at(item[1])
    return bool(spec.max_retries), batch.sent_s


# -- readings ----------------------------------------------------------------------------------------------


def private_bytes(pid: int) -> int:
    """Return what of a process's memory is its own and in RAM, no shared memory or files; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return max(0, int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def read_memory() -> tuple[int, int]:
    """Return the bytes in use and all bytes, of the machine or of its control group, whichever has less left.

    Where neither can be read, nothing is in use.
    """
    readings = [reading for reading in (_machine(), _control_group()) if reading is not None]
    return min(readings, key=lambda each: each[1] - each[0], default=(0, 1))


def _machine() -> tuple[int, int] | None:
    fields: dict[bytes, int] = {}
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                name, _, rest = line.partition(b":")
                fields[name] = int(rest.split()[0]) * 1024
                if name == b"MemAvailable":
                    break
        return fields[b"MemTotal"] - fields[b"MemAvailable"], fields[b"MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        return None  # not Linux


def _control_group() -> tuple[int, int] | None:
    """Return the same of the control group; what files could give back is not in use."""
    try:
        with open(f"{CGROUP}/memory.max", "rb") as file:
            limit = file.read().strip()
        if limit == b"max":
            return None
        with open(f"{CGROUP}/memory.current", "rb") as file:
            used = int(file.read())
        with open(f"{CGROUP}/memory.stat", "rb") as file:
            for line in file:
                name, _, value = line.partition(b" ")
                if name in (b"inactive_file", b"active_file"):
                    used -= int(value)
        return max(0, used), int(limit)
    except (OSError, ValueError):
        return None
