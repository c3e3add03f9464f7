"""Every exception that grainwise raises on purpose.

    GrainwiseError
    ├── TaskError                 a task raised; also an instance of what it raised
    ├── WorkerCrashedError        a worker process died while it ran a task
    ├── WorkerStartError          worker processes fail before they can take a task
    ├── TaskCancelledError        the task was cancelled
    ├── GetTimeoutError           · TimeoutError   `get` ran out of time
    ├── ObjectStoreFullError      no room for an object, neither in memory nor on disk
    ├── OutOfDiskError            the disk that objects spill to is full or read-only
    ├── ObjectLostError           the bytes of an object are gone
    ├── SerializationError        · TypeError      a value cannot be pickled or unpickled
    ├── EngineClosedError         · RuntimeError   used after `shutdown`, or in a forked child
    ├── InfeasibleTaskError       · ValueError     a task asks for more than the machine has
    └── InternalError             our bug, never the user's

Guarantees: each of them can be pickled and copied, with its fields and notes; a message says what failed,
what was expected and found, where, and what to do. Nothing here imports more than the interpreter has
loaded already, so that `import grainwise` stays cheap.

What a handler sees of a task's exception
-----------------------------------------
`TaskError.wrap` makes an instance of a class that is derived from `TaskError` *and* from the class that
the task raised, so that `except ValueError` works on a remote `ValueError`. It is built without running
a line of the user's code: neither `__init__` nor `__new__`, `__init_subclass__` or a metaclass. The state
(`args`, `__dict__`, slots, and the fields that C code keeps, such as `OSError.errno`) is copied.

Things that don't work, and why:

- Pickling an exception the way it pickles itself. The default calls `cls(*args)`, which fails on load
  for every class whose `__init__` takes other arguments than it hands to `Exception`; a task's error then
  hides behind a `TypeError`. State is therefore taken apart here and put together without `__init__`. A
  class with its own `__reduce__` is trusted with it.
- Letting `KeyboardInterrupt`, `SystemExit`, `GeneratorExit` or `asyncio.CancelledError` of a task pass
  as what they are: they would end, or cancel, the program that asks for the result. They come as a plain
  `TaskError` with the original as `cause`.
- The same for `StopIteration` and `StopAsyncIteration`: raised inside a generator or coroutine they end
  the iteration silently or turn into `RuntimeError`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Collection, Iterator
    from traceback import TracebackException
    from typing import Any

__all__ = [
    "EngineClosedError",
    "GetTimeoutError",
    "GrainwiseError",
    "InfeasibleTaskError",
    "InternalError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "WorkerCrashedError",
    "WorkerStartError",
    "trim_traceback",
]


class GrainwiseError(Exception):
    """The root of all exceptions of grainwise.

    Instances are rebuilt from their fields, never by calling `__init__` again, so a subclass may have
    any signature and still be pickled and copied.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__))


