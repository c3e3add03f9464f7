"""`Executor`: the `concurrent.futures` interface over the session's workers.

    submit(f, x) ──► remote(f).remote(x) ──► the engine's queue, its batches, its workers
         │                    │
         └──► TaskFuture ◄────┘ settled when the ref resolves

An executor owns no processes: all executors of a program share the session's workers. What it does own is its
bound. Where `max_workers` is below the CPUs, calls wait here and so many at a time are handed to the engine
(which then can't batch them); above, each call counts as a part of a CPU.

A function is sent once, as `remote` does it. What carries data with it (a bound method, a `partial`, a
closure over a list) is an argument instead, and goes by value with each call, as of that call.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import os
from time import monotonic
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from ...api.tasks import RemoteFunction, remote
from ...engine.worker.captured import carries_data
from ...errors import SerializationError, WorkerCrashedError
from .. import seam
from .future import TaskFuture, unfinished
from .lane import Lane
from .mapping import MapCalls, open_maps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")

MAX_FUNCTIONS = 256
"""Functions that an executor remembers; with more it starts anew, which costs their next call a pickling."""

_has_exit_hook = False
_is_exiting = False


class Executor(concurrent.futures.Executor):
    """Run calls in the session's worker processes, as `concurrent.futures.ProcessPoolExecutor` does.

        with grainwise.Executor() as executor:
            futures = [executor.submit(pow, i, 2) for i in range(10_000)]
            total = sum(future.result() for future in futures)

    The same interface with the engine's ways: tiny calls travel in batches that nobody sizes, large arguments
    are stored once and arrive as read-only views, lambdas and closures will do, and no
    `if __name__ == "__main__"` is needed. Arguments go by value as of `submit`; an `ObjectRef` among them is
    replaced by its value.

    If a worker dies, the call that it ran fails with an error that is both `WorkerCrashedError` and
    `BrokenProcessPool`; all others go on, and the executor stays usable.

    Thread-safe. Usable inside tasks, where a call that has been submitted can't be cancelled.

    Args:
        max_workers: calls that run at once, > 0; by default the CPUs of the session. Below that, calls are
            sent one by one.
        mp_context: accepted if its start method is spawn or forkserver, and then not used: workers come from
            a clean template anyhow.
        initializer: called once in each worker before its first call of this executor.
        initargs: the arguments of `initializer`.
        max_tasks_per_child: only None: workers are shared and stay.
        max_retries: runs of a call beyond the first when its worker dies, -1 for no limit; default 0, as with
            ProcessPoolExecutor. With 0 results are reported one by one; where it does no harm to run a call
            twice, 3 (what `remote` has) makes tiny calls several times cheaper.

    Raises:
        TypeError: `initializer` can't be called, or a number is none.
        ValueError: a number is out of range, `max_tasks_per_child` is given, or `mp_context` forks.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_retries: int = 0,
    ) -> None:
        _check(max_workers, mp_context, initializer, max_tasks_per_child)
        cpus = seam.num_cpus()
        self._max_workers = max(1, int(cpus)) if max_workers is None else max_workers  # Dask asks for it
        self._num_cpus = 1.0 if max_workers is None or max_workers <= cpus else cpus / max_workers
        self._max_retries = max_retries
        remote(max_retries=max_retries)  # refuses what is out of range
        self._lane = Lane(max_workers) if max_workers is not None and max_workers < cpus else None
        self._owner = object()
        self._prepare = None if initializer is None else (os.urandom(16), initializer, initargs)
        self._functions: dict[Any, RemoteFunction[..., Any, Any]] = {}
        self._is_shut_down = False
        self._broken: BaseException | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]:
        """Submit a call; return its future at once.

        An argument that can't be pickled makes the future fail, with a `SerializationError` that names it.

        Raises:
            RuntimeError: after `shutdown`, or at the end of the program.
            BrokenProcessPool: the initializer has failed.
        """
        self.check_open()
        future: TaskFuture[T] = TaskFuture(self._owner, self._raised)
        try:
            start, carried = self._plan(fn)
            if self._lane is None:
                future.follow(start(*carried, *args, **kwargs))
            else:
                frozen = [seam.snapshot(arg) for arg in (*carried, *args)]
                named = {name: seam.snapshot(arg) for name, arg in kwargs.items()}
                self._lane.add(future, lambda: start(*frozen, **named))
        except SerializationError as error:
            future.fail(error)
        if not _has_exit_hook:
            add_exit_hook()
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over the results of `fn` on the items, in order; the calls run meanwhile.

        What has not begun when the iterator is closed, or after an error, does not run.

        Args:
            fn: takes as many arguments as there are iterables.
            *iterables: read to the end of the shortest, now, or as far as `buffersize` allows.
            timeout: seconds from now until the last result; None waits as long as it takes.
            chunksize: accepted and not used: batches are sized by measured cost.
            buffersize: how many results may be ahead of the reader; None reads the iterables at once.

        Raises:
            TimeoutError: a result was not there in time; from the iterator.
            Exception: what a call raised; from the iterator.
            RuntimeError: after `shutdown`, or at the end of the program.
            TypeError: `buffersize` is no whole number.
            ValueError: `chunksize` or `buffersize` is below 1.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, got {chunksize}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer or None, got {type(buffersize).__name__}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or at least 1, got {buffersize}")
        self.check_open()
        deadline = None if timeout is None else monotonic() + timeout

        start, carried = self._plan(fn)
        if self._lane is not None:
            start, carried = self.submit, (fn,)
        calls = MapCalls(self._owner, start, carried, zip(*iterables), self._raised)
        add_exit_hook()
        return calls.start(buffersize, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. The session and its workers stay.

        Args:
            wait: return when all calls are done; otherwise they are done in the background, and the end of
                the program waits for them.
            cancel_futures: cancel those that no worker has begun.
        """
        self._is_shut_down = True
        mine = [future for future in list(unfinished) if future.owner is self._owner]
        maps = [calls for calls in list(open_maps) if calls.owner is self._owner]
        if cancel_futures:
            sent = [ref for future in mine if not future.drop() and (ref := future.ref) is not None]
            seam.withdraw([*sent, *(ref for calls in maps for ref in calls.refs())])
        if wait:
            for future in mine:
                future.finish()
            for calls in maps:
                calls.finish()

    def check_open(self) -> None:
        """Refuse calls after the end.

        Raises:
            RuntimeError: after `shutdown`, or at the end of the program.
            BrokenProcessPool: the initializer has failed.
        """
        if self._broken is not None:
            from .broken import InitializerError

            raise InitializerError(
                f"the executor takes no more calls: its initializer failed - {self._broken!s:.200}"
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _is_exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _plan(self, fn: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what submits a call of a function, and what it takes before the call's own arguments."""
        if isinstance(fn, RemoteFunction):
            fn = fn.__wrapped__
        is_plain = type(fn) is FunctionType or _is_builtin(fn)
        known = self._functions.get(fn) if is_plain else None
        if known is not None:
            return known.remote, ()
        name = getattr(fn, "__qualname__", None) or type(fn).__name__
        name = name.replace("<locals>.", "")
        if is_plain and not carries_data(fn):
            return self._remember(fn, fn, name).remote, ()
        return (self._functions.get(name) or self._remember(name, _call, name)).remote, (fn,)

    def _remember(self, key: Any, function: Callable[..., Any], name: str) -> RemoteFunction[..., Any, Any]:
        if self._prepare is not None:
            function = Prepared(function, *self._prepare)
        made = remote(function).options(name=name, num_cpus=self._num_cpus, max_retries=self._max_retries)
        if len(self._functions) >= MAX_FUNCTIONS:
            self._functions.clear()
        self._functions[key] = made
        return made

    def _raised(self, error: Exception) -> Exception:
        """Return what a user of this executor gets for an error of `get`."""
        if type(error) is WorkerCrashedError:
            from .broken import from_crash

            return from_crash(error)
        if self._prepare is not None and isinstance(error, concurrent.futures.BrokenExecutor):
            from .broken import InitializerError

            if isinstance(error, InitializerError):
                self._broken = error
        return error


def _check(max_workers: Any, mp_context: Any, initializer: Any, max_tasks_per_child: Any) -> None:
    if max_workers is not None:
        if isinstance(max_workers, bool) or not isinstance(max_workers, int):
            raise TypeError(f"max_workers must be an int, got {type(max_workers).__name__}")
        if max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, got {max_workers}")
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable, got {type(initializer).__name__}")
    if max_tasks_per_child is not None:
        raise ValueError(
            f"max_tasks_per_child must be None, got {max_tasks_per_child!r}: workers are shared by the whole "
            "session and stay - call grainwise.shutdown() to end them"
        )
    if mp_context is not None:
        method = mp_context.get_start_method()
        if method not in ("spawn", "forkserver"):
            raise ValueError(
                f"mp_context must be of spawn or forkserver, got {method!r}: workers come from a clean "
                "template and inherit nothing from the program - pass what they need as arguments"
            )


def _is_builtin(fn: object) -> bool:
    """Say whether it is a function like `len`; a method such as `[].append` is of the same type."""
    return type(fn) is BuiltinFunctionType and isinstance(
        getattr(fn, "__self__", None), (ModuleType, type(None))
    )


def _call(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    return fn(*args, **kwargs)


class Prepared:
    """A function that has the executor's initializer called first, once in each worker."""

    def __init__(
        self,
        function: Callable[..., Any],
        key: bytes,
        initializer: Callable[..., object],
        initargs: tuple[Any, ...],
    ) -> None:
        self._function = function
        self._key = key
        self._initializer = initializer
        self._initargs = initargs

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            InitializerError: the initializer has raised in this worker.
            Exception: what the function raises.
        """
        if _prepared.get(self._key) is not True:
            self._run_initializer()
        return self._function(*args, **kwargs)

    def _run_initializer(self) -> None:
        failure = _prepared.get(self._key)
        if failure is None:
            try:
                self._initializer(*self._initargs)
            except Exception as error:
                failure = _prepared[self._key] = error
            else:
                _prepared[self._key] = True
                return
        from .broken import InitializerError

        raise InitializerError(f"the executor's initializer raised {failure!r:.200}") from failure


_prepared: dict[bytes, Any] = {}
"""In a worker: True for each executor whose initializer has run, or what it raised."""


# -- the end of the program --------------------------------------------------------------------------------


def add_exit_hook() -> None:
    """Have the end of the program wait for what was submitted, as the standard library's executors do.

    Called behind the first task: what is registered last runs first, and the session must still be there.
    """
    global _has_exit_hook
    if _has_exit_hook or seam.is_inside_task():
        return
    _has_exit_hook = True
    atexit.register(_finish_all)
    os.register_at_fork(after_in_child=_forget_all)


def _finish_all() -> None:
    global _is_exiting
    _is_exiting = True
    for future in list(unfinished):
        future.finish()
    for calls in list(open_maps):
        calls.finish()


def _forget_all() -> None:
    """Leave the calls of the program to it: this is a child that it has forked."""
    unfinished.clear()
    open_maps.clear()
