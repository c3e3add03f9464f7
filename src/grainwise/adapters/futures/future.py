"""A `concurrent.futures.Future` of a task: one that can be cancelled until a worker begins it.

It is settled by whoever reads the engine's results, as a ref's own `future()` is. Inside a task nobody reads
for others, so there one thread, the collector, waits for all futures that the process has made; `result()`
does not need it.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from ...api.values import wait
from ...errors import TaskCancelledError
from .. import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...objects.ref import ObjectRef

T = TypeVar("T")

COLLECT_S = 0.05
"""A future made inside a task is noticed so late at most, if others are waited for already."""
GLANCE_S = 0.005
"""The collector looks so often while another thread waits."""
COLLECT_SHARE = 8
"""The collector looks when one in so many has resolved: looking costs as much as there are futures."""

unfinished: set[TaskFuture[Any]] = set()
"""Every future that is not done: shutdown waits for them, and so does the end of the program."""


class TaskFuture(Future[T]):
    """A future of a task. Made by `Executor.submit`; see the module docstring.

    Args:
        owner: what the futures of one executor have in common.
        raised: makes the error that users get of one that `get` raises.
    """

    def __init__(self, owner: object, raised: Callable[[Exception], Exception]) -> None:
        super().__init__()
        self.owner = owner
        self._ref: ObjectRef[Any] | None = None
        self._raised = raised
        self._is_claimed = False
        self._is_taken = False

    @property
    def ref(self) -> ObjectRef[Any] | None:
        """The task, while there is one."""
        return self._ref

    def await_turn(self) -> None:
        """Wait for a task to follow; until then cancelling costs nothing."""
        unfinished.add(self)

    def claim(self) -> bool:
        """Say that a task is about to be made; false if the call has been cancelled."""
        with self._condition:
            self._is_claimed = not self._is_taken
        return self._is_claimed

    def follow(self, ref: ObjectRef[Any]) -> None:
        """Take over what a ref resolves to."""
        self._ref = ref
        unfinished.add(self)
        if seam.watch(ref, self.settle):
            return
        if ref.is_resolved():
            self.settle()
        else:
            _collector.add(self)

    def fail(self, error: BaseException) -> None:
        """End with an error, without a task."""
        if self._take():
            self.set_exception(error)
            unfinished.discard(self)

    def settle(self) -> None:
        """Take over what the ref has resolved to; only the first call does something."""
        ref = self._ref
        if ref is None or not self._take():
            return
        try:
            try:
                value = seam.read(ref)
            except TaskCancelledError as error:
                if type(error) is TaskCancelledError:
                    self._end_cancelled()
                else:  # the task raised it: one of its own was cancelled
                    self._end_failed(error)
            except Exception as error:
                self._end_failed(error)
            else:
                self.set_result(value)
        except BaseException:  # a Ctrl-C while unpickling: somebody else may try again
            if not super().done():
                self._is_taken = False
                raise
        self._ref = None
        unfinished.discard(self)

    def drop(self) -> bool:
        """End as cancelled if there is no task yet; false if it is too late for that."""
        with self._condition:
            if self._is_taken or self._is_claimed or self._ref is not None:
                return False
            self._is_taken = True
        self._end_cancelled()
        unfinished.discard(self)
        return True

    def finish(self) -> None:
        """Wait until it is done, however it ends."""
        try:
            self.exception()
        except CancelledError:
            pass

    def _take(self) -> bool:
        with self._condition:
            is_first, self._is_taken = not self._is_taken, True
        return is_first

    def _end_cancelled(self) -> None:
        super().cancel()
        self.set_running_or_notify_cancel()  # tells `wait` and `as_completed`

    def _end_failed(self, error: Exception) -> None:
        self.set_exception(self._raised(error))

    # -- what users call -------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the call if no worker has begun it: then it never runs. A running one is left alone.

        Inside a task nothing that has been submitted can be cancelled.

        Returns:
            Whether the call is cancelled.
        """
        if super().done():
            return self.cancelled()
        ref = self._ref
        if ref is None:
            return self.drop() or self.cancelled()
        seam.withdraw([ref])
        if not ref.is_resolved():
            return False
        self.settle()
        self.finish()  # by now it is settled, or about to be in another thread
        return self.cancelled()

    def running(self) -> bool:
        """Say whether a worker runs the call now."""
        ref = self._ref
        return ref is not None and not super().done() and seam.has_begun(ref)

    def result(self, timeout: float | None = None) -> T:
        """Return the result, waiting for it.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            TimeoutError: the time is over; `concurrent.futures.TimeoutError`, to be exact.
            CancelledError: the call was cancelled.
            BrokenProcessPool: the worker died, or the executor's initializer failed.
            Exception: what the call raised; of its own type, and a `TaskError` too.
        """
        return super().result(self._await(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, None if it returned; otherwise as `result`."""
        return super().exception(self._await(timeout))

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` when the call is done, at once if it is; otherwise in the thread that notices."""
        super().add_done_callback(fn)
        if not super().done():
            seam.nudge()

    def _await(self, timeout: float | None) -> float | None:
        """Wait as `get` does, which reads the sockets itself; return what is left of the time."""
        ref = self._ref
        if ref is None or super().done():
            return timeout
        begin = monotonic()
        limit_s = None if timeout is None else max(0.0, timeout)
        if seam.is_inside_task():
            with _collector.aside():
                wait([ref], timeout=limit_s)
        elif not ref.is_resolved():
            wait([ref], timeout=limit_s)
        if ref.is_resolved():
            self.settle()
        return None if timeout is None else max(0.0, timeout - (monotonic() - begin))


class Collector:
    """Settles the futures that were made inside a task; its thread lives as long as there are any.

    In a worker a thread that waits reads for all others, and whoever takes over from it notices late. So the
    collector only looks now and then while a thread waits for a result by itself, or has just done so.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[TaskFuture[Any]] = []
        self._is_running = False
        self._num_waiting = 0
        self._waited_at = 0.0

    def add(self, future: TaskFuture[Any]) -> None:
        """Settle a future when its task has ended."""
        with self._lock:
            self._new.append(future)
            must_start, self._is_running = not self._is_running, True
        if must_start:
            threading.Thread(target=self._run, name="grainwise-futures", daemon=True).start()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep it from reading while this thread waits."""
        with self._lock:
            self._num_waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_waiting -= 1
                self._waited_at = monotonic()

    def _run(self) -> None:
        pending: list[TaskFuture[Any]] = []
        sleep(GLANCE_S)  # for `result()` to come first
        while True:
            with self._lock:
                pending += self._new
                self._new.clear()
                if not pending:
                    self._is_running = False
                    return
                is_aside = self._num_waiting > 0 or monotonic() - self._waited_at < COLLECT_S
            if is_aside:
                sleep(GLANCE_S)
            pending = self._collect(pending, 0.0 if is_aside else COLLECT_S)

    def _collect(self, pending: list[TaskFuture[Any]], timeout_s: float) -> list[TaskFuture[Any]]:
        """Wait a little; settle what is there and return the rest."""
        refs = {ref: future for future in pending if (ref := future._ref) is not None}
        if not refs:
            return []
        try:
            wait(list(refs), num_returns=max(1, len(refs) // COLLECT_SHARE), timeout=timeout_s)
        except BaseException as error:  # the task that waits was cancelled, or the driver is gone
            for future in pending:
                future.fail(error)
            return []
        for ref, future in refs.items():
            if ref.is_resolved():
                future.settle()
        return [future for ref, future in refs.items() if not ref.is_resolved()]


_collector = Collector()
