"""`batched`: one call at a time outside, lists inside."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future
from time import monotonic
from typing import Any, Generic, TypeVar, overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

A = TypeVar("A")
B = TypeVar("B")


class Batched(Generic[A, B]):
    """A function of lists that is called with single items. Made by `batched`.

    The first caller of a batch waits up to `wait_s` for others, in other threads, and then runs the function
    for all of them. `map(items)` cuts a list into batches.
    """

    def __init__(self, function: Callable[[list[A]], list[B]], max_batch_size: int, wait_s: float) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._max_batch_size = max_batch_size
        self._wait_s = wait_s
        self._condition = threading.Condition()
        self._waiting: list[tuple[A, Future[B]]] = []

    def __call__(self, item: A) -> B:
        """Run the function on an item, in a batch with those of other threads."""
        future: Future[B] = Future()
        with self._condition:
            self._waiting.append((item, future))
            if len(self._waiting) > 1:
                batch = []
                if len(self._waiting) >= self._max_batch_size:
                    batch = self._take()
                    self._condition.notify_all()
            else:
                batch = self._gather(future)
        if batch:
            self._run(batch)
        return future.result()

    def _gather(self, own: Future[B]) -> list[tuple[A, Future[B]]]:
        """Wait for others to join; return the batch, empty if somebody else has taken it."""
        deadline = monotonic() + self._wait_s
        while any(future is own for _, future in self._waiting):
            left = deadline - monotonic()
            if len(self._waiting) >= self._max_batch_size or left <= 0:
                return self._take()
            self._condition.wait(left)
        return []

    def _take(self) -> list[tuple[A, Future[B]]]:
        batch, self._waiting = self._waiting, []
        return batch

    def _run(self, batch: list[tuple[A, Future[B]]]) -> None:
        try:
            results = self._call([item for item, _ in batch])
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results):
            future.set_result(result)

    def _call(self, items: list[A]) -> list[B]:
        results = list(self._function(items))
        if len(results) != len(items):
            raise ValueError(
                f"{getattr(self, '__qualname__', 'the function')!r} was called with {len(items)} items and "
                f"returned {len(results)} results - expected one for each, in order"
            )
        return results

    def map(self, items: Any) -> list[B]:
        """Call the function with batches of a list; return one list of results."""
        listed = list(items)
        results: list[B] = []
        for start in range(0, len(listed), self._max_batch_size):
            results += self._call(listed[start : start + self._max_batch_size])
        return results

    def __reduce__(self) -> tuple[Any, ...]:
        return Batched, (self._function, self._max_batch_size, self._wait_s)


@overload
def batched(_function: Callable[[list[A]], list[B]], /) -> Batched[A, B]: ...
@overload
def batched(
    *, max_batch_size: int = 32, wait_s: float = 0.01
) -> Callable[[Callable[[list[A]], list[B]]], Batched[A, B]]: ...
def batched(_function: Any = None, *, max_batch_size: int = 32, wait_s: float = 0.01) -> Any:
    """Make a function of lists callable with single items, from many threads or coroutines' threads at once.

        @batched(max_batch_size=64, wait_s=0.005)
        def embed(texts: list[str]) -> list[list[float]]: ...

        embed("one text")

    Args:
        _function: takes a list, and returns as many results, in order.
        max_batch_size: items of one call of it at most, from 1 up.
        wait_s: seconds that the first item waits for others, from 0 up.

    Raises:
        ValueError: a number is out of range.
    """
    size: Any = max_batch_size
    pause: Any = wait_s
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"batched(max_batch_size={max_batch_size!r:.50}) expected a whole number from 1 up")
    if isinstance(pause, bool) or not isinstance(pause, (int, float)) or not 0 <= pause < float("inf"):
        raise ValueError(f"batched(wait_s={wait_s!r:.50}) expected seconds from 0 up")

    def make(function: Any) -> Any:
        return Batched(function, max_batch_size, wait_s)

    return make if _function is None else make(_function)
