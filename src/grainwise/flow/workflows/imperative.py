"""`Workflow(name)`: a workflow that is put together by hand, call by call."""

from __future__ import annotations

from typing import Any

from ..errors import CallError, FlowError
from ..graph.node import Node
from ..graph.promise import Promise, promises_in
from ..graph.tracing import Graph, bind_output, trace_node
from ..types.signature import Input, Interface
from .workflow import WorkflowBase


class WorkflowStateError(FlowError, AssertionError):
    """A workflow that is put together by hand is not complete, or is given a name twice."""


class Workflow(WorkflowBase):
    """A workflow that is put together by hand.

        wf = Workflow(name="clean")
        text = wf.add_workflow_input("text", str)
        node = wf.add_entity(split, text=text)
        wf.add_workflow_output("words", node.outputs["o0"])
        wf(text="a b")

    Args:
        name: of the workflow.
        failure_policy: what happens to the rest when a node fails.
        interruptible: kept, without effect.
    """

    def __init__(self, name: str, failure_policy: Any = None, interruptible: bool = False) -> None:
        super().__init__(name, failure_policy, interruptible, None, None)
        self._outputs: dict[str, Any] = {}
        self.graph = Graph(name, None)
        self.interface = Interface(f"workflow {name!r}", [], {})
        self._unbound: set[str] = set()

    @property
    def inputs(self) -> dict[str, Promise]:
        """Promises of its inputs, by name."""
        return self.graph.start.outputs

    @property
    def nodes(self) -> list[Node]:
        """Its nodes, in the order in which they were added."""
        return self.graph.nodes

    @property
    def output_bindings(self) -> dict[str, Any]:
        """What its outputs are bound to."""
        return self.graph.outputs

    @property
    def failure_node(self) -> Node | None:
        """The node that runs when it fails."""
        return None if self.on_failure is None else Node(self.graph, "fn0", self.on_failure, {})

    def add_workflow_input(self, input_name: str, python_type: Any) -> Promise:
        """Add an input; return its promise.

        Raises:
            WorkflowStateError: there is one of this name.
        """
        if input_name in self.interface.inputs:
            raise WorkflowStateError(f"workflow {self.name!r} has the input {input_name!r} already")
        inputs = [*self.interface.inputs.values(), Input(input_name, python_type)]
        self._set_interface(inputs)
        promise = Promise(self.graph.start, input_name, python_type)
        self.graph.start.outputs[input_name] = promise
        self._unbound.add(input_name)
        return promise

    def add_workflow_output(self, output_name: str, p: Any, python_type: Any = None) -> None:
        """Bind an output to a promise, or to a list or dictionary of promises.

        Raises:
            WorkflowStateError: there is one of this name, or the type of a list or dictionary is not given.
            TypeMismatchError: the promise can't be of the type.
        """
        if output_name in self._outputs:
            raise WorkflowStateError(f"workflow {self.name!r} has the output {output_name!r} already")
        if python_type is None:
            if not isinstance(p, Promise):
                raise WorkflowStateError(
                    f"add_workflow_output({output_name!r}) expected python_type=... for what is not one "
                    f"promise, such as List[int]"
                )
            python_type = p.annotation
        self._note_used([p])
        self._outputs[output_name] = python_type
        self._set_interface(list(self.interface.inputs.values()))
        self.graph.outputs[output_name] = bind_output(self.interface, output_name, p)

    def add_entity(self, entity: Any, **kwargs: Any) -> Node:
        """Add a call of a task, workflow or launch plan; return its node.

        Raises:
            CallError: an argument is unknown or missing.
            TypeMismatchError: an argument can't be what the input says.
        """
        self._note_used(kwargs.values())
        return trace_node(self.graph, entity, (), kwargs)

    def add_task(self, task: Any, **kwargs: Any) -> Node:
        """Add a call of a task; see `add_entity`."""
        return self.add_entity(task, **kwargs)

    def add_subwf(self, sub_wf: Any, **kwargs: Any) -> Node:
        """Add a call of a workflow; see `add_entity`."""
        return self.add_entity(sub_wf, **kwargs)

    def add_launch_plan(self, launch_plan: Any, **kwargs: Any) -> Node:
        """Add a call of a launch plan; see `add_entity`."""
        return self.add_entity(launch_plan, **kwargs)

    def add_on_failure_handler(self, entity: Any) -> None:
        """Have a task or workflow run when this one fails."""
        self.on_failure = entity

    def create_conditional(self, name: str) -> Any:
        """Begin a conditional whose cases are added by `then` of nodes."""
        from ..graph.conditional import ConditionalSection

        return ConditionalSection(name, self.graph)

    def ready(self) -> bool:
        """Say whether it can run: it has a call, and all its inputs are used."""
        return bool(self.graph.nodes) and not self._unbound

    def compile(self, **_: Any) -> None:
        """Do nothing: it is put together already."""

    def trace(self, values: dict[str, Any]) -> Graph:
        """Return its graph.

        Raises:
            WorkflowStateError: it is not complete.
        """
        if not self.ready():
            missing = (
                f"the inputs {sorted(self._unbound)} are not used" if self._unbound else "it has no calls"
            )
            raise WorkflowStateError(f"workflow {self.name!r} can't run yet - {missing}")
        self.check_failure_node()
        return self.graph

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, or become a node of the workflow that is being traced."""
        if args:
            raise CallError(f"{self.interface.owner} takes arguments by name, got {len(args)} by position")
        if not self.ready():
            self.trace({})
        return super().__call__(**kwargs)

    def _note_used(self, values: Any) -> None:
        for promise in promises_in(list(values)):
            if promise.node is self.graph.start:
                self._unbound.discard(promise.var)

    def _set_interface(self, inputs: list[Input]) -> None:
        is_named = len(self._outputs) > 1
        outputs = self._outputs
        self.interface = Interface(f"workflow {self.name!r}", inputs, outputs, is_named=is_named)


ImperativeWorkflow = Workflow
