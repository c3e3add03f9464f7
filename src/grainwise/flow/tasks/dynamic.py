"""`@dynamic`: a workflow whose calls depend on values; its function runs when these are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from ..graph.tracing import Graph, tracing
from . import task as tasks

P = ParamSpec("P")
R = TypeVar("R")


class Dynamic(tasks.Task[P, R]):
    """A workflow that is traced when its inputs are known. Made by `dynamic`.

    Its function runs in the program itself, with values for its inputs; the tasks that it calls run like
    those of any workflow.
    """

    kind = "dynamic"

    def call_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace it with these values and run what it calls."""
        from ..running.start import run_entity

        return run_entity(self, self.interface.check_call(args, kwargs))

    def trace(self, values: dict[str, Any]) -> Graph:
        """Call the function with values; return the calls that it made."""
        graph = Graph(self.name, self.interface, prefix="dn")
        with tracing(graph):
            result = (self.stand_in or self.task_function)(**values)
            graph.set_outputs(self.interface, result)
        return graph


@overload
def dynamic(_task_function: Callable[P, R], /) -> Dynamic[P, R]: ...
@overload
def dynamic(_task_function: None = None, **options: Any) -> Callable[[Callable[P, R]], Dynamic[P, R]]: ...
def dynamic(_task_function: Any = None, **options: Any) -> Any:
    """Make a workflow whose calls depend on values.

        @dynamic
        def train_all(n: int) -> list[float]:
            return [train(seed=seed) for seed in range(n)]

    Inputs are values, what tasks return are promises. Takes the options of `task`.

    Raises:
        ValueError: an option is unknown, of the wrong type or out of range.
        DefinitionError: a parameter has no type or an impossible one, or nothing is returned.
    """
    return tasks.task(_task_function, **options, _kind=Dynamic)
