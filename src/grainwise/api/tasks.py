"""`remote` and what it makes: functions whose calls run elsewhere."""

from __future__ import annotations

from ..engine.calls import STREAMING
from ..engine.current import Exportable, Options
from ..engine.generators import is_generator_function
from ..errors import ArgumentError
from .session import engine
from .task_options import TASK_OPTIONS, check_generator, check_task_options

TYPE_CHECKING = False
if not TYPE_CHECKING:

    def overload(function):
        """Do nothing: importing typing costs milliseconds."""
        return function

    class Typed:
        """Gives `RemoteFunction[...]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias

else:  # last, so that linters take this `overload` for the one in effect
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

    from typing_extensions import Unpack

    from ..engine.generators import DynamicObjectRefGenerator, ObjectRefGenerator
    from ..objects.ref import ObjectRef
    from .actors import ActorClass
    from .option_types import ActorOptions, StreamOptions, TaskOptions

    C = TypeVar("C")
    P = ParamSpec("P")
    R = TypeVar("R")
    R_co = TypeVar("R_co", covariant=True)
    Out_co = TypeVar("Out_co", covariant=True)

    class _Nothing:
        """What no function returns: matched by those that return Any, which are no generators as a rule."""

    class Typed(Generic[P, R_co, Out_co]):
        """Makes `RemoteFunction` generic: in its parameters, its result, and what `.remote()` returns."""


COROUTINE = 0x80  # inspect.CO_COROUTINE
_REMOTE_DOC = """\
Submit a call; return a ref to its result, a list of refs, or None, as `num_returns` says.

