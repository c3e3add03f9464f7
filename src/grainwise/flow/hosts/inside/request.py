"""One request of a program: a map over the entries that it sends, in a thread of its own.

    loop ──ITEMS──► inbox ──► grainwise.map ──► outbox ──RESULTS──► loop

The map takes from the inbox when its workers need more, and each frame that it has emptied is a credit for
the program to send another: a million elements never lie here at once. The outbox holds what the loop has not
sent; when that is much, the map waits.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque

from ....api.map import map as engine_map
from ....errors import TaskError, WorkerCrashedError
from ..parcels import Failure, Noted, Parcel, Stale
from ..wire import START_FORM
from .replica import FailedError, Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MAX_OUT = 1 << 16
"""Results that may wait for the loop."""
MAX_OUT_BYTES = 256 << 20
"""The same in bytes."""


class CancelledError(Exception):
    """The program wants no more."""


class Start:
    """What a program asks for: the form of a START frame.

    Attributes:
        digest: of the function.
        retries: how often an element that failed is tried again.
        timeout_s: how long an attempt may take; None for no limit.
        concurrency: how many elements may run at once; None for as many as there are replicas.
        is_starred: elements are pairs of arguments.
        name: the function's, for messages.
    """

    def __init__(self, payload: bytes) -> None:
        fields = START_FORM.unpack_from(payload)
        self.digest: bytes = fields[0]
        self.retries: int = fields[1]
        self.timeout_s: float | None = fields[2] or None
        self.concurrency: int | None = fields[3] or None
        self.is_starred = bool(fields[4])
        self.name = bytes(payload[START_FORM.size :]).decode("utf-8", "replace")


class Request:
    """See the module docstring. Called by the loop, but for `_run`.

    Attributes:
        files: what replicas say that they have loaded.
        replicas: process ids of those that were heard of.
        num_taken: frames that were emptied since the loop last asked.
        failure: why there can be no results, if so.
        is_stale: the rest must be run by another host.
        is_done: no results will follow.

    Args:
        start: what the program asks for.
        prepare: what each replica does first.
        wake: has the loop look at the outbox; may be called from any thread.
    """

    def __init__(self, start: Start, prepare: Any, wake: Callable[[], None]) -> None:
        self._start = start
        is_timed = start.timeout_s is not None
        own_retries = 0 if is_timed else start.retries
        self._work = Work(start.name, prepare, own_retries, is_timed, start.is_starred)
        self._prepare = prepare
        self._wake = wake
        self._changed = threading.Condition()
        self._inbox: deque[list[Any]] = deque()
        self._is_last = False
        self._is_cancelled = False
        self._under_way: deque[Any] = deque()
        self._outbox: list[Any] = []
        self._out_bytes = 0
        self._results: Any = None
        self.num_taken = 0
        self.files: dict[str, Any] = {}
        self.replicas: set[int] = set()
        self.failure: Failure | None = None
        self.is_stale = False
        self.is_done = False
        self._thread = threading.Thread(target=self._run, name=f"map of {start.name}", daemon=True)
        self._is_begun = False

    # -- the loop ------------------------------------------------------------------------------------------

    def put(self, entries: list[Any], *, is_last: bool) -> None:
        """Take elements of the program; the map begins with the first, which may be all of them."""
        with self._changed:
            self._inbox.append(entries)
            self._is_last = is_last
            self._changed.notify_all()
        if not self._is_begun:
            self._is_begun = True
            self._thread.start()

    def cancel(self) -> None:
        """The program is gone, or wants no more."""
        with self._changed:
            self._is_cancelled = True
            results = self._results
            self._changed.notify_all()
        if not self._is_begun:
            self.is_done = True
        if results is not None:
            results.close()

    def take(self) -> tuple[list[Any], int]:
        """Return results to be sent, in order, and how many frames have been emptied since the last call."""
        with self._changed:
            entries, self._outbox = self._outbox, []
            self._out_bytes = 0
            num_taken, self.num_taken = self.num_taken, 0
            self._changed.notify_all()
        return entries, num_taken

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the map."""
        if self._is_begun:
            self._thread.join(timeout_s)

    # -- the map's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        start = self._start
        try:
            results = engine_map(
                self._work,
                self._all_entries() or self._entries(),
                return_exceptions=True,
                retries=start.retries if start.timeout_s is not None else max(1, start.retries),
                timeout=start.timeout_s,
                max_workers=start.concurrency,
                setup=self._prepare,
            )
            with self._changed:
                self._results = results
            with results:
                for entry in results:
                    self._emit(entry)
        except CancelledError:
            pass
        except BaseException as error:
            from ..parcels import failure_of

            self.failure = failure_of(error, start.name, 1)
        finally:
            self.is_done = True
            self._wake()

    def _all_entries(self) -> list[Any]:
        """Return all elements if they have come in one frame: of a list, the engine knows how many follow."""
        with self._changed:
            if not self._is_last or len(self._inbox) != 1:
                return []
            entries = self._inbox.popleft()
        self._under_way.extend(entries)
        return entries

    def _entries(self) -> Iterator[Any]:
        under_way = self._under_way
        while True:
            with self._changed:
                while not self._inbox and not self._is_last and not self._is_cancelled:
                    self._changed.wait()
                if self._is_cancelled:
                    raise CancelledError
                if not self._inbox:
                    return
                entries = self._inbox.popleft()
            for entry in entries:
                under_way.append(entry)
                yield entry
            self.num_taken += 1
            self._wake()

    def _emit(self, entry: Any) -> None:
        if isinstance(entry, BaseException):
            entry = self._judge(entry)
        kind = entry.__class__
        self._under_way.popleft()
        if kind is Stale:
            self.is_stale = True
            raise CancelledError
        if kind is Noted:
            entry = self._note(entry)
            kind = entry.__class__
        with self._changed:
            self._outbox.append(entry)
            if kind is Parcel:
                self._out_bytes += entry.nbytes
            elif kind is bytes:
                self._out_bytes += len(entry)
            if len(self._outbox) == 1:
                self._wake()
            while len(self._outbox) >= MAX_OUT or self._out_bytes >= MAX_OUT_BYTES:
                if self._is_cancelled:
                    raise CancelledError
                self._changed.wait()

    def _note(self, noted: Noted) -> Any:
        """Keep what a replica says of itself; return what the program wants to know."""
        if noted.pid is not None:
            self.replicas.add(noted.pid)
        self.files.update(noted.files)
        if noted.attempts == 1:
            return noted.entry
        return Noted(noted.entry, noted.attempts, noted.pid, {})

    def _judge(self, error: BaseException) -> Any:
        """Return what stands for the error of an element; one that lost its replica runs once more."""
        start = self._start
        if isinstance(error, WorkerCrashedError) and start.timeout_s is not None and not start.retries:
            [again] = engine_map(
                self._work,
                [self._under_way[0]],
                return_exceptions=True,
                timeout=start.timeout_s,
                setup=self._prepare,
            )
            if isinstance(again, BaseException):
                return self._entry_of(again, 2)
            if again.__class__ is Stale:
                return again
            if again.__class__ is not Noted:
                return Noted(again, 2, None, {})
            again.attempts += 1
            return again
        retries = start.retries
        if isinstance(error, WorkerCrashedError) and start.timeout_s is None:
            retries = max(1, retries)
        return self._entry_of(error, 1 + retries)

    def _entry_of(self, error: BaseException, attempts: int) -> Failure:
        cause = error.cause if isinstance(error, TaskError) else None
        if isinstance(cause, FailedError):
            entry = cause.entry
            self.files.update(cause.files or {})
            entry.attempts = attempts
            return entry
        for name in ("index", "item", "__notes__"):  # of our map over entries, which mean nothing to anyone
            vars(error).pop(name, None)
        error.__cause__ = error.__context__ = error.__traceback__ = None
        text = str(getattr(error, "traceback_text", "") or error)
        try:
            stream: bytes | None = pickle.dumps(error, 5)
        except Exception:
            stream = None
        return Failure(stream, self._start.name, text, attempts, getattr(error, "pid", None))
