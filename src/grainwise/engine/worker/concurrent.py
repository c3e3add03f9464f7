"""Calls of an actor that run at once: on one event loop, or on threads.

    main thread   reads frames, hands calls over, and answers to those who wait
    loop thread   where the class has `async def` methods: runs all of them, sync ones in between
    threads       else: up to the limit of each concurrency group, started as they are needed

Each group has a limit of its own for the calls that run; the rest queue up here, in order. Results leave in
the order in which they come: those that come together leave together.
"""

from __future__ import annotations

import threading
from collections import deque
from contextvars import ContextVar
from time import perf_counter

from ...objects.codec import ERROR_WIRE, Packed, is_atom
from ..calls import limit_of
from ..generators import is_generator_function
from ..wire.failures import error_wire, pack_or_name
from ..wire.tasks import DONE, MULTI_WIRE, SHORT_WIRE, STREAM_WIRE
from . import yielding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from .loop import Worker


class Item:
    """A call on its way through the actor.

    Attributes:
        task: what runs it on the event loop.
        has_begun: it runs there; before that nobody would catch an interruption.
        is_cancelled: it shall not begin, or has been interrupted.
        kept: its packed result, until it is sent.
        spent_s: how long a thread was busy with it.
    """

    __slots__ = (
        "group", "has_begun", "index", "is_cancelled", "kept", "method", "name", "num_returns", "part", "seq",
        "spent_s", "task", "value",
    )  # fmt: skip

    def __init__(
        self, seq: int, index: int, part: int, value: Any,
        method: str, group: str, num_returns: int, name: str,
    ) -> None:  # fmt: skip
        self.seq = seq
        self.index = index
        self.part = part
        self.value = value
        self.method = method
        self.group = group
        self.num_returns = num_returns
        self.name = name
        self.task: Any = None
        self.has_begun = False
        self.is_cancelled = False
        self.kept: list[Packed] = []
        self.spent_s = 0.0


running: ContextVar[Item | None] = ContextVar("running", default=None)
"""The call that this thread, or this task of the event loop, runs."""