class TaskError(GrainwiseError):
    """A task raised an exception.

    What `get` raises is an instance of both `TaskError` and the exception's own class wherever that can
    be had (see `wrap`); `str()` of it is then `str()` of the original. An uncaught one prints the
    traceback of the worker before that of the caller.

    A field below that the original exception has under the same name (`psutil.NoSuchProcess.pid`, say)
    keeps the original's value: the code that handles the original must not act on a wrong one.

    Attributes:
        cause: The original exception, or None where it could not be sent.
        task_name: The task whose result was asked for.
        traceback_text: The traceback in the worker with its chain of causes, notes and groups.
        pid: The worker, or None if unknown.
    """

    cause: BaseException | None
    task_name: str
    traceback_text: str
    pid: int | None
    # (cause, task_name, traceback_text, pid): ours even where the original has a field of that name.
    _grainwise_task: tuple[BaseException | None, str, str, int | None]

    def __init__(
        self,
        message: str = "",
        *,
        cause: BaseException | None = None,
        task_name: str = "",
        traceback_text: str = "",
        pid: int | None = None,
    ) -> None:
        super().__init__(message)
        _label_task_error(self, (cause, task_name, traceback_text, pid))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the `__init_subclass__` of a user's exception from running for the class made by `wrap`.

        It may refuse, want keywords, or enter the class in a registry.
        """

    @staticmethod
    def wrap(
        cause: BaseException | None, *, task_name: str, traceback_text: str, pid: int | None
    ) -> TaskError:
        """Return the `TaskError` that stands for `cause`, of `type(cause)` as well where that can be.

        A plain `TaskError` is returned for None, for a `BaseException` that is no `Exception`, for
        `StopIteration` and `StopAsyncIteration`, and for classes that cannot be derived from. If `cause`
        is itself the error of a nested task, the new one keeps the innermost original as its `cause`.

        Cost: tens of microseconds, and the making of a class at the first exception of each class.
        """
        source = cause
        if cause is not None and issubclass(type(cause), TaskError):
            inner = _task_fields(cause)[0]
            cause = cause if inner is None else inner
        fields = (cause, task_name, traceback_text, pid)
        error = _make_dual(cause, source, fields)
        if error is None:
            message = _plain_message(cause, task_name, traceback_text, pid)
            error = TaskError(
                message, cause=cause, task_name=task_name, traceback_text=traceback_text, pid=pid
            )
            notes = None if source is None else _instance_dict(source).get("__notes__")
            if isinstance(notes, list):
                _instance_dict(error)["__notes__"] = list(notes)
        return error

    def portable(self, can_pickle: Callable[[object], bool]) -> TaskError:
        """Return the same error with every part of the original that cannot travel replaced by its name.

        For an exception that holds a lock or a connection, or whose own `__reduce__` fails: class, message
        and the other fields arrive.

        Args:
            can_pickle: Whether a value survives pickling *and* unpickling.
        """
        cause, task_name, traceback_text, pid = _task_fields(self)
        try:
            cause = _unpack(_clean(_pack(cause, is_forced=True), can_pickle))
        except Exception:
            cause = None
        error = TaskError.wrap(cause, task_name=task_name, traceback_text=traceback_text, pid=pid)
        _instance_dict(error)[_IS_PORTABLE] = True
        return error

    def __str__(self) -> str:
        cause = _task_fields(self)[0]
        return _safe_str(cause) if cause is not None and _is_dual(type(self)) else super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        cause, task_name, traceback_text, pid = fields = _task_fields(self)
        ours = _labels(fields)
        packed = _pack(cause, is_forced=_IS_PORTABLE in _instance_dict(self))
        if not _is_dual(type(self)):
            added = _without(_instance_dict(self), ours)
            return _restore_task_error, (type(self), self.args, (packed, *fields[1:]), added)
        # Only what was added to this error after it was made; the rest comes with the cause.
        known = {} if cause is None else _instance_dict(cause)
        added = _without(_without(_instance_dict(self), ours), known)
        return _rewrap, (packed, task_name, traceback_text, pid, added)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()  # an original with its own __reduce_ex__ would come first otherwise

    def __copy__(self) -> TaskError:
        rebuild, args = self.__reduce__()
        copied: TaskError = rebuild(*args)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> TaskError:
        import copy

        rebuild, args = self.__reduce__()
        copied: TaskError = rebuild(*copy.deepcopy(args, memo))
        return copied


class WorkerCrashedError(GrainwiseError):
    """A worker process died while it ran a task, and the task may not be (or not again) retried.

    Attributes:
        task_name: The task that it was running.
        pid: The process that died.
        exit_code: What it exited with, or None if a signal ended it.
        signal: The number of the signal that ended it, or None.
        detail: What it had been doing: the end of its output and the stack that faulthandler wrote.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task_name: str = "",
        pid: int | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        detail: str = "",
    ) -> None:
        self.task_name = task_name
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal
        self.detail = detail
        super().__init__(message or self._message())

    def _message(self) -> str:
        if self.signal is not None:
            name = _signal_name(self.signal)
            end, advice = f"signal {self.signal} ({name})", _SIGNAL_ADVICE.get(name, "")
        elif self.exit_code is not None:
            end, advice = f"exit code {self.exit_code}", "a task must return or raise, not end its process"
        else:
            end, advice = "the end of its process", ""
        return _sentence(
            f"task {self.task_name!r} did not finish because its worker died",
            f"expected a result, got {end}",
            "" if self.pid is None else f"in worker {self.pid}",
            advice or "set max_retries if it is safe to run again",
            detail=self.detail,
        )


