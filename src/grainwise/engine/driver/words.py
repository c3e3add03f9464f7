"""What the words that users say do in the driver: `put`, `get`, `wait`, `cancel`, and futures.

Whoever waits pumps the sockets: see `turn`.
"""

from __future__ import annotations

from time import monotonic, perf_counter

from ...errors import EngineClosedError, GetTimeoutError
from ...objects.codec import is_atom
from ...objects.ref import FAILED, PACKED, READY, ObjectRef
from ..wire.failures import fresh, pack_or_name, read_value
from . import crash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence
    from typing import Any

    from ...objects.store import Store
    from ...watch.events import Record
    from .backstop import Backstop
    from .dispatcher import Dispatcher
    from .results import Results
    from .turn import Leadership, Turn

_new_ref = ObjectRef.__new__
_ANY: ObjectRef[Any] = _new_ref(ObjectRef)


class Words:
    """The part of the engine that users talk to."""

    is_closed: bool
    is_exiting: bool
    record: Record
    turn: Turn
    leadership: Leadership
    dispatcher: Dispatcher
    results: Results
    store: Store
    backstop: Backstop
    num_waiting: int
    num_callbacks: int
    callbacks: deque[Callable[[], None]]

    def check_open(self) -> None:
        """Refuse work after the end."""
        raise NotImplementedError

    def kick(self) -> None:
        """Have the leader look again."""
        raise NotImplementedError

    def run_callbacks(self) -> None:
        """Run what resolved futures have to do."""
        raise NotImplementedError

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value and return a ref to it."""
        self.check_open()
        if isinstance(value, ObjectRef):
            raise TypeError(
                "Calling 'put' on an ObjectRef is not allowed - expected a value; pass the ref itself, or "
                "put it in a list"
            )
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        if is_atom(value):
            ref._value, ref._state = value, READY
        else:
            ref._value = pack_or_name(
                value, _PutSink(self.store), what="value", name="value", task_name="put"
            )
            ref._state = PACKED
            self.backstop.wake()  # it gives the memory back one day
        return ref

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Return the values of refs, waiting for them; raise the first error in their order."""
        rest = iter(refs)
        head = next(rest, None)

        def is_done() -> bool:
            nonlocal head
            if head is None:
                return True
            state = head._state
            if state.__class__ is not int or state == FAILED:
                return state.__class__ is int
            for ref in rest:
                state = ref._state
                if state.__class__ is not int or state == FAILED:
                    head = ref
                    return state.__class__ is int
            head = None
            return True

        if not is_done() and not self.wait_until(is_done, timeout_s, refs[0] if len(refs) == 1 else None):
            left = sum(ref._state.__class__ is not int for ref in refs)
            raise GetTimeoutError(
                f"Get timed out: some object(s) not ready - get() waited {timeout_s:g} s, {left} of "
                f"{len(refs)} values were not there yet"
            )
        return [ref._value if ref._state == READY else self.value(ref) for ref in refs]

    def value(self, ref: ObjectRef[Any]) -> Any:
        """Return the value of a resolved ref, made anew if it is mutable."""
        state, value = ref._state, ref._value
        if state == READY:
            return value
        if state == PACKED:
            return read_value(value)
        if self.is_exiting and isinstance(value, EngineClosedError):
            freeze_daemon()
        raise fresh(value)

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until so many refs are resolved or the time is over."""

        def split() -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
            ready: list[ObjectRef[Any]] = []
            rest: list[ObjectRef[Any]] = []
            for ref in refs:
                (ready if len(ready) < num_returns and ref._state.__class__ is int else rest).append(ref)
            return ready, rest

        ready, rest = split()
        if len(ready) < num_returns:
            left, pending = num_returns - len(ready), rest

            def is_done() -> bool:
                nonlocal left, pending
                still = [ref for ref in pending if ref._state.__class__ is not int]
                left -= len(pending) - len(still)
                pending = still
                return left <= 0

            self.wait_until(is_done, timeout_s, _ANY if len(rest) > 1 else rest[0])
            ready, rest = split()
        return ready, rest

    def wait_until(
        self, is_done: Callable[[], bool], timeout_s: float | None, wanted: ObjectRef[Any] | None = None
    ) -> bool:
        """Send what is open and wait; false on a timeout.

        Args:
            is_done: what to wait for.
            timeout_s: how long at most.
            wanted: the one result that is waited for, `_ANY` for the next one.
        """
        self.check_open()
        self.turn.shield()  # the program may have set handlers since
        deadline = None if timeout_s is None else monotonic() + timeout_s
        begin_s, is_lone = perf_counter(), False
        self.num_waiting += 1  # no call up to the try: nothing can raise in between
        try:
            with self.turn:
                self.dispatcher.dispatch(waiting=True)
                if wanted is not None:
                    self.dispatcher.want(None if wanted is _ANY else wanted)
                    is_lone = wanted is not _ANY and self.record.num_out == 1 and not self.dispatcher.active
            return self.leadership.until(lambda: self.is_closed or is_done(), deadline) and self._still_open(
                is_done
            )
        finally:
            self.num_waiting -= 1  # a lost race with another thread only makes the hint late
            self.record.waited(begin_s, is_lone)

    def _still_open(self, is_done: Callable[[], bool]) -> bool:
        if not is_done():
            if self.is_exiting:
                freeze_daemon()
            self.check_open()
        return True

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Cancel a task; see `api`."""
        self.check_open()
        engine: Any = self
        if force and getattr(ref._state, "actor", None) is not None:
            raise ValueError(
                "force=True is not supported for actor tasks: cancel() got the ref of an actor's call - "
                "expected that of a task - kill() ends an actor"
            )
        with self.turn:
            crash.cancel(engine, ref, force=force, recursive=recursive)
        self.kick()
        self.run_callbacks()

    def future(self, ref: ObjectRef[Any]) -> Any:
        """Return a `concurrent.futures.Future` that resolves with a ref."""
        from concurrent.futures import Future

        self.check_open()
        future: Any = Future()
        future.set_running_or_notify_cancel()

        def settle() -> None:
            try:
                value = self.value(ref)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(value)

        def resolved(_: ObjectRef[Any]) -> None:
            self.num_callbacks -= 1
            self.callbacks.append(settle)

        with self.turn:
            is_there = ref._state.__class__ is int
            if not is_there:
                self.num_callbacks += 1
                self.results.watch(ref, resolved)
                self.dispatcher.dispatch(waiting=True)
        if is_there:
            settle()
        else:
            self.backstop.wake()
        return future


class _PutSink:
    """Stores parts without looking for equal ones: `put` is an explicit copy."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intern(self, parts: Sequence[memoryview], value: object) -> Any:
        return self._store.put(parts)


def freeze_daemon() -> None:
    """At the end of the program daemon threads stop where they are, silently, as Python has it."""
    import threading

    if threading.current_thread().daemon:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
