"""`create_node`: a call in a workflow that gives its node instead of its outputs."""

from __future__ import annotations

from typing import Any

from ..errors import CallError
from ..graph.node import Node
from ..graph.tracing import current_graph, trace_node


def create_node(entity: Any, *args: Any, **kwargs: Any) -> Node:
    """Add a call to the workflow that is being traced; return its node.

        first = create_node(prepare)
        second = create_node(train, n=3)
        first >> second
        return second.o0

    Outputs are attributes of the node: `o0`, `o1`, or the names of a NamedTuple.

    Args:
        entity: a task, workflow or launch plan.
        *args: nothing.
        **kwargs: its arguments.

    Raises:
        CallError: arguments are given by position, unknown or missing.
        RuntimeError: it is not called in a workflow.
    """
    name = getattr(entity, "name", repr(entity))
    if args:
        raise CallError(f"create_node({name!r}) takes arguments by name, got {len(args)} by position")
    graph = current_graph()
    if graph is None:
        raise RuntimeError(
            f"create_node({name!r}) was called outside of a workflow - call {name} itself to run it"
        )
    if not hasattr(entity, "interface"):
        raise CallError(
            f"create_node() expected a task, workflow or launch plan, got {type(entity).__name__}"
        )
    return trace_node(graph, entity, (), kwargs)