class WorkerStartError(GrainwiseError):
    """Worker processes fail before they can take a task.

    Attributes:
        detail: Their last output.
    """

    def __init__(self, message: str = "worker processes fail to start", *, detail: str = "") -> None:
        self.detail = detail
        super().__init__(_sentence(message, detail=detail))


class TaskCancelledError(GrainwiseError):
    """The task was cancelled before it had a result.

    Attributes:
        task_name: The task.
    """

    def __init__(self, message: str = "", *, task_name: str = "") -> None:
        self.task_name = task_name
        super().__init__(message or f"task {task_name!r} was cancelled")


class GetTimeoutError(GrainwiseError, TimeoutError):
    """`get` waited as long as it was told to, and the result is not there yet. The task goes on."""


class ObjectStoreFullError(GrainwiseError):
    """There is no room for an object, neither in memory nor, by spilling others, on disk.

    Attributes:
        requested_bytes: Size of the object.
        capacity_bytes: Size of the store.
        used_bytes: How much of it is taken.
    """

    def __init__(
        self, message: str = "", *, requested_bytes: int = 0, capacity_bytes: int = 0, used_bytes: int = 0
    ) -> None:
        self.requested_bytes = requested_bytes
        self.capacity_bytes = capacity_bytes
        self.used_bytes = used_bytes
        free_bytes = max(0, capacity_bytes - used_bytes)
        super().__init__(
            message
            or _sentence(
                f"an object of {_size(requested_bytes)} does not fit into the object store",
                f"expected that much room, got {_size(free_bytes)}",
                f"{_size(used_bytes)} of {_size(capacity_bytes)} are used",
                "delete refs that are no longer needed, or call init(object_store_memory=...) with more",
            )
        )


class OutOfDiskError(GrainwiseError):
    """The disk that objects spill to is full or read-only. Objects that were there stay readable."""


class ObjectLostError(GrainwiseError):
    """The bytes of an object are gone with the process that held them, and it cannot be made again."""


class SerializationError(GrainwiseError, TypeError):
    """An argument, a result, an exception or a function cannot be pickled or unpickled.

    Args:
        reason: The text of the original exception, with the culprit where it is known.
        task_name: The task it belongs to; empty for `put`.
        what: "argument 'x'", "result", "function", "exception".
        path: The way to the culprit, such as `config['handlers'][2]._lock`; empty if unknown.
        action: What could not be done, "pickled" or "unpickled".
    """

    def __init__(
        self, reason: str, *, task_name: str = "", what: str = "", path: str = "", action: str = "pickled"
    ) -> None:
        self.task_name = task_name
        self.what = what
        self.path = path
        owner = f"{what or 'a value'} of task {task_name!r}" if task_name else what or "a value"
        advice = "leave it out of what is passed and make it inside the task" if action == "pickled" else ""
        at = f"at {path}" if path and path not in reason else ""
        super().__init__(_sentence(f"{owner} cannot be {action}", reason, at, advice))


class EngineClosedError(GrainwiseError, RuntimeError):
    """The engine was used after `shutdown`, or in a child that the program forked."""


class InfeasibleTaskError(GrainwiseError, ValueError):
    """A task asks for more CPUs than there are, so that it could never run."""


