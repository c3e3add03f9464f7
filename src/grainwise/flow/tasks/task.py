"""`@task`: a typed function that workflows call, and that stays callable as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from ..declared.options import TaskOptions, read_options
from ..errors import DefinitionError
from ..graph.tracing import current_graph, trace_call
from ..types.hints import PythonInterface
from ..types.signature import check_returns, read_hints, read_interface

if TYPE_CHECKING:
    from ..declared.options import Cache, TaskMetadata
    from ..declared.resources import Resources

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A typed function. Made by `task`.

    Called in a workflow, it becomes a node and gives promises. Called elsewhere, it checks its arguments,
    runs here, in this process, and checks what it returns; results of a task with a cache are looked up there
    first.

    Attributes:
        name: module and qualified name.
        interface: inputs and outputs.
        options: what was declared about it.
    """

    kind = "task"

    def __init__(
        self,
        function: Callable[P, R],
        options: TaskOptions,
        *,
        hints: dict[str, Any] | None = None,
        place: Any = None,
    ) -> None:
        self._set_up(function, options, hints, place)
        check_returns(function, self.interface)

    def _set_up(self, function: Any, options: TaskOptions, hints: Any, place: Any) -> None:
        self.task_function = function
        self.options = options
        self.place = place
        """The environment whose replicas run it; None for the ordinary workers."""
        self.stand_in: Callable[..., Any] | None = None
        """What a test has put in the place of the function; then it runs in this process."""
        functools.update_wrapper(self, function)
        self.name = f"{function.__module__}.{function.__qualname__.replace('<locals>.', '')}"
        self.hints = read_hints(function) if hints is None else hints
        self.interface = read_interface(
            function, f"{self.kind} {self.name!r}", self.hints,
            takes_untyped=bool(options.others.get("pickle_untyped")),
        )  # fmt: skip
        self.is_async = bool(getattr(function, "__code__", None) and function.__code__.co_flags & 0x80)
        self._is_plain = not (options.cache or options.variables or self.is_async)

    @property
    def python_interface(self) -> PythonInterface:
        """Inputs and outputs, by Flyte's name."""
        return PythonInterface(self.interface)

    @property
    def metadata(self) -> TaskMetadata:
        """Options by Flyte's names."""
        return self.options.metadata

    @property
    def resources(self) -> Any:
        """What it asks for and may have at most."""
        return self.options.resources

    @property
    def environment(self) -> dict[str, str]:
        """The variables that are set while it runs."""
        return self.options.environment

    @property
    def container_image(self) -> Any:
        """The image that it was declared with."""
        return self.options.container_image

    @property
    def task_config(self) -> Any:
        """What was given as `task_config`."""
        return self.options.others.get("task_config")

    @property
    def docs(self) -> str:
        """The docstring."""
        return self.interface.docs

    @property
    def short_name(self) -> str:
        """The name of the function."""
        return self.name.rpartition(".")[2]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, or become a node of the workflow that is being traced."""
        graph = current_graph()
        if graph is not None:
            promised: R = trace_call(graph, self, args, kwargs)
            return promised
        result: R = self.call_here(args, kwargs)
        return result

    def call_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Check the arguments, run in this process, check the result."""
        interface = self.interface
        values = interface.check_call(args, kwargs)
        if self._is_plain:
            return interface.check_result((self.stand_in or self.task_function)(**values))
        from ..lanes.here import call_with_options

        return call_with_options(self, values)

    def execute(self, **values: Any) -> Any:
        """Run the plain function, without checks."""
        return (self.stand_in or self.task_function)(**values)

    def with_place(self, place: Any) -> Task[P, R]:
        """Return the same task in an environment."""
        made = type(self).__new__(type(self))
        made._set_up(self.task_function, self.options, self.hints, place)
        return made

    def __rshift__(self, other: Any) -> Any:
        raise TypeError(
            f"`>>` was asked of the task {self.name!r} itself - expected what a call of it returned"
        )

    # A new, empty object first and its state after it, because the function may name this very task.
    def __reduce__(self) -> Any:
        module, path = self.task_function.__module__, self.task_function.__qualname__
        if _is_importable(self, module, path):
            return _find, (module, path)
        state = (self.task_function, self.options, self.hints, self.place)
        return _make_empty, (type(self),), state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._set_up(*state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def _make_empty(cls: Any) -> Any:
    return cls.__new__(cls)


def _is_importable(made: Any, module: str, path: str) -> bool:
    """Say whether a worker finds a task under its name; the program itself is not imported there."""
    import sys

    if module == "__main__" or "<locals>" in path or path == "<lambda>":
        return False
    held: Any = sys.modules.get(module)
    spec = getattr(held, "__spec__", None)
    if held is None or spec is None or not _is_on_path(module):
        return False
    for part in path.split("."):
        held = getattr(held, part, None)
    return held is made


@functools.lru_cache(maxsize=256)
def _is_on_path(module: str) -> bool:
    """Say whether a fresh interpreter with this `sys.path` finds a module; of pytest's own it doesn't."""
    import importlib.machinery
    import sys

    search: Any = None
    found = None
    for index, part in enumerate(module.split(".")):
        name = ".".join(module.split(".")[: index + 1])
        found = importlib.machinery.PathFinder.find_spec(name, search)
        if found is None:
            return part in sys.builtin_module_names
        search = found.submodule_search_locations
    held = sys.modules.get(module)
    return found is not None and getattr(held, "__file__", None) == found.origin


def _find(module: str, path: str) -> Any:
    import importlib

    held: Any = importlib.import_module(module)
    for part in path.split("."):
        held = getattr(held, part)
    return held


class TaskDecorator:
    """What `task(...)` with options returns."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __call__(self, function: Callable[P, R]) -> Task[P, R]:
        """Make the task."""
        made: Task[P, R] = self._make(function)
        return made


@overload
def task(_task_function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    _task_function: None = None, task_config: Any = None, cache: bool | Cache = False, retries: int = 0,
    interruptible: bool | None = None, deprecated: str = "", timeout: Any = 0, container_image: Any = None,
    environment: dict[str, str] | None = None, requests: Resources | None = None,
    limits: Resources | None = None, secret_requests: Any = None, *, resources: Resources | None = None,
    cache_version: str = "", cache_serialize: bool = False, cache_ignore_input_vars: tuple[str, ...] = (),
    **others: Any,
) -> TaskDecorator: ...  # fmt: skip
def task(
    _task_function: Any = None, task_config: Any = None, cache: Any = False, retries: int = 0,
    interruptible: bool | None = None, deprecated: str = "", timeout: Any = 0, container_image: Any = None,
    environment: dict[str, str] | None = None, requests: Resources | None = None,
    limits: Resources | None = None, secret_requests: Any = None, *, resources: Resources | None = None,
    cache_version: str = "", cache_serialize: bool = False, cache_ignore_input_vars: tuple[str, ...] = (),
    **others: Any,
) -> Any:  # fmt: skip
    """Make a typed task of a function: bare (`@task`), or with options (`@task(retries=2)`).

        @task
        def count(words: list[str]) -> dict[str, int]: ...

    Each parameter needs an annotation. Arguments and results are checked, here and in workers.

    Args:
        _task_function: the function.
        task_config: kept, without effect.
        cache: True, or a `Cache`: keep results on disk.
        retries: runs beyond the first in a workflow or map, when the function raised, ran out of time, or its
            worker died; with growing pauses between them. A direct call does not try again.
        interruptible: kept, without effect.
        deprecated: kept; a message for users.
        timeout: seconds or a `timedelta` that one run may take in a workflow or map on the engine; 0 for no
            limit. A direct call and inline runs are not stopped.
        container_image: the name of an image or an `ImageSpec`; the variables of the latter are set.
        environment: variables that are set while it runs.
        requests: `cpu` says how many CPUs a run occupies, 1 by default.
        limits: `mem` is what a run may allocate beyond what its worker has; beyond it is a `MemoryError`.
        secret_requests: kept, without effect.
        resources: requests and limits in one; pairs are (request, limit).
        cache_version: with `cache=True`, what `Cache(version=...)` says.
        cache_serialize: the same for `Cache(serialize=...)`.
        cache_ignore_input_vars: the same for `Cache(ignored_inputs=...)`.
        **others: `pickle_untyped=True` for parameters and results without annotation, which may then be
            anything; other arguments that Flyte's `task` has are taken, without effect.

    Raises:
        ValueError: an option is unknown, of the wrong type or out of range.
        DefinitionError: a parameter has no type or an impossible one, or nothing is returned.
    """
    from .dynamic import Dynamic

    kind: Any = others.pop("_kind", Task)
    place = others.pop("_place", None)
    if task_config is not None:
        others["task_config"] = task_config
    if secret_requests is not None:
        others["secret_requests"] = secret_requests
    options = read_options(
        cache=cache, retries=retries, interruptible=interruptible, deprecated=deprecated, timeout=timeout,
        container_image=container_image, environment=environment, requests=requests, limits=limits,
        resources=resources, cache_version=cache_version, cache_serialize=cache_serialize,
        cache_ignore_input_vars=cache_ignore_input_vars, others=others,
    )  # fmt: skip

    def make(function: Any) -> Any:
        if isinstance(function, Task):
            raise DefinitionError(f"task() expected a function, got the task {function.name!r}")
        if not callable(function) or not hasattr(function, "__qualname__"):
            raise DefinitionError(f"task() expected a function, got {type(function).__name__}")
        return kind(function, options, place=place)

    assert issubclass(kind, (Task, Dynamic))
    return TaskDecorator(make) if _task_function is None else make(_task_function)
