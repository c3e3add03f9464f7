"""Every exception that grainwise raises on purpose.

    GrainwiseError
    ├── TaskError                 a task raised; also an instance of what it raised
    ├── WorkerCrashedError        a worker process died while it ran a task
    ├── OutOfMemoryError          it was killed: it took more memory than it may, or than there is
    ├── WorkerStartError          worker processes fail before they can take a task
    ├── RuntimeEnvSetupError      a runtime environment can't be made
    ├── ActorError                an actor did not answer a call
    │   ├── ActorDiedError        it is gone for good
    │   ├── ActorUnavailableError it died under this call and is being restarted
    │   └── ActorDeadlockError    it would wait for itself
    ├── ActorAlreadyExistsError   · ValueError     the name that an actor asks for is taken
    ├── TaskCancelledError        the task was cancelled
    ├── TaskTimeoutError          · TimeoutError   the task was stopped: it ran longer than it may
    ├── GetTimeoutError           · TimeoutError   `get` ran out of time
    ├── ObjectStoreFullError      no room for an object, neither in memory nor on disk
    ├── OutOfDiskError            the disk that objects spill to is full or read-only
    ├── ObjectLostError           the bytes of an object are gone
    ├── SerializationError        · TypeError      a value cannot be pickled or unpickled
    ├── EngineClosedError         · RuntimeError   used after `shutdown`, or in a forked child
    ├── InfeasibleTaskError       · ValueError     a task asks for more than the machine has
    ├── ArgumentError             · TypeError · ValueError · AssertionError   a word was used wrongly
    └── InternalError             our bug, never the user's

Guarantees: each of them can be pickled and copied, with its fields and notes; a message says what failed,
what was expected and found, where, and what to do. `except ValueError` catches a remote `ValueError`.

Only the classes are here. What few programs need loads when it is needed, so that `import grainwise` stays
cheap: `dual` makes the error that is both `TaskError` and what the task raised, `portable` takes exceptions
apart for their way between processes, `tracebacks` turns them into text.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .tracebacks import trim_traceback as trim_traceback

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDeadlockError",
    "ActorDiedError",
    "ActorError",
    "ActorUnavailableError",
    "ArgumentError",
    "EngineClosedError",
    "GetTimeoutError",
    "GrainwiseError",
    "InfeasibleTaskError",
    "InternalError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "TaskTimeoutError",
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
        from .portable import restore

        return restore, (type(self), self.args, dict(self.__dict__))


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
        function_name, traceback_str: Ray's names for these two.
        pid: The worker, or None if unknown.
    """

    cause: BaseException | None
    task_name: str
    traceback_text: str
    function_name: str
    traceback_str: str
    pid: int | None
    # (cause, task_name, traceback_text, pid): ours even where the original has a field of that name.
    _grainwise_task: tuple[BaseException | None, str, str, int | None]

    def __init__(
        self,
        message: str = "",
        traceback_str: str | None = None,
        cause: BaseException | None = None,
        *,
        task_name: str = "",
        traceback_text: str = "",
        pid: int | None = None,
        function_name: str = "",
        **_: Any,
    ) -> None:
        """Make the error; with `traceback_str` in Ray's way: name, traceback, cause, more without effect."""
        from .dual import label_task_error

        if traceback_str is not None:
            message, task_name, traceback_text = traceback_str, function_name or message, traceback_str
        super().__init__(message)
        label_task_error(self, (cause, task_name, traceback_text, pid))

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
        from .dual import make_task_error

        return make_task_error(cause, task_name, traceback_text, pid)

    def portable(self, can_pickle: Callable[[object], bool]) -> TaskError:
        """Return the same error with every part of the original that cannot travel replaced by its name.

        For an exception that holds a lock or a connection, or whose own `__reduce__` fails: class, message
        and the other fields arrive.

        Args:
            can_pickle: Whether a value survives pickling *and* unpickling.
        """
        from .dual import make_portable

        return make_portable(self, can_pickle)

    def as_instanceof_cause(self) -> TaskError:
        """Return the error as one of the original's class too, which those that `get` raises are already."""
        from .dual import is_dual, task_fields

        fields = task_fields(self)
        if is_dual(type(self)) or fields[0] is None:
            return self
        return TaskError.wrap(fields[0], task_name=fields[1], traceback_text=fields[2], pid=fields[3])

    def __str__(self) -> str:
        from .dual import is_dual, task_fields
        from .tracebacks import safe_str

        cause = task_fields(self)[0]
        return safe_str(cause) if cause is not None and is_dual(type(self)) else super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        from .dual import reduce_task_error

        return reduce_task_error(self)

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
        return sentence(
            f"task {self.task_name!r} did not finish because its worker died",
            f"expected a result, got {end}",
            "" if self.pid is None else f"in worker {self.pid}",
            advice or "set max_retries if it is safe to run again",
            detail=self.detail,
        )


