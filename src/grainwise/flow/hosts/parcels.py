"""Values on their way between a program and a replica; the host between them never opens them.

An *entry* is what stands for a value:

* a number, text or None: itself;
* `bytes`: the pickle of any other value;
* `Parcel`: a pickle with its large buffers beside it, which are never copied into a stream;
* `Failure`: what a function raised;
* `Noted`: an entry, and what the host should know of the replica that made it;
* `Stale`: nothing, since the element must be run by another host.

So the host needs none of the classes and modules of those it serves, and can't be stale: only replicas are.
"""

from __future__ import annotations

import os
from pickle import PickleBuffer

from ...errors import SerializationError, TaskError
from ...objects.codec import loads, serialize
from .outcome import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PLAIN = frozenset((int, float, bool, type(None), str))
"""Types that stand for themselves."""


class Parcel:
    """A pickle with its buffers. Pickling it again copies no buffer."""

    __slots__ = ("buffers", "stream")

    def __init__(self, stream: bytes, buffers: Sequence[Any]) -> None:
        self.stream = stream
        self.buffers = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Parcel, (self.stream, [PickleBuffer(buffer) for buffer in self.buffers])

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return len(self.stream) + sum(memoryview(buffer).nbytes for buffer in self.buffers)


class Failure:
    """What a function raised.

    Attributes:
        stream: the pickle of the error, None if it can't travel.
        name: the function.
        text: the traceback.
        attempts: how often it was run.
        pid: the replica.
    """

    __slots__ = ("attempts", "name", "pid", "stream", "text")

    def __init__(self, stream: bytes | None, name: str, text: str, attempts: int, pid: int | None) -> None:
        self.stream = stream
        self.name = name
        self.text = text
        self.attempts = attempts
        self.pid = pid

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.stream, self.name, self.text, self.attempts, self.pid)


class Noted:
    """An entry, and what else its replica has to say.

    Attributes:
        entry: what stands for the value.
        attempts: how often the function was run.
        pid: the replica.
        files: files of the user's modules that it has loaded since it last told: path -> signature.
    """

    __slots__ = ("attempts", "entry", "files", "pid")

    def __init__(self, entry: Any, attempts: int, pid: int | None, files: dict[str, Any]) -> None:
        self.entry = entry
        self.attempts = attempts
        self.pid = pid
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        return Noted, (self.entry, self.attempts, self.pid, self.files)


class Stale:
    """Stands for an element that was not run: its replica has loaded modules that have been edited since."""

    __slots__ = ()


def encode(value: Any) -> Any:
    """Return the entry that stands for a value.

    Raises:
        Exception: whatever pickling raised.
    """
    if type(value) in PLAIN:
        return value
    buffers: list[Any] = []
    stream = serialize(value, buffers.append)
    return Parcel(stream, [buffer.raw() for buffer in buffers]) if buffers else stream


def encode_or_name(value: Any, *, what: str, name: str, function_name: str) -> Any:
    """Return the entry of a value, or say what in it can't be pickled.

    Raises:
        SerializationError: names the culprit and the path to it.
    """
    try:
        return encode(value)
    except MemoryError:
        raise
    except Exception as error:
        from ...objects.culprit import describe, find_culprit

        culprit = find_culprit(value, name=name)
        reason = f"{type(error).__name__}: {error}" if culprit is None else describe(culprit)
        path = "" if culprit is None else culprit.path
        raise SerializationError(reason, task_name=function_name, what=what, path=path) from error


def decode(entry: Any) -> Any:
    """Return the value that an entry stands for; large buffers are read in place, and read-only."""
    if entry.__class__ is bytes:
        return loads(entry)
    if entry.__class__ is Parcel:
        return loads(entry.stream, buffers=[memoryview(buffer).toreadonly() for buffer in entry.buffers])
    return entry


def failure_of(error: BaseException, name: str, attempts: int) -> Failure:
    """Return what stands for an exception of this process. It is tried here, so that it can't fail there."""
    from ...errors.tracebacks import trim_traceback

    pid = os.getpid()
    text = trim_traceback(error)
    try:
        wrapped = TaskError.wrap(error, task_name=name, traceback_text=text, pid=pid)
        stream = _travels(wrapped)
        if stream is None:
            stream = _travels(wrapped.portable(lambda value: _travels(value) is not None))
    except Exception:  # the user's own methods
        stream = None
    return Failure(stream, name, text, attempts, pid)


def _travels(value: object) -> bytes | None:
    """Return the pickle of a value that survives pickling and unpickling, else None."""
    try:
        stream = serialize(value)
        loads(stream)
    except Exception:  # that is the question
        return None
    return stream


def outcome_of(entry: Any, index: int) -> Outcome:
    """Return what became of an element, from its entry."""
    attempts, pid = 1, None
    if entry.__class__ is Noted:
        attempts, pid, entry = entry.attempts, entry.pid, entry.entry
    if entry.__class__ is Failure:
        return Outcome(index, None, _error_of(entry), entry.text, entry.attempts, entry.pid)
    try:
        return Outcome(index, decode(entry), attempts=attempts, pid=pid)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        unreadable = SerializationError(reason, what=f"the result of element {index}", action="unpickled")
        unreadable.__cause__ = error
        return Outcome(index, None, unreadable, "", attempts, pid)


def _error_of(failure: Failure) -> BaseException:
    if failure.stream is not None:
        try:
            error = loads(failure.stream)
        except Exception:  # its class can't be made here: the text says what happened
            error = None
        if isinstance(error, BaseException):
            return error
    return TaskError.wrap(None, task_name=failure.name, traceback_text=failure.text, pid=failure.pid)
