"""The engine of this process: the driver's, the one inside a worker, or none."""

from __future__ import annotations

from .needs import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from ..objects.ref import ObjectRef
    from .calls import ActorOptions, MethodOptions
    from .needs import Needs

    class EngineLike(Protocol):
        """What the words that users say need of an engine, in the driver and inside a task alike."""

        is_closed: bool

        def bind(
            self, function: Exportable, options: Options, again: Callable[..., Any] | None = None
        ) -> Callable[..., Any]:
            """Return what submits a call of a function."""
            ...

        def put(self, value: Any) -> ObjectRef[Any]:
            """Store a value and return a ref to it."""
            ...

        def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
            """Return the values of refs, waiting for them; raise the first error in their order."""
            ...

        def wait(
            self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
        ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
            """Wait until so many refs are resolved or the time is over."""
            ...

        def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
            """Cancel a task."""
            ...

        def create_actor(
            self, exported: Exportable, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
        ) -> tuple[ObjectRef[Any], Any]:
            """Make an actor, or find the one of its name; return its ref and description."""
            ...

        def bind_method(self, ref: ObjectRef[Any], options: MethodOptions) -> Callable[..., Any]:
            """Return what submits a call of an actor's method."""
            ...

        def find_actor(self, name: str, namespace: str) -> tuple[ObjectRef[Any], Any]:
            """Return the ref and the description of the actor of a name."""
            ...

        def list_actors(self, namespace: str | None) -> list[tuple[str, str]]:
            """Return namespace and name of each actor that can be found, in one namespace or in all."""
            ...

        def kill_actor(self, ref: ObjectRef[Any], *, no_restart: bool) -> None:
            """End an actor's process, and the actor unless it may be restarted."""
            ...

        def ask(self, what: str, *args: Any) -> Any:
            """Ask the driver, or have it do something: see `driver.questions`."""
            ...


_engine: EngineLike | None = None
_is_foreign = False


def current() -> EngineLike | None:
    """Return the engine of this process, None before the first start and after a shutdown."""
    return _engine


def install(engine: EngineLike | None) -> None:
    """Make an engine the one of this process."""
    global _engine
    _engine = engine


def mark_foreign() -> None:
    """Note that this process was forked off a program with an engine: that engine is not ours."""
    global _engine, _is_foreign
    _is_foreign = _engine is not None or _is_foreign
    _engine = None


def check_not_foreign() -> None:
    """Refuse to start or use an engine in a process that was forked off a program with one.

    Raises:
        EngineClosedError: always in such a process.
    """
    if _is_foreign:
        from ..errors import EngineClosedError

        raise EngineClosedError(
            "grainwise was used in a process that was forked off a program with a running engine - expected "
            "the process that called init() - start child programs with subprocess or the spawn method, or "
            "submit the work as a task"
        )


class Exportable:
    """A function as the user decorated it; what an engine needs to send it.

    Attributes:
        function: the plain function.
        name: for messages.
        uid: identity of this decorated function wherever it travels, made at its first export.
        is_exported: a driver knows, or is just learning, the function under its uid.
    """

    __slots__ = ("__weakref__", "function", "is_exported", "name", "uid")

    def __init__(
        self, function: Callable[..., Any], name: str, uid: bytes = b"", is_exported: bool = False
    ) -> None:
        self.function = function
        self.name = name
        self.uid = uid
        self.is_exported = is_exported

    def identify(self) -> bytes:
        """Return the uid, making it at first need."""
        if not self.uid:
            import os

            self.uid = os.urandom(16)
        return self.uid


class Options:
    """Checked options of a task.

    Attributes:
        num_cpus: CPUs that a run occupies, >= 0.
        num_returns: results of a call, >= 0; below 0 for a generator, see `calls`.
        max_retries: runs beyond the first after a worker's death, -1 for no limit.
        retry_exceptions: False, True, or the exception classes that are worth another run.
        name: for messages.
        batching: tasks per batch, 0 for as many as is good, None for what the session says.
        runtime_env: canonical text of its own environment, see `environments.spec`; "" for what it inherits.
        needs: what a run takes beside CPUs.
    """

    __slots__ = (
        "batching", "max_retries", "name", "needs", "num_cpus", "num_returns", "retry_exceptions",
        "runtime_env",
    )  # fmt: skip

    def __init__(
        self,
        num_cpus: float = 1.0,
        num_returns: int = 1,
        max_retries: int = 3,
        retry_exceptions: bool | tuple[type[BaseException], ...] = False,
        name: str = "",
        batching: int | None = None,
        runtime_env: str = "",
        needs: Needs = NOTHING,
    ) -> None:
        self.needs = NOTHING if needs == NOTHING else needs
        self.batching = batching
        self.num_cpus = num_cpus
        self.num_returns = num_returns
        self.max_retries = max_retries
        self.retry_exceptions = retry_exceptions
        self.name = name
        self.runtime_env = runtime_env

    def astuple(self) -> tuple[Any, ...]:
        """Return the values in the order of the constructor."""
        return (
            self.num_cpus,
            self.num_returns,
            self.max_retries,
            self.retry_exceptions,
            self.name,
            self.batching,
            self.runtime_env,
            self.needs,
        )
