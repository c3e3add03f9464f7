"""The thread that writes the record: whatever has come meanwhile, in one transaction.

Who tells it something does not wait, but for `flush`. It comes with the first thing that is to be written and
goes after a while without any. What goes wrong (a file that is corrupt, locked, read-only, on a full disk)
ends the record, not the run: the reason stands in `problem`, and what comes later is dropped until
`begin_anew`.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from time import monotonic
from typing import Any

from . import places, schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    Job = Callable[[sqlite3.Connection], None]

GATHER_S = 0.02
"""So long elements of maps are gathered before they are written: the most that a crash can cost a map, beside
what is on its way from the workers."""
ROW_S = 0.002
"""The same of what is told of runs and nodes."""
IDLE_S = 0.5
FLUSH_LIMIT_S = schema.WAIT_S + 2.0


class Writer:
    """Writes into one folder. Any thread may use it; after a fork the child has a thread and file of its own.

    Attributes:
        problem: why nothing is written any more; None if all is well.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.problem: str | None = None
        self._clear()

    def _clear(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._due_s = float("inf")
        """When what is in the queue is to be written at the latest; changed under the lock."""
        self._is_sooner = threading.Event()

    def begin_anew(self) -> None:
        """Try again what has failed."""
        self.problem = None

    def submit(self, job: Job, within_s: float = ROW_S) -> None:
        """Have something written, in the order of the calls; it may wait so long for more."""
        if self._pid != os.getpid():
            self._clear()
        with self._lock:
            self._jobs.put(job)
            due_s = monotonic() + within_s
            if due_s < self._due_s:
                self._due_s = due_s
                self._is_sooner.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="grainwise record", daemon=True)
                self._thread.start()
                _at_exit(self)

    def flush(self, timeout_s: float = FLUSH_LIMIT_S) -> bool:
        """Wait until all is written, or can't be; false if that takes too long."""
        if self._pid != os.getpid() or (self._thread is None and self._jobs.empty()):
            return True
        done = threading.Event()
        self.submit(_Mark(done), 0.0)
        return done.wait(timeout_s)

    # -- the thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while True:
                jobs = self._gather()
                if jobs is None:
                    return
                connection = self._write(connection, jobs)
        finally:
            if connection is not None:
                connection.close()

    def _gather(self) -> list[Job] | None:
        """Return what is to be written now; None when there was nothing for a while."""
        try:
            jobs = [self._jobs.get(timeout=IDLE_S)]
        except queue.Empty:
            with self._lock:
                if self._jobs.empty():
                    self._thread = None
                    return None
            return []
        while True:
            with self._lock:
                self._is_sooner.clear()
                left_s = self._due_s - monotonic()
                if left_s <= 0.0:
                    self._due_s = float("inf")
                    break
            self._is_sooner.wait(left_s)
        try:
            while True:
                jobs.append(self._jobs.get_nowait())
        except queue.Empty:
            return jobs

    def _write(self, connection: sqlite3.Connection | None, jobs: list[Job]) -> sqlite3.Connection | None:
        import sqlite3

        works = [job for job in jobs if not isinstance(job, _Mark)]
        try:
            if works and self.problem is None:
                if connection is None:
                    connection = self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    for job in works:
                        job(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        except (sqlite3.Error, OSError) as error:
            self.problem = f"{type(error).__name__}: {error}"
            if connection is not None:
                connection.close()
            connection = None
        except Exception as error:  # a fault of ours must not hang who waits
            self.problem = f"{type(error).__name__}: {error}"
        for job in jobs:
            if isinstance(job, _Mark):
                job.done.set()
        return connection

    def _open(self) -> sqlite3.Connection:
        places.make_private(self.folder)
        connection = schema.open_tables(places.file_in(self.folder))
        try:
            _forget_old(connection, self.folder)
        except BaseException:
            connection.close()
            raise
        return connection


class _Mark:
    """Tells who waits in `flush` that all before it is written."""

    def __init__(self, done: threading.Event) -> None:
        self.done = done

    def __call__(self, connection: Any) -> None:
        """Do nothing."""


_exiting: list[Writer] = []


def _at_exit(writer: Writer) -> None:
    if writer not in _exiting:
        _exiting.append(writer)
        atexit.register(writer.flush)


def _forget_old(connection: sqlite3.Connection, folder: str) -> None:
    """Forget runs that ended long ago."""
    from time import time

    from .reading import remove_rows

    days = kept_days()
    if not days:
        return
    old = connection.execute(
        "SELECT run_id FROM runs WHERE ended_s < ? LIMIT 100", (time() - days * 86400.0,)
    ).fetchall()
    for (run_id,) in old:
        remove_rows(connection, folder, run_id)


def kept_days() -> float:
    """Return for how many days runs are kept: `GRAINWISE_RUN_DAYS`, by default 30; 0 for ever.

    Raises:
        ValueError: it is no number from 0 up.
    """
    text = os.environ.get("GRAINWISE_RUN_DAYS") or "30"
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise ValueError(f"GRAINWISE_RUN_DAYS expected a number of days from 0 up, got {text!r}")
    return days
