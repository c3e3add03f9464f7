"""Runs: many calls of one function without a ref for each, for `map`.

    consumer ──put──► pieces ──take──► batches ─► workers ─► deliver ──► out ──► consumer
                         ▲                │
                         └── taken back, of dead workers, to be tried again

Items are numbered in the order of the input. What has not been sent stands in *pieces*, each a range of
numbers with its items; a batch takes a range of a piece, and what comes back of it, run or not, is a range
again. So an item costs the driver what a list costs: no object of ours, no line of Python of its own.

An item that is tried again, after an error or the death of its worker, is a piece of its own and a batch of
its own: it can harm nobody.

All of it happens under the engine's turn, save for `out`, which the consumer pops.
"""

from __future__ import annotations

from collections import deque

from ...errors import SerializationError, TaskTimeoutError
from ...objects.codec import ERROR_WIRE, TEXTS
from ..wire import control
from ..wire.failures import read_error
from ..wire.slices import Slice
from ..wire.tasks import Call, TaskSpec
from . import crash, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any

    from ..processes.pool import WorkerHandle
    from .batches import SentBatch
    from .engine import Engine
else:
    import _signal

_SIGINT = int(_signal.SIGINT)
_SIGURG = int(_signal.SIGURG)
MAX_PIECE = 8192
"""Items of a list that stand together."""
GIVE_UP_S = 0.5
"""Nobody has the turn for so long, unless he waits for what the thread holds that a finalizer runs in."""


class Failed:
    """Stands for the result of an item that failed.

    Attributes:
        error: what to raise.
        index: the item's number.
        item: the item as it was sent.
    """

    __slots__ = ("error", "index", "item")

    def __init__(self, error: BaseException, index: int, item: Any) -> None:
        self.error = error
        self.index = index
        self.item = item


class Pieces:
    """What has not been sent: ranges of items, in the order in which they go out."""

    __slots__ = ("_count", "_pieces")

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, Any, int, bool]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, first: int, items: Any, flags: int) -> None:
        """Add items at the end."""
        self._count += len(items)
        if items.__class__ is list and len(items) > MAX_PIECE:  # what a batch leaves of a piece is copied
            for at in range(0, len(items), MAX_PIECE):
                self._pieces.append((first + at, items[at : at + MAX_PIECE], flags, False))
        else:
            self._pieces.append((first, items, flags, False))

    def put_first(self, first: int, items: Any, flags: int, *, is_alone: bool = False) -> None:
        """Add items that came back; `is_alone` keeps them apart from others."""
        self._pieces.appendleft((first, items, flags, is_alone))
        self._count += len(items)

    def take(self, count: int) -> tuple[int, Any, int]:
        """Take up to `count` items in a row; return the number of the first, the items and their flags."""
        first, items, flags, is_alone = self._pieces.popleft()
        if len(items) > count:
            self._pieces.appendleft((first + count, items[count:], flags, is_alone))
            items = items[:count]
        elif not is_alone and items.__class__ is list:
            items = self._join(first, items, flags, count)
        self._count -= len(items)
        return first, items, flags

    def _join(self, first: int, items: list[Any], flags: int, count: int) -> list[Any]:
        """Add what follows in the next pieces."""
        while self._pieces and len(items) < count:
            next_first, more, next_flags, is_alone = self._pieces[0]
            if more.__class__ is not list or is_alone or next_flags != flags:
                break
            if next_first != first + len(items):
                break
            self._pieces.popleft()
            room = count - len(items)
            if len(more) > room:
                self._pieces.appendleft((next_first + room, more[room:], flags, False))
                more = more[:room]
            items = items + more
        return items

    def clear(self) -> None:
        """Forget them all."""
        self._pieces.clear()
        self._count = 0