class OutOfMemoryError(GrainwiseError):
    """A task or an actor was killed: it took more memory than its `memory` allows, or the machine ran short.

    Attributes:
        task_name: What was killed.
        pid: Its process.
        used_bytes: What of the memory was its own.
        limit_bytes: What it was allowed; 0 for any amount.
        machine_used_bytes, machine_total_bytes: What the machine, or its control group, had in use, and has.
        threshold: The share of it from which on tasks are killed.
        detail: The largest processes of the session.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task_name: str = "",
        pid: int | None = None,
        used_bytes: int = 0,
        limit_bytes: int = 0,
        machine_used_bytes: int = 0,
        machine_total_bytes: int = 0,
        threshold: float = 0.0,
        detail: str = "",
    ) -> None:
        self.task_name = task_name
        self.pid = pid
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        self.machine_used_bytes = machine_used_bytes
        self.machine_total_bytes = machine_total_bytes
        self.threshold = threshold
        self.detail = detail
        super().__init__(message or self._message())

    def _message(self) -> str:
        worker = "" if self.pid is None else f"in worker {self.pid}"
        if self.limit_bytes:
            return sentence(
                f"{self.task_name!r} was killed because it took more memory than it may",
                f"expected at most {size_text(self.limit_bytes)}, got {size_text(self.used_bytes)}",
                worker,
                "raise memory=, or have it keep less at once",
                detail=self.detail,
            )
        return sentence(
            f"{self.task_name!r} was killed because the machine ran short of memory",
            f"expected at most {self.threshold:.0%} of {size_text(self.machine_total_bytes)} in use, got "
            f"{size_text(self.machine_used_bytes)}",
            f"{worker}, which had {size_text(self.used_bytes)}".lstrip(", "),
            "reserve what tasks need with memory=, or have fewer run at once with num_cpus=",
            detail=self.detail,
        )


class WorkerStartError(GrainwiseError):
    """Worker processes fail before they can take a task.

    Attributes:
        detail: Their last output.
    """

    def __init__(self, message: str = "worker processes fail to start", *, detail: str = "") -> None:
        self.detail = detail
        super().__init__(sentence(message, detail=detail))


class RuntimeEnvSetupError(GrainwiseError):
    """A runtime environment can't be made, so its tasks can't run.

    Attributes:
        error_message: The whole message; of packages that can't be installed it has the resolver's words.
    """

    def __init__(self, error_message: str = "") -> None:
        self.error_message = error_message
        super().__init__(error_message or "The runtime environment could not be set up.")


class ActorError(GrainwiseError):
    """An actor did not answer a call.

    Attributes:
        actor_name: Its class.
        actor_id: Its identity as hexadecimal digits; None if unknown.
        actor_init_failed: Its constructor has raised.
        preempted: Its machine was taken away, which does not happen on one machine.
        pid: The process that died, or None if there was none.
        detail: What is known of its end: the traceback of its constructor, the end of its output.
    """

    def __init__(
        self,
        message: str = "",
        actor_id: str | bytes | None = None,
        *,
        error_msg: str = "",
        actor_name: str = "",
        actor_init_failed: bool = False,
        preempted: bool = False,
        pid: int | None = None,
        detail: str = "",
    ) -> None:
        self.actor_name = actor_name
        self.actor_id = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted
        self.pid = pid
        self.detail = detail
        which = f"actor {actor_name!r}" if actor_name else "An actor"
        super().__init__(message or error_msg or f"{which} did not answer.")

    @property
    def error_msg(self) -> str:
        """The message, under Ray's name."""
        return str(self)

    base_error_msg = error_msg


class ActorDiedError(ActorError):
    """An actor is gone for good: killed, crashed without restarts left, or never made."""


class ActorUnavailableError(ActorError):
    """An actor died while it ran this call and is being restarted; the call may have had effects."""


class ActorDeadlockError(ActorError):
    """An actor would wait for a call of its own, directly or by way of others, and so for ever."""