class InternalError(GrainwiseError):
    """A bug in grainwise, never in the program that uses it. Please report it with the message."""


class RemoteTraceback(Exception):  # noqa: N818 -- it is shown as the heading of a traceback
    """Carries the text of a worker's traceback as `__cause__`, so that Python prints it first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def trim_traceback(exc: BaseException, skip_files: Collection[str] | None = None) -> str:
    """Format the traceback of `exc` as Python would print it, without the frames of our own machinery.

    The chain of causes, notes and exception groups are kept. Where every frame would go, the innermost
    stays, since it is the only trace of where that happened. Works for exceptions whose `__str__` or
    `__repr__` raises.

    Args:
        exc: The exception; it is not changed.
        skip_files: Files and folders whose frames are left out; by default this package, cloudpickle and
            pickle.
    """
    import os
    import traceback

    skipped = _own_files() if skip_files is None else skip_files
    folders = tuple(name.rstrip(os.sep) + os.sep for name in skipped)
    try:
        whole = traceback.TracebackException(type(exc), exc, exc.__traceback__)
        for part in _linked_tracebacks(whole):
            stack: list[Any] = part.stack
            kept = [f for f in stack if f.filename not in skipped and not f.filename.startswith(folders)]
            stack[:] = kept or stack[-1:]
        return "".join(whole.format())
    except Exception:  # a hostile exception class; its name must get through all the same
        frames = "".join(traceback.format_tb(exc.__traceback__))
        return f"Traceback (most recent call last):\n{frames}{_summary(exc)}\n"


# --- the class of a task's error ------------------------------------------------------------------------

# Marks an error whose original must not be asked to pickle itself: see `portable`.
_IS_PORTABLE = "_grainwise_is_portable"
_PLAIN_ONLY = (StopIteration, StopAsyncIteration)
_HOOKS = (
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)

# The types of C-level fields and functions, got this way to spare the import of `types`.
_FIELD_TYPES = (type(vars(StopIteration)["value"]), type(vars(BaseException)["args"]))
_CAUSE: Any = vars(BaseException)["__cause__"]
_BUILTIN_FUNCTION: Any = type(len)


def _label_task_error(error: TaskError, fields: tuple[BaseException | None, str, str, int | None]) -> None:
    """Enter our fields, except where the original has its own under the same name."""
    state = _instance_dict(error)
    for name, value in _labels(fields).items():
        if not any(name in vars(cls) for cls in type(error).__mro__):
            state.setdefault(name, value)
    state["_grainwise_task"] = fields
    if fields[2]:
        _CAUSE.__set__(error, RemoteTraceback(fields[2]))


def _labels(fields: tuple[BaseException | None, str, str, int | None]) -> dict[str, Any]:
    cause, task_name, traceback_text, pid = fields
    return {
        "_grainwise_task": fields,
        "cause": cause,
        "task_name": task_name,
        "traceback_text": traceback_text,
        "pid": pid,
    }


def _task_fields(error: BaseException) -> tuple[BaseException | None, str, str, int | None]:
    fields: tuple[BaseException | None, str, str, int | None]
    fields = _instance_dict(error).get("_grainwise_task", (None, "", "", None))
    return fields


def _instance_dict(exc: BaseException) -> dict[str, Any]:
    state: dict[str, Any] = object.__getattribute__(exc, "__dict__")  # past a user's __getattribute__
    return state


def _without(state: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of `state` that `known` does not have with the same value."""
    kept = {key: value for key, value in state.items() if key not in known or known[key] is not value}
    if kept.get("__notes__") == known.get("__notes__", ()):
        del kept["__notes__"]  # a list of its own in every copy
    return kept


# id(class of the original) -> the class derived from it. Weak, so that classes defined again and again in
# a notebook can go; an id stays valid as long as the entry lives, because that holds the original class.
_dual_classes: dict[int, weakref.ref[type[TaskError]]] = {}


