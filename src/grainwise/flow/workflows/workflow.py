"""`@workflow`: a graph of typed calls, traced from a function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from ..declared.described import describe
from ..declared.options import Options, WorkflowFailurePolicy
from ..errors import DefinitionError, FailureNodeError
from ..graph.node import Node
from ..graph.tracing import Graph, current_graph, trace_call, tracing
from ..types.compatible import can_be
from ..types.hints import PythonInterface
from ..types.signature import Interface, check_returns, read_interface

P = ParamSpec("P")
R = TypeVar("R")


class WorkflowBase:
    """What workflows of functions and those put together by hand have in common.

    Attributes:
        name: of the workflow.
        interface: inputs and outputs.
        failure_policy: what happens to the rest when a node fails.
        on_failure: called with the inputs, and `err`, when it fails.
    """

    kind = "workflow"

    def __init__(
        self, name: str, failure_policy: Any, interruptible: Any, on_failure: Any, default_options: Any
    ) -> None:
        if failure_policy is not None and not isinstance(failure_policy, WorkflowFailurePolicy):
            raise DefinitionError(
                f"workflow(failure_policy=...) expected a WorkflowFailurePolicy, got {failure_policy!r:.80}"
            )
        if not isinstance(interruptible, bool):
            raise DefinitionError(f"workflow(interruptible=...) expected a bool, got {interruptible!r:.80}")
        if default_options is not None and not isinstance(default_options, Options):
            raise DefinitionError(
                f"workflow(default_options=...) expected Options, got {type(default_options).__name__}"
            )
        self.name = name
        self.failure_policy = failure_policy or WorkflowFailurePolicy.FAIL_IMMEDIATELY
        self.interruptible = interruptible
        self.on_failure = on_failure
        self.default_options = default_options
        self.interface: Interface
        self.stand_in: Callable[..., Any] | None = None
        """What a test has put in its place; see `task_mock`."""

    @property
    def python_interface(self) -> PythonInterface:
        """Inputs and outputs, by Flyte's name."""
        return PythonInterface(self.interface)

    @property
    def short_name(self) -> str:
        """The name of the function."""
        return self.name.rpartition(".")[2]

    def trace(self, values: dict[str, Any]) -> Graph:
        """Return the graph for a run with these inputs."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, or become a node of the workflow that is being traced."""
        graph = current_graph()
        if graph is not None:
            return trace_call(graph, self, args, kwargs)
        from ..running.start import run_entity

        return run_entity(self, self.interface.check_call(args, kwargs))

    def check_failure_node(self) -> None:
        """Refuse an `on_failure` that asks for what the workflow can't give.

        Raises:
            FailureNodeError: an input is not one of the workflow's, or the workflow has one that it lacks.
        """
        handler = self.on_failure
        if handler is None:
            return
        theirs, ours = handler.interface.inputs, self.interface.inputs
        wrong = [
            name
            for name, each in theirs.items()
            if name not in ours and name != "err" and not can_be(type(None), each.annotation)
        ]
        wrong += [name for name in ours if name not in theirs]
        wrong += [
            name
            for name in ours
            if name in theirs and not can_be(ours[name].annotation, theirs[name].annotation)
        ]
        if wrong:
            raise FailureNodeError(
                f"on_failure of {self.interface.owner}: expected the workflow's inputs {self.interface!r}, "
                f"got {handler.interface!r} of {handler.name!r} - {wrong[0]!r} differs; it may have "
                f"`err: Optional[FlyteError] = None` as well"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.interface!r}>"


