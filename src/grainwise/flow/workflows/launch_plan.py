"""Launch plans: workflows with inputs filled in."""

from __future__ import annotations

from typing import Any

from ..declared.options import Options
from ..errors import CallError
from ..graph.tracing import Graph, current_graph, trace_call
from ..types.hints import PythonInterface
from ..types.signature import Input, Interface


class LaunchPlan:
    """A workflow with inputs filled in: defaults that a call may change, and fixed ones.

    Make one with `get_or_create` or `create`. Called, it runs the workflow; in another workflow it becomes a
    node.

    Attributes:
        name: of the plan; unique in the program.
        workflow: what it runs.
        fixed_inputs: what is no input of the plan; a call that names one all the same is one of the workflow.
        default_inputs: what a call may leave out.
    """

    kind = "workflow"
    CACHE: dict[str, LaunchPlan] = {}

    def __init__(
        self, name: str, workflow: Any, default_inputs: dict[str, Any], fixed_inputs: dict[str, Any],
        others: dict[str, Any],
    ) -> None:  # fmt: skip
        self.name = name
        self.workflow = workflow
        inner = workflow.interface
        for given in (default_inputs, fixed_inputs):
            for key in given:
                if key not in inner.inputs:
                    raise UnknownInputError(
                        f"launch plan {name!r} got {key!r}, which is no input of {inner.owner}"
                    )
        self.default_inputs = {key: inner.check_input(key, value) for key, value in default_inputs.items()}
        self.fixed_inputs = {key: inner.check_input(key, value) for key, value in fixed_inputs.items()}
        self.others = others
        self.max_parallelism = others.get("max_parallelism")
        self.schedule = others.get("schedule")
        self.notifications = others.get("notifications") or []
        inputs = [
            Input(each.name, each.annotation, self.default_inputs.get(each.name, each.default))
            for each in inner.inputs.values()
            if each.name not in self.fixed_inputs
        ]
        self.interface = Interface(
            f"launch plan {name!r}", inputs, inner.outputs, output_class=inner.output_class, docs=inner.docs
        )

    @property
    def python_interface(self) -> PythonInterface:
        """Inputs and outputs, without those that are fixed."""
        return PythonInterface(self.interface)

    @property
    def saved_inputs(self) -> dict[str, Any]:
        """All inputs that are filled in."""
        return {**self.default_inputs, **self.fixed_inputs}

    @property
    def parameters(self) -> dict[str, Any]:
        """The inputs that a call may give, with their defaults."""
        return {name: each.default for name, each in self.interface.inputs.items()}

    @property
    def failure_policy(self) -> Any:
        """What happens to the rest when a node of the workflow fails."""
        return self.workflow.failure_policy

    @property
    def on_failure(self) -> Any:
        """What runs when the workflow fails."""
        return self.workflow.on_failure

    @property
    def default_options(self) -> Options | None:
        """The options of its runs."""
        declared: Options | None = self.workflow.default_options
        if self.max_parallelism is None:
            return declared
        return Options(max_parallelism=self.max_parallelism)

    def trace(self, values: dict[str, Any]) -> Graph:
        """Return the graph of its workflow for a run with these inputs."""
        graph: Graph = self.workflow.trace(values)
        return graph

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run its workflow, or become a node of the one that is being traced."""
        if args:
            raise CallError(f"{self.interface.owner} takes arguments by name, got {len(args)} by position")
        if not self.fixed_inputs.keys().isdisjoint(kwargs):  # the caller knows best, as in Flyte's local runs
            return self.workflow(**{**self.saved_inputs, **kwargs})
        graph = current_graph()
        if graph is not None:
            return trace_call(graph, self, (), kwargs)
        from ..running.start import run_entity

        return run_entity(self, self.interface.check_call((), kwargs))

    # -- making ----------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name: str,
        workflow: Any,
        default_inputs: dict[str, Any] | None = None,
        fixed_inputs: dict[str, Any] | None = None,
        **others: Any,
    ) -> LaunchPlan:
        """Make a launch plan.

        Raises:
            AssertionError: there is one of this name.
            UnknownInputError: the workflow has no such input.
            TypeMismatchError: a value is not of its input's type.
        """
        if name in cls.CACHE:
            raise AssertionError(f"there is a launch plan named {name!r} already - names are unique")
        made = cls(name, workflow, dict(default_inputs or {}), dict(fixed_inputs or {}), others)
        cls.CACHE[name] = made
        return made

    @classmethod
    def get_or_create(
        cls,
        workflow: Any,
        name: str | None = None,
        default_inputs: dict[str, Any] | None = None,
        fixed_inputs: dict[str, Any] | None = None,
        **others: Any,
    ) -> LaunchPlan:
        """Return the launch plan of a name, made if there is none.

        Without a name it is the default one of the workflow, which fills nothing in.

        Args:
            workflow: what it runs.
            name: of the plan.
            default_inputs: what a call may leave out.
            fixed_inputs: what no call may change.
            **others: `max_parallelism` limits how much of a run is done at once; `schedule`, `notifications`,
                `labels`, `annotations` and the like are kept, without effect.

        Raises:
            ValueError: there are inputs or options but no name.
            AssertionError: the plan of this name is another one.
        """
        if name is None:
            if default_inputs or fixed_inputs or any(value is not None for value in others.values()):
                raise ValueError(
                    "a launch plan without a name can have no inputs or options - expected a name"
                )
            return cls.get_default_launch_plan(None, workflow)
        found = cls.CACHE.get(name)
        if found is None:
            return cls.create(name, workflow, default_inputs, fixed_inputs, **others)
        wanted = cls(name, workflow, dict(default_inputs or {}), dict(fixed_inputs or {}), others)
        for word in ("workflow", "default_inputs", "fixed_inputs", "others"):
            mine, theirs = getattr(found, word), getattr(wanted, word)
            if mine is not theirs and (word == "workflow" or mine != theirs):
                raise AssertionError(f"there is a launch plan named {name!r} already, with other {word}")
        return found

    @classmethod
    def get_default_launch_plan(cls, ctx: Any, workflow: Any) -> LaunchPlan:
        """Return the launch plan of a workflow that has its name and fills nothing in."""
        found = cls.CACHE.get(workflow.name)
        if found is not None and found.workflow is workflow:
            return found
        made = cls.CACHE[workflow.name] = cls(workflow.name, workflow, {}, {}, {})
        return made

    def clone_with(
        self, name: str, parameters: Any = None, fixed_inputs: Any = None, **others: Any
    ) -> LaunchPlan:
        """Return the same launch plan under another name, with other inputs."""
        return LaunchPlan(
            name, self.workflow, self.default_inputs if parameters is None else parameters,
            self.fixed_inputs if fixed_inputs is None else fixed_inputs, {**self.others, **others},
        )  # fmt: skip

    def __reduce__(self) -> Any:
        return LaunchPlan, (self.name, self.workflow, self.default_inputs, self.fixed_inputs, {})

    def __repr__(self) -> str:
        return f"<LaunchPlan {self.name} {self.interface!r}>"


class UnknownInputError(CallError, KeyError):
    """A launch plan fills in an input that its workflow does not have."""

    def __str__(self) -> str:
        return str(self.args[0])
