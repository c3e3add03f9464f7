"""Generators: what they yield leaves as it comes, while they go on.

    for value in f(...)  ──► Flow.values ──► YIELDED frames     sent: the first one at once; then those of
         main thread, a          ▲                              some 100 us together; what a slow generator
         thread, a loop          └── `ship`                     leaves, by the reporter; all at its end

To the rest of the worker a generator is a value that takes long to pack: what is called returns at once, and
what packs its result runs it. So all that holds for items holds here: who is to blame for a death, how it is
cancelled, what it costs.

With a limit the producer waits when as many values have not been taken: it waits for a ref, as any task that
calls `get` does, so others have its CPU meanwhile.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

from ...objects.codec import ATOM_LIMIT, ATOMS, TEXTS, Packed, is_atom
from ..calls import limit_of
from ..wire import control
from ..wire.failures import error_wire, pack_or_name
from ..wire.tasks import EACH, MULTI_WIRE, PAUSED, SHORT_WIRE, STREAM_WIRE, YIELDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .concurrent import Item
    from .loop import Worker
    from .values import Values

GENERATOR = type((lambda: (yield))())
FLUSH_S = 150e-6
"""Values that come faster leave together."""
LONG_FLUSH_S = 1e-3
"""The same once many come."""
MANY = 128
FULL_BYTES = 1 << 20
"""Inline values that wait together."""
NO_LIMIT = 1 << 62


class ClosedError(Exception):
    """Nobody wants any more of a generator."""


class Flow:
    """The values of one generator on their way out.

    Attributes:
        seq, index: the item that it is.
        item: the call that it is, of an actor whose calls run at once.
        values: wires that have not been sent: appended by who runs the generator, popped under the send lock.
        kept: (number, packed value) of what has not been sent: what the driver is to borrow must be alive.
        num_sent: values that were sent.
        pause_at: so many values, and it waits for its consumer.
        nbytes: about how much waits inline.
        has_blobs: it yields large objects.
        sends_each: a value is sent before the next one is made, because it can't be made again.
    """

    __slots__ = (
        "has_blobs", "index", "item", "kept", "limit", "name", "nbytes", "num_sent", "pause_at", "sends_each",
        "seq", "values", "worker",
    )  # fmt: skip

    def __init__(
        self, worker: Worker, seq: int, index: int, name: str, limit: int, item: Item | None = None
    ) -> None:
        self.sends_each = False
        self.worker = worker
        self.seq = seq
        self.index = index
        self.item = item
        self.name = name
        self.limit = limit
        self.pause_at = limit or NO_LIMIT
        self.values: deque[Any] = deque()
        self.kept: deque[tuple[int, Packed]] = deque()
        self.num_sent = 0
        self.nbytes = 0
        self.has_blobs = False

    def __enter__(self) -> Flow:
        with self.worker.send_lock:
            self.worker.inside.flows.append(self)
        self.worker.wake_reporter()
        return self

    def __exit__(self, *_: object) -> None:
        worker = self.worker
        worker.shield()
        try:
            with worker.send_lock:
                try:
                    if not worker.is_twin:
                        worker.inside.ship()
                finally:
                    worker.inside.flows.remove(self)
        finally:
            worker.unshield()

    def add(self, value: Any, number: int) -> None:
        """Pack a value that is no atom; `number` is that of the value in the stream."""
        worker = self.worker
        what = f"value {number} that was yielded"
        packed = pack_or_name(
            value, worker.outpost.results, what=what, name=f"yielded[{number}]", task_name=self.name
        )
        if packed.blobs:
            self.has_blobs = True
        else:
            self.nbytes += packed.nbytes()
        worker.shield()  # what is lent must arrive
        try:
            if packed.blobs or packed.refs:
                self.kept.append((number, packed))
            self.values.append(worker.inside.wire(packed))
        finally:
            worker.unshield()

    def put(self, value: Any, number: int) -> None:
        """Add any value."""
        if is_atom(value):
            self.values.append(value)
        else:
            self.add(value, number)

    def send(self) -> None:
        """Send what waits. The caller holds the send lock."""
        count = len(self.values)
        if not count:
            return
        popleft = self.values.popleft
        values = [popleft() for _ in range(count)]
        self.nbytes = 0
        self.worker.channel.send((YIELDED, self.seq, self.index, self.num_sent, values))
        self.num_sent += count
        while self.kept and self.kept[0][0] < self.num_sent:
            self.kept.popleft()

    def flush(self) -> float:
        """Send what waits; return when to do so again.

        Raises:
            ClosedError: the generator is to end.
        """
        worker = self.worker
        if worker.is_twin:  # the generator has forked, and this is the child
            worker.leave(None)
        interval_s = LONG_FLUSH_S if len(self.values) >= MANY else 0.0 if self.sends_each else FLUSH_S
        worker.shield()
        try:
            with worker.send_lock:
                worker.inside.ship()
                worker.send_returned()
        finally:
            worker.unshield()
        item = self.item
        if item is None:
            if worker.words[control.TOLD] == (self.seq << 32 | self.index) + 1:
                raise ClosedError
            if self.has_blobs:
                worker.inside.read_waiting()  # among it what may be freed
        elif item.is_cancelled:
            raise ClosedError
        return perf_counter() + interval_s

    def ask(self, number: int) -> Any:
        """Tell the driver that the generator waits for its consumer; return the ref to wait for."""
        worker = self.worker
        (ref,) = worker.inside._new_refs(1)
        worker.send((PAUSED, self.seq, self.index, ref._id, number))
        return ref

    def resume(self, told: int) -> None:
        """Take the answer: how many values have been taken.

        Raises:
            ClosedError: nobody will take any more.
        """
        if told < 0:
            raise ClosedError
        self.pause_at = told + self.limit


def streamer(worker: Worker, num_returns: int) -> Callable[[Any], tuple[Any, ...]]:
    """Return what runs the generators that the items of a batch return; see the module docstring."""

    def stream(value: Any) -> tuple[Any, ...]:
        batch: Any = worker.batch
        flow = Flow(worker, batch.seq, len(batch.results), worker.task_name, limit_of(num_returns))
        flow.sends_each = bool(batch.flags & EACH)
        return run(flow, value)

    return stream


def run(flow: Flow, value: Any) -> tuple[Any, ...]:
    """Run a generator to its end, in this thread; return the wire of its end.

    Raises:
        BaseException: what it raised.
    """
    values = iterator_of(value, flow.name)
    try:
        with flow:
            return (STREAM_WIRE, _drive(flow, values))
    finally:
        close = getattr(values, "close", None)
        if close is not None:
            close()


def _drive(flow: Flow, values: Iterator[Any]) -> int:
    """Have a generator yield until it ends or is to end; return how often it did."""
    append, clock = flow.values.append, perf_counter
    number = 0
    due = 0.0
    pause_at = flow.pause_at
    try:
        for value in values:
            kind = type(value)  # not __class__: a proxy or mock may lie about it
            if kind in ATOMS or (kind in TEXTS and len(value) <= ATOM_LIMIT):
                append(value)
            else:
                flow.add(value, number)
            number += 1
            if clock() >= due or flow.nbytes > FULL_BYTES:
                due = flow.flush()
            while number >= pause_at:
                flow.flush()
                flow.resume(flow.worker.inside.get([flow.ask(number)], None)[0])
                pause_at = flow.pause_at
    except ClosedError:
        pass
    return number


def iterator_of(value: Any, name: str) -> Iterator[Any]:
    """Return what a generator function gave as something to iterate over.

    Raises:
        ValueError: it is no generator.
    """
    if hasattr(value, "__anext__"):
        return _step(value)
    if not hasattr(value, "__next__"):
        raise ValueError(
            f"{name!r} returned {type(value).__name__} - expected a generator, as its num_returns says"
        )
    found: Iterator[Any] = value
    return found


def _step(values: Any) -> Iterator[Any]:
    """Iterate over an async generator with an event loop of its own."""
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                value = loop.run_until_complete(values.__anext__())
            except StopAsyncIteration:
                return
            yield value
    finally:
        try:
            loop.run_until_complete(values.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


# -- generators with a fixed number of results -------------------------------------------------------------


def take(generator: Any, count: int, name: str) -> tuple[list[Any], BaseException | None]:
    """Return the first values of a generator, and why there are fewer, if there are."""
    values: list[Any] = []
    error: BaseException | None = None
    try:
        for value in generator:
            if len(values) == count:
                if count:
                    break
                continue  # it is run for what it does
            values.append(value)
        else:
            if len(values) < count:
                error = ValueError(
                    f"task {name!r} yielded {len(values)} values - expected {count} (its num_returns)"
                )
    except Exception as failure:  # it is the result of those that are missing
        error = failure
    generator.close()
    return values, error


def pack_first(inside: Values, generator: Any, count: int) -> tuple[Any, ...]:
    """Pack what a generator yields into so many results."""
    name = inside.worker.task_name
    values, error = take(generator, count, name)
    parts = [
        inside.wire(v if is_atom(v) else inside._pack(v, f"result {i}", f"result[{i}]"))
        for i, v in enumerate(values)
    ]
    return (MULTI_WIRE, parts) if error is None else (SHORT_WIRE, parts, error_wire(error, name))
