"""Refs to the values of generators: what a call of a generator function returns.

    consumer                       driver                          producer
    next(gen) ◄── refs ◄────────── Stream ◄──── values, in order ── for value in f(...)
                                   (driver.streams)                 (worker.yielding)

A value that nobody has yielded yet has a ref already when somebody waits for it, so whatever waits for refs
(`wait`, `await`, tasks elsewhere) waits for generators. If there is no such value in the end, that ref gets
`END`.

The consumer is the program or a task. Where the refs come from differs, see `Source`: `driver.streams.Outlet`
in the program, `worker.consuming.Inlet` in a task.
"""

from __future__ import annotations

from ..objects.ref import ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from typing import Any, Generic, NoReturn, Protocol, TypeVar

    T_co = TypeVar("T_co", covariant=True)

    class Typed(Generic[T_co]):
        """Makes generators generic in their values."""

    class Source(Protocol):
        """Where a generator takes its refs from.

        Attributes:
            refs: those that are there; the last ones may be of values that are still to come.
            limit: how many values may wait before the producer does, 0 for any number.
        """

        refs: deque[ObjectRef[Any]]
        limit: int

        @property
        def completed(self) -> ObjectRef[Any]:
            """The ref that is resolved when the producer ends."""
            ...

        def peek(self) -> ObjectRef[Any] | None:
            """Return the next ref, made in advance if need be; None if there are no more."""
            ...

        def wait(self, ref: ObjectRef[Any], timeout_s: float | None) -> bool:
            """Wait for the next value; false on a timeout."""
            ...

        def later(self, ref: ObjectRef[Any]) -> Future[Any]:
            """Return a future that is done when the next value has come."""
            ...

        def look(self, ref: ObjectRef[Any]) -> None:
            """Find out, without waiting, whether the next value is there."""
            ...

        def took(self) -> None:
            """Note that a ref was taken, where there is a limit."""
            ...