Arguments go by value as of now; a ref at top level is replaced by its value, in a container it stays a ref.
"""


class RemoteFunction(Typed["P", "R_co", "Out_co"]):
    """A function whose calls are tasks. Made by `remote`.

    `f.remote(...)` submits a call and returns an `ObjectRef` at once, or an `ObjectRefGenerator` if the
    function has a `yield`; `f.options(...)` returns the same function with other options. Calling it directly
    is an error, as it would run here; the plain function is `f.__wrapped__`.
    """

    if not TYPE_CHECKING:
        __slots__ = {
            "__dict__": None,
            "__weakref__": None,
            "_exportable": None,
            "_options": None,
            "remote": _REMOTE_DOC,
        }

    def __init__(self, exportable: Exportable, options: Options) -> None:
        self._exportable = exportable
        self._options = options
        function = exportable.function
        self.__wrapped__ = function
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            value = getattr(function, name, None)
            if value is not None:
                self.__dict__[name] = value
        if not TYPE_CHECKING:
            self.remote = _unbound(self)

    if TYPE_CHECKING:

        @overload
        def remote(self, *args: P.args, **kwargs: P.kwargs) -> Out_co: ...
        @overload
        def remote(self, first: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> Out_co: ...
        @overload
        def remote(self, first: Any, second: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> Out_co: ...
        @overload
        def remote(
            self, first: Any, second: Any, third: ObjectRef[Any], /, *args: Any, **kwargs: Any
        ) -> Out_co: ...
        @overload
        def remote(
            self, first: Any, second: Any, third: Any, fourth: ObjectRef[Any], /, *args: Any, **kwargs: Any
        ) -> Out_co: ...
        def remote(self, *args: Any, **kwargs: Any) -> Any:
            """Submit a call; return a ref to its result, a list of refs, or None, as `num_returns` says.

            Arguments go by value as of now: changing one afterwards does not change what the task sees. A
            ref at top level is replaced by its value; inside a container it stays a ref. Large arrays and
            objects are stored once, however often they are passed, and arrive without a copy, read-only.

            Raises:
                SerializationError: an argument can't be pickled; names it and the path to the culprit.
                InfeasibleTaskError: more CPUs are asked for than the engine has.
                EngineClosedError: in a process forked off the program.
            """

    @overload
    def options(
        self, *, num_returns: Literal["streaming"], **options: Unpack[StreamOptions]
    ) -> RemoteFunction[P, R_co, ObjectRefGenerator[R_co]]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **options: Unpack[TaskOptions]
    ) -> RemoteFunction[P, R_co, ObjectRef[DynamicObjectRefGenerator[R_co]]]: ...
    @overload
    def options(  # type: ignore[overload-overlap]  # a Literal is an int, too: the first match holds
        self, *, num_returns: Literal[1], **options: Unpack[TaskOptions]
    ) -> RemoteFunction[P, R_co, ObjectRef[R_co]]: ...
    @overload
    def options(  # type: ignore[overload-overlap]  # as above
        self, *, num_returns: Literal[0], **options: Unpack[TaskOptions]
    ) -> RemoteFunction[P, R_co, None]: ...
    @overload
    def options(
        self, *, num_returns: int, **options: Unpack[TaskOptions]
    ) -> RemoteFunction[P, R_co, list[ObjectRef[Any]]]: ...
    @overload
    def options(self, **options: Unpack[StreamOptions]) -> RemoteFunction[P, R_co, Out_co]: ...
    def options(self, **options: Any) -> Any:
        """Return the same function with some options changed; see `remote` for them.

        Raises:
            TypeError: an option is unknown or of the wrong type.
            ValueError: an option is out of range.
        """
        checked = check_task_options(options, self._options)
        check_generator(self.__wrapped__, options.get("num_returns"))
        return RemoteFunction(self._exportable, checked)

    if not TYPE_CHECKING:

        def __call__(self, *args, **kwargs):
            """Refuse: a direct call would run here.

            Raises:
                TypeError: always.
            """
            name = self._options.name
            raise TypeError(
                f"Remote functions cannot be called directly: {name!r} was - use {name}.remote(...) to run "
                f"it as a task"
            )

        def bind(self, *_, **__):
            """Refuse: graphs of calls are not offered.

            Raises:
                NotImplementedError: always.
            """
            from .ray_arguments import CLUSTERS

            raise NotImplementedError(
                f"{self._options.name}.bind: graphs of calls are not offered - use .remote(...) - {CLUSTERS}"
            )

        def _remote(self, args=None, kwargs=None, **options):
            """Do as `options(...).remote(...)`; older programs of Ray's say it so."""
            return self.options(**options).remote(*(args or ()), **(kwargs or {}))

        @property
        def _function(self):
            """The plain function, under Ray's name."""
            return self.__wrapped__

        @property
        def _function_name(self):
            """Module and name of the function, under Ray's name."""
            return f"{getattr(self.__wrapped__, '__module__', None)}.{self._exportable.name}"

        def unbind(self, *, is_ended=True):
            """Bind to an engine again at the next call: it has ended, or the function may have changed."""
            if is_ended:
                self._exportable.is_exported = False
            self.remote = _unbound(self)

    def __reduce__(self) -> tuple[Any, ...]:
        exportable = self._exportable
        return _rebuild, (
            exportable.function,
            exportable.name,
            exportable.identify(),
            exportable.is_exported,
            self._options.astuple(),
        )

    def __repr__(self) -> str:
        return f"<RemoteFunction {self._options.name}>"


RemoteFunction.__module__ = "grainwise"


def _rebuild(
    function: Callable[..., Any], name: str, uid: bytes, is_exported: bool, options: tuple[Any, ...]
) -> RemoteFunction[..., Any, Any]:
    return RemoteFunction(Exportable(function, name, uid, is_exported), Options(*options))


