"""Makes rows of what a run tells: the recorder that every run has, unless `GRAINWISE_RUN_DIR` is "off".

Values are pickled in the thread that tells; rows are written by the writer's thread. Elements of a map are
kept in chunks: what ended within some milliseconds, whatever their number, is one row with one pickled list.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from typing import Any

from . import encoding, places
from .chunks import Chunk, insert_chunks, marks, placed, row_of, texts
from .process import this_process
from .writer import GATHER_S, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from .resume import Resumption

REMEMBERED_BYTES = 4096
"""Values at least so large are pickled once, though several nodes take or give them."""
MAX_REMEMBERED = 8
MAX_LISTED = 10_000
"""Failures of elements of one map that are kept with error and traceback; of more, only that they failed."""


class _OpenRun:
    """A run that is under way."""

    def __init__(self, session: int, resumption: Resumption | None) -> None:
        self.session = session
        self.resumption = resumption
        self.chunks: dict[str, list[Chunk]] = {}
        self.lock = threading.Lock()
        self.seen: dict[int, tuple[Any, encoding.Kept]] = {}
        """Large values by their id, with a reference that keeps the id theirs."""
        self.is_warned = False
        self.n_listed: dict[str, int] = {}
        """How many failures of elements have rows of their own, by the path of the map."""


class RunRecord:
    """Keeps runs in a folder. See `Recorder` for what it is told."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.writer = Writer(folder)
        self._runs: dict[str, _OpenRun] = {}

    # -- the run ---------------------------------------------------------------------------------------

    def run_started(self, run_id: str, name: str, kind: str, inputs: dict[str, Any], time_s: float) -> None:
        """Note that a run begins, or goes on."""
        from ..running.mode import is_inline
        from ..running.resumption import current_resumption
        from .attached import origin

        resumption: Any = current_resumption(run_id)
        run = self._runs[run_id] = _OpenRun(resumption.session if resumption else 0, resumption)
        if len(self._runs) == 1:
            self.writer.begin_anew()
        file, entity = origin()
        pid, pid_started = this_process()
        driver = (
            run_id, run.session, time_s, pid, pid_started, os.uname().nodename, json.dumps(sys.argv),
            _working_folder(), sys.version.split()[0],
        )  # fmt: skip
        mode = "inline" if is_inline() else "engine"

        def write(connection: sqlite3.Connection) -> None:
            if run.session == 0:
                connection.execute(
                    "INSERT INTO runs (run_id, name, kind, state, mode, file, entity, started_s) "
                    "VALUES (?, ?, ?, 'running', ?, ?, ?, ?)",
                    (run_id, name, kind, mode, file, entity, time_s),
                )
                connection.execute(f"INSERT INTO drivers VALUES ({marks(9)})", driver)
            else:  # the resumption has entered itself, so that nobody else resumes it at the same time
                connection.execute(
                    "UPDATE runs SET state = 'running', mode = ?, ended_s = NULL, error = NULL, "
                    "traceback = NULL WHERE run_id = ?",
                    (mode, run_id),
                )

        self.writer.submit(write)
        if run.session == 0:
            self._keep_values(run, run_id, "", "inputs", inputs)

    def run_ended(self, run_id: str, outputs: Any, error: BaseException | None, time_s: float) -> None:
        """Note how it ended, and wait until that is written."""
        run = self._runs.get(run_id)
        if run is None:
            return
        for path in list(run.chunks):
            self._flush_chunks(run, run_id, path)
        if error is None:
            named = outputs._asdict() if hasattr(outputs, "_asdict") else {"o0": outputs}
            self._keep_values(run, run_id, "", "outputs", {} if outputs is None else named)
        state = _state_of(error)
        row = (state, time_s, *texts(error), run_id)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE runs SET state = ?, ended_s = ?, error = ?, traceback = ? WHERE run_id = ?", row
            )
            for table in ("nodes", "attempts"):
                connection.execute(
                    f"UPDATE {table} SET state = 'cancelled', ended_s = ? "
                    f"WHERE run_id = ? AND state = 'running'",
                    (time_s, run_id),
                )

        self.writer.submit(write)
        is_written = self.writer.flush()
        self._warn_of_problem(run, None if is_written else "it takes too long to write")
        del self._runs[run_id]

    # -- nodes -----------------------------------------------------------------------------------------

    def graph_traced(self, run_id: str, path: str, nodes: Sequence[tuple[Any, ...]]) -> None:
        """Note the nodes of a graph."""
        before = f"{path}/" if path else ""
        rows = [
            (run_id, before + node_id, position, name, kind, json.dumps(after), environment)
            for position, (node_id, name, kind, after, environment) in enumerate(nodes)
        ]
        self._many(
            "INSERT INTO nodes (run_id, path, position, name, kind, after, state, environment) "
            "VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?) ON CONFLICT (run_id, path) DO UPDATE SET "
            "position = excluded.position, name = excluded.name, kind = excluded.kind, "
            "after = excluded.after, environment = excluded.environment, "
            "state = CASE state WHEN 'done' THEN state ELSE 'waiting' END",
            rows,
        )

    def node_started(
        self, run_id: str, path: str, name: str, kind: str, inputs: dict[str, Any], time_s: float
    ) -> None:
        """Note that a node has its inputs."""
        run = self._runs[run_id]
        self._warn_of_problem(run)
        if run.resumption is not None:
            if run.resumption.holds(path, name, kind, inputs):
                self._one(
                    "UPDATE nodes SET state = 'running', queued_s = ?, started_s = NULL, ended_s = NULL, "
                    "error = NULL, traceback = NULL WHERE run_id = ? AND path = ? AND state <> 'done'",
                    (time_s, run_id, path),
                )
                return
            for table in ("chunks", "failures"):
                self._one(f"DELETE FROM {table} WHERE run_id = ? AND path = ?", (run_id, path))
        n_elements = _length_of_map(inputs) if kind == "map" else None
        self._one(
            "INSERT INTO nodes (run_id, path, position, name, kind, after, state, environment, queued_s, "
            "n_elements) VALUES (?, ?, 0, ?, ?, '[]', 'running', '', ?, ?) "
            "ON CONFLICT (run_id, path) DO UPDATE SET state = 'running', queued_s = excluded.queued_s, "
            "n_elements = excluded.n_elements, started_s = NULL, ended_s = NULL, is_cached = 0, "
            "error = NULL, traceback = NULL",
            (run_id, path, name, kind, time_s, n_elements),
        )
        self._keep_values(run, run_id, path, "inputs", inputs)

    def node_ended(
        self, run_id: str, path: str, outputs: dict[str, Any] | None, error: BaseException | None,
        is_cached: bool, time_s: float,
    ) -> None:  # fmt: skip
        """Note that a node has its outputs, or failed for good."""
        run = self._runs[run_id]
        self._flush_chunks(run, run_id, path)
        if outputs is not None:
            self._keep_values(run, run_id, path, "outputs", outputs)
        self._one(
            "UPDATE nodes SET state = ?, ended_s = ?, is_cached = ?, session = ?, error = ?, traceback = ? "
            "WHERE run_id = ? AND path = ?",
            (_state_of(error), time_s, int(is_cached), run.session, *texts(error), run_id, path),
        )

    def attempt_started(self, run_id: str, path: str, attempt: int, time_s: float) -> None:
        """Note that a run of a task is handed on."""
        run = self._runs[run_id]
        self._one(
            "INSERT OR REPLACE INTO attempts (run_id, path, session, attempt, state, queued_s) "
            "VALUES (?, ?, ?, ?, 'running', ?)",
            (run_id, path, run.session, attempt, time_s),
        )
        self._one(
            "UPDATE nodes SET state = 'running', started_s = coalesce(started_s, ?) "
            "WHERE run_id = ? AND path = ?",
            (time_s, run_id, path),
        )

    def attempt_ended(
        self, run_id: str, path: str, attempt: int, error: BaseException | None, facts: dict[str, Any],
        time_s: float,
    ) -> None:  # fmt: skip
        """Note how a run of a task ended."""
        run = self._runs[run_id]
        self._one(
            "UPDATE attempts SET state = ?, ended_s = ?, pid = ?, started_s = ?, run_s = ?, error = ?, "
            "traceback = ? WHERE run_id = ? AND path = ? AND session = ? AND attempt = ?",
            (_state_of(error), time_s, facts.get("pid"), facts.get("started_s"), facts.get("run_s"),
             *texts(error), run_id, path, run.session, attempt),
        )  # fmt: skip

    # -- elements --------------------------------------------------------------------------------------

    def elements_ended(
        self, run_id: str, path: str, indices: Sequence[int], results: Sequence[Any],
        failures: dict[int, BaseException], is_cached: bool, attempt: int, time_s: float,
    ) -> None:  # fmt: skip
        """Note elements that have ended; they are written together with those of the next milliseconds."""
        run = self._runs[run_id]
        with run.lock:
            chunks = run.chunks.setdefault(path, [])
            is_first = not chunks
            if not chunks or (chunks[-1].attempt, chunks[-1].is_cached) != (attempt, is_cached):
                chunks.append(Chunk(attempt, is_cached=is_cached))
            chunk = chunks[-1]
            chunk.indices.append(indices)
            chunk.results.append(results)
            if failures:
                n_listed = run.n_listed.get(path, 0)
                n_more = min(len(failures), MAX_LISTED - n_listed)
                run.n_listed[path] = n_listed + n_more
                chunk.n_listed += n_more
                chunk.failed.update(failures)
            chunk.ended_s = time_s
        if is_first:
            self.writer.submit(lambda c: self._write_chunks(c, run, run_id, path), GATHER_S)
            self._warn_of_problem(run)

    def _flush_chunks(self, run: _OpenRun, run_id: str, path: str) -> None:
        """Pickle now what is gathered: who gets the results may change them."""
        rows = self._chunk_rows(run, run_id, path)
        if rows:
            self.writer.submit(lambda c: insert_chunks(c, self.folder, run_id, rows))

    def _write_chunks(self, connection: sqlite3.Connection, run: _OpenRun, run_id: str, path: str) -> None:
        insert_chunks(connection, self.folder, run_id, self._chunk_rows(run, run_id, path))

    def _chunk_rows(self, run: _OpenRun, run_id: str, path: str) -> list[Any]:
        # Under the lock: rows are in the queue before the node's end is, whoever makes them.
        with run.lock:
            chunks = run.chunks.pop(path, [])
            return [row_of(run.session, run_id, path, chunk) for chunk in chunks]

    # -- writing ---------------------------------------------------------------------------------------

    def _keep_values(self, run: _OpenRun, run_id: str, path: str, role: str, values: dict[str, Any]) -> None:
        made = [
            (position, name, *self._kept(run, value)) for position, (name, value) in enumerate(values.items())
        ]
        folder = places.objects_of(self.folder, run_id)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                'DELETE FROM "values" WHERE run_id = ? AND path = ? AND role = ?', (run_id, path, role)
            )
            for position, name, kept, preview in made:
                data, file = placed(kept, folder)
                digest = encoding.digest_of(kept.parts, run_id, path, role, name)
                connection.execute(
                    f'INSERT INTO "values" VALUES ({marks(11)})',
                    (run_id, path, role, name, position, kept.format, data, file, kept.n_bytes, digest,
                     preview),
                )  # fmt: skip

        self.writer.submit(write)

    def _kept(self, run: _OpenRun, value: Any) -> tuple[encoding.Kept, str]:
        seen = run.seen.get(id(value))
        if seen is not None:
            return seen[1], seen[1].preview
        try:
            kept = encoding.keep(value)
        except encoding.UnkeepableError as error:
            return encoding.Kept("none", [], ""), f"not kept: {error}"[: encoding.MAX_PREVIEW]
        if kept.n_bytes >= REMEMBERED_BYTES:
            run.seen[id(value)] = value, kept
            if len(run.seen) > MAX_REMEMBERED:
                del run.seen[next(iter(run.seen))]
        return kept, kept.preview

    def _one(self, sql: str, row: tuple[Any, ...]) -> None:
        self.writer.submit(lambda connection: _execute(connection, sql, row))

    def _many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        self.writer.submit(lambda connection: _execute_many(connection, sql, rows))

    def _warn_of_problem(self, run: _OpenRun, problem: str | None = None) -> None:
        problem = self.writer.problem or problem
        if problem is not None and not run.is_warned:
            run.is_warned = True
            warnings.warn(
                f"record of runs in {self.folder!r}: the run goes on without it and can't be resumed: "
                f"{problem}",
                RuntimeWarning,
                stacklevel=2,
            )


def _execute(connection: sqlite3.Connection, sql: str, row: tuple[Any, ...]) -> None:
    connection.execute(sql, row)


def _execute_many(connection: sqlite3.Connection, sql: str, rows: list[tuple[Any, ...]]) -> None:
    connection.executemany(sql, rows)


# -- facts -----------------------------------------------------------------------------------------------


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _length_of_map(inputs: dict[str, Any]) -> int:
    return max((len(value) for value in inputs.values() if isinstance(value, list)), default=0)


def _state_of(error: BaseException | None) -> str:
    if error is None:
        return "done"
    from ...errors import TaskCancelledError

    is_cancelled = isinstance(error, TaskCancelledError) or not isinstance(error, Exception)
    return "cancelled" if is_cancelled else "failed"
