"""The error of a task: one instance that is both `TaskError` and what the task raised.

`make_task_error` makes an instance of a class that is derived from `TaskError` *and* from the class that the
task raised, so that `except ValueError` works on a remote `ValueError`. It is built without running a line of
the user's code: neither `__init__` nor `__new__`, `__init_subclass__` or a metaclass. The state (`args`,
`__dict__`, slots, and the fields that C code keeps, such as `OSError.errno`) is copied.

Things that don't work, and why:

- Letting `KeyboardInterrupt`, `SystemExit`, `GeneratorExit` or `asyncio.CancelledError` of a task pass
  as what they are: they would end, or cancel, the program that asks for the result. They come as a plain
  `TaskError` with the original as `cause`.
- The same for `StopIteration` and `StopAsyncIteration`: raised inside a generator or coroutine they end
  the iteration silently or turn into `RuntimeError`.
"""

from __future__ import annotations

from . import RemoteTraceback, TaskError, sentence
from .portable import apply_state, bare, c_fields, cleaned, group_parts, instance_dict, pack, restore, unpack
from .tracebacks import summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable
    from typing import Any

    Fields = tuple[BaseException | None, str, str, int | None]  # cause, task_name, traceback_text, pid

# Marks an error whose original must not be asked to pickle itself: see `make_portable`.
_IS_PORTABLE = "_grainwise_is_portable"
_PLAIN_ONLY = (StopIteration, StopAsyncIteration)
_CAUSE: Any = vars(BaseException)["__cause__"]


def make_task_error(
    cause: BaseException | None, task_name: str, traceback_text: str, pid: int | None
) -> TaskError:
    """Return the `TaskError` that stands for `cause`: see `TaskError.wrap`."""
    source = cause
    if cause is not None and issubclass(type(cause), TaskError):
        inner = task_fields(cause)[0]
        cause = cause if inner is None else inner
    fields = (cause, task_name, traceback_text, pid)
    error = _make_dual(cause, source, fields)
    if error is None:
        message = _plain_message(cause, task_name, traceback_text, pid)
        error = TaskError(message, cause=cause, task_name=task_name, traceback_text=traceback_text, pid=pid)
        notes = None if source is None else instance_dict(source).get("__notes__")
        if isinstance(notes, list):
            instance_dict(error)["__notes__"] = list(notes)
    return error


def make_portable(error: TaskError, can_pickle: Callable[[object], bool]) -> TaskError:
    """Return `error` without what cannot travel: see `TaskError.portable`."""
    cause, task_name, traceback_text, pid = task_fields(error)
    made = make_task_error(cleaned(cause, can_pickle), task_name, traceback_text, pid)
    instance_dict(made)[_IS_PORTABLE] = True
    return made


# --- the class ------------------------------------------------------------------------------------------

# id(class of the original) -> the class derived from it. Weak, so that classes defined again and again in
# a notebook can go; an id stays valid as long as the entry lives, because that holds the original class.
_dual_classes: dict[int, weakref.ref[type[TaskError]]] = {}


def _dual_class(origin: type[BaseException]) -> type[TaskError] | None:
    """Return the class derived from `TaskError` and `origin`, or None where there can be none."""
    import weakref

    found = _dual_classes.get(id(origin))
    dual = None if found is None else found()
    if dual is not None:
        return dual

    def make_original(cls: type, *args: Any, **kwargs: Any) -> BaseException:
        # `raise type(e)("more") from e` means the original's class, with the arguments that it wants.
        return origin(*args, **kwargs)

    namespace = {
        "__module__": TaskError.__module__,
        "__doc__": origin.__doc__,
        "__new__": make_original,
        "_grainwise_origin": origin,
    }
    name = f"TaskError({origin.__name__})"
    bases = (origin,) if issubclass(origin, TaskError) else (TaskError, origin)
    meta = type(origin)
    try:
        # Past the metaclass's own __new__ and __init__, which are the user's code; but ABCMeta's caches
        # must not be shared with the original's.
        from abc import ABCMeta

        new = ABCMeta.__new__ if issubclass(meta, ABCMeta) else type.__new__
        made: Any = new(meta, name, bases, namespace)
    except Exception:
        return None
    key = id(origin)

    def forget(dead: weakref.ref[type[TaskError]]) -> None:
        if _dual_classes.get(key) is dead:  # and not a newer one under the same id
            del _dual_classes[key]

    _dual_classes[key] = weakref.ref(made, forget)
    result: type[TaskError] = made
    return result


