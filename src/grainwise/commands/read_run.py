"""A run in the record as `grainwise runs show` wants it: its nodes as a tree, with what became of them."""

from __future__ import annotations

import json
from typing import Any

from grainwise.flow.record.reading import RunInfo, failed_elements, failed_indices, find_run, reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3


class NodeInfo:
    """A node of a run.

    Attributes:
        facts: its row in the record.
        after: ids of those before it.
        attempts: rows of its runs, in order.
        n_done: elements that are done, of a map.
        n_failed: elements that are not, and have failed.
        n_chunks: batches in which they were recorded.
        n_cached: elements that came from the cache.
        n_retried: runs of elements beyond the first.
        failures: (index, attempts, error, traceback) of the first failed elements.
        values: (role, name, preview).
        inner: the nodes of its own graph.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.path: str = facts["path"]
        self.id = self.path.rpartition("/")[2]
        self.after: list[str] = json.loads(facts["after"])
        self.attempts: list[dict[str, Any]] = []
        self.n_done = self.n_failed = self.n_chunks = self.n_cached = self.n_retried = 0
        self.failures: list[dict[str, Any]] = []
        self.values: list[tuple[str, str, str]] = []
        self.inner: list[NodeInfo] = []

    @property
    def name(self) -> str:
        """The name of what it calls, without its module."""
        name: str = self.facts["name"]
        return name.rpartition(".")[2]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            **{key: value for key, value in self.facts.items() if key != "run_id"},
            "after": self.after,
            "attempts": self.attempts,
            "n_done": self.n_done,
            "n_failed": self.n_failed,
            "n_chunks": self.n_chunks,
            "n_cached": self.n_cached,
            "failures": self.failures,
            "values": [{"role": role, "name": name, "preview": text} for role, name, text in self.values],
            "nodes": [node.as_json() for node in self.inner],
        }


class WholeRun:
    """A run with its nodes."""

    def __init__(self, info: RunInfo, nodes: list[NodeInfo], values: list[tuple[str, str, str]]) -> None:
        self.info = info
        self.nodes = nodes
        self.values = values

    def as_json(self) -> dict[str, Any]:
        """Return what there is beside the run's own facts, as JSON has it."""
        return {
            "values": [{"role": role, "name": name, "preview": text} for role, name, text in self.values],
            "nodes": [node.as_json() for node in self.nodes],
        }


def read_run(run: str, n_failures: int) -> WholeRun:
    """Return a run.

    Args:
        run: its id, the beginning of it, or "last".
        n_failures: so many failed elements of each map at most.

    Raises:
        RecordError: there is no such run, or the record can't be read.
    """
    with reading() as connection:
        info = find_run(connection, run)
        rows = connection.execute(
            "SELECT * FROM nodes WHERE run_id = ? ORDER BY position, path", (info.run_id,)
        ).fetchall()
        nodes = {row["path"]: NodeInfo(dict(row)) for row in rows}
        for row in connection.execute(
            "SELECT * FROM attempts WHERE run_id = ? ORDER BY session, attempt", (info.run_id,)
        ):
            if row["path"] in nodes:
                nodes[row["path"]].attempts.append(
                    {key: value for key, value in dict(row).items() if key != "run_id"}
                )
        own_values = _read_values(connection, info.run_id, nodes)
        for node in nodes.values():
            if node.facts["kind"] == "map":
                _read_elements(connection, info.run_id, node, n_failures)
    top: list[NodeInfo] = []
    for path, node in nodes.items():
        parent = nodes.get(path.rpartition("/")[0])
        (top if parent is None else parent.inner).append(node)
    return WholeRun(info, top, own_values)


def _read_values(
    connection: sqlite3.Connection, run_id: str, nodes: dict[str, NodeInfo]
) -> list[tuple[str, str, str]]:
    own: list[tuple[str, str, str]] = []
    for row in connection.execute(
        'SELECT path, role, name, preview FROM "values" WHERE run_id = ? ORDER BY role, position', (run_id,)
    ):
        where = nodes[row["path"]].values if row["path"] in nodes else own
        where.append((row["role"], row["name"], row["preview"]))
    return own


def _read_elements(connection: sqlite3.Connection, run_id: str, node: NodeInfo, n_failures: int) -> None:
    row = connection.execute(
        "SELECT count(*), coalesce(sum(n_elements - n_failed), 0), coalesce(sum(n_failed), 0), "
        "coalesce(sum(CASE WHEN is_cached THEN n_elements END), 0) FROM chunks WHERE run_id = ? AND path = ?",
        (run_id, node.path),
    ).fetchone()
    node.n_chunks, node.n_done, n_failed_runs, node.n_cached = row
    if not n_failed_runs:
        return
    failed = failed_elements(connection, run_id, node.path)
    node.n_failed = len(failed_indices(connection, run_id, node.path))
    node.n_retried = n_failed_runs - node.n_failed
    node.failures = [
        {
            "element": row["element"],
            "attempts": row["n_attempts"],
            "error": row["error"],
            "traceback": row["traceback"],
        }
        for row in failed[:n_failures]
    ]
