"""Single calls in an environment, and rounds of a map: what runs in its replicas, and who waits for it.

A call has a connection to the host and a thread that waits on it for as long as it runs. There are at most as
many at once as replicas; other calls wait here, in their order.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any

from ...errors import TaskCancelledError
from ..hosts.cancellation import Cancellation
from ..lanes.attempt import Attempt
from ..mapping.window import Failed
from .places import host_of, left_to_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..environment import ActorEnvironment
    from ..hosts.client import Host


class Reach:
    """A way to an environment's host that another thread can bar.

    Attributes:
        cancellation: ends what is under way by this way.
    """

    def __init__(self, environment: ActorEnvironment) -> None:
        self._environment = environment
        self.cancellation = Cancellation()

    def host(self) -> Host:
        """Return the host, started if need be.

        Raises:
            TaskCancelledError: nobody wants it any more.
        """
        self._check()
        return host_of(self._environment, self._check)

    def _check(self) -> None:
        if self.cancellation.is_set:
            raise TaskCancelledError(f"a task in environment {self._environment.name!r}")

    def call(self, function: Callable[[Any], Any], item: Any, timeout_s: float | None) -> Any:
        """Call a function in a replica; return its result.

        Raises:
            Exception: what it raised.
            TaskCancelledError: nobody wants it any more.
        """
        arrivals = self.host().arrivals(function, [item], timeout_s=timeout_s, cancellation=self.cancellation)
        for [outcome] in arrivals:
            return outcome.result()
        raise TaskCancelledError(f"a task in environment {self._environment.name!r}")


def attempt_in(environment: ActorEnvironment, task: Any, options: Any) -> Attempt:
    """Return what runs a task in a replica."""
    return Attempt(task, *left_to_set(environment, options))


class Crew:
    """Threads that run calls, at most so many at once; none where there is nothing to do."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._n_threads = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()

    def run(self, act: Callable[[], None], name: str) -> None:
        """Have a function called in a thread, now or when one is free. It must not raise."""
        import contextvars

        context = contextvars.copy_context()
        with self._lock:
            self._waiting.append(lambda: context.run(act))
            if self._n_threads == self._max_threads:
                return
            self._n_threads += 1
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._n_threads -= 1
                    return
                act = self._waiting.popleft()
            act()


class Round:
    """The elements of a round of a map, as one map of the host, which sizes the batches.

    Args:
        environment: where they run.
        function: takes an element: an item, or a tuple of them if there are several columns.
        timeout_s: for each.
        concurrency: how many run at once, None for as many as there are replicas.
    """

    def __init__(
        self, environment: ActorEnvironment, function: Any, timeout_s: float | None, concurrency: int | None
    ) -> None:
        self._reach = Reach(environment)
        self._function = function
        self._timeout_s = timeout_s
        self._concurrency = concurrency

    def run(self, columns: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Yield results as they come: the place of the first, and those that follow; errors as `Failed`."""
        arrivals = self._reach.host().arrivals(
            self._function, columns[0] if len(columns) == 1 else zip(*columns), timeout_s=self._timeout_s,
            concurrency=self._concurrency, cancellation=self._reach.cancellation,
        )  # fmt: skip
        start = 0
        try:
            for outcomes in arrivals:
                values = [each.value if each.error is None else Failed(each.error) for each in outcomes]
                yield start, values
                start += len(values)
        finally:
            arrivals.close()

    def close(self) -> None:
        """Stop it; any thread may."""
        self._reach.cancellation.set()


class HostedCalls:
    """Elements of a map, each as a call of its own: as refs are to the engine's workers.

    Args:
        environment: where they run.
        function: takes an element.
        timeout_s: for each.
    """

    def __init__(self, environment: ActorEnvironment, function: Any, timeout_s: float | None) -> None:
        self._environment = environment
        self._function = function
        self._timeout_s = timeout_s
        self._crew = Crew(environment.max_replicas)
        self._ended: queue.SimpleQueue[_Call] = queue.SimpleQueue()

    def submit(self, row: tuple[Any, ...]) -> _Call:
        """Begin a call."""
        call = _Call(self._environment)

        def act() -> None:
            try:
                call.result = call.reach.call(self._function, row, self._timeout_s)
            except BaseException as error:
                call.result = Failed(error)
            self._ended.put(call)

        self._crew.run(act, "flow element")
        return call

    def wait(self, calls: list[_Call], timeout_s: float | None) -> list[_Call]:
        """Return those that have ended; at least one, unless the time is over."""
        ended: list[_Call] = []
        try:
            ended.append(self._ended.get(timeout=timeout_s))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            return ended

    def result(self, call: _Call) -> Any:
        """Return what one gave, an error as `Failed`."""
        return call.result

    def cancel(self, call: _Call) -> None:
        """Stop one."""
        call.reach.cancellation.set()


class _Call:
    __slots__ = ("reach", "result")

    def __init__(self, environment: ActorEnvironment) -> None:
        self.reach = Reach(environment)
        self.result: Any = None