def _unbound(owner: Any) -> Any:
    """Return what stands for `f.remote` until the first call binds it to the running engine.

    Bound, `f.remote` is the engine's own closure: no attribute of ours stands between a call and its append.
    """
    is_bound = False

    def remote(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_bound
        if is_bound:  # somebody kept this one
            return owner.remote(*args, **kwargs)
        running = engine()
        bound = _describe(running.bind(owner._exportable, owner._options, _later(owner)), owner)
        note_bound = getattr(running, "note_bound", None)
        if note_bound is not None:
            note_bound(owner)
        owner.remote = bound
        is_bound = True
        return bound(*args, **kwargs)

    return _describe(remote, owner)


def _later(owner: Any) -> Any:
    """Return what takes calls of a binding that somebody kept beyond the end of its session."""
    import weakref

    reference = weakref.ref(owner)
    exportable, options = owner._exportable, owner._options

    def remote(*args: Any, **kwargs: Any) -> Any:
        again = reference()
        if again is None:
            exportable.is_exported = False
            again = RemoteFunction(exportable, options)
        return again.remote(*args, **kwargs)

    return remote


def _describe(remote: Any, owner: Any) -> Any:
    """Have `help(f.remote)` and `inspect.signature(f.remote)` tell what the call takes."""
    remote.__name__ = "remote"
    remote.__qualname__ = f"{owner._options.name}.remote"
    remote.__doc__ = _REMOTE_DOC
    remote.__wrapped__ = owner.__wrapped__
    return remote


@overload
def remote(cls: type[C], /) -> ActorClass[C]: ...  # type: ignore[overload-overlap]  # a class is callable, too
@overload
def remote(function: Callable[P, _Nothing], /) -> RemoteFunction[P, Any, ObjectRef[Any]]: ...  # one of Any
@overload
def remote(  # type: ignore[overload-overlap]  # what iterates is a result, too: the first match holds
    function: Callable[P, Iterator[R]], /
) -> RemoteFunction[P, R, ObjectRefGenerator[R]]: ...
@overload
def remote(  # type: ignore[overload-overlap]  # as above
    function: Callable[P, AsyncIterator[R]], /
) -> RemoteFunction[P, R, ObjectRefGenerator[R]]: ...
@overload
def remote(function: Callable[P, R], /) -> RemoteFunction[P, R, ObjectRef[R]]: ...
@overload
def remote(*, num_returns: Literal["dynamic"], **options: Unpack[TaskOptions]) -> _DecoratorDynamic: ...
@overload
def remote(  # type: ignore[overload-overlap]  # a Literal is an int, too: the first match holds
    *, num_returns: Literal[1, "streaming"] = 1, **options: Unpack[StreamOptions]
) -> _Decorator: ...
@overload
def remote(  # type: ignore[overload-overlap]  # as above
    *, num_returns: Literal[0], **options: Unpack[TaskOptions]
) -> _DecoratorNone: ...
@overload
def remote(*, num_returns: int, **options: Unpack[TaskOptions]) -> _DecoratorMany: ...
@overload
def remote(**options: Unpack[ActorOptions]) -> _ActorDecorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make calls of a function run as tasks in worker processes, or objects of a class live in processes.

    Use it bare (`@remote`), with options (`@remote(num_cpus=2)`) or as a call (`remote(f)`). Functions of any
    kind will do, lambdas and closures included; no `if __name__ == "__main__"` guard is needed.

    Tiny tasks are batched by measured cost; nobody picks a chunk size.

    A class becomes an `ActorClass`: `A.remote(...)` starts a process with an object of it, whose methods are
    called through the handle that it returns: `handle.method.remote(...)`. Calls of one caller run in order.

    Args:
        *args: the function or the class.
        **options: of a class:
            num_cpus: CPUs that it occupies as long as it lives, default 0; 1 with GPUs or custom resources.
            num_gpus, resources, memory, scheduling_strategy: as for functions, as long as it lives.
            name, namespace: under which `get_actor` finds it.
            lifetime: "detached" lets it live until `kill` or the end of the session; by default it ends when
                its last handle is gone.
            get_if_exists: take the actor of this name if there is one, default False.
            max_restarts: how often it is made again when its process dies, default 0, -1 for no limit.
            max_task_retries: runs of a call beyond the first when that happens, default 0, -1 for no limit.
            runtime_env: as of a function.
            max_concurrency: calls that run at once: on threads, default 1; with `async def` methods on one
                event loop, default 1000.
            concurrency_groups: names of groups of methods, and how many calls of each run at once.

            Of a function:
            num_cpus: CPUs that a run occupies, >= 0, default 1. 0 does not count against the limit.
            num_gpus: GPUs, default 0: a part of one below 1, a whole number above. The task sees these GPUs
                and no others (CUDA_VISIBLE_DEVICES), in a process of its own.
            resources: custom resources, `{"name": amount}`, of those that `init(resources=...)` names.
            memory: bytes of memory. So much is reserved, and a process that takes more is killed: the task
                fails with `OutOfMemoryError`.
            scheduling_strategy: "DEFAULT", "SPREAD", or one of `grainwise.util.scheduling_strategies`.
            num_returns: results of a call, >= 0, default 1. With 2 and more the function returns as many
                values and `.remote()` a list of refs. A function with a `yield` gives an
                `ObjectRefGenerator` by default, as "streaming" says; one ref of all its refs at the end with
                "dynamic"; and with a number the first of its values.
            _generator_backpressure_num_objects: how many values of a generator may wait to be taken; it goes
                on when some are. >= 1, by default (or -1) any number.
            max_retries: runs beyond the first when the worker dies, default 3, -1 for no limit. With 0 a
                task is never run twice, and its batch-mates' results are reported one by one.
            retry_exceptions: True, or exception classes, to run again after such an error as well (at most
                `max_retries` times in all); default False.
            name: how messages call the task; default the function's qualified name.
            runtime_env: variables, folder and packages of its processes: a dict with `env_vars`,
                `working_dir`, `py_modules`, `pip` or `uv`, ...; it adds to what the caller has.
            batching: "auto" (default) sizes batches by measured cost; "off" sends each task by itself, to a
                worker that is free; a number sends batches of so many. Rarely worth setting.

    Raises:
        ArgumentError: what is decorated is neither a function nor a class, or an option is unknown.
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or the function is `async def`.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make(args[0], {})
    if args:
        raise ArgumentError(
            f"remote() expected one function or class, or keyword options, got {_kinds(args)} - it "
            f"must be applied to either a function or a class"
        )

    def decorate(function: Any) -> Any:
        if not callable(function):
            raise ArgumentError(
                f"remote() must be applied to either a function or a class, got {type(function).__name__}"
            )
        return _make(function, options)

    if not set(options) <= set(TASK_OPTIONS):
        from .actor_options import ACTOR_OPTIONS, check_actor_options

        if set(options) <= set(ACTOR_OPTIONS):
            check_actor_options(options)
            return decorate
    check_task_options(options, Options())
    return decorate


def _kinds(args: tuple[Any, ...]) -> str:
    return ", ".join(type(arg).__name__ for arg in args)


def _make(function: Any, options: dict[str, Any]) -> Any:
    if isinstance(function, RemoteFunction) or hasattr(type(function), "__ray_actor_class__"):
        raise ArgumentError(
            f"remote() must be applied to either a function or a class, got what it has made: "
            f"{function!r:.200}"
        )
    if isinstance(function, type):
        from .actors import make_class

        return make_class(function, options)
    if getattr(getattr(function, "__code__", None), "co_flags", 0) & COROUTINE:
        raise ValueError(
            f"'async def' should not be used for remote tasks, got {function!r:.200} - wrap it as "
            f"lambda *args: asyncio.run(function(*args)), or make it a method of an actor"
        )
    name = getattr(function, "__qualname__", None) or type(function).__name__
    name = name.replace("<locals>.", "") if "<locals>." in name else name
    start = Options(name=name, num_returns=STREAMING if is_generator_function(function) else 1)
    check_generator(function, options.get("num_returns"))
    return RemoteFunction(Exportable(function, name), check_task_options(options, start))


if TYPE_CHECKING:
    from typing import Protocol

    class _ActorDecorator(Protocol):
        def __call__(self, cls: type[C], /) -> ActorClass[C]: ...

    class _Decorator(Protocol):
        @overload
        def __call__(self, cls: type[C], /) -> ActorClass[C]: ...  # type: ignore[overload-overlap]
        @overload
        def __call__(self, function: Callable[P, _Nothing], /) -> RemoteFunction[P, Any, ObjectRef[Any]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]  # as for `remote`
            self, function: Callable[P, Iterator[R]], /
        ) -> RemoteFunction[P, R, ObjectRefGenerator[R]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]  # as for `remote`
            self, function: Callable[P, AsyncIterator[R]], /
        ) -> RemoteFunction[P, R, ObjectRefGenerator[R]]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, R, ObjectRef[R]]: ...

    class _DecoratorDynamic(Protocol):
        @overload
        def __call__(
            self, function: Callable[P, Iterator[R]], /
        ) -> RemoteFunction[P, R, ObjectRef[DynamicObjectRefGenerator[R]]]: ...
        @overload
        def __call__(
            self, function: Callable[P, AsyncIterator[R]], /
        ) -> RemoteFunction[P, R, ObjectRef[DynamicObjectRefGenerator[R]]]: ...

    class _DecoratorNone(Protocol):
        def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, R, None]: ...

    class _DecoratorMany(Protocol):
        def __call__(self, function: Callable[P, R], /) -> RemoteFunction[P, R, list[ObjectRef[Any]]]: ...