class Group:
    """A concurrency group: what runs of it and what waits."""

    __slots__ = ("limit", "num_running", "num_threads", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.num_running = 0
        self.num_threads = 0
        self.waiting: deque[Item] = deque()


class Concurrent:
    """What loop and threads have in common.

    Args:
        worker: the actor's process.
        limit: calls of the default group that run at once.
        groups: the same for named groups.
    """

    def __init__(self, worker: Worker, limit: int, groups: tuple[tuple[str, int], ...]) -> None:
        self._worker = worker
        self._groups = {"": Group(limit), **{name: Group(most) for name, most in groups}}
        self._items: dict[tuple[int, int], Item] = {}
        self._outbox: deque[tuple[Item, Any]] = deque()

    def current(self) -> Item | None:
        """Return the call that asks."""
        return running.get()

    # -- main thread -----------------------------------------------------------------------------------

    def take(self, seq: int, values: list[Any], parts: list[tuple[Any, ...]]) -> None:
        """Take a batch of calls."""
        items: list[Item] = []
        begin = 0
        for number, (end, method, group, num_returns, name) in enumerate(parts):
            for index in range(begin, end):
                item = Item(seq, index, number, values[index], method, group, num_returns, name)
                self._items[seq, index] = item
                items.append(item)
            begin = end
        self._admit(items)

    def cancel(self, seq: int, index: int) -> None:
        """Cancel a call: one that waits never runs, one on the event loop is interrupted, others go on."""
        item = self._items.get((seq, index))
        if item is not None:
            item.is_cancelled = True
            self._interrupt(item)

    def _admit(self, items: list[Item]) -> None:
        raise NotImplementedError

    def _interrupt(self, item: Item) -> None:
        raise NotImplementedError

    # -- whoever runs a call ---------------------------------------------------------------------------

    def _group_of(self, item: Item) -> Group:
        return self._groups.get(item.group) or self._groups[""]

    def _begin(self, item: Item) -> Any:
        """Call the method; what an `async def` returns is still to be awaited."""
        worker = self._worker
        running.set(item)
        if item.group not in self._groups:
            raise ValueError(
                f"{item.name!r} asks for the concurrency group {item.group!r} - expected one of "
                f"{', '.join(sorted(filter(None, self._groups)))}"
            )
        function = worker.acting.method(item.method)
        args, kwargs = worker.inside.arguments(item.value, function, item.name)
        return function(*args, **kwargs)

    def _pack(self, item: Item, value: Any) -> Any:
        """Return the wire of a result."""
        if self._worker.is_twin:  # the call has forked, and this is the child
            self._worker.leave(None)
        if item.num_returns < 0:
            return yielding.run(self._flow(item), value)
        if value.__class__ is yielding.GENERATOR and self._is_split(item):
            return self._pack_first(item, value)
        if item.num_returns == 1:
            return self._pack_one(item, value, "result")
        values = self._worker.inside.split_results(value, item.num_returns, item.name)
        return (MULTI_WIRE, [self._pack_one(item, v, f"result {i}") for i, v in enumerate(values)])

    def _is_split(self, item: Item) -> bool:
        """Say whether what a generator yields are the results of a call, not the generator itself."""
        return item.num_returns != 1 or is_generator_function(self._worker.acting.method(item.method))

    def _pack_first(self, item: Item, generator: Any) -> Any:
        """Return the wire of as many values of a generator as there are results."""
        values, error = yielding.take(generator, item.num_returns, item.name)
        if item.num_returns == 1:
            if error is not None and not values:
                raise error
            return self._pack_one(item, values[0], "result")
        parts = [self._pack_one(item, v, f"result {i}") for i, v in enumerate(values)]
        return (MULTI_WIRE, parts) if error is None else (SHORT_WIRE, parts, error_wire(error, item.name))

    def _flow(self, item: Item) -> yielding.Flow:
        limit = limit_of(item.num_returns)
        return yielding.Flow(self._worker, item.seq, item.index, item.name, limit, item)

    def _pack_one(self, item: Item, value: Any, what: str) -> Any:
        if is_atom(value):
            return value
        worker = self._worker
        packed = pack_or_name(value, worker.outpost.results, what=what, name="result", task_name=item.name)
        item.kept.append(packed)
        return worker.inside.wire(packed)

    def _fail(self, item: Item, error: BaseException) -> Any:
        """Return the wire of an exception; one that ends the actor does so."""
        if self._worker.is_twin:
            self._worker.leave(error)
        if isinstance(error, SystemExit):
            self._flush()
            self._worker.acting.leave(error)
        return error_wire(error, item.name)

    def _cancelled(self, item: Item) -> Any:
        import os

        return (ERROR_WIRE, None, item.name, "cancelled", os.getpid())

    def _finish(self, item: Item, wire: Any) -> None:
        """Keep a result until it is sent."""
        del self._items[item.seq, item.index]
        item.value = item.task = None
        self._outbox.append((item, wire))

    def _flush(self) -> None:
        """Send the results that are there."""
        worker = self._worker
        with worker.send_lock:
            taken: list[tuple[Item, Any]] = []
            while self._outbox:
                taken.append(self._outbox.popleft())
            if not taken:
                return
            worker.tags.end()
            worker.inside.ship()
            worker.channel.send(
                (DONE, [(item.seq, item.index, item.part, wire, item.spent_s) for item, wire in taken])
            )
            del taken
            worker.send_returned()


class OnThreads(Concurrent):
    """Runs calls on threads, up to the limit of each group."""

    def __init__(self, worker: Worker, limit: int, groups: tuple[tuple[str, int], ...]) -> None:
        super().__init__(worker, limit, groups)
        self._lock = threading.Condition()

    def _admit(self, items: list[Item]) -> None:
        with self._lock:
            for item in items:
                group = self._group_of(item)
                group.waiting.append(item)
                idle = group.num_threads - group.num_running
                if idle < len(group.waiting) and group.num_threads < group.limit:
                    group.num_threads += 1
                    threading.Thread(
                        target=self._serve, args=(group,), name="grainwise-call", daemon=True
                    ).start()
            self._lock.notify_all()

    def _interrupt(self, item: Item) -> None:
        pass  # one that waits is looked at when its turn comes

    def _serve(self, group: Group) -> None:
        while True:
            with self._lock:
                while not group.waiting:
                    self._lock.wait()
                item = group.waiting.popleft()
                group.num_running += 1
            begin = perf_counter()
            if item.is_cancelled:
                wire = self._cancelled(item)
            else:
                try:
                    wire = self._pack(item, self._begin(item))
                except BaseException as error:  # it is the call's result
                    wire = self._fail(item, error)
            item.spent_s = perf_counter() - begin
            self._finish(item, wire)
            with self._lock:
                group.num_running -= 1
            self._flush()
            del item, wire


class OnLoop(Concurrent):
    """Runs calls on one event loop, in a thread of its own."""

    def __init__(self, worker: Worker, limit: int, groups: tuple[tuple[str, int], ...]) -> None:
        super().__init__(worker, limit, groups)
        import asyncio

        self._loop = asyncio.new_event_loop()
        self._is_flushing = False
        threading.Thread(target=self._run_loop, name="grainwise-loop", daemon=True).start()

    def _run_loop(self) -> None:
        import asyncio

        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _admit(self, items: list[Item]) -> None:
        self._loop.call_soon_threadsafe(self._start_all, items)

    def _interrupt(self, item: Item) -> None:
        def interrupt() -> None:
            if item.task is None:
                self._skip(item)
            elif item.has_begun:
                item.task.cancel()

        self._loop.call_soon_threadsafe(interrupt)

    # -- loop thread -----------------------------------------------------------------------------------

    def _start_all(self, items: list[Item]) -> None:
        for item in items:
            group = self._group_of(item)
            if group.num_running < group.limit:
                self._start(group, item)
            else:
                group.waiting.append(item)

    def _start(self, group: Group, item: Item) -> None:
        group.num_running += 1
        item.task = self._loop.create_task(self._run(group, item))

    def _skip(self, item: Item) -> None:
        """Answer for a call that waits for its turn: what runs may run for ever."""
        waiting = self._group_of(item).waiting
        if item in waiting:
            waiting.remove(item)
            self._finish(item, self._cancelled(item))
            self._flush()

    async def _run(self, group: Group, item: Item) -> None:
        import asyncio

        item.has_begun = True
        try:
            if item.is_cancelled:
                wire = self._cancelled(item)
            else:
                value = self._begin(item)
                if hasattr(value, "__await__"):
                    value = await value
                was_cancelled: bool = getattr(item, "is_cancelled")  # noqa: B009 -- set meanwhile
                if was_cancelled:
                    wire = self._cancelled(item)
                elif item.num_returns < 0:
                    wire = await self._stream(item, value)
                else:
                    wire = self._pack(item, value)
        except asyncio.CancelledError as error:
            wire = self._cancelled(item) if item.is_cancelled else self._fail(item, error)
        except BaseException as error:  # it is the call's result
            wire = self._fail(item, error)
        self._finish(item, wire)
        group.num_running -= 1
        while group.waiting and group.num_running < group.limit:
            self._start(group, group.waiting.popleft())
        if not self._is_flushing:  # with what else ends in this round of the loop
            self._is_flushing = True
            self._loop.call_soon(self._flush_round)

    async def _stream(self, item: Item, value: Any) -> tuple[Any, ...]:
        """Run a generator between other calls; return the wire of its end."""
        number = 0
        due = 0.0
        flow = self._flow(item)
        is_async = hasattr(value, "__anext__")
        values: Any = value if is_async else _ceding(yielding.iterator_of(value, item.name))
        try:
            with flow:
                async for each in values:
                    flow.put(each, number)
                    number += 1
                    if perf_counter() >= due or flow.nbytes > yielding.FULL_BYTES:
                        due = flow.flush()
                    while number >= flow.pause_at:
                        flow.flush()
                        flow.resume(await flow.ask(number))
        except yielding.ClosedError:
            pass
        finally:
            await values.aclose()
        wire: tuple[Any, ...] = self._cancelled(item) if item.is_cancelled else (STREAM_WIRE, number)
        return wire

    def _flush_round(self) -> None:
        self._is_flushing = False
        self._flush()


async def _ceding(values: Any) -> AsyncIterator[Any]:
    """Iterate over a generator that knows nothing of the loop, and let others run between its values."""
    import asyncio

    try:
        for value in values:
            yield value
            await asyncio.sleep(0)
    finally:
        close = getattr(values, "close", None)
        if close is not None:
            close()
