"""`map_task`: a task over lists."""

from __future__ import annotations

import functools
import typing
from typing import Any, Optional

from ..errors import CallError
from ..graph.promise import has_promise
from ..graph.tracing import current_graph, trace_call
from ..mapping.budget import Concurrency
from ..mapping.elements import least_successes
from ..types.hints import PythonInterface
from ..types.signature import REQUIRED, Input, Interface
from .dynamic import Dynamic
from .task import Task


class MapTask:
    """A task over lists. Made by `map_task`.

    Attributes:
        target: the task that runs for each element.
        bound: inputs that are the same for all elements, with their values.
        mapped: names of the inputs that are lists.
    """

    kind = "map"
    stand_in = None

    def __init__(
        self, target: Any, concurrency: Any, min_successes: int | None, min_success_ratio: float | None,
        run_all_sub_nodes: bool, metadata: Any, bound_names: Any,
    ) -> None:  # fmt: skip
        target, bound = _unwrap(target)
        self.target = target
        if isinstance(bound_names, dict):
            bound = {**bound, **bound_names}
            bound_names = ()
        self.promised = {name: value for name, value in bound.items() if has_promise(value)}
        """Inputs that are the same for all elements, and whose values the workflow will know."""
        self.bound = {
            name: target.interface.check_input(name, value)
            for name, value in bound.items()
            if name not in self.promised
        }
        given: set[str] = {*(bound_names or ()), *self.promised}
        unknown = sorted(given - set(target.interface.inputs))
        if unknown:
            raise ValueError(
                f"map_task(bound_inputs=...) got {unknown[0]!r}, which {target.name!r} does not have"
            )
        self.mapped = [
            name for name in target.interface.inputs if name not in self.bound and name not in given
        ]
        self.concurrency = _read_concurrency(concurrency, target)
        _check_tolerance(min_successes, min_success_ratio)
        self.min_successes = min_successes
        self.min_success_ratio = min_success_ratio
        self.run_all_sub_nodes = run_all_sub_nodes
        self.options = target.options
        if metadata is not None:
            cache = target.options.cache if not metadata.cache else None
            self.options = functools.partial(_with_metadata, target.options)(metadata, cache)
        module, _, short = target.name.rpartition(".")
        self.name = f"{module}.map_{short}"
        self.interface = self._read_interface(given)

    def _read_interface(self, given: set[str]) -> Interface:
        inputs = []
        for name, each in self.target.interface.inputs.items():
            if name in self.bound:
                continue
            if name in given:
                inputs.append(Input(name, each.annotation, each.default))
            elif each.default is REQUIRED:
                inputs.append(Input(name, list_of(each.annotation)))
            else:  # not given: the default, for each element
                inputs.append(Input(name, optional(list_of(each.annotation)), None))
        is_tolerant = self.min_successes is not None or self.min_success_ratio not in (None, 1, 1.0)
        outputs = {
            name: list_of(optional(kind) if is_tolerant else kind)
            for name, kind in self.target.interface.outputs.items()
        }
        is_named = self.target.interface.output_class is not None
        return Interface(f"map {self.name!r}", inputs, outputs, is_named=is_named)

    @property
    def python_interface(self) -> PythonInterface:
        """Inputs and outputs, by Flyte's name."""
        return PythonInterface(self.interface)

    @property
    def metadata(self) -> Any:
        """Options by Flyte's names."""
        return self.options.metadata

    @property
    def bound_inputs(self) -> set[str]:
        """Names of the inputs that are not lists."""
        return set(self.target.interface.inputs) - set(self.mapped)

    @property
    def python_function_task(self) -> Any:
        """The task that runs for each element, by Flyte's name."""
        return self.target

    run_task = python_function_task

    def least_successes(self, n_elements: int) -> int:
        """Return how many elements must succeed."""
        return least_successes(n_elements, self.min_successes, self.min_success_ratio)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it for each element, in workers; in a workflow, become a node."""
        graph = current_graph()
        if graph is not None:
            return trace_call(graph, self, args, kwargs)
        from ..mapping.start import run_map

        return run_map(self, self.interface.check_call(args, kwargs))

    def __repr__(self) -> str:
        return f"<MapTask {self.name}>"


def list_of(annotation: Any) -> Any:
    """Return the annotation of a list of values of another."""
    return typing.List[annotation]  # noqa: UP006 -- as Flyte shows it


def optional(annotation: Any) -> Any:
    """Return the annotation of values of another, or None."""
    return Optional[annotation]  # noqa: UP045 -- annotations of any kind, on Python 3.10


def _with_metadata(options: Any, metadata: Any, cache: Any) -> Any:
    import dataclasses

    from ..declared.options import Cache

    if metadata.cache:
        cache = Cache(
            version=metadata.cache_version or None, serialize=metadata.cache_serialize,
            ignored_inputs=metadata.cache_ignore_input_vars,
        )  # fmt: skip
    return dataclasses.replace(options, metadata=metadata, cache=cache)


def _unwrap(target: Any) -> tuple[Any, dict[str, Any]]:
    """Return the task of `functools.partial`s, and what they bind.

    Raises:
        ValueError: it is no task, or arguments are bound by position.
    """
    bound: dict[str, Any] = {}
    while isinstance(target, functools.partial):
        if target.args:
            raise ValueError("map_task(partial(...)) expected arguments by name, got them by position")
        bound = {**target.keywords, **bound}
        target = target.func
    from ..mapping.plans import PlanTarget

    if hasattr(target, "kind") and target.kind == "workflow" and hasattr(target, "fixed_inputs"):
        return PlanTarget(target), bound
    if not isinstance(target, Task) or isinstance(target, Dynamic):
        named = getattr(target, "name", None) or getattr(target, "__name__", type(target).__name__)
        raise ValueError(f"map_task() expected a task or a launch plan, got {named!r}")
    for name in bound:
        if name not in target.interface.inputs:
            raise CallError(f"map_task() got the unknown input {name!r} of {target.name!r}")
    return target, bound


def _read_concurrency(value: Any, target: Any) -> int | Concurrency | None:
    """Return the limit: None for the run's, 0 for none, a number, or a budget.

    Raises:
        ValueError: it is none of these.
    """
    if value is None or isinstance(value, Concurrency):
        return value
    if isinstance(value, dict):
        unknown = set(value) - {"key", "limit"}
        if unknown or "limit" not in value:
            raise ValueError(
                f'map_task(concurrency=...) expected {{"key": ..., "limit": ...}}, got {value!r:.100}'
            )
        key = value.get("key")
        if key is not None and key not in target.interface.inputs:
            raise ValueError(
                f"map_task(concurrency=...) got the key {key!r}, which is no input of {target.name!r}"
            )
        return Concurrency(value["limit"], key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"map_task(concurrency={value!r:.50}) expected a number, a dictionary or a Concurrency"
        )
    return max(0, value)


def _check_tolerance(min_successes: Any, ratio: Any) -> None:
    if min_successes is not None and (
        isinstance(min_successes, bool) or not isinstance(min_successes, int) or min_successes < 0
    ):
        raise ValueError(f"map_task(min_successes={min_successes!r:.50}) expected a whole number from 0 up")
    if ratio is not None and (
        isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not ratio >= 0
    ):
        raise ValueError(f"map_task(min_success_ratio={ratio!r:.50}) expected a number from 0 to 1")


def map_task(
    target: Any,
    concurrency: Any = None,
    min_successes: int | None = None,
    min_success_ratio: float | None = 1.0,
    run_all_sub_nodes: bool = False,
    **kwargs: Any,
) -> MapTask:
    """Run a task for each element of lists.

        map_task(double)(x=[1, 2, 3])
        map_task(functools.partial(scale, factor=2.0), concurrency=4)(x=values)

    Results are in the order of the input. Elements run in workers, tiny ones in batches. With options,
    caching and retries are those of the task, for each element.

    Args:
        target: a task with any number of outputs, a `functools.partial` of one, or a launch plan. What the
            partial binds is the same for all elements.
        concurrency: how many elements run at once: a number, 0 for as many as there are CPUs, None for what
            `Options(max_parallelism=...)` leaves; `{"key": "tenant", "limit": 3}` for so many with the same
            value of an input; a `Concurrency` to share with other maps.
        min_successes: so many elements must succeed; takes precedence over the ratio.
        min_success_ratio: this share of the elements must succeed. Below 1, results are None where an element
            failed; the list then has `.failures`. By default the first error is raised, as the task raised
            it.
        run_all_sub_nodes: run all elements also when it is clear that too many failed.
        **kwargs: `metadata=TaskMetadata(...)` in the place of the task's own; `bound_inputs`, names of inputs
            that are called with one value instead of a list, or a dictionary with the values; others that
            Flyte takes are taken, without effect.

    Raises:
        ValueError: the target is no task, or an option is out of range.
        TypeMismatchError: what is bound is not of its type.
    """
    return MapTask(
        target, concurrency, min_successes, min_success_ratio, bool(run_all_sub_nodes),
        kwargs.get("metadata"), kwargs.get("bound_inputs") or kwargs.get("bound_inputs_values"),
    )  # fmt: skip
