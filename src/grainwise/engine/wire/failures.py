"""Exceptions on their way from a worker to the driver, and pickling errors that name the culprit."""

from __future__ import annotations

import os

from ...errors import (
    SerializationError,
    TaskCancelledError,
    TaskError,
    dual,  # noqa: F401 - now: in need there may be no descriptor left to load it with
)
from ...objects.codec import ERROR_WIRE, Packed, loads, pack, serialize, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def error_wire(error: BaseException, task_name: str) -> tuple[Any, ...]:
    """Return an exception as an item's result: (ERROR_WIRE, pickle or None, task, traceback text, pid).

    The pickle is tried here, both ways, so that it can't fail at the driver.
    """
    from ...errors.tracebacks import trim_traceback

    pid = os.getpid()
    text = _safely(lambda: trim_traceback(error), f"{type(error).__name__} (its traceback can't be shown)")
    stream = None
    try:
        wrapped = TaskError.wrap(error, task_name=task_name, traceback_text=text, pid=pid)
        stream = _travels(wrapped)
        if stream is None:
            stream = _travels(wrapped.portable(lambda value: _travels(value) is not None))
    except BaseException:  # the user's methods may even exit
        stream = None
    return (ERROR_WIRE, stream, task_name, text, pid)


def known_error_wire(error: BaseException) -> tuple[Any, ...]:
    """Return the wire of an exception that came out of one."""
    if isinstance(error, TaskCancelledError):
        return (ERROR_WIRE, None, error.task_name, "cancelled", 0)
    return (ERROR_WIRE, serialize(error), getattr(error, "task_name", ""), str(error), 0)


def read_error(wire: tuple[Any, ...]) -> BaseException:
    """Return the exception of an error wire, at the driver."""
    _, stream, task_name, text, pid = wire
    if stream is not None:
        try:
            error = loads(stream)
        except BaseException:  # its class can't be made here: the text says what happened
            error = None
        if isinstance(error, BaseException):
            return error
    return TaskError.wrap(None, task_name=task_name, traceback_text=text, pid=pid)


def _travels(value: object) -> bytes | None:
    """Return the pickle of a value that survives pickling and unpickling, else None."""
    try:
        stream = serialize(value)
        loads(stream)
    except BaseException:  # that is the question
        return None
    return stream


def _safely(make: Any, fallback: str) -> str:
    try:
        return str(make())
    except BaseException:  # hostile __str__ and __repr__
        return fallback


def pack_or_name(value: object, sink: Any, *, what: str, name: str, task_name: str) -> Packed:
    """Serialize a value, or say what in it can't be.

    Args:
        value: the argument, result or function.
        sink: where large parts go.
        what: "argument 'x'", "result", ... for the message.
        name: how the path to the culprit begins, such as "x".
        task_name: the task.

    Raises:
        SerializationError: names the culprit and the path to it.
    """
    from ...errors import GrainwiseError

    try:
        return pack(value, sink)
    except GrainwiseError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        from ...objects.culprit import describe, find_culprit

        culprit = find_culprit(value, name=name)
        if culprit is None and _travels(value) is not None:
            raise  # nothing is wrong with it: a signal handler of the program's raised in the middle
        reason = (
            describe(culprit)
            if culprit is not None
            else f"{type(error).__name__}: {_safely(error.__str__, '')}"
        )
        path = culprit.path if culprit is not None else ""
        raise SerializationError(reason, task_name=task_name, what=what, path=path) from error


def read_value(packed: Packed) -> Any:
    """Unpickle the value of a ref.

    Raises:
        SerializationError: it can't be unpickled here; quotes the original text.
    """
    from ...errors import GrainwiseError

    try:
        return unpack(packed)
    except (KeyboardInterrupt, MemoryError, GrainwiseError):
        raise
    except BaseException as error:
        if _unpacks(packed):
            raise  # nothing is wrong with it: a signal handler of the program's raised in the middle
        reason = f"{type(error).__name__}: {_safely(error.__str__, '')}"
        raise SerializationError(reason, what="the value of a ref", action="unpickled") from error


def _unpacks(packed: Packed) -> bool:
    try:
        unpack(packed)
    except BaseException:  # that is the question
        return False
    return True


def unreadable(error: BaseException, what: str, task_name: str) -> SerializationError:
    """Return the error of an argument that can't be unpickled where its task runs."""
    reason = f"{type(error).__name__}: {_safely(error.__str__, '')}"
    return SerializationError(reason, task_name=task_name, what=what, action="unpickled")


def load_error(failure: BaseException, task_name: str, what: str = "function") -> SerializationError:
    """Return the error of a function, or of items, that can't be unpickled in a worker."""
    reason = f"{type(failure).__name__}: {_safely(lambda: failure, '')}"
    error = SerializationError(reason, task_name=task_name, what=what, action="unpickled")
    error.__cause__ = failure
    return error


def fresh(error: BaseException) -> BaseException:
    """Return a copy to raise: an exception raised twice would collect both tracebacks.

    And what a ref holds would hold, by its traceback, the frames that have the ref, and all else in them.
    """
    import copy

    try:
        again = copy.copy(error)
    except Exception:
        return error
    if again.__class__ is not error.__class__:
        return error
    if again.__cause__ is None:
        again.__cause__ = error.__cause__
    return again
