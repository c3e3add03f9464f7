"""Streams: the values of generators on their way to who consumes them. See `generators`.

    worker ──YIELDED──► deliver ──► asked: refs that somebody waits for already
                              └───► refs:  what nobody has asked for yet ──► the program's generator object
                                                                       └──► a task's, by TAKE

A call of a generator function is a task like any other, whose end is its ref's value; what it yields comes
before that and goes into refs of its own, in order. A value arrives once: a generator that runs again after
the death of its worker begins anew, and as many values as have come already are passed over.

All of it happens under the engine's turn, but for what `Outlet` does in the consumer's thread.
"""

from __future__ import annotations

from collections import deque

from ...objects.codec import pack
from ...objects.ref import FAILED, PACKED, READY, ObjectRef
from ..calls import DYNAMIC, limit_of
from ..generators import END, DynamicObjectRefGenerator, ObjectRefGenerator
from ..wire.tasks import PAUSED, TAKE, Call, TaskSpec
from . import nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

    from ..processes.pool import WorkerHandle
    from .engine import Engine

_new_ref = ObjectRef.__new__
CLOSED = -1
"""Told to a producer that waits: end, nobody will take any more."""
FREE_RUN = 1 << 60
"""Told to the same: go on, and wait no more."""
HYSTERESIS = 8
"""A producer goes on when this part of its limit is free: each pause costs a message."""


class Stream:
    """See the module docstring. Changes under the turn; `refs` are popped by the consumer.

    Attributes:
        ref: the ref of the call; spec: what it is a call of.
        refs: those that the program's generator object gives next; a pending one is in `asked`, too.
        asked: pending refs that the next values go to, in order.
        limit: values that may wait before the producer does, 0 for any number.
        num_received, num_taken: values that have come, and that the consumer took (only counted for a limit).
        is_over: no more values will come.
        is_dropped: nobody wants any.
        is_awaited: somebody asked for the ref of its end.
        pause: the ref that the producer waits for, and how many values it had yielded then.
    """

    __slots__ = (
        "asked", "engine", "is_awaited", "is_dropped", "is_over", "limit", "num_received", "num_taken",
        "pause", "ref", "refs", "spec",
    )  # fmt: skip

    def __init__(self, engine: Engine, spec: TaskSpec, ref: ObjectRef[Any]) -> None:
        self.engine = engine
        self.spec = spec
        self.ref = ref
        self.refs: deque[ObjectRef[Any]] = deque()
        self.asked: deque[ObjectRef[Any]] = deque()
        self.limit = limit_of(spec.num_returns)
        self.num_received = 0
        self.num_taken = 0
        self.is_over = False
        self.is_dropped = False
        self.is_awaited = False
        self.pause: tuple[ObjectRef[Any], int] | None = None

    def drop(self) -> None:
        """Note that the consumer is gone; called by finalizers, in the middle of anything."""
        self.is_dropped = True
        self.refs.clear()
        if not self.is_over and (self.pause is not None or self.asked):
            self.engine.callbacks.append(self._let_go)
            self.engine.backstop.ring()

    def _let_go(self) -> None:
        engine = self.engine
        if not engine.is_closed:
            with engine.turn:
                self.asked.clear()
                engine.streams.release(self)

    def pending(self) -> ObjectRef[Any]:
        """Make the ref of a value that is still to come."""
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._value, ref._state = self.ref, self.spec  # as one of several results of the call
        self.asked.append(ref)
        return ref


