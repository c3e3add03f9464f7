"""What the engine notes while it runs: always, for a report must not have to be asked for beforehand.

    engine ──sent, reported, lost, waited──► Record ──read──► report, findings, timeline

Guarantees:

* Nothing is noted for each task: a batch costs about three microseconds, a `get` that waits about one.
* Memory is bounded. Totals are exact for ever; of the single events the last 100,000 are kept, in arrays of
  64 bytes a row, which the garbage collector does not look at.
* No lock. The engine calls under its turn; what other threads note (`waited`, `exported`) may at worst lose a
  count to a race, never break anything.

Times are `perf_counter` seconds, which all processes of a machine share.
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from itertools import chain
from struct import iter_unpack, pack
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType
    from typing import Any, Protocol

    Times = tuple[int, int, float, float]
    Usage = tuple[float, float, float, float, float, int, int, float]
    """When the batch began, and now; since the worker's last such report: seconds that tasks waited for
    others, processor time (below 0: not known), time to write large results, their bytes, children that ran
    in place, and their run time."""

    class Sent(Protocol):
        """What is read of a batch on its way, and written to it."""

        spec: Any
        parts: Any
        run: Any
        sent_s: float
        log: BatchLog | None


# Kinds of rows. A row: kind, begin, end, where (worker or thread), name, and three numbers that depend on it.
BATCH = 0.0  # tasks run, when it was sent, their run time
TAKEN = 1.0  # tasks taken back from a worker
CRASH = 2.0
BLOCKED = 3.0  # a task waited for others
WAIT = 4.0  # the program waited: 1 if for the only task under way

ROW = 8
PAGE_ROWS = 500
MAX_PAGES = 200
MAX_NAMES = 1000
"""Functions, and places of functions, that are told apart."""
MAX_CAPTURES = 20
SHORT_S = 100e-6
"""Shorter waits of the program are counted, but have no row of their own."""
LARGE_BYTES = 50_000_000
"""A function that takes along so much is worth a look at what it is."""
OTHERS = "(others)"


class Ring:
    """The last rows: packed page by page, and whole pages are dropped, the oldest first."""

    __slots__ = ("_open", "_pages", "num_dropped")

    def __init__(self) -> None:
        self._open: list[tuple[float, ...]] = []
        self._pages: deque[bytes] = deque()
        self.num_dropped = 0

    def append(self, row: tuple[float, ...]) -> None:
        """Add a row of `ROW` numbers."""
        rows = self._open
        rows.append(row)
        if len(rows) >= PAGE_ROWS:
            self._open = []
            self._pages.append(pack(f"{len(rows) * ROW}d", *chain.from_iterable(rows)))
            if len(self._pages) > MAX_PAGES:
                self.num_dropped += len(self._pages.popleft()) // (8 * ROW)

    def rows(self) -> list[tuple[float, ...]]:
        """Return the rows, in the order in which they were added."""
        rows: list[tuple[float, ...]] = []
        for page in list(self._pages):
            rows += iter_unpack(f"{ROW}d", page)
        return rows + self._open


class FunctionLog:
    """What the tasks of one name did, in all.

    Attributes:
        number: its place in `Record.names`.
        num_cpus: CPUs that a run asks for.
        is_mapped: it was given to `map`; is_method: it is an actor's.
        run_s: time in the function, reading arguments and writing results included.
        timed_s: the part of `run_s` for which `cpu_s`, the processor time, was measured.
        pack_s: the part of `run_s` that went into writing large results, 64 KB and more.
        result_bytes: their size.
        worst_s: the longest task, or the mean of the slowest few where they are too short to be timed singly.
    """

    __slots__ = (
        "cpu_s", "is_mapped", "is_method", "name", "num_batches", "num_cpus", "num_retries", "num_tasks",
        "number", "pack_s", "result_bytes", "run_s", "timed_s", "waited_s", "worst_s",
    )  # fmt: skip

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.num_cpus = 1.0
        self.is_mapped = False
        self.is_method = False
        self.num_tasks = 0
        self.num_batches = 0
        self.num_retries = 0
        self.run_s = 0.0
        self.timed_s = 0.0
        self.cpu_s = 0.0
        self.pack_s = 0.0
        self.waited_s = 0.0
        self.worst_s = 0.0
        self.result_bytes = 0


class BatchLog:
    """What has come back of a batch that is reported in several pieces.

    Attributes:
        begin_s: when its worker began it; mark_s: until when that worker's time is accounted for.
        num_done, run_s: tasks that have come back, and their run time.
    """

    __slots__ = ("begin_s", "mark_s", "num_done", "run_s")

    def __init__(self, begin_s: float, mark_s: float) -> None:
        self.begin_s = begin_s
        self.mark_s = mark_s
        self.num_done = 0
        self.run_s = 0.0


class Capture:
    """A function that takes large data along.

    Attributes:
        function, where: its name, and its file and line.
        nbytes: how much travels with it.
        variable: what holds most of that, "" where nothing could be named; kind: its type.
    """

    __slots__ = ("function", "kind", "nbytes", "pack_s", "variable", "where")

    def __init__(self, function: str, where: str, nbytes: int, pack_s: float) -> None:
        self.function = function
        self.where = where
        self.nbytes = nbytes
        self.pack_s = pack_s
        self.variable = ""
        self.kind = ""


class Record:
    """What one session did. See the module docstring.

    Args:
        num_cpus: CPUs that the session may use.
        clock: tells the time in seconds.

    Attributes:
        num_out: tasks that were sent and have not come back.
        active_s: how long something was under way, up to the last change; use `active_until`.
        occupied_s: how long workers had something to run, waits for other tasks aside.
        num_own, own_s: children that tasks ran in place without the driver, and their run time.
        exports: how often a function was pickled, by name and place, and how long that took.
        codes: what those functions do, as bytecode.
        totals: what other parts of the engine have counted; see `end`.
    """

    def __init__(self, num_cpus: float, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self.num_cpus = num_cpus
        self.begin_s = clock()
        self.end_s: float | None = None
        self.ring = Ring()
        self.functions: dict[str, FunctionLog] = {}
        self.names: list[str] = []
        self.num_failed = 0
        self.num_taken_back = 0
        self.num_retries = 0
        self.num_crashes = 0
        self.num_out = 0
        self.workers: dict[int, float] = {}  # when each was free again
        self.occupied_s = 0.0
        self.active_s = 0.0
        self.num_own = 0
        self.own_s = 0.0
        self.wait_s = 0.0
        self.num_lone_waits = 0
        self.lone_wait_s = 0.0
        self.returned_bytes = 0
        self.exports: dict[tuple[str, str], list[float]] = {}
        self.codes: dict[tuple[str, str], CodeType] = {}
        self.captures: list[Capture] = []
        self.look: Callable[[], dict[str, int]] | None = None
        self.totals: dict[str, int] = {}
        self._num_open = 0
        self._active_since = 0.0
        self._blocked: dict[tuple[int, int], tuple[float, int]] = {}

    # -- functions -------------------------------------------------------------------------------------

    def function(self, name: str) -> FunctionLog:
        """Return what is known of the tasks of a name, and will be."""
        known = self.functions.get(name)
        if known is None:
            if len(self.functions) >= MAX_NAMES:
                name = OTHERS
                known = self.functions.get(name)
                if known is not None:
                    return known
            known = self.functions[name] = FunctionLog(name, len(self.names))
            self.names.append(name)
        return known

    def exported(self, name: str, function: Any, nbytes: int, pack_s: float) -> None:
        """A function was pickled: how large that was, and how long it took."""
        code = getattr(function, "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""
        key = (name, where)
        known = self.exports.get(key)
        if known is None:
            if len(self.exports) >= MAX_NAMES:
                return
            known = self.exports[key] = [0, 0.0]
            if code is not None:
                self.codes[key] = code
        known[0] += 1
        known[1] += pack_s
        if nbytes >= LARGE_BYTES and len(self.captures) < MAX_CAPTURES:
            from .captures import largest

            capture = Capture(name, where, nbytes, pack_s)
            capture.variable, capture.kind = largest(function)
            self.captures.append(capture)

    # -- batches ---------------------------------------------------------------------------------------

    def sent(self, count: int) -> float:
        """A batch of `count` tasks goes to a worker; return the time, for `reported`."""
        now = self.clock()
        if not self._num_open:
            self._active_since = now
        self._num_open += 1
        self.num_out += count
        return now

    def reported(
        self, worker: int, batch: Sent, count: int, times: Sequence[Times], usage: float | Usage, is_end: bool
    ) -> None:
        """`count` results of a batch have come back.

        Args:
            worker: who ran it.
            batch: the batch.
            count: how many.
            times: (part, tasks run, their run time, the worst) as the worker measured.
            usage: the worker's time, and for longer batches what it has used, see `Usage`.
            is_end: nothing more comes of it, and the tasks that are left have been given back.
        """
        self.num_out -= count
        name = batch.spec.name
        first = self.functions.get(name) or self.function(name)
        parts = batch.parts
        run_s = 0.0
        for part, num_run, spent_s, worst_s in times:
            function = first if parts is None else self.function(parts[part][1].name)
            function.num_tasks += num_run
            function.run_s += spent_s
            if worst_s > function.worst_s:
                function.worst_s = worst_s
            run_s += spent_s
        if isinstance(usage, tuple):
            begin_s, now, waited_s = usage[:3]
            self._used(batch, times, run_s, usage)
        else:
            now, begin_s, waited_s = usage, usage - run_s, 0.0
        log = batch.log
        if log is None:
            # The first batch of a worker is sent before that exists: its start is not the batch's time.
            mark_s = self.workers.get(worker, begin_s)
            if (
                mark_s < batch.sent_s
            ):  # it was free then; a quick worker begins before the driver has the time
                mark_s = batch.sent_s if batch.sent_s < begin_s else begin_s
            if not is_end:
                log = batch.log = BatchLog(begin_s, mark_s)
        else:
            begin_s, mark_s = log.begin_s, log.mark_s
        self.workers[worker] = now
        if now - mark_s > waited_s:
            self.occupied_s += now - mark_s - waited_s
        if log is not None:
            log.mark_s = now
            log.num_done = count = log.num_done + count
            log.run_s = run_s = log.run_s + run_s
        if is_end:
            first.num_batches += 1
            if batch.run is not None:
                first.is_mapped = True
            self.ring.append((BATCH, begin_s, now, worker, first.number, count, batch.sent_s, run_s))
            self._num_open -= 1
            if not self._num_open:
                self.active_s += max(0.0, now - self._active_since)

    def _used(self, batch: Sent, times: Sequence[Times], run_s: float, usage: Usage) -> None:
        """Note what a longer batch has used, beside time."""
        _, _, waited_s, cpu_s, pack_s, packed_bytes, num_own, own_s = usage
        parts = batch.parts
        spec = batch.spec
        function = self.function(spec.name)
        for part, _, spent_s, _ in times:
            if parts is not None:
                spec = parts[part][1]
                function = self.function(spec.name)
            if spec.actor is not None:
                function.is_method = True
            if cpu_s >= 0.0 and run_s:
                function.timed_s += spent_s
                function.cpu_s += cpu_s * spent_s / run_s
        function.waited_s += waited_s
        function.pack_s += pack_s
        function.result_bytes += packed_bytes
        self.returned_bytes += packed_bytes
        self.num_own += num_own
        self.own_s += own_s
        self.occupied_s += own_s

    def requeued(self, count: int) -> None:
        """Tasks that were sent go back to their queue."""
        self.num_out -= count

    def lost(self, count: int) -> None:
        """A batch is over with its worker, `count` tasks with it."""
        self.num_out -= count
        self._num_open -= 1
        if not self._num_open:
            self.active_s += self.clock() - self._active_since

    def taken(self, worker: int, count: int) -> None:
        """Tasks were taken back from a worker for others that had nothing to do."""
        self.num_taken_back += count
        now = self.clock()
        self.ring.append((TAKEN, now, now, worker, -1, count, 0, 0))

    def crashed(self, worker: int) -> None:
        """A worker died while it held tasks."""
        self.num_crashes += 1
        for key in [key for key in self._blocked if key[0] == worker]:
            del self._blocked[key]
        now = self.clock()
        self.ring.append((CRASH, now, now, worker, -1, 0, 0, 0))

    def retried(self, name: str) -> None:
        """A task runs once more."""
        self.num_retries += 1
        self.function(name).num_retries += 1

    # -- waiting ---------------------------------------------------------------------------------------

    def blocked(self, worker: int, token: int, name: str) -> None:
        """A task of this name waits for others."""
        self._blocked[worker, token] = (self.clock(), self.function(name).number)

    def resumed(self, worker: int, token: int) -> None:
        """It waits no more."""
        known = self._blocked.pop((worker, token), None)
        if known is not None:
            self.ring.append((BLOCKED, known[0], self.clock(), worker, known[1], 0, 0, 0))

    def waited(self, begin_s: float, is_lone: bool) -> None:
        """The program waited from `begin_s` on; `is_lone`: for the one task that was under way at all."""
        now = self.clock()
        spent_s = now - begin_s
        self.wait_s += spent_s
        if is_lone:
            self.num_lone_waits += 1
            self.lone_wait_s += spent_s
        if spent_s > SHORT_S:
            self.ring.append((WAIT, begin_s, now, get_ident(), -1, is_lone, 0, 0))

    # -- reading ---------------------------------------------------------------------------------------

    def active_until(self, now: float) -> float:
        """Return for how many seconds something was under way."""
        return self.active_s + (now - self._active_since if self._num_open else 0.0)

    def end(self) -> None:
        """The session is over; what is known stays."""
        if self.end_s is None:
            self.end_s = self.clock()
            self.active_s = self.active_until(self.end_s)
            self._num_open = 0
            self.read_totals()
            self.look = None

    def read_totals(self) -> dict[str, int]:
        """Return what other parts of the engine have counted: `saved_bytes`, `spilled_bytes`, ..."""
        if self.look is not None:
            self.totals = self.look()
        return self.totals


_last: Record | None = None


def begin(num_cpus: float) -> Record:
    """Return the record of a session that begins; it takes the place of the one before."""
    global _last
    _last = Record(num_cpus)
    return _last


def last() -> Record | None:
    """Return the record of the running session, or of the last one; None before the first."""
    return _last
