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

    from .ids import JobID, TaskID

    T_co = TypeVar("T_co", covariant=True)

    class Typed(Generic[T_co]):
        """Makes `ObjectRef` generic; without typing at run time, whose import costs milliseconds."""

        __slots__ = ()
else:

    class Typed:
        """Gives `ObjectRef[int]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias


JOB_BYTES = b"\x01\x00\x00\x00"
"""There is one job in a session."""
ID_BYTES = 28
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
    find: Callable[[int], ObjectRef[Any] | None] | None = None
    """The ref of an identity, if this process knows it and can say so."""
    future: Callable[[ObjectRef[Any]], Future[Any]] | None = None
    packing: Callable[[ObjectRef[Any]], None] | None = None
    """Told about every ref that is being pickled."""
    escaping: Callable[[ObjectRef[Any]], None] | None = None
    """Told about those that are pickled by the user's own means, not as part of a value that is sent."""


hooks = Hooks()

if TYPE_CHECKING:
    RefType = type
else:

    class RefType(type):
        """Lets `ObjectRef(binary)` find a ref; makes no difference where refs are made by the million."""

        def __call__(cls, *args):  # noqa: D102
            if not args:
                return type.__call__(cls)
            from .named_ref import find_ref

            return find_ref(*args)


class ObjectRef(Typed["T_co"], metaclass=RefType):
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
        """Return the identity of the value as 56 hexadecimal digits."""
        return self.binary().hex()

    def binary(self) -> bytes:
        """Return the identity of the value as 28 bytes: of the task, of the job, and which result it is."""
        return _identity(self).to_bytes(20, "little") + JOB_BYTES + b"\x01\x00\x00\x00"

    def task_id(self) -> TaskID:
        """Return an identity of the task: the first 24 bytes of the value's."""
        from .ids import TaskID

        return TaskID(self.binary()[:24])

    def job_id(self) -> JobID:
        """Return the identity of the session."""
        from .ids import JobID

        return JobID(JOB_BYTES)

    def call_site(self) -> str:
        """Return where the task was submitted: nobody notes it, so an empty text."""
        return ""

    def owner_address(self) -> bytes:
        """Return where the owner can be reached: there is no address."""
        return b""

    def _on_completed(self, callback: Callable[[Any], Any]) -> None:
        """Have a callback called with the value, or with the error, in whichever thread resolves the ref."""

        def settled(future: Future[Any]) -> None:
            error = future.exception()
            callback(future.result() if error is None else error)

        self.future().add_done_callback(settled)

    @classmethod
    def size(cls) -> int:
        """Return how many bytes an identity has."""
        return ID_BYTES

    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """Return the ref whose identity this is; of an unknown one `get` raises `ObjectLostError`.

        An identity does not keep its value: hold the ref itself for as long as you need it.

        Raises:
            TypeError: it is not `bytes`.
            ValueError: it does not have 28 bytes.
        """
        from .named_ref import find_ref

        return find_ref(binary)

    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """Return the ref whose identity is written like this, as `from_binary` does."""
        return cls.from_binary(bytes.fromhex(text))

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """Return a ref to nothing."""
        import os

        return cls.from_binary(os.urandom(ID_BYTES))

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """Return the ref that stands for none."""
        return cls.from_binary(b"\xff" * ID_BYTES)

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


def actor_bytes(identity: int) -> bytes:
    """Return the identity of an actor as 16 bytes: its own and the job's."""
    return identity.to_bytes(12, "little") + JOB_BYTES


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