class ActorAlreadyExistsError(GrainwiseError, ValueError):
    """An actor of this name exists already, and `get_if_exists` was not asked for."""


class TaskCancelledError(GrainwiseError):
    """The task was cancelled before it had a result.

    Attributes:
        task_name: The task.
        task_id: Its identity, where it is known.
    """

    def __init__(
        self, message: str = "", *, task_name: str = "", task_id: Any = None, error_message: str | None = None
    ) -> None:
        self.task_name = task_name
        self.task_id = task_id
        super().__init__(message or error_message or f"task {task_name!r} was cancelled")


class TaskTimeoutError(GrainwiseError, TimeoutError):
    """The task ran longer than its `timeout` allows and was stopped.

    Attributes:
        task_name: The task.
        timeout_s: What it was allowed, in seconds; None if unknown.
    """

    def __init__(self, message: str = "", *, task_name: str = "", timeout_s: float | None = None) -> None:
        self.task_name = task_name
        self.timeout_s = timeout_s
        limit = "" if timeout_s is None else f" of {timeout_s:g} s"
        super().__init__(message or f"task {task_name!r} was stopped - it ran longer than its timeout{limit}")


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
            or sentence(
                f"an object of {size_text(requested_bytes)} does not fit into the object store",
                f"expected that much room, got {size_text(free_bytes)}",
                f"{size_text(used_bytes)} of {size_text(capacity_bytes)} are used",
                "delete refs that are no longer needed, or call init(object_store_memory=...) with more",
            )
        )


class OutOfDiskError(GrainwiseError):
    """The disk that objects spill to is full or read-only. Objects that were there stay readable."""


class ObjectLostError(GrainwiseError):
    """The bytes of an object are gone with the process that held them, and it cannot be made again.

    Attributes:
        object_ref_hex: The ref's identity as hexadecimal digits, where Ray's users make the error themselves.
        owner_address, call_site: What else they give; nothing of ours.
    """

    def __init__(self, message: str = "", owner_address: bytes | None = None, call_site: str = "") -> None:
        self.object_ref_hex = message if _is_hex(message) else ""
        self.owner_address = owner_address
        self.call_site = call_site
        super().__init__(f"Failed to retrieve object {message}" if self.object_ref_hex else message)


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
        super().__init__(sentence(f"{owner} cannot be {action}", reason, at, advice))


class EngineClosedError(GrainwiseError, RuntimeError):
    """The engine was used after `shutdown`, or in a child that the program forked."""


class InfeasibleTaskError(GrainwiseError, ValueError):
    """A task or an actor asks for more than there is, so that it could never run."""


class ArgumentError(GrainwiseError, TypeError, ValueError, AssertionError):
    """A word of ours was given something that it does not take, such as an option that does not exist.

    Ray raises one or the other of its bases for such mistakes, so it is of all of them.
    """


class InternalError(GrainwiseError):
    """A bug in grainwise, never in the program that uses it. Please report it with the message."""


class RemoteTraceback(Exception):  # noqa: N818 -- it is shown as the heading of a traceback
    """Carries the text of a worker's traceback as `__cause__`, so that Python prints it first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        from .tracebacks import with_source

        return f'\n"""\n{with_source(self.text).rstrip()}\n"""'


def __getattr__(name: str) -> object:
    if name != "trim_traceback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .tracebacks import trim_traceback

    return trim_traceback


# --- the words of messages ------------------------------------------------------------------------------

_SIGNAL_ADVICE = {
    "SIGKILL": "look in the kernel's log for the out-of-memory killer, or for who sent it",
    "SIGSEGV": "the fault is in native code that the task calls",
    "SIGBUS": "the fault is in native code that the task calls, or in a mapped file that was cut short",
    "SIGABRT": "native code that the task calls gave up",
    "SIGILL": "native code that the task calls was built for another processor",
}


def sentence(*parts: str, detail: str = "") -> str:
    """Join the parts of a message that are not empty; `detail` goes on lines of its own."""
    line = " — ".join(part for part in parts if part)
    return f"{line}\n{detail.rstrip()}" if detail.strip() else line


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _is_hex(text: str) -> bool:
    return len(text) == 56 and not text.strip("0123456789abcdef")


def size_text(n_bytes: int) -> str:
    """Return a size for a message."""
    if n_bytes < 1024:
        return f"{n_bytes} B"
    power = min((n_bytes.bit_length() - 1) // 10, 4)
    return f"{n_bytes / 1024**power:.1f} {'KMGT'[power - 1]}iB"
