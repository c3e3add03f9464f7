"""The bound of an executor with fewer workers than there are CPUs."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...objects.ref import ObjectRef
    from .future import TaskFuture


class Lane:
    """Hands at most `width` calls to the engine at a time, the oldest first. Thread-safe."""

    def __init__(self, width: int) -> None:
        self._num_free = width
        self._waiting: deque[tuple[TaskFuture[Any], Callable[[], ObjectRef[Any]]]] = deque()
        self._lock = Lock()

    def add(self, future: TaskFuture[Any], start: Callable[[], ObjectRef[Any]]) -> None:
        """Have `start()` called when it is the call's turn, unless its future is cancelled before."""
        future.await_turn()
        self._waiting.append((future, start))
        self._go_on()

    def _go_on(self) -> None:
        while True:
            with self._lock:
                if not self._num_free or not self._waiting:
                    return
                self._num_free -= 1
                future, start = self._waiting.popleft()
            if not future.claim():
                self._leave()
                continue
            try:
                future.follow(start())
            except BaseException as error:
                self._leave()
                future.fail(error)
                if not isinstance(error, Exception):
                    raise
                continue
            future.add_done_callback(self._ended)

    def _leave(self) -> None:
        with self._lock:
            self._num_free += 1

    def _ended(self, _: object) -> None:
        self._leave()
        self._go_on()