class Outlet:
    """A stream as a generator object of the program takes from it; see `generators.Source`."""

    __slots__ = ("_stream", "limit", "refs")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.refs = stream.refs
        self.limit = stream.limit

    @property
    def completed(self) -> ObjectRef[Any]:
        """The ref of the call."""
        self._stream.is_awaited = True
        return self._stream.ref

    @property
    def stream(self) -> Stream:
        """The stream."""
        return self._stream

    def peek(self) -> ObjectRef[Any] | None:
        """Return the next ref, made in advance if need be; None if there are no more."""
        stream = self._stream
        while True:
            try:
                ref = self.refs[0]
            except IndexError:
                pass
            else:
                return None if ref._value is END else ref
            with stream.engine.turn:
                if not self.refs:
                    if stream.is_over:
                        return None
                    self.refs.append(stream.pending())

    def wait(self, ref: ObjectRef[Any], timeout_s: float | None) -> bool:
        """Wait for the next value; false on a timeout."""
        return self._stream.engine.wait_until(lambda: ref._state.__class__ is int, timeout_s)

    def later(self, ref: ObjectRef[Any]) -> Future[Any]:
        """Return a future that is done when the next value has come."""
        return ref.future()

    def look(self, ref: ObjectRef[Any]) -> None:
        """Read what has arrived."""
        self._stream.engine.wait_until(lambda: ref._state.__class__ is int, 0.0)

    def took(self) -> None:
        """Note that a ref was taken, where there is a limit."""
        stream = self._stream
        with stream.engine.turn:
            stream.num_taken += 1
            stream.engine.streams.release(stream)

    def __del__(self) -> None:
        try:
            self._stream.drop()
        except AttributeError:
            pass  # never finished


class StreamRef(ObjectRef["Any"]):
    """Stands for a stream that a task consumes: it lives as long as the task's generator object."""

    __slots__ = ("outlet",)

    outlet: Outlet


