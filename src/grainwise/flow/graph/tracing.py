"""Tracing: a workflow's function is called with promises, and each call in it becomes a node.

The graph under way is kept in a context variable, so that workflows may be traced in several threads at once.
`conditional` opens a block in it: what is called before `.then(...)` belongs to that case, not to the graph.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..errors import CallError, TypeMismatchError
from .node import Node, check_edges
from .promise import Promise, VoidPromise, promises_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..types.signature import Interface


class Graph:
    """The nodes of a workflow, or of one case of a conditional.

    Attributes:
        name: of the workflow.
        start: stands for the inputs: their promises are its outputs.
        nodes: in the order of the calls.
        outputs: by name, with promises in them.
    """

    def __init__(self, name: str, interface: Interface | None, *, prefix: str = "n") -> None:
        self.name = name
        self.interface = interface
        self.nodes: list[Node] = []
        self.outputs: dict[str, Any] = {}
        self.blocks: list[list[Node]] = []
        """Cases of conditionals that are open; the innermost takes what is called."""
        self._prefix = prefix
        self._n_nodes = 0
        self.start = Node(self, "", None, {})
        if interface is not None:
            self.start.outputs = {
                name: Promise(self.start, name, each.annotation) for name, each in interface.inputs.items()
            }

    def add(self, entity: Any, bindings: dict[str, Any]) -> Node:
        """Add a call."""
        node = Node(self, f"{self._prefix}{self._n_nodes}", entity, bindings)
        self._n_nodes += 1
        (self.blocks[-1] if self.blocks else self.nodes).append(node)
        return node

    def set_outputs(self, interface: Interface, result: Any) -> None:
        """Bind what the workflow's function returned to its outputs.

        Raises:
            AssertionError: there are more or fewer values than outputs.
            TypeMismatchError: a value is not of the output's type.
        """
        if not interface.outputs:
            return
        if interface.output_class is None:
            if isinstance(result, tuple) and _is_bundle(result):
                raise CallError(
                    f"{interface.owner} declares one output, and its function returned {len(result)} values"
                )
            values = [result]
        elif isinstance(result, tuple) and len(result) == len(interface.outputs):
            values = list(result)
        elif len(interface.outputs) == 1 and not isinstance(result, tuple):
            values = [result]  # the only field of a NamedTuple, without it
        else:
            got = len(result) if isinstance(result, tuple) else 1
            raise CallError(
                f"{interface.owner} declares {len(interface.outputs)} outputs, and its function returned "
                f"{got} - expected one value for each"
            )
        for name, value in zip(interface.outputs, values):
            self.outputs[name] = bind_output(interface, name, value)


def _is_bundle(result: tuple[Any, ...]) -> bool:
    return next(promises_in(result), None) is not None or hasattr(result, "_fields")


def bind_output(interface: Interface, name: str, value: Any) -> Any:
    """Check what is bound to an output of a workflow, as far as that can be known.

    Raises:
        TypeMismatchError: it can't be of the output's type.
    """
    from ..types.checker import Mismatch, show_type
    from ..types.compatible import can_be

    annotation = interface.outputs[name]
    expected = show_type(annotation)
    if isinstance(value, Promise):
        if value.path or can_be(value.annotation, annotation):
            return value
        got = show_type(value.annotation)
    elif isinstance(value, VoidPromise) or (value is not None and hasattr(value, "section")):
        got = repr(value)
    elif next(promises_in(value), None) is not None:
        return value
    else:
        checker = interface.output_checkers[list(interface.outputs).index(name)]
        try:
            return checker.check(value)
        except Mismatch as mismatch:
            got = mismatch.got
    raise TypeMismatchError(
        f"{interface.owner}, output {name!r}: expected `{expected}`, got `{got}`",
        where=interface.owner, path=name, expected=expected, got=got,
    )  # fmt: skip


_current: ContextVar[Graph | None] = ContextVar("grainwise_flow_graph", default=None)


def current_graph() -> Graph | None:
    """Return the graph that is being traced, None if calls are to run."""
    return _current.get()


@contextmanager
def tracing(graph: Graph | None) -> Iterator[None]:
    """Have calls become nodes of a graph; None has them run."""
    token = _current.set(graph)
    try:
        yield
    finally:
        _current.reset(token)


def trace_call(graph: Graph, entity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Add a call to the graph that is being traced; return the promises of its outputs.

    Raises:
        CallError: an argument is unknown, missing or given twice.
        TypeMismatchError: an argument can't be what the input says.
    """
    return trace_node(graph, entity, args, kwargs).promise_outputs()


def trace_node(graph: Graph, entity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
    """Add a call to a graph; return its node."""
    interface = entity.interface
    given = interface.named(args, kwargs) if args else kwargs
    given = {**getattr(entity, "promised", {}), **given}  # what a map's partial binds to promises
    return graph.add(entity, check_edges(entity, interface.complete(given)))
