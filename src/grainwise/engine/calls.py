"""What is said about actors and their methods between `api` and the engines, in the driver and in workers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pending_limit(name: str, most: int) -> Exception:
    """Return the error of a call that is one too many."""
    from ..exceptions import PendingCallsLimitExceeded

    return PendingCallsLimitExceeded(
        f"{name!r} was not submitted - expected less than max_pending_calls={most} calls of the actor under "
        f"way - wait for some of them first"
    )


class ActorOptions:
    """Checked options of an actor.

    Attributes:
        class_name: for messages.
        num_cpus: CPUs that it occupies as long as it lives, >= 0.
        name, namespace: under which `get_actor` finds it; an empty name for none.
        is_detached: it lives until it is killed or the session ends.
        may_exist: take the one that has this name, if there is one.
        max_restarts: how often it is made again after its process died, -1 for no limit.
        max_concurrency: calls that may run at once.
        groups: (name, calls that may run at once) of each concurrency group.
        is_async: it has `async def` methods: all of them run on one event loop.
        description: what a handle is made from, see `api.actors`.
    """

    __slots__ = (
        "class_name", "description", "groups", "is_async", "is_detached", "max_concurrency", "max_restarts",
        "may_exist", "name", "namespace", "num_cpus",
    )  # fmt: skip

    def __init__(
        self,
        class_name: str = "",
        num_cpus: float = 0.0,
        name: str = "",
        namespace: str = "",
        is_detached: bool = False,
        may_exist: bool = False,
        max_restarts: int = 0,
        max_concurrency: int = 1,
        groups: tuple[tuple[str, int], ...] = (),
        is_async: bool = False,
        description: Any = None,
    ) -> None:
        self.class_name = class_name
        self.num_cpus = num_cpus
        self.name = name
        self.namespace = namespace
        self.is_detached = is_detached
        self.may_exist = may_exist
        self.max_restarts = max_restarts
        self.max_concurrency = max_concurrency
        self.groups = groups
        self.is_async = is_async
        self.description = description

    def astuple(self) -> tuple[Any, ...]:
        """Return the values in the order of the constructor; they are plain enough for any frame."""
        return (
            self.class_name, self.num_cpus, self.name, self.namespace, self.is_detached, self.may_exist,
            self.max_restarts, self.max_concurrency, self.groups, self.is_async, self.description,
        )  # fmt: skip

    def is_concurrent(self) -> bool:
        """Say whether its calls may run at once: then they may also end, and begin, out of order."""
        return self.is_async or self.max_concurrency > 1 or bool(self.groups)


class MethodOptions:
    """Checked options of the calls of a method.

    Attributes:
        method: its name.
        name: for messages.
        num_returns: results of a call, >= 0.
        max_task_retries: runs beyond the first after the death of the actor's process, -1 for no limit.
        retry_exceptions: False, True, or the exception classes that are worth another run.
        group: the concurrency group that it runs in; empty for the default one.
        signature: what it takes, see `signatures`; None for anything.
        max_pending: calls of the actor that may be under way, -1 for no limit.

    The last two do not tell calls apart: they matter only where a call is made.
    """

    __slots__ = (
        "group", "max_pending", "max_task_retries", "method", "name", "num_returns", "retry_exceptions",
        "signature",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        name: str = "",
        num_returns: int = 1,
        max_task_retries: int = 0,
        retry_exceptions: bool | tuple[type[BaseException], ...] = False,
        group: str = "",
        signature: str | None = None,
    ) -> None:
        self.method = method
        self.name = name
        self.num_returns = num_returns
        self.max_task_retries = max_task_retries
        self.retry_exceptions = retry_exceptions
        self.group = group
        self.signature = signature
        self.max_pending = -1

    def copy(self) -> MethodOptions:
        """Return the same options, to be changed."""
        made = MethodOptions(*self.astuple())
        made.signature = self.signature
        made.max_pending = self.max_pending
        return made

    def astuple(self) -> tuple[Any, ...]:
        """Return what tells calls apart, in the order of the constructor."""
        return (
            self.method, self.name, self.num_returns, self.max_task_retries, self.retry_exceptions, self.group
        )  # fmt: skip