def _is_dual(cls: type) -> bool:
    return "_grainwise_origin" in vars(cls)


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
        "__module__": __name__,
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


def _make_dual(
    cause: BaseException | None,
    source: BaseException | None,
    fields: tuple[BaseException | None, str, str, int | None],
) -> TaskError | None:
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
        error: TaskError | None = _bare(cls, _group_parts(source))
        if error is None:
            return None
        state = _instance_dict(source)
        if source is not cause:  # an error of a nested task: its labels are replaced, the user's data is not
            inner = _task_fields(source)
            state = _without(state, _labels(inner))
        _apply_state(error, _c_fields(source), state)
        _label_task_error(error, fields)
    except Exception:
        return None
    return error


def _bare(cls: type[Any], args: tuple[Any, ...]) -> Any:
    """Return an instance of an exception class without running Python code of it, or None.

    Only the `__new__` of the nearest C base is accepted by the interpreter, so they are tried in order.
    """
    for base in cls.__mro__:
        new: Any = vars(base).get("__new__")
        if isinstance(new, _BUILTIN_FUNCTION):
            try:
                made = new(cls, *args)
            except TypeError:
                continue
            if type(made) is cls:
                return made
    return None


def _group_parts(exc: BaseException) -> tuple[Any, ...]:
    """Return what the `__new__` of an exception group needs, () for other exceptions and before 3.11."""
    import builtins

    group: Any = getattr(builtins, "BaseExceptionGroup", None)
    if group is None or not issubclass(type(exc), group):
        return ()
    parts: Any = exc
    return (parts.message, parts.exceptions)


def _c_fields(exc: BaseException) -> dict[str, Any]:
    """Return `args`, the fields that C code keeps (`errno`, `object`, `value`), and slots, by name."""
    fields = {}
    for name, field in _field_descriptors(type(exc)):
        try:
            fields[name] = field.__get__(exc)
        except AttributeError:  # a slot that was never set
            continue
    return fields


def _field_descriptors(cls: type) -> Iterator[tuple[str, Any]]:
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if type(value) in _FIELD_TYPES and not (name.startswith("__") and name.endswith("__")):
                yield name, value


def _apply_state(exc: BaseException, c_fields: dict[str, Any], state: dict[str, Any]) -> None:
    for name, field in _field_descriptors(type(exc)):
        if name in c_fields:
            try:
                # Unset and None look alike but print differently ("[Errno None] None"): leave unset be.
                if c_fields[name] is not None or field.__get__(exc) is not None:
                    field.__set__(exc, c_fields[name])
            except (AttributeError, TypeError):  # read-only, or unset and None
                continue
    own = _instance_dict(exc)
    own.update(state)
    if isinstance(own.get("__notes__"), list):
        own["__notes__"] = list(own["__notes__"])


# --- pickling -------------------------------------------------------------------------------------------


