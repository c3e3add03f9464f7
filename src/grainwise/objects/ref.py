"""The reference that a submission returns: it *is* the slot of its value.

There is no table of tasks behind a ref. It carries the argument of its call until the call is sent, and
the result afterwards, in two fields:

| `_state` | `_value` |
|---|---|
| a task's spec (anything but an int) | the bare argument, or a `Call` |
| `READY` | the plain result, an immutable atom |
| `PACKED` | a `codec.Packed`, unpickled anew by each `get` |
| `FAILED` | the exception to raise |

Who may write: the submitter before the ref is queued; the engine's state-lock holder afterwards. A
resolved ref never changes again, so reading needs no lock.

One GC-tracked object for each outstanding call is the floor of pure Python, and dropping the ref frees its
value at once, so there is no `__del__` here. Only refs that leave their process get an identity (`_id`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from typing import Any, Generic, TypeVar

    T_co = TypeVar("T_co", covariant=True)

    class Typed(Generic[T_co]):
        """Makes `ObjectRef` generic; without typing at run time, whose import costs milliseconds."""

        __slots__ = ()
else:

    class Typed:
        """Gives `ObjectRef[int]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias


READY = 1
PACKED = 2
FAILED = 3


class Hooks:
    """What refs ask of the engine of their process; the engine fills it in when it starts.

    A seam rather than an import: objects stand below the engine.
    """

    identify: Callable[[ObjectRef[Any]], int] | None = None
    """Gives a ref its identity, before it leaves the process."""
    restore: Callable[[int], ObjectRef[Any]] | None = None
    """Makes the ref of an identity that has arrived."""
    future: Callable[[ObjectRef[Any]], Future[Any]] | None = None
    packing: Callable[[ObjectRef[Any]], None] | None = None
    """Told about every ref that is being pickled."""
    escaping: Callable[[ObjectRef[Any]], None] | None = None
    """Told about those that are pickled by the user's own means, not as part of a value that is sent."""


hooks = Hooks()


class ObjectRef(Typed["T_co"]):
    """A reference to the value of a task or of `put`, now or in the future.

    Pass it to another task (at top level it is replaced by its value; inside a container it stays a
    ref), give it to `get`, `wait` or `cancel`, `await` it, or turn it into a `concurrent.futures.Future`.
    Dropping the last ref to a value frees its memory.
    """

    __slots__ = ("_id", "_state", "_value")

    _id: int
    _state: Any
    _value: Any

    def is_resolved(self) -> bool:
        """Say whether the value (or the error) is there, without blocking."""
        return self._state.__class__ is int

    def future(self) -> Future[T_co]:
        """Return a `concurrent.futures.Future` that resolves with this ref."""
        if hooks.future is None:
            raise _no_engine("future()")
        return hooks.future(self)

    def __await__(self) -> Generator[Any, None, T_co]:
        import asyncio

        return asyncio.wrap_future(self.future()).__await__()

    def as_future(self) -> asyncio.Future[T_co]:
        """Return an `asyncio.Future` of the running loop that resolves with this ref."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def is_nil(self) -> bool:
        """Say no: every ref refers to something."""
        return False

    def hex(self) -> str:
        """Return the identity of the value as 32 hexadecimal digits."""
        return f"{_identity(self):032x}"

    def binary(self) -> bytes:
        """Return the identity of the value as 16 bytes."""
        return _identity(self).to_bytes(16, "big")

    def __reduce__(self) -> tuple[Any, ...]:
        identity = _identity(self)
        if hooks.packing is not None:
            hooks.packing(self)
        return restore, (identity,)

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> ObjectRef[T_co]:
        return self

    def __repr__(self) -> str:
        state = self._state
        word = (
            {READY: "ready", PACKED: "ready", FAILED: "failed"}.get(state)
            if state.__class__ is int
            else "pending"
        )
        return f"<ObjectRef {word} at {id(self):#x}>"


ObjectRef.__module__ = "grainwise"


def restore(identity: int) -> ObjectRef[Any]:
    """Unpickle a ref: find or make the one of this process."""
    if hooks.restore is None:
        raise _no_engine("unpickling an ObjectRef")
    return hooks.restore(identity)


def _identity(ref: ObjectRef[Any]) -> int:
    try:
        return ref._id
    except AttributeError:
        if hooks.identify is None:
            raise _no_engine("the identity of an ObjectRef") from None
        return hooks.identify(ref)


def _no_engine(what: str) -> Exception:
    from ..errors import EngineClosedError

    return EngineClosedError(f"{what} needs a running engine in this process: call grainwise.init() first")
