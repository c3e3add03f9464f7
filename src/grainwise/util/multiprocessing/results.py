"""What a pool's methods return: `AsyncResult`, and the iterators of `imap` and `imap_unordered`."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout  # a class of its own up to Python 3.10
from multiprocessing import TimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import GrainwiseError, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...api.map import MapResults

MAX_AHEAD = 10_000
"""So many results an iterator holds that nobody has asked for; then its input is read no further."""


class AsyncResult:
    """The result of `apply_async`, `map_async` or `starmap_async`. Thread-safe.

    Args:
        future: ends with the result.
        callback: called with the result when it is there.
        error_callback: called with the error instead. Both are called in a thread of the engine, before
            anybody who waits goes on.
    """

    def __init__(
        self,
        future: Future[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._future = future
        self._callback = callback
        self._error_callback = error_callback
        self._is_ready = threading.Event()
        future.add_done_callback(self._end)

    @property
    def future(self) -> Future[Any]:
        """The future behind it."""
        return self._future

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, waiting for it.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            TimeoutError: `multiprocessing.TimeoutError`: the time is over.
            Exception: what a call raised: of its own type, and a `TaskError` too.
        """
        self.wait(timeout)
        if not self._is_ready.is_set():
            raise TimeoutError(f"get() waited {timeout:g} s for a result of the pool")
        error = self._error()
        if error is not None:
            raise error.with_traceback(None)
        return self._future.result()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, or for so many seconds; raises nothing."""
        deadline = None if timeout is None else monotonic() + timeout
        try:
            self._future.exception(timeout)
        except (CancelledError, FutureTimeout):
            pass
        self._is_ready.wait(None if deadline is None else max(0.0, deadline - monotonic()))

    def ready(self) -> bool:
        """Say whether the call has ended, and its callback."""
        return self._is_ready.is_set()

    def successful(self) -> bool:
        """Say whether it has ended without an error.

        Raises:
            ValueError: it has not ended yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} is not ready")
        return self._error() is None

    def _error(self) -> BaseException | None:
        try:
            return self._future.exception()
        except CancelledError:
            return TaskCancelledError("the pool was terminated before this call had ended")

    def _end(self, _: Future[Any]) -> None:
        try:
            error = self._error()
            if error is not None:
                if self._error_callback is not None:
                    self._error_callback(error)
            elif self._callback is not None:
                self._callback(self._future.result())
        finally:
            self._is_ready.set()


class _Shelf:
    """Results between the thread that fetches them and whoever asks."""

    def __init__(self) -> None:
        self.results: deque[Any] = deque()
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.is_over = False
        self.is_dropped = False
        self.num_asking = 0

    def fill(self, source: MapResults[Any]) -> None:
        """Fetch until the end; run by a thread of its own."""
        try:
            for result in source:
                with self.changed:
                    self.results.append(result)
                    if self.num_asking:
                        self.changed.notify_all()
                    while len(self.results) >= MAX_AHEAD and not self.is_dropped:
                        self.changed.wait()
                    if self.is_dropped:
                        return
        except BaseException as error:
            self.error = error
        finally:
            source.close()
            with self.changed:
                self.is_over = True
                self.changed.notify_all()


class ImapIterator:
    """The results of `imap` or `imap_unordered`: calls begin at once, and an error does not end it."""

    def __init__(self, source: MapResults[Any]) -> None:
        self._shelf = _Shelf()
        self._thread = threading.Thread(
            target=self._shelf.fill, args=(source,), name="grainwise-imap", daemon=True
        )
        self._source = source
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            StopIteration: there are no more.
            TimeoutError: `multiprocessing.TimeoutError`: the time is over; it may be asked for again.
            Exception: what the call raised; the ones behind it go on.
        """
        shelf = self._shelf
        deadline = None if timeout is None else monotonic() + timeout
        with shelf.changed:
            shelf.num_asking += 1
            try:
                while not shelf.results and not shelf.is_over:
                    left = None if deadline is None else deadline - monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"next() waited {timeout:g} s for a result of the pool")
                    shelf.changed.wait(left)
            finally:
                shelf.num_asking -= 1
            if not shelf.results:
                error, shelf.error = shelf.error, None
                if error is not None:
                    raise error
                raise StopIteration
            result = shelf.results.popleft()
            if len(shelf.results) == MAX_AHEAD // 2:
                shelf.changed.notify_all()
        if isinstance(result, GrainwiseError):
            raise result.with_traceback(None)
        return result

    def close(self) -> None:
        """Cancel what is left."""
        with self._shelf.changed:
            self._shelf.is_dropped = True
            self._shelf.changed.notify_all()
        self._source.close()

    def join(self) -> None:
        """Wait until every call has ended and its result has been fetched."""
        with self._shelf.changed:
            while not self._shelf.is_over and len(self._shelf.results) < MAX_AHEAD:
                self._shelf.changed.wait()

    def __del__(self) -> None:
        shelf = getattr(self, "_shelf", None)
        if shelf is not None and not shelf.is_over:
            with shelf.changed:
                shelf.is_dropped = True
                shelf.changed.notify_all()