def _restore(cls: type[Any], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    exc = _bare(cls, ())
    _apply_state(exc, {"args": args}, state)
    return exc


def _restore_task_error(cls: type[Any], args: tuple[Any, ...], fields: Any, added: dict[str, Any]) -> Any:
    exc = _restore(cls, args, added)
    _label_task_error(exc, (_unpack(fields[0]), *fields[1:]))
    return exc


def _rewrap(
    packed: Any, task_name: str, traceback_text: str, pid: int | None, added: dict[str, Any]
) -> TaskError:
    error = TaskError.wrap(_unpack(packed), task_name=task_name, traceback_text=traceback_text, pid=pid)
    _instance_dict(error).update(added)
    return error


def _pack(exc: BaseException | None, is_forced: bool = False) -> Any:
    """Take an exception apart into (class, group parts, C fields, dict), or return it as it is.

    One with its own way of pickling is left to that, unless `is_forced`.
    """
    if exc is None or not (is_forced or _is_pickled_by_default(type(exc))):
        return exc
    fields = _c_fields(exc)
    if isinstance(exc, AttributeError):
        fields.pop("obj", None)  # whatever lacked the attribute: often large, seldom picklable
    parts = _group_parts(exc)
    if parts:
        fields = {name: value for name, value in fields.items() if name not in ("args", "exceptions")}
        parts = (parts[0], [_pack(each, is_forced) for each in parts[1]])
    return type(exc), parts, fields, dict(_instance_dict(exc))


def _unpack(packed: Any) -> Any:
    if not isinstance(packed, tuple):
        return packed
    cls, parts, fields, state = packed
    if parts:
        parts = (parts[0], [_unpack(each) for each in parts[1]])
    exc = _bare(cls, parts)
    _apply_state(exc, fields, state)
    return exc


def _is_pickled_by_default(cls: type) -> bool:
    import copyreg

    if cls in copyreg.dispatch_table:
        return False
    return all(base.__module__ == "builtins" for base in cls.__mro__ if any(h in vars(base) for h in _HOOKS))


def _clean(packed: Any, can_pickle: Callable[[object], bool]) -> Any:
    """Replace what cannot be pickled in the parts that `_pack` took an exception into."""

    def clean(value: Any) -> Any:
        return value if can_pickle(value) else f"<{type(value).__name__} that cannot be pickled>"

    if packed is None:
        return None
    cls, parts, fields, state = packed
    if not can_pickle(cls):
        raise TypeError(cls)
    if parts:
        parts = (parts[0], [_clean(each, can_pickle) for each in parts[1]])
    fields = {n: tuple(map(clean, v)) if n == "args" else clean(v) for n, v in fields.items()}
    return cls, parts, fields, {name: clean(value) for name, value in state.items()}


# --- text -----------------------------------------------------------------------------------------------

_SIGNAL_ADVICE = {
    "SIGKILL": "look in the kernel's log for the out-of-memory killer, or for who sent it",
    "SIGSEGV": "the fault is in native code that the task calls",
    "SIGBUS": "the fault is in native code that the task calls, or in a mapped file that was cut short",
    "SIGABRT": "native code that the task calls gave up",
    "SIGILL": "native code that the task calls was built for another processor",
}


def _sentence(*parts: str, detail: str = "") -> str:
    line = " — ".join(part for part in parts if part)
    return f"{line}\n{detail.rstrip()}" if detail.strip() else line


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _size(n_bytes: int) -> str:
    if n_bytes < 1024:
        return f"{n_bytes} B"
    power = min((n_bytes.bit_length() - 1) // 10, 4)
    return f"{n_bytes / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def _safe_str(exc: BaseException) -> str:
    try:
        return str(exc)
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit in a `__str__`, too
        return f"<unprintable {type(exc).__name__}>"


def _summary(exc: BaseException) -> str:
    text = _safe_str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _plain_message(cause: BaseException | None, task_name: str, traceback_text: str, pid: int | None) -> str:
    if cause is None:
        lines = traceback_text.strip().splitlines()
        summary = lines[-1] if lines else "an exception that could not be sent back"
    else:
        summary = _summary(cause)
    where = "" if pid is None else f"in worker {pid}"
    return _sentence(f"task {task_name!r} raised {summary}", where)


def _own_files() -> set[str]:
    import os
    import sys

    files = {os.path.dirname(os.path.abspath(__file__))}
    for name in ("pickle", "cloudpickle"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            is_package = os.path.basename(file) == "__init__.py"
            files.add(os.path.dirname(file) if is_package else file)
    return files


def _linked_tracebacks(whole: TracebackException) -> Iterator[TracebackException]:
    """Yield a formatted traceback and those of its causes, contexts and group members."""
    waiting: list[Any] = [whole]
    while waiting:
        part = waiting.pop()
        if part is not None:
            yield part
            waiting += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