else:

    class Typed:
        """Gives `ObjectRefGenerator[int]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias


_GENERATOR_FLAGS = 0x20 | 0x200  # inspect.CO_GENERATOR | CO_ASYNC_GENERATOR


class End:
    """Stands in for a value that never came: the generator had ended."""

    def __reduce__(self) -> str:
        return "END"


END = End()


class NoRef(ObjectRef["Any"]):
    """What stands for no ref at all, where a call ran out of time."""

    __slots__ = ()

    def is_nil(self) -> bool:
        """Say yes."""
        return True


class ObjectRefGenerator(Typed["T_co"]):
    """The refs of a generator's values, one by one, as they are yielded.

    A call of a generator function returns one. Iterate over it with `for` or `async for`; give what comes to
    `get`, `wait`, or another task. `next` waits until the next value is there. If the generator raises, the
    last ref holds the error. `wait` takes generators among refs: one is ready when its next value is.

    It stays where it was made: its refs can be passed on, the generator itself can't. Dropping it frees the
    values that have not been taken and all later ones; the task goes on, unless it was held back by
    `_generator_backpressure_num_objects`: then it is closed. `cancel` ends it in any case.
    """

    __slots__ = ("__weakref__", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        source = self._source
        if not source.limit:
            refs = source.refs
            try:
                ref = refs.popleft()
            except IndexError:
                pass
            else:
                if ref._state.__class__ is int and ref._value is not END:
                    return ref
                refs.appendleft(ref)
        found = self._take(None)
        if found is None:
            raise AssertionError("a wait without an end has ended")
        return found

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        return await self._next_async(None)

    def completed(self) -> ObjectRef[None]:
        """Return a ref that is resolved, with None, when the task has ended.

        It holds the error if the task did not end by itself: if its worker died, or it was cancelled. What
        the generator raised is what the last of its refs holds.
        """
        return self._source.completed

    def next_ready(self) -> bool:
        """Say whether `next` would return at once, with a ref."""
        ref = self._look()
        return ref is not None and ref._state.__class__ is int and ref._value is not END

    def is_finished(self) -> bool:
        """Say whether the task has ended and all refs were taken: `next` would raise StopIteration."""
        ref = self._look()
        return ref is None or ref._value is END

    def send(self, value: object) -> NoReturn:
        """Refuse: nothing can be sent to a task that runs."""
        raise _not_offered("send")

    def throw(self, *error: object) -> NoReturn:
        """Refuse; `cancel` ends a generator."""
        raise _not_offered("throw")

    def close(self) -> NoReturn:
        """Refuse; `cancel` ends a generator."""
        raise _not_offered("close")

    async def asend(self, value: object) -> NoReturn:
        """Refuse: nothing can be sent to a task that runs."""
        raise _not_offered("asend")

    async def athrow(self, *error: object) -> NoReturn:
        """Refuse; `cancel` ends a generator."""
        raise _not_offered("athrow")

    async def aclose(self) -> NoReturn:
        """Refuse; `cancel` ends a generator."""
        raise _not_offered("aclose")

    @property
    def _generator_ref(self) -> ObjectRef[None]:
        return self._source.completed

    def _peek(self) -> ObjectRef[Any] | None:
        """Return the ref that `next` would give, perhaps of a value still to come; None for no more."""
        return self._source.peek()

    def _look(self) -> ObjectRef[Any] | None:
        ref = self._source.peek()
        if ref is not None and ref._state.__class__ is not int:
            self._source.look(ref)
        return ref

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T_co]:
        """Return the next ref, as `next` does; a nil ref if it has not come within `timeout_s`."""
        ref = self._take(None if timeout_s is None or timeout_s < 0 else timeout_s)
        return NoRef() if ref is None else ref

    async def _next_async(self, timeout_s: float | None = None) -> ObjectRef[T_co]:
        """Do the same in a coroutine."""
        import asyncio

        source = self._source
        while True:
            ref = source.peek()
            if ref is None:
                raise StopAsyncIteration
            if ref._state.__class__ is not int:
                future = asyncio.wrap_future(source.later(ref))
                future.add_done_callback(_read_error)
                await asyncio.wait([future], timeout=timeout_s)
                if ref._state.__class__ is not int:
                    return NoRef()
            if self._pop(ref):
                return ref

    def _take(self, timeout_s: float | None) -> ObjectRef[T_co] | None:
        source = self._source
        while True:
            ref = source.peek()
            if ref is None:
                raise StopIteration
            if ref._state.__class__ is not int and not source.wait(ref, timeout_s):
                return None
            if self._pop(ref):
                return ref

    def _pop(self, ref: ObjectRef[Any]) -> bool:
        """Take a ref; false if it was the end, or another thread was quicker."""
        source = self._source
        if ref._value is END:
            return False
        try:
            popped = source.refs.popleft()
        except IndexError:
            return False
        if popped is not ref:
            source.refs.appendleft(popped)
            return False
        if source.limit:
            source.took()
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "You cannot return or pass a generator to other task: serializing an ObjectRefGenerator is not "
            "allowed - expected the refs that it gives - consume it where it was made, and pass those on"
        )

    def __repr__(self) -> str:
        return f"<ObjectRefGenerator at {id(self):#x}>"


class DynamicObjectRefGenerator(Typed["T_co"]):
    """The refs of all values of a generator that has ended: what `num_returns="dynamic"` gives.

    Iterating takes them out. If the generator raised, the last ref holds the error.
    """

    def __init__(self, refs: Any) -> None:
        self._refs = list(refs)

    def __iter__(self) -> Iterator[ObjectRef[T_co]]:
        while self._refs:
            yield self._refs.pop(0)

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"<DynamicObjectRefGenerator of {len(self._refs)} refs>"


for _class in (ObjectRefGenerator, DynamicObjectRefGenerator):
    _class.__module__ = "grainwise"


def is_generator_function(function: Callable[..., Any]) -> bool:
    """Say whether a function has a `yield`: `def` or `async def`, in a partial or not."""
    inner: Any = function
    for _ in range(8):
        if type(inner).__name__ != "partial":
            break
        inner = inner.func
    flags = getattr(getattr(inner, "__code__", None), "co_flags", 0)
    return isinstance(flags, int) and bool(flags & _GENERATOR_FLAGS)


def _read_error(future: Any) -> None:
    """Have asyncio know that somebody has seen the error: the ref holds it."""
    if not future.cancelled():
        future.exception()


def _not_offered(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"`gen.{name}` is not supported. An ObjectRefGenerator is consumed by next(), and ended by cancel()"
    )