class FunctionWorkflow(WorkflowBase, Generic[P, R]):
    """A workflow traced from a function. Made by `workflow`.

    Called, it runs on the engine and returns plain values; in another workflow it becomes a node.
    """

    def __init__(
        self, function: Callable[P, R], failure_policy: Any, interruptible: Any, on_failure: Any, docs: Any,
        default_options: Any, pickle_untyped: bool = False,
    ) -> None:  # fmt: skip
        name = f"{function.__module__}.{function.__qualname__.replace('<locals>.', '')}"
        super().__init__(name, failure_policy, interruptible, on_failure, default_options)
        functools.update_wrapper(self, function)
        self._workflow_function: Callable[..., Any] = function
        self.docs = describe(docs, function.__doc__ or "")
        self.pickle_untyped = pickle_untyped
        self.interface = self._read_interface()
        self._compiled: Graph | None = None
        check_returns(function, self.interface)

    def _read_interface(self) -> Interface:
        owner = f"workflow {self.name!r}"
        return read_interface(self._workflow_function, owner, takes_untyped=self.pickle_untyped)

    def trace(self, values: dict[str, Any]) -> Graph:
        """Call the function with promises; return the calls that it made.

        Each run traces anew, so that what the function reads from elsewhere is as of now.
        """
        self.check_failure_node()
        graph = Graph(self.name, self.interface)
        with tracing(graph):
            result = self._workflow_function(**graph.start.outputs)
            if not self.interface.outputs and result is not None:
                check_no_outputs(self.interface, result)
            graph.set_outputs(self.interface, result)
        return graph

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it, or become a node of the workflow that is being traced."""
        result: R = super().__call__(*args, **kwargs)
        return result

    def compile(self, **_: Any) -> None:
        """Trace it once, for a look at its nodes."""
        if self._compiled is None:
            self._compiled = self.trace({})

    @property
    def graph(self) -> Graph:
        """Its graph."""
        self.compile()
        assert self._compiled is not None
        return self._compiled

    @property
    def nodes(self) -> list[Node]:
        """Its nodes, in the order of the calls."""
        return self.graph.nodes

    @property
    def output_bindings(self) -> dict[str, Any]:
        """What its outputs are bound to."""
        return self.graph.outputs

    @property
    def failure_node(self) -> Node | None:
        """The node that runs when it fails."""
        if self.on_failure is None:
            return None
        self.check_failure_node()
        return Node(self.graph, "fn0", self.on_failure, {})

    def execute(self, **values: Any) -> Any:
        """Call the plain function."""
        return self._workflow_function(**values)

    def __reduce__(self) -> Any:
        from ..tasks.task import _find, _is_importable, _make_empty

        module, path = self._workflow_function.__module__, self._workflow_function.__qualname__
        if _is_importable(self, module, path):
            return _find, (module, path)
        return _make_empty, (type(self),), {
            **self.__dict__, "_compiled": None, "interface": None, "stand_in": None
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.interface = self._read_interface()


def check_no_outputs(interface: Interface, result: Any) -> None:
    """Refuse a value from a workflow that declares none.

    Raises:
        DefinitionError: there is one.
    """
    from ..errors import TypeMismatchError
    from ..graph.promise import VoidPromise

    if isinstance(result, VoidPromise):
        return
    raise TypeMismatchError(
        f"{interface.owner} declares no outputs, and its function returned {result!r:.100}",
        where=interface.owner,
    )


@overload
def workflow(_workflow_function: Callable[P, R], /) -> FunctionWorkflow[P, R]: ...
@overload
def workflow(
    _workflow_function: None = None, failure_policy: WorkflowFailurePolicy | None = None,
    interruptible: bool = False, on_failure: Any = None, docs: Any = None, pickle_untyped: bool = False,
    default_options: Options | None = None,
) -> Callable[[Callable[P, R]], FunctionWorkflow[P, R]]: ...  # fmt: skip
def workflow(
    _workflow_function: Any = None, failure_policy: WorkflowFailurePolicy | None = None,
    interruptible: bool = False, on_failure: Any = None, docs: Any = None, pickle_untyped: bool = False,
    default_options: Options | None = None,
) -> Any:  # fmt: skip
    """Make a workflow of a function that calls tasks and other workflows.

        @workflow
        def clean_and_count(text: str) -> dict[str, int]:
            return count(words=split(text=text))

    The function is called with promises and says which call takes what; it never sees values. Calls that do
    not need each other run in parallel.

    Args:
        _workflow_function: the function; each parameter needs an annotation.
        failure_policy: what happens to the rest when a node fails: it is stopped (default), or all that does
            not need the failed node still runs.
        interruptible: kept, without effect.
        on_failure: a task or workflow with the same inputs, and `err: Optional[FlyteError] = None` if it
            wants; called when a node has failed; the error is raised all the same.
        docs: a `Documentation`; without it the docstring says what it is about.
        pickle_untyped: parameters and results without annotation may be anything.
        default_options: `Options` of its runs.

    Raises:
        DefinitionError: a parameter has no type or an impossible one, nothing is returned, or an option
            is wrong.
    """

    def make(function: Any) -> Any:
        if isinstance(function, WorkflowBase) or not hasattr(function, "__qualname__"):
            raise DefinitionError(f"workflow() expected a function, got {type(function).__name__}")
        return FunctionWorkflow(
            function, failure_policy, interruptible, on_failure, docs, default_options, bool(pickle_untyped)
        )

    return make if _workflow_function is None else make(_workflow_function)
