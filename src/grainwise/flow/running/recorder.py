"""The seam for a record of runs: what happens in a run is told to recorders as it happens.

A recorder is any object with some of the methods of `Recorder`. They are called in the thread in which the
run's scheduler is, those about elements in the thread that runs their map; they must not block. One that
raises is left out for the rest of the run, with a warning: a record must not take the run down with it.
"""

from __future__ import annotations

import warnings
from time import time
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Recorder:
    """What may be told. Times are seconds since the epoch; paths of nodes are such as `n0/dn2`."""

    def run_started(self, run_id: str, name: str, kind: str, inputs: dict[str, Any], time_s: float) -> None:
        """Note that a workflow, dynamic workflow or map begins."""

    def run_ended(self, run_id: str, outputs: Any, error: BaseException | None, time_s: float) -> None:
        """Note that it has ended; `error` is None if it went well."""

    def graph_traced(
        self, run_id: str, path: str, nodes: Sequence[tuple[str, str, str, list[str], str]]
    ) -> None:
        """Note the nodes of a graph at `path` (empty: the run's own).

        Of each: id, name, kind, ids of those before it, and the name of its environment, "" if it has none.
        """

    def node_started(self, run_id: str, path: str, name: str, kind: str, inputs: Any, time_s: float) -> None:
        """Note that a node has all its inputs."""

    def node_ended(
        self,
        run_id: str,
        path: str,
        outputs: Any,
        error: BaseException | None,
        is_cached: bool,
        time_s: float,
    ) -> None:
        """Note that a node has its outputs, or failed for good."""

    def attempt_started(self, run_id: str, path: str, attempt: int, time_s: float) -> None:
        """Note that a run of a task is handed on; `attempt` counts from 1."""

    def attempt_ended(
        self, run_id: str, path: str, attempt: int, error: BaseException | None, facts: dict[str, Any],
        time_s: float,
    ) -> None:  # fmt: skip
        """Note how a run of a task ended. `facts`: `pid`, `started_s`, `run_s` where they are known."""

    def elements_ended(
        self, run_id: str, path: str, indices: Sequence[int], results: Sequence[Any],
        failures: dict[int, Any], is_cached: bool, attempt: int, time_s: float,
    ) -> None:  # fmt: skip
        """Note elements of a map that have ended.

        `results` are those of `indices`; in the place of one that failed stands something else, and its error
        is in `failures`, by index. `attempt` counts the rounds of the map from 1.
        """


_recorders: list[Any] = []


def add_recorder(recorder: Any) -> None:
    """Have a recorder told of all runs from now on."""
    _recorders.append(recorder)


def remove_recorder(recorder: Any) -> None:
    """Tell a recorder of no more runs."""
    if recorder in _recorders:
        _recorders.remove(recorder)


class Telling:
    """Tells the recorders of one run; false if there are none, so that nobody prepares what nobody reads."""

    def __init__(self) -> None:
        from ..record.attached import attached_recorders

        self._recorders = [*_recorders, *attached_recorders()]

    def __bool__(self) -> bool:
        return bool(self._recorders)

    def tell(self, event: str, *facts: Any) -> None:
        """Tell an event, with the time as the last fact."""
        self._tell(event, (*facts, time()))

    def tell_graph(self, run_id: str, path: str, nodes: Any) -> None:
        """Tell the nodes of a graph."""
        if self._recorders:
            described = [
                (
                    node.id,
                    node.name,
                    node.entity.kind,
                    [other.id for other in node.upstream_nodes],
                    _environment_of(node.entity),
                )
                for node in nodes
            ]
            self._tell("graph_traced", (run_id, path, described))

    def _tell(self, event: str, facts: tuple[Any, ...]) -> None:
        for recorder in list(self._recorders):
            method = getattr(recorder, event, None)
            if method is None:
                continue
            try:
                method(*facts)
            except Exception as error:
                self._recorders.remove(recorder)
                warnings.warn(
                    f"the record of this run is not complete: {type(recorder).__name__}.{event} raised "
                    f"{type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )


def _environment_of(entity: Any) -> str:
    """Return the name of the environment that a task, or that of a map, runs in; "" for the workers."""
    task = getattr(entity, "target", entity)
    return str(getattr(getattr(task, "place", None), "name", ""))