class Run:
    """One map on its way through the engine. See the module docstring.

    Args:
        engine: the engine.
        spec: the function with its options, shared by runs.
        timeout_s: how long an item may run.
        max_workers: how many workers may have items of it, 0 for as many as there are.

    Attributes:
        out: (number of the first, results, are they plain?) of each range that has come back. A result is an
            atom, `Packed` or `Failed`.
        unreadable: (number, what packs it, its argument) of each item that travelled with one that can't be
            unpickled, to be put again by itself; the consumer does that: it runs the user's code.
        error: what ended the run as a whole, such as the end of the engine.
        num_out: results that have come back.
        result_bytes: their size; of texts and bytes an estimate, numbers count nothing.
        is_over: nobody wants any more of it.
    """

    def __init__(self, engine: Engine, spec: TaskSpec, timeout_s: float | None, max_workers: int) -> None:
        self._engine = engine
        self._base = spec  # it holds the estimates
        self.spec = spec.variant(spec.number, None)
        self.spec.has_calls = False
        self.spec.run = self
        self.pieces = Pieces()
        self.spec.open = self.pieces  # type: ignore[assignment]  # as far as looks at its length go
        self.timeout_s = timeout_s
        self.max_workers = max_workers
        self.out: deque[tuple[int, list[Any], bool]] = deque()
        self.unreadable: deque[tuple[int, Callable[[int], Any], int]] = deque()
        self.error: BaseException | None = None
        self.num_out = 0
        self.result_bytes = 0
        self.is_over = False
        self._attempts: dict[int, int] = {}

    # -- the consumer ----------------------------------------------------------------------------------

    def put(self, first: int, items: Any, flags: int) -> None:
        """Queue items, and send what the policy says."""
        engine = self._engine
        engine.turn.shield()  # the program may have set handlers since
        with engine.turn:
            engine.check_open()
            if self.is_over:  # closed by another thread, or by a signal handler
                return
            if self.timeout_s is not None:
                engine.deadlines.runs.add(self)
            self.pieces.put(first, items, flags)
            engine.dispatcher.active[self.spec] = None
            engine.dispatcher.dispatch(waiting=True)
        engine.backstop.wake()

    def wait(self, wanted: int, timeout_s: float | None) -> bool:
        """Wait until something has come back; false on a timeout. `wanted` is the number waited for most."""
        engine = self._engine
        if not self._has_news():
            engine.turn.shield()
            with engine.turn:
                self._want(wanted)
            engine.wait_until(self._has_news, timeout_s)
        return bool(self.out)

    def _has_news(self) -> bool:
        return bool(self.out) or bool(self.unreadable) or self.error is not None or self.is_over

    def refuse(self, index: int, error: BaseException, item: Any) -> None:
        """Give an item that can't be sent its result."""
        with self._engine.turn:
            self._emit(index, [Failed(error, index, item)], is_plain=False)

    def mean_s(self) -> float | None:
        """Return the estimated cost of an item in seconds, None while unknown."""
        return self._engine.dispatcher.policy.estimates.of(self.spec.cost).mean_s

    def _want(self, index: int) -> None:
        """Have the result of an item reported as soon as it is there; only a hint."""
        for handle in self._engine.pool.workers.values():
            for batch in handle.batches.values():
                if batch.run is not self or batch.stop <= 1:
                    continue
                at = index - batch.first if index >= 0 else batch.base
                if batch.base <= at < batch.stop:
                    handle.words[control.WANTED] = (batch.seq << 32 | at) + 1
                    break

    def cancel(self) -> None:
        """Want no more of it: drop what is not sent, take back what has not begun, interrupt what runs."""
        engine = self._engine
        if self.is_over:
            return
        if engine.is_closed:
            self._let_go()
            return
        engine.turn.shield()
        # As a finalizer this may interrupt whatever its thread is at: the engine, or the store.
        if engine.turn.is_mine() or not engine.turn.try_enter(GIVE_UP_S):
            engine.callbacks.append(self.cancel)  # soon, then
            engine.backstop.ring()
            return
        try:
            if not self.is_over:
                self._end()
        finally:
            engine.turn.__exit__()
        engine.kick()

    def _end(self) -> None:
        engine = self._engine
        self._let_go()
        engine.dispatcher.active[self.spec] = None  # for the policy to hear of it
        for handle in list(engine.pool.workers.values()):
            for batch in list(handle.batches.values()):
                if batch.run is self:
                    self._take_back(handle, batch)
        engine.deadlines.runs.add(self)  # whatever begins all the same is interrupted there
        engine.deadlines.look()

    def _let_go(self) -> None:
        """Drop what has not been sent or taken, and the cycle with the spec: functions may hold much."""
        self.is_over = True
        self.pieces.clear()
        self.out = deque()  # another thread may be popping the old one
        self.spec.open = deque()
        self.spec.run = None

    def _take_back(self, handle: WorkerHandle, batch: SentBatch) -> None:
        dispatcher = self._engine.dispatcher
        if not batch.is_blocked:
            start = dispatcher.claim_back(handle, batch, batch.base)
            if start is not None and start < batch.stop:
                dispatcher.requeue(handle, batch, start)
            if batch.base < batch.stop:  # some is claimed behind the running item: let go of it
                at = control.claim_word(batch.seq) + 1
                handle.words[at] = min(handle.words[at], batch.base)
                self._engine.pool.kill(handle, _SIGURG)

    # -- batches ---------------------------------------------------------------------------------------

    def deliver(
        self, handle: WorkerHandle, batch: SentBatch, start: int, values: list[Any], *, is_plain: bool
    ) -> None:
        """Take results of a batch, `start` being the index of the first within it."""
        if self.is_over:
            self._discard(handle, values)
            return
        first = batch.first + start
        if not is_plain:
            begin = 0
            for at, value in enumerate(values):
                if value.__class__ is not tuple:
                    continue
                if value[0] != ERROR_WIRE:
                    values[at] = packed = self._engine.borders.adopt(value, handle)
                    self.result_bytes += packed.nbytes() if packed.pieces else len(packed.stream or b"")
                    continue
                failed = self._failed(batch, start + at, value)
                if failed is not None:
                    values[at] = failed
                    continue
                self._emit(first + begin, values[begin:at], is_plain=False)  # without the one tried again
                begin = at + 1
            if begin:
                values = values[begin:]
                first += begin
        self._emit(first, values, is_plain=is_plain)

    def _discard(self, handle: WorkerHandle, values: list[Any]) -> None:
        """Adopt what comes too late, so that its memory is given back."""
        for value in values:
            if value.__class__ is tuple and value[0] != ERROR_WIRE:
                self._engine.borders.adopt(value, handle)

    def _emit(self, first: int, values: list[Any], *, is_plain: bool) -> None:
        if values:
            if len(values) == 1:  # as that of an item which was tried again
                self._attempts.pop(first, None)
            if values[0].__class__ in TEXTS:
                self.result_bytes += len(values) * len(values[0])
            self.out.append((first, values, is_plain))
            self.num_out += len(values)

    def _failed(self, batch: SentBatch, at: int, wire: tuple[Any, ...]) -> Failed | None:
        """Return what stands for a result that is an error, None if the item is tried again."""
        if wire[3] == "cancelled" and at in batch.timed_out:
            error: BaseException = TaskTimeoutError(task_name=self.spec.name, timeout_s=batch.timeout_s)
        else:
            error = read_error(wire)
            items = batch.refs
            if isinstance(items, Slice) and items.again is not None and is_unreadable(error):
                self.unreadable.append((batch.first + at, items.again, items.start + at))
                return None
        retry = self.spec.retry_exceptions
        if (at in batch.timed_out or crash.is_worth_retrying(error, retry)) and self._try_again(batch, at):
            return None
        self._engine.record.num_failed += 1
        return Failed(error, batch.first + at, item_at(batch, at))

    def _try_again(self, batch: SentBatch, at: int) -> bool:
        """Queue an item once more, by itself; false when it has no retries left."""
        index = batch.first + at
        used = self._attempts.get(index, 0)
        if 0 <= self.spec.max_retries <= used:
            return False
        self._attempts[index] = used + 1
        self._engine.counters.retries += 1
        self._engine.record.retried(self.spec.name)
        self.pieces.put_first(index, batch.refs[at : at + 1], batch.item_flags, is_alone=True)
        self._engine.dispatcher.active[self.spec] = None
        return True

    def put_back(self, batch: SentBatch, start: int, stop: int, flags: int = 0) -> None:
        """Queue items of a batch that were not run, or not reported, ahead of all others."""
        if start < stop and not self.is_over:
            first = batch.first + start
            self.pieces.put_first(
                first, batch.refs[start:stop], batch.item_flags | flags, is_alone=first in self._attempts
            )
            self._engine.dispatcher.active[self.spec] = None

    def died(self, batch: SentBatch, at: int, error: BaseException) -> None:
        """The worker died as it ran an item."""
        if self.is_over:
            return
        if at in batch.timed_out:
            error = TaskTimeoutError(task_name=self.spec.name, timeout_s=batch.timeout_s)
        if not self._try_again(batch, at):
            index = batch.first + at
            self._engine.record.num_failed += 1
            self._emit(index, [Failed(error, index, item_at(batch, at))], is_plain=False)

    def fail(self, error: BaseException) -> None:
        """End the run."""
        self.pieces.clear()
        if self.error is None:
            self.error = error


def is_unreadable(error: BaseException) -> bool:
    """Say whether items can't be unpickled, one of them or all: they travelled together."""
    return isinstance(error, SerializationError) and error.what == "item"


def item_at(batch: SentBatch, at: int) -> Any:
    """Return an item of a batch, as it was sent."""
    part = batch.refs[at : at + 1]
    return part if isinstance(part, Slice) else part[0]


def unlend(engine: Engine, handle: WorkerHandle, batch: SentBatch, start: int) -> None:
    """Take back what was lent with the items from `start` on, which the worker will never unpack."""
    if batch.calls is not None:
        for call in batch.calls[start : batch.stop]:
            if call.__class__ is Call:
                engine.borders.unlend(call, handle)


def interrupt(engine: Engine, handle: WorkerHandle, batch: SentBatch, at: int) -> None:
    """Interrupt a running item, or its wait for others."""
    if batch.is_blocked:
        nested.cancel_wait(engine, handle, batch.seq)
        return
    handle.words[control.SPARE_CHILD] = 0
    handle.words[control.CANCEL] = (batch.seq << 32 | at) + 1
    engine.pool.kill(handle, _SIGINT)
