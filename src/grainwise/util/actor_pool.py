"""A fixed set of actors that take work as they become free: `ActorPool`."""

from __future__ import annotations

from collections import deque

from ..api.values import get, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class ActorPool:
    """Hands values to whichever of some actors is free.

        pool = ActorPool([Worker.remote() for _ in range(4)])
        list(pool.map(lambda actor, value: actor.double.remote(value), range(100)))

    An actor has one call of the pool's at a time; what more is submitted waits in the pool. The order of
    results is that of submission (`get_next`, `map`) or of completion (`get_next_unordered`,
    `map_unordered`). Not for several threads at once.

    Args:
        actors: handles of actors; they are not ended with the pool.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle_actors = list(actors)
        self._under_way: dict[Any, tuple[int, Any]] = {}
        """By ref: the number of its submission, and its actor."""
        self._refs: dict[int, Any] = {}
        """By the number of its submission: each ref whose result nobody has taken."""
        self._pending_submits: deque[tuple[Callable[[Any, Any], Any], Any]] = deque()
        self._next_submission = 0
        self._next_result = 0

    def map(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Submit a call for each value, and return an iterator over the results in the order of the values.

        All values are taken at once. Results of earlier submissions that nobody has taken are let go.

        Args:
            fn: takes an actor and a value, and returns the ref of a call: `lambda a, v: a.f.remote(v)`.
            values: what to submit.
        """
        self._submit_all(fn, values)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next()

        return results()

    def map_unordered(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """Do as `map` does, with the results in the order in which they come."""
        self._submit_all(fn, values)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next_unordered()

        return results()

    def _submit_all(self, fn: Callable[[Any, Any], Any], values: Iterable[Any]) -> None:
        while self.has_next():
            try:
                self.get_next_unordered(timeout=0, ignore_if_timedout=True)
            except TimeoutError:
                pass
        for value in values:
            self.submit(fn, value)

    def submit(self, fn: Callable[[Any, Any], Any], value: Any) -> None:
        """Have a free actor work on a value, or keep it until one is free.

        Args:
            fn: takes an actor and a value, and returns the ref of a call.
            value: its second argument.
        """
        if not self._idle_actors:
            self._pending_submits.append((fn, value))
            return
        actor = self._idle_actors.pop()
        ref = fn(actor, value)
        key = tuple(ref) if isinstance(ref, list) else ref
        self._under_way[key] = (self._next_submission, actor)
        self._refs[self._next_submission] = ref
        self._next_submission += 1

    def has_next(self) -> bool:
        """Say whether there are results to take, now or later."""
        return bool(self._under_way)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the next result in the order of submission; wait for it.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.
            ignore_if_timedout: a result that is not there in time is let go.

        Raises:
            StopIteration: there is none.
            TimeoutError: the time is over.
            ValueError: `get_next_unordered` has taken a later one.
            Exception: what the call raised; its actor is free again.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if self._next_result >= self._next_submission:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered()")
        ref = self._refs[self._next_result]
        message, is_late = "Timed out waiting for result", False
        if timeout is not None and not wait([ref], timeout=timeout)[0]:
            if not ignore_if_timedout:
                raise TimeoutError(message)
            is_late = True
        del self._refs[self._next_result]
        self._next_result += 1
        self._take(ref)
        if is_late:
            raise TimeoutError(f"{message}. The task {ref} has been ignored.")
        return get(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the result that comes first; wait for it.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.
            ignore_if_timedout: if none is there in time, that of one call is let go.

        Raises:
            StopIteration: there is none.
            TimeoutError: the time is over.
            Exception: what the call raised; its actor is free again.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        message = "Timed out waiting for result"
        ready, _ = wait(list(self._under_way), timeout=timeout)
        if not ready and not ignore_if_timedout:
            raise TimeoutError(message)
        ref = ready[0] if ready else next(iter(self._under_way))
        number = self._take(ref)
        del self._refs[number]
        self._next_result = max(self._next_result, number + 1)
        if not ready:
            raise TimeoutError(f"{message}. The task {ref} has been ignored.")
        return get(ref)

    def _take(self, ref: Any) -> int:
        """Take a call off the books, and give its actor the next one; return its number."""
        number, actor = self._under_way.pop(ref)
        self._set_free(actor)
        return number

    def _set_free(self, actor: Any) -> None:
        self._idle_actors.append(actor)
        if self._pending_submits:
            self.submit(*self._pending_submits.popleft())

    def has_free(self) -> bool:
        """Say whether an actor is free, and nothing waits for one."""
        return bool(self._idle_actors) and not self._pending_submits

    def pop_idle(self) -> Any | None:
        """Take a free actor out of the pool and return it; None if there is none."""
        return self._idle_actors.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor; it takes what waits.

        Raises:
            ValueError: it is in the pool already.
        """
        if actor in self._idle_actors or any(actor == busy for _, busy in self._under_way.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._set_free(actor)


ActorPool.__module__ = "grainwise.util"