class Streams:
    """All streams of a session."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # -- opening ---------------------------------------------------------------------------------------

    def open(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> Any:
        """Return what a call of a generator function returns to the program."""
        stream = call.stream = Stream(self.engine, spec, ref)
        return ref if spec.num_returns == DYNAMIC else ObjectRefGenerator(Outlet(stream))

    def open_lent(self, spec: TaskSpec, call: Call, refs: list[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
        """Open the stream of a call that a worker has submitted.

        Args:
            spec: what it calls.
            call: the call.
            refs: as the worker has named them: that of the call, and that of the stream.

        Returns:
            The ref of the call.
        """
        stream = call.stream = Stream(self.engine, spec, refs[0])
        if len(refs) > 1:
            ref = StreamRef()
            ref._id, ref._value, ref._state = refs[1]._id, None, READY
            ref.outlet = Outlet(stream)
            self.engine.borders.refs[ref._id] = ref  # lent already
        return refs[:1]

    # -- values ----------------------------------------------------------------------------------------

    def deliver(self, handle: WorkerHandle, seq: int, index: int, start: int, values: list[Any]) -> None:
        """Put what a generator has yielded into refs: the first of the values is number `start`."""
        stream = self._stream_of(handle, seq, index)
        known = len(values) if stream is None or stream.is_over else max(0, stream.num_received - start)
        for value in values[:known]:  # of a run that was given up, or once more after a death
            if value.__class__ is tuple:
                nested.discard(self.engine, handle, value)
        values = values[known:] if known else values
        if stream is None or not values:
            return
        stream.num_received += len(values)
        adopt = self.engine.borders.adopt
        told: list[ObjectRef[Any]] = []
        fresh: list[ObjectRef[Any]] = []
        for value in values:
            if stream.asked:
                ref = stream.asked.popleft()
                told.append(ref)
            else:
                ref = _new_ref(ObjectRef)
                fresh.append(ref)
            if value.__class__ is not tuple:
                ref._value = value
                ref._state = READY
            else:
                ref._value, ref._state = adopt(value, handle), PACKED
        if not stream.is_dropped:
            stream.refs.extend(fresh)
        for ref in told:  # now, so that whoever waits for many is answered once
            self.engine.results.resolved(ref)

    def _stream_of(self, handle: WorkerHandle, seq: int, index: int) -> Stream | None:
        batch = handle.batches.get(seq)
        ref = batch.refs[index] if batch is not None else None
        if ref is None or ref._state.__class__ is not TaskSpec:
            return None
        stream: Stream | None = ref._value.stream
        return stream

    # -- ends ------------------------------------------------------------------------------------------

    def end(self, ref: ObjectRef[Any], count: int) -> None:
        """A generator has ended after so many values: resolve its call's ref, and tell nobody yet of that."""
        stream = ref._value.stream
        error = None
        if count < stream.num_received and not stream.is_dropped:
            from ...exceptions import StreamingGeneratorReplayInconsistentError

            error = StreamingGeneratorReplayInconsistentError(
                f"generator {stream.spec.name!r} ran again and yielded {count} values - expected at least "
                f"the {stream.num_received} that it had yielded before - it must yield the same each time, "
                f"or have max_retries=0"
            )
        self.close(stream, error)
        self._settle(ref, stream)

    def raised(self, ref: ObjectRef[Any], error: BaseException) -> None:
        """A generator has raised: that is its last value."""
        call = ref._value
        self.engine.record.num_failed += 1
        self.close(call.stream, error)
        self._settle(ref, call.stream)
        nested.child_ended(self.engine, call, ref)
        self.engine.results.resolved(ref)

    def _settle(self, ref: ObjectRef[Any], stream: Stream) -> None:
        if stream.spec.num_returns == DYNAMIC:
            value: DynamicObjectRefGenerator[Any] = DynamicObjectRefGenerator(stream.refs)
            ref._value, ref._state = pack(value, self.engine.store), PACKED
        else:
            ref._value, ref._state = None, READY

    def close(self, stream: Stream, error: BaseException | None) -> None:
        """Have no more values come, but for an error."""
        if stream.is_over:
            return
        told: list[ObjectRef[Any]] = []
        if error is not None:
            if stream.asked:
                ref = stream.asked.popleft()
                told.append(ref)
            else:
                ref = _new_ref(ObjectRef)
            ref._value, ref._state = error, FAILED
            if not told and not stream.is_dropped:
                stream.refs.append(ref)
        while stream.asked:
            ref = stream.asked.popleft()
            ref._value, ref._state = END, READY
            told.append(ref)
        stream.is_over = True
        if stream.pause is not None:
            self.release(stream)
        for ref in told:
            self.engine.results.resolved(ref)

    # -- back-pressure ---------------------------------------------------------------------------------

    def on_message(self, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
        """Take what a producer or a consumer in a worker says."""
        if message[0] == PAUSED:
            self._paused(handle, *message[1:])
        elif message[0] == TAKE:
            self._take(handle, *message[1:])
        else:
            raise AssertionError(f"unknown message {message[0]}")

    def _paused(self, handle: WorkerHandle, seq: int, index: int, identity: int, made: int) -> None:
        """A producer waits until enough of what it has yielded is taken."""
        pause = self._lend(handle, identity)
        stream = self._stream_of(handle, seq, index)
        if stream is None:
            pause._value, pause._state = CLOSED, READY
            return
        stream.pause = (pause, made)
        self.release(stream)

    def release(self, stream: Stream) -> None:
        """Have a producer go on if it may."""
        if stream.pause is None:
            return
        pause, made = stream.pause
        if stream.is_over:
            told = CLOSED
        elif stream.is_dropped:
            is_awaited = stream.is_awaited or getattr(stream.ref, "_id", 0) in self.engine.borders.refs
            told = FREE_RUN if is_awaited else CLOSED
        elif stream.limit - (made - stream.num_taken) >= max(1, stream.limit // HYSTERESIS):
            told = stream.num_taken
        else:
            return
        stream.pause = None
        pause._value, pause._state = told, READY
        self.engine.results.resolved(pause)

    # -- consumers in workers --------------------------------------------------------------------------

    def _take(
        self, handle: WorkerHandle, identity: int, identities: list[int], num_taken: int, answer: int
    ) -> None:
        """A task asks for the next values of its generator, under identities that it has given them."""
        found = self.engine.borders.refs.get(identity)
        stream = found.outlet.stream if isinstance(found, StreamRef) else None
        for each in identities:
            ref = self._lend(handle, each)
            if stream is None:  # its call was refused
                error = found._value if found is not None and found._state == FAILED else None
                ref._value, ref._state = (END, READY) if error is None else (error, FAILED)
                found = None
            elif stream.refs:
                ready = stream.refs.popleft()
                ref._value, ref._state = ready._value, ready._state
            elif stream.is_over:
                ref._value, ref._state = END, READY
            else:
                ref._value, ref._state = stream.ref, stream.spec
                stream.asked.append(ref)
        if answer:
            told = self._lend(handle, answer)
            told._value, told._state = None, READY
        if stream is not None:
            stream.num_taken = num_taken
            self.release(stream)

    def _lend(self, handle: WorkerHandle, identity: int) -> ObjectRef[Any]:
        """Return a ref that a worker has named."""
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._id, ref._value, ref._state = identity, None, None
        self.engine.borders.lend_ref(ref, handle)
        return ref
