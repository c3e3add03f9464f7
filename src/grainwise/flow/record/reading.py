"""What the record says: runs, their nodes, values and elements; and how to be rid of a run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from array import array
from contextlib import contextmanager
from typing import Any

from ..errors import FlowError
from . import encoding, places, schema
from .process import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator


class RecordError(FlowError):
    """The record can't be read, or has no such run."""


@contextmanager
def reading(folder: str | None = None, *, is_writing: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the record for reading; rows are `sqlite3.Row`.

    Raises:
        RecordError: it is off, or can't be read.
    """
    import sqlite3

    from .attached import current_record

    folder = folder or places.record_folder()
    if folder is None:
        raise RecordError(f"the record of runs is off: {places.VARIABLE}=off")
    record = current_record()
    if record is not None and record.folder == folder:
        record.writer.flush()
    path = places.file_in(folder)
    try:
        places.make_private(folder)
        connection = schema.open_tables(path)
        connection.row_factory = sqlite3.Row
        try:
            if is_writing:
                connection.execute("BEGIN IMMEDIATE")
            yield connection
            if is_writing:
                connection.execute("COMMIT")
                connection.execute("PRAGMA incremental_vacuum").fetchall()
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise RecordError(
            f"the record of runs in {folder!r} can't be used: {type(error).__name__}: {error} - move it "
            f"away, or set {places.VARIABLE}"
        ) from error


class RunInfo:
    """A run in the record.

    Attributes:
        run_id: 16 hexadecimal digits.
        name: of the workflow, task or map.
        kind: workflow, dynamic, task or map.
        state: running, done, failed, cancelled, or lost: its program ended without a word.
        mode: engine or inline.
        file: what `grainwise run` was given; None for a call in a program.
        entity: the same.
        started_s: seconds since the epoch.
        ended_s: the same, None if it has not ended.
        error: `Type: message` if it failed.
        traceback: with the worker's lines.
        n_resumes: how often it was resumed.
        pid: of the program that last worked at it.
    """

    def __init__(self, row: sqlite3.Row) -> None:
        self.run_id: str = row["run_id"]
        self.name: str = row["name"]
        self.kind: str = row["kind"]
        self.mode: str = row["mode"]
        self.file: str | None = row["file"]
        self.entity: str | None = row["entity"]
        self.started_s: float = row["started_s"]
        self.ended_s: float | None = row["ended_s"]
        self.error: str | None = row["error"]
        self.traceback: str | None = row["traceback"]
        self.n_resumes: int = row["n_resumes"]
        self.pid: int = row["pid"] or 0
        self.folder: str = row["folder"] or ""
        self.command: list[str] = json.loads(row["command"] or "[]")
        self.state: str = row["state"]
        if self.state == "running" and not is_alive(self.pid, row["pid_started"] or 0, row["host"] or ""):
            self.state = "lost"

    def __repr__(self) -> str:
        return f"<RunInfo {self.run_id} {self.name} {self.state}>"


_SELECT = """
SELECT runs.*, pid, pid_started, host, command, folder FROM runs
LEFT JOIN drivers ON drivers.run_id = runs.run_id AND drivers.session = (
    SELECT max(session) FROM drivers AS d WHERE d.run_id = runs.run_id)
"""


def list_runs(limit: int | None = None) -> list[RunInfo]:
    """Return the runs in the record, the latest first.

    Args:
        limit: so many at most.

    Raises:
        RecordError: the record can't be read.
    """
    with reading() as connection:
        rows = connection.execute(
            f"{_SELECT} ORDER BY runs.started_s DESC LIMIT ?", (-1 if limit is None else limit,)
        ).fetchall()
    return [RunInfo(row) for row in rows]


def find_run(connection: sqlite3.Connection, run: str) -> RunInfo:
    """Return a run by its id or the beginning of it; "last" is the one that began last.

    Raises:
        RecordError: there is none, or several begin so.
    """
    if run == "last":
        rows = connection.execute(f"{_SELECT} ORDER BY runs.started_s DESC LIMIT 1").fetchall()
    else:
        rows = connection.execute(
            f"{_SELECT} WHERE substr(runs.run_id, 1, ?) = ? LIMIT 2", (len(run), run)
        ).fetchall()
    if not rows or not run:
        raise RecordError(f"there is no run {run!r} in the record - see `grainwise runs ls`")
    if len(rows) > 1:
        raise RecordError(f"several runs begin with {run!r} - give more of the id")
    return RunInfo(rows[0])


def remove_runs(runs: list[str]) -> list[str]:
    """Forget runs and their values; return their ids.

    Raises:
        RecordError: one of them is not there, or is under way.
    """
    with reading(is_writing=True) as connection:
        found = [find_run(connection, run) for run in runs]
        for each in found:
            if each.state == "running":
                raise RecordError(f"run {each.run_id} is under way in process {each.pid}")
        folder = places.record_folder()
        assert folder is not None
        for each in found:
            remove_rows(connection, folder, each.run_id)
    return [each.run_id for each in found]


def remove_rows(connection: sqlite3.Connection, folder: str, run_id: str) -> None:
    """Forget a run within a transaction."""
    for table in schema.OF_A_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    shutil.rmtree(places.objects_of(folder, run_id), ignore_errors=True)


# -- values ----------------------------------------------------------------------------------------------


def load_values(connection: sqlite3.Connection, run_id: str, path: str, role: str) -> dict[str, Any] | None:
    """Return the inputs or outputs of a node (of the run: path ""), None if one of them can't be had."""
    rows = connection.execute(
        'SELECT * FROM "values" WHERE run_id = ? AND path = ? AND role = ? ORDER BY position',
        (run_id, path, role),
    ).fetchall()
    values = {}
    for row in rows:
        found = load(row, run_id, path, role, row["name"])
        if found is None:
            return None
        values[row["name"]] = found[0]
    return values


def load(row: sqlite3.Row, run_id: str, *place: object) -> tuple[Any] | None:
    """Return the value of a row, None if it was not kept, is corrupt, or of a class that is no more."""
    if row["format"] == "none":
        return None
    data = row["data"]
    folder = places.record_folder()
    if data is None and folder is not None and row["file"]:
        try:
            with open(
                os.path.join(places.objects_of(folder, run_id), os.path.basename(row["file"])), "rb"
            ) as f:
                data = f.read()
        except OSError:
            return None
    if isinstance(data, str):
        data = data.encode()
    if data is None or encoding.digest_of([data], run_id, *place) != row["digest"]:
        return None
    try:
        return (encoding.value_of(row["format"], data),)
    except Exception:
        return None


def indices_of(row: sqlite3.Row) -> list[int]:
    """Return the indices of the elements of a chunk."""
    if row["indices"] is None:
        return list(range(row["first"], row["first"] + row["n_elements"]))
    packed = array("Q")
    packed.frombytes(row["indices"])
    if sys.byteorder != "little":
        packed.byteswap()
    return packed.tolist()


def done_of(row: sqlite3.Row) -> list[int]:
    """Return the indices of those elements of a chunk that are done."""
    indices = indices_of(row)
    bits = row["done"]
    if bits is None:
        return indices
    return [index for at, index in enumerate(indices) if bits[at >> 3] >> (at & 7) & 1]


def load_elements(connection: sqlite3.Connection, run_id: str, path: str) -> dict[int, Any]:
    """Return the results of the elements of a map that are done, by index."""
    found: dict[int, Any] = {}
    rows = connection.execute("SELECT * FROM chunks WHERE run_id = ? AND path = ?", (run_id, path))
    for row in rows:
        place = (path, row["attempt"], row["first"], row["n_elements"], row["indices"], row["done"])
        loaded = load(row, run_id, *place)
        if loaded is None:
            continue
        indices = done_of(row)
        if len(indices) == len(loaded[0]):
            found.update(zip(indices, loaded[0]))
    return found


def failed_indices(connection: sqlite3.Connection, run_id: str, path: str) -> set[int]:
    """Return the indices of the elements of a map that failed and are not done."""
    ended: set[int] = set()
    done: set[int] = set()
    for row in connection.execute("SELECT * FROM chunks WHERE run_id = ? AND path = ?", (run_id, path)):
        ended.update(indices_of(row))
        done.update(done_of(row))
    return ended - done


def failed_elements(connection: sqlite3.Connection, run_id: str, path: str) -> list[sqlite3.Row]:
    """Return the last failure of each element that is not done, with its attempts as `n_attempts`.

    Of very many failures only the first are there (`recorder.MAX_LISTED`); `failed_indices` has them all.
    """
    failed = failed_indices(connection, run_id, path)
    failures = connection.execute(
        "SELECT *, count(*) AS n_attempts, max(ended_s) FROM failures WHERE run_id = ? AND path = ? "
        "GROUP BY element ORDER BY element",
        (run_id, path),
    ).fetchall()
    return [row for row in failures if row["element"] in failed]
