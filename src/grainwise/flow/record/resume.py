"""Resuming: what an earlier driver of a run has finished is taken from the record instead of run again.

A node is taken if it is done, has the same name and kind, and its inputs have the same content as then; so
what follows from a changed program or a lost value runs anew. Of a map that is not done, the elements that
are done are taken by index, under the same condition for its inputs.
"""

from __future__ import annotations

import json
import os
import sys
from time import time
from typing import Any

from ..kept.keys import Digest
from .encoding import UnkeepableError, digest_of, keep
from .process import this_process
from .reading import RecordError, RunInfo, find_run, load_elements, load_values, reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3


class Resumption:
    """A run that goes on. Made by `claim`.

    Attributes:
        info: the run, as it was.
        run_id: its id.
        session: how many drivers it had before.
        inputs: those that it was given; None if they can't be had.
        n_nodes: nodes that were taken from the record.
        n_elements: elements that were.
    """

    def __init__(self, info: RunInfo, session: int, inputs: dict[str, Any] | None) -> None:
        self.info = info
        self.run_id = info.run_id
        self.session = session
        self.inputs = inputs
        self.n_nodes = 0
        self.n_elements = 0
        self._held: dict[str, bool] = {}

    def holds(self, path: str, name: str, kind: str, inputs: dict[str, Any]) -> bool:
        """Say whether the record tells of this very node, with these inputs."""
        found = self._held.get(path)
        if found is None:
            try:
                with reading() as connection:
                    found = self._is_same(connection, path, name, kind, inputs)
            except RecordError:
                found = False
            self._held[path] = found
        return found

    def _is_same(
        self, connection: sqlite3.Connection, path: str, name: str, kind: str, inputs: dict[str, Any]
    ) -> bool:
        row = connection.execute(
            "SELECT name, kind, queued_s FROM nodes WHERE run_id = ? AND path = ?", (self.run_id, path)
        ).fetchone()
        if row is None or row["queued_s"] is None or (row["name"], row["kind"]) != (name, kind):
            return False
        if self._have_same_pickles(connection, path, inputs):
            return True
        before = load_values(connection, self.run_id, path, "inputs")
        return before is not None and are_same(before, inputs)

    def _have_same_pickles(self, connection: sqlite3.Connection, path: str, inputs: dict[str, Any]) -> bool:
        """Say whether inputs are pickled as they were then: the usual case, and quick for long lists."""
        rows = connection.execute(
            "SELECT name, digest FROM \"values\" WHERE run_id = ? AND path = ? AND role = 'inputs'",
            (self.run_id, path),
        ).fetchall()
        if {row["name"] for row in rows} != inputs.keys():
            return False
        try:
            return all(
                digest_of(keep(inputs[row["name"]]).parts, self.run_id, path, "inputs", row["name"])
                == row["digest"]
                for row in rows
            )
        except UnkeepableError:
            return False

    def outputs(self, path: str) -> dict[str, Any] | None:
        """Return the outputs of a node that is done and `holds`, None if it must run."""
        if not self._held.get(path):
            return None
        try:
            with reading() as connection:
                row = connection.execute(
                    "SELECT state FROM nodes WHERE run_id = ? AND path = ?", (self.run_id, path)
                ).fetchone()
                if row is None or row["state"] != "done":
                    return None
                outputs = load_values(connection, self.run_id, path, "outputs")
        except RecordError:
            return None
        if outputs is None or not all(map(_is_there, outputs.values())):
            return None
        self.n_nodes += 1
        return outputs

    def elements(self, path: str, inputs: dict[str, Any]) -> dict[int, Any]:
        """Return the results of the elements of a map that are done."""
        if not self._held.get(path):
            return {}
        try:
            with reading() as connection:
                found = load_elements(connection, self.run_id, path)
        except RecordError:
            return {}
        found = {index: value for index, value in found.items() if _is_there(value)}
        self.n_elements += len(found)
        return found


def are_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Say whether inputs have the same names and content."""
    if one.keys() != other.keys():
        return False
    try:
        return all(one[name] is other[name] or _content(one[name]) == _content(other[name]) for name in one)
    except Exception:  # what has no content that can be compared
        return False


def _content(value: Any) -> bytes:
    digest = Digest()
    digest.feed(value)
    return digest.finish()


def _is_there(value: Any, depth: int = 3) -> bool:
    """Say whether the files that a value leads to exist: those of a temp folder may be gone."""
    from ..types.paths import FlyteDirectory, FlyteFile

    if isinstance(value, (FlyteFile, FlyteDirectory)):
        return "://" in value.path or os.path.exists(value.path)
    if depth and type(value) in (list, tuple) and value and not isinstance(value[0], (int, float, str)):
        return all(_is_there(each, depth - 1) for each in value)
    if depth and type(value) is dict:
        return all(_is_there(each, depth - 1) for each in value.values())
    return True


def claim(run: str) -> Resumption:
    """Take a run over, so that no other program resumes it as well.

    Args:
        run: its id, the beginning of it, or "last".

    Raises:
        RecordError: there is no such run, it is done, or under way.
    """
    with reading(is_writing=True) as connection:
        info = find_run(connection, run)
        if info.state == "running":
            raise RecordError(
                f"run {info.run_id} is under way in process {info.pid} - expected one that has ended"
            )
        if info.state == "done":
            raise RecordError(f"run {info.run_id} is done - there is nothing to resume")
        inputs = load_values(connection, info.run_id, "", "inputs")
        session = info.n_resumes + 1
        pid, pid_started = this_process()
        connection.execute(
            "UPDATE runs SET state = 'running', n_resumes = ? WHERE run_id = ?", (session, info.run_id)
        )
        connection.execute(
            "UPDATE nodes SET state = 'waiting' WHERE run_id = ? AND state <> 'done'", (info.run_id,)
        )
        connection.execute(
            "UPDATE attempts SET state = 'cancelled' WHERE run_id = ? AND state = 'running'", (info.run_id,)
        )
        connection.execute(
            "INSERT INTO drivers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (info.run_id, session, time(), pid, pid_started, os.uname().nodename, json.dumps(sys.argv),
             os.getcwd(), sys.version.split()[0]),
        )  # fmt: skip
    return Resumption(info, session, inputs)