def is_dual(cls: type) -> bool:
    """Say whether a class was made here, of `TaskError` and a user's class."""
    return "_grainwise_origin" in vars(cls)


def _make_dual(cause: BaseException | None, source: BaseException | None, fields: Fields) -> TaskError | None:
    """Build the error that is of `type(cause)` too, with the state of `source`; None if there is no way."""
    if cause is None or source is None or type(cause) is TaskError:
        return None
    origin = type(cause)
    if not issubclass(origin, Exception) or issubclass(origin, _PLAIN_ONLY):
        return None
    try:
        cls = _dual_class(origin)
        if cls is None:
            return None
        error: TaskError | None = bare(cls, group_parts(source))
        if error is None:
            return None
        state = instance_dict(source)
        if source is not cause:  # an error of a nested task: its labels are replaced, the user's data is not
            inner = task_fields(source)
            state = _without(state, _labels(inner))
        apply_state(error, c_fields(source), state)
        label_task_error(error, fields)
    except Exception:
        return None
    return error


def _plain_message(cause: BaseException | None, task_name: str, traceback_text: str, pid: int | None) -> str:
    if cause is None:
        lines = traceback_text.strip().splitlines()
        what = lines[-1] if lines else "an exception that could not be sent back"
    else:
        what = summary(cause)
    where = "" if pid is None else f"in worker {pid}"
    return sentence(f"task {task_name!r} raised {what}", where)


# --- our fields -----------------------------------------------------------------------------------------


def label_task_error(error: TaskError, fields: Fields) -> None:
    """Enter our fields, except where the original has its own under the same name."""
    state = instance_dict(error)
    for name, value in _labels(fields).items():
        if not any(name in vars(cls) for cls in type(error).__mro__):
            state.setdefault(name, value)
    state["_grainwise_task"] = fields
    if fields[2]:
        _CAUSE.__set__(error, RemoteTraceback(fields[2]))


def _labels(fields: Fields) -> dict[str, Any]:
    cause, task_name, traceback_text, pid = fields
    return {
        "_grainwise_task": fields,
        "cause": cause,
        "task_name": task_name,
        "traceback_text": traceback_text,
        "function_name": task_name,
        "traceback_str": traceback_text,
        "pid": pid,
    }


def task_fields(error: BaseException) -> Fields:
    """Return what we know of a task's error, whatever fields of these names the original has."""
    fields: Fields = instance_dict(error).get("_grainwise_task", (None, "", "", None))
    return fields


def _without(state: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of `state` that `known` does not have with the same value."""
    kept = {key: value for key, value in state.items() if key not in known or known[key] is not value}
    if kept.get("__notes__") == known.get("__notes__", ()):
        del kept["__notes__"]  # a list of its own in every copy
    return kept


# --- pickling -------------------------------------------------------------------------------------------


def reduce_task_error(error: TaskError) -> tuple[Any, ...]:
    """Return what `pickle` and `copy` make the same error of."""
    cause, task_name, traceback_text, pid = fields = task_fields(error)
    ours = _labels(fields)
    packed = pack(cause, is_forced=_IS_PORTABLE in instance_dict(error))
    if not is_dual(type(error)):
        added = _without(instance_dict(error), ours)
        return _restore_task_error, (type(error), error.args, (packed, *fields[1:]), added)
    # Only what was added to this error after it was made; the rest comes with the cause.
    known = {} if cause is None else instance_dict(cause)
    added = _without(_without(instance_dict(error), ours), known)
    return _rewrap, (packed, task_name, traceback_text, pid, added)


def _restore_task_error(cls: type[Any], args: tuple[Any, ...], fields: Any, added: dict[str, Any]) -> Any:
    exc = restore(cls, args, added)
    label_task_error(exc, (unpack(fields[0]), *fields[1:]))
    return exc


def _rewrap(
    packed: Any, task_name: str, traceback_text: str, pid: int | None, added: dict[str, Any]
) -> TaskError:
    error = make_task_error(unpack(packed), task_name, traceback_text, pid)
    instance_dict(error).update(added)
    return error
