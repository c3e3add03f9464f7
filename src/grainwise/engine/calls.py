"""What is said about calls between `api` and the engines, in the driver and in workers.

The `num_returns` of a call is a count, or says what becomes of the values of a generator:

    STREAMING           a stream of refs, as the values come
    -2 - limit          the same, and its producer waits when `limit` of them have not been taken
    DYNAMIC             one ref, whose value is the list of refs of all of them
"""

from __future__ import annotations

from .needs import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .needs import Needs

STREAMING = -1
DYNAMIC = -2


def streaming(limit: int) -> int:
    """Return the `num_returns` of a stream of which so many values wait at most, 0 for any number."""
    return DYNAMIC - limit if limit else STREAMING


def limit_of(num_returns: int) -> int:
    """Return how many values of a stream wait at most, 0 for any number."""
    return max(0, DYNAMIC - num_returns)


def num_refs(num_returns: int) -> int:
    """Return how many refs a worker must name for a call: of its end, and of a stream for a generator."""
    if num_returns < 0:
        return 1 if num_returns == DYNAMIC else 2
    return max(1, num_returns)


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
        runtime_env: canonical text of its own environment, see `environments.spec`; "" for what it inherits.
        needs: what it takes beside CPUs.
    """

    __slots__ = (
        "class_name", "description", "groups", "is_async", "is_detached", "max_concurrency", "max_restarts",
        "may_exist", "name", "namespace", "needs", "num_cpus", "runtime_env",
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
        runtime_env: str = "",
        needs: Needs = NOTHING,
    ) -> None:
        self.needs = needs
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
        self.runtime_env = runtime_env

    def astuple(self) -> tuple[Any, ...]:
        """Return the values in the order of the constructor; they are plain enough for any frame."""
        return (
            self.class_name, self.num_cpus, self.name, self.namespace, self.is_detached, self.may_exist,
            self.max_restarts, self.max_concurrency, self.groups, self.is_async, self.description,
            self.runtime_env, self.needs,
        )  # fmt: skip

    def is_concurrent(self) -> bool:
        """Say whether its calls may run at once: then they may also end, and begin, out of order."""
        return self.is_async or self.max_concurrency > 1 or bool(self.groups)


class MethodOptions:
    """Checked options of the calls of a method.

    Attributes:
        method: its name.
        name: for messages.
        num_returns: results of a call, >= 0; below 0 for a generator, see above.
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
