"""`put`, `get`, `wait` and `cancel`: the words about refs."""

from __future__ import annotations

from ..engine.generators import ObjectRefGenerator
from ..errors import ArgumentError, GrainwiseError
from ..objects.ref import READY, ObjectRef
from .session import engine

TYPE_CHECKING = False
if not TYPE_CHECKING:

    def overload(function):
        """Do nothing: importing typing costs milliseconds."""
        return function

else:  # last, so that linters take this `overload` for the one in effect
    from collections.abc import Sequence
    from typing import Any, TypeVar, overload

    T = TypeVar("T")
    W = TypeVar("W", bound=ObjectRef[Any] | ObjectRefGenerator[Any])


def put(value: T, *, _owner: None = None) -> ObjectRef[T]:
    """Store a value once and return a ref to it.

    Rarely needed: a large argument passed by value to many tasks is stored once by itself. Arrays in what
    comes back from `get` are read-only views of shared memory.

    Args:
        value: anything that can be pickled, but no ref itself.
        _owner: None; an older Ray had it.

    Raises:
        TypeError: the value is an ObjectRef.
        ValueError: `_owner` is given.
        SerializationError: the value can't be pickled; names the culprit and the path to it.
        ObjectStoreFullError: the store is full and spilling is off.
        OutOfDiskError: the store is full, and so is the spill folder.
    """
    if _owner is not None:
        raise ValueError(
            f"put(_owner=...) is not offered, nor by Ray any more - expected None, got {_owner!r:.200}"
        )
    return engine().put(value)


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Wait for values and return them: one for a ref, a list (in order) for a list of refs.

    Large arrays are read in place, without a copy, and are read-only; everything else is a copy of your own.

    Args:
        refs: an `ObjectRef` or a sequence of them.
        timeout: seconds to wait at most; None waits as long as it takes, 0 does not wait.

    Raises:
        GetTimeoutError: the time is over; the tasks go on.
        TaskError: a task raised; the error is also of the type that the task raised. The first in the order
            of `refs`.
        WorkerCrashedError: a task's worker died and it may not be retried (again).
        ActorError: an actor died under its call, or before it.
        TaskCancelledError: a task was cancelled.
        ArgumentError: `refs` is neither an ObjectRef nor a sequence.
        TypeError: something in `refs` is not an ObjectRef.
    """
    if refs.__class__ is ObjectRefGenerator:
        return refs
    if timeout is not None:
        timeout = _check_timeout("get", timeout)
    is_one = isinstance(refs, ObjectRef)
    checked = (refs,) if is_one else _check_refs("get", refs)
    try:
        values = engine().get(checked, timeout)
    except GrainwiseError as error:
        raise error.with_traceback(None)  # noqa: B904 # itself, without the frames of ours that it went through
    return values[0] if is_one else values


def wait(
    refs: Sequence[W],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[W], list[W]]:
    """Wait until `num_returns` of the refs are resolved (errors count) or the time is over.

    Args:
        refs: a list of different refs, generators among them: one is resolved when its next value is there,
            or there are no more. An empty list gives two empty ones.
        num_returns: how many to wait for, 1 to `len(refs)`.
        timeout: seconds to wait at most; None waits as long as it takes, 0 only looks.
        fetch_local: accepted for compatibility; on one machine values are always local.

    Returns:
        The resolved refs, at most `num_returns`, and all others, both in the order of `refs`.

    Raises:
        ValueError: `num_returns` is out of range or a ref appears twice.
        ArgumentError: `refs` is no sequence.
        TypeError: something in `refs` is not an ObjectRef.
    """
    if isinstance(refs, (ObjectRef, ObjectRefGenerator)):
        raise TypeError(
            f"wait() expected a list of ObjectRefs or ObjectRefGenerators, got a single {type(refs).__name__}"
        )
    checked = _check_refs("wait", refs)
    if not checked:
        return [], []
    if len(set(checked)) != len(checked):
        raise ValueError("wait() expected unique refs, got one of them twice")
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"wait(num_returns=...) expected an int, got {type(num_returns).__name__}")
    if not 0 < num_returns <= len(checked):
        raise ValueError(
            f"Invalid number of objects to return: wait(num_returns={num_returns}) expected 1 to "
            f"{len(checked)}, the number of refs"
        )
    if timeout is not None:
        timeout = _check_timeout("wait", timeout)
    if ObjectRefGenerator in map(type, checked):
        return _wait_with_generators(checked, num_returns, timeout)
    found: tuple[list[Any], list[Any]] = engine().wait(checked, num_returns, timeout)
    return found


def _wait_with_generators(
    waited: list[Any], num_returns: int, timeout: float | None
) -> tuple[list[Any], list[Any]]:
    """Wait with the next ref of each generator in its place; one that has no more is ready."""
    of_ref: dict[ObjectRef[Any], Any] = {}
    for each in waited:
        ref = each._peek() if isinstance(each, ObjectRefGenerator) else each
        if ref is None:
            ref = ObjectRef()
            ref._value, ref._state = None, READY
        of_ref[ref] = each
    ready, rest = engine().wait(list(of_ref), num_returns, timeout)
    return [of_ref[ref] for ref in ready], [of_ref[ref] for ref in rest]


def cancel(
    ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Cancel a task; `get` of its ref then raises `TaskCancelledError`.

    A task that has not begun never runs. A running one is interrupted by a `KeyboardInterrupt` at its next
    bytecode (not inside native code). A finished one is left alone. A running call of an actor is not
    interrupted, because its object must stay whole; if it is `async def`, its coroutine is cancelled.

    Args:
        ref: the ref of the task, or its generator.
        force: kill the worker of a running task instead; what else it held is run elsewhere.
        recursive: cancel the tasks that it has submitted, too.

    Raises:
        TypeError: `ref` is not an ObjectRef.
        ValueError: `force` for a call of an actor.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref._generator_ref
    if not isinstance(ref, ObjectRef):
        raise TypeError(
            f"cancel() expected an ObjectRef, got {type(ref).__name__} - it is only supported for object "
            f"refs; kill() ends actors"
        )
    engine().cancel(ref, force=force, recursive=recursive)


def _check_refs(word: str, refs: Any) -> list[ObjectRef[Any]]:
    if isinstance(refs, (str, bytes, dict, set, frozenset)) or not hasattr(refs, "__iter__"):
        raise ArgumentError(
            f"Invalid type of object refs, {type(refs)}: {word}() expected an ObjectRef or a list of them"
        )
    checked = refs if refs.__class__ is list else list(refs)
    kinds = set(map(type, checked))
    kinds.discard(ObjectRef)
    if kinds:
        allowed = (ObjectRef, ObjectRefGenerator) if word == "wait" else ObjectRef
        for position, ref in enumerate(checked):
            if not isinstance(ref, allowed):
                raise TypeError(
                    f"Attempting to call `{word}` on the value {ref!r:.200}, which is not an ObjectRef - "
                    f"expected ObjectRefs, got {type(ref).__name__} at position {position}"
                )
    return checked


def _check_timeout(word: str, timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{word}(timeout=...) expected seconds or None, got {type(timeout).__name__}")
    if not timeout >= 0:  # not a number compares false
        raise ValueError(f"The 'timeout' argument must be nonnegative: got {word}(timeout={timeout})")
    return float(timeout)
