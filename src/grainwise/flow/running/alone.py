"""A task that is a run by itself: a workflow of one call, for `grainwise run FILE TASK`."""

from __future__ import annotations

from typing import Any

from ..graph.tracing import Graph, trace_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..tasks.task import Task


class TaskAlone:
    """Runs a task on the engine, with its retries, limits and cache, as if a workflow called it."""

    kind = "task"

    def __init__(self, task: Task[..., Any]) -> None:
        self.task = task
        self.name = task.name
        self.interface = task.interface

    def trace(self, values: dict[str, Any]) -> Graph:
        """Return the graph of the one call."""
        graph = Graph(self.name, self.interface)
        result = trace_call(graph, self.task, (), dict(graph.start.outputs))
        if self.interface.outputs:
            graph.set_outputs(self.interface, result)
        return graph
