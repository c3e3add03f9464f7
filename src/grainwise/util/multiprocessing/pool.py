"""`Pool`: `multiprocessing.Pool` without processes of its own.

    map, starmap, imap, ...  ──►  grainwise.map          batches by measured cost, whatever `chunksize` says
    apply, apply_async       ──►  grainwise.Executor     one task each

All pools of a program share the session's workers; what a pool owns is its bound and its initializer.
"""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ...adapters import seam
from ...adapters.futures.executor import Executor
from ...api.map import map as map_items
from ...api.map import starmap as starmap_items
from ...api.session import init, is_initialized
from ...api.tasks import RemoteFunction, remote
from ...api.values import cancel
from ..initialized import Initialized, can_be_imported
from .results import AsyncResult, ImapIterator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ...api.map import MapResults


class _Calls(Executor):
    """The executor of one pool: its functions run behind the pool's initializer."""

    def __init__(self, num_processes: int, prepare: Callable[[Any], Any]) -> None:
        super().__init__(max_workers=num_processes)
        self._wrap = prepare

    def _remember(self, key: Any, function: Callable[..., Any], name: str) -> RemoteFunction[..., Any, Any]:
        return super()._remember(key, self._wrap(function), name)


class Pool:
    """Run calls in the session's workers, as `multiprocessing.Pool` does.

        with Pool(4) as pool:
            squares = pool.map(square, range(100_000))

    Starts a session if there is none, with as many CPUs as `processes`. Functions may be lambdas and
    closures; no `if __name__ == "__main__"` is needed. Arguments are copied as of the call; large ones are
    stored once, and arrays arrive read-only. If a worker dies, the call that it ran fails; others go on.

    Args:
        processes: calls that run at once; by default the CPUs of the session.
        initializer: called once in each worker, before its first call of this pool. What it sets as a global
            is there for the functions of the same script or module.
        initargs: the arguments of `initializer`.
        maxtasksperchild: accepted, without an effect: workers belong to the session.
        context: accepted, without an effect.
        ray_address: None or "local".
        ray_remote_args: options of tasks for the calls of `map` and its kin, such as `{"num_cpus": 2}`.

    Raises:
        ValueError: `processes` is below 1, or more than the running session has CPUs.
        TypeError: an argument is of the wrong type.
        NotImplementedError: `ray_address` names a cluster.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if processes is not None and (isinstance(processes, bool) or not isinstance(processes, int)):
            raise TypeError(f"Pool() expected a whole number of processes, got {processes!r:.100}")
        if processes is not None and processes <= 0:
            raise ValueError(f"Pool() expected at least 1 process, got {processes}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"Pool() expected a function as initializer, got {type(initializer).__name__}")
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError(f"Pool() expected maxtasksperchild to be at least 1, got {maxtasksperchild!r}")
        if not is_initialized():
            init(address=ray_address, num_cpus=processes)
        num_cpus = max(1, int(seam.num_cpus()))
        if processes is not None and processes > num_cpus:
            raise ValueError(
                f"Pool(processes={processes}) was called in a session of {num_cpus} CPUs - expected at most "
                f"that many - call init(num_cpus={processes}) before, or make the pool before the session"
            )
        self._processes = processes or num_cpus
        self._options = dict(ray_remote_args or {})
        if self._options:
            remote(**self._options)  # refuses what is unknown
        self._key = os.urandom(16)
        self._initializer = initializer
        self._initargs = tuple(initargs or ())
        self._calls = _Calls(self._processes, self._prepared)
        self._is_closed = False
        self._results: weakref.WeakSet[AsyncResult] = weakref.WeakSet()
        self._maps: weakref.WeakSet[Any] = weakref.WeakSet()
        self._iterators: weakref.WeakSet[ImapIterator] = weakref.WeakSet()

    # -- single calls ----------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        kwds: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function in a worker and return its result."""
        return self.apply_async(func, args, kwargs, kwds=kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        kwds: dict[str, Any] | None = None,
    ) -> AsyncResult:
        """Have a function called in a worker; return what will have its result.

        Args:
            func: what to call.
            args: its positional arguments.
            kwargs: its keyword arguments; `kwds`, as the standard library calls them, means the same.
            callback: called with the result, in a thread of this program.
            error_callback: called with the error.
            kwds: see `kwargs`.

        Raises:
            ValueError: the pool has been closed.
        """
        self._check_open()
        future = self._calls.submit(func, *(args or ()), **{**(kwargs or {}), **(kwds or {})})
        return self._keep(AsyncResult(future, callback, error_callback))

    # -- many calls ------------------------------------------------------------------------------------

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> Any:
        """Return the list of `func(item)` for all items, in order.

        Args:
            func: what to call.
            iterable: the items.
            chunksize: accepted, without an effect: items are grouped by measured cost.

        Raises:
            Exception: the first error of a call; what has not begun then does not run.
            ValueError: the pool has been closed.
        """
        return self._all(func, iterable, chunksize, is_starred=False)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> Any:
        """Return the list of `func(*item)` for all items, in order. See `map`."""
        return self._all(func, iterable, chunksize, is_starred=True)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Do what `map` does in the background; return what will have the list.

        The items are read at once; `callback` is called with the list, `error_callback` with the first
        error, in a thread of this program.
        """
        return self._in_background(func, iterable, chunksize, callback, error_callback, is_starred=False)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: Any = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Do what `starmap` does in the background; see `map_async`.

        Ray has no `chunksize` here: a function in its place is the callback.
        """
        if callable(chunksize):
            chunksize, callback, error_callback = None, chunksize, callback or error_callback
        return self._in_background(func, iterable, chunksize, callback, error_callback, is_starred=True)

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> ImapIterator:
        """Return an iterator over `func(item)` for all items, in order.

        Calls begin at once. The items are read no further than workers need, so they may be endless. An
        error is raised in its place, and the iterator goes on behind it.

        Args:
            func: what to call.
            iterable: the items.
            chunksize: accepted, without an effect.

        Raises:
            ValueError: the pool has been closed.
        """
        return self._iterate(func, iterable, chunksize, is_ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> ImapIterator:
        """Do what `imap` does, with results as they come."""
        return self._iterate(func, iterable, chunksize, is_ordered=False)

    # -- its end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls; what has been submitted goes on. The session and its workers stay."""
        self._is_closed = True

    def terminate(self) -> None:
        """Take no more calls, and cancel what has not ended: what runs is interrupted."""
        self.close()
        for results in [*self._maps, *self._iterators]:
            results.close()
        futures = [result.future for result in self._results]
        left = [future for future in futures if not _drop(future)]
        refs = [ref for future in left if (ref := getattr(future, "ref", None)) is not None]
        seam.withdraw(refs)
        for ref in refs:
            if not ref.is_resolved():
                cancel(ref)

    def join(self) -> None:
        """Wait until everything that was submitted has ended.

        Raises:
            ValueError: the pool has been neither closed nor terminated.
        """
        if not self._is_closed:
            raise ValueError("Pool is still running: call close() or terminate() first")
        for result in list(self._results):
            result.wait()
        for iterator in list(self._iterators):
            iterator.join()

    def __enter__(self) -> Pool:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("a Pool can't be passed to a task: make one there, it has the same workers")

    def __repr__(self) -> str:
        return f"<Pool of {self._processes} processes, {'closed' if self._is_closed else 'open'}>"

    # -- inside ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("Pool not running: it has been closed")

    def _keep(self, result: AsyncResult) -> AsyncResult:
        self._results.add(result)
        _unfinished.add(result)
        result.future.add_done_callback(lambda _: _unfinished.discard(result))
        return result

    def _prepared(self, function: Callable[..., Any]) -> Any:
        """Return what workers call for a function: with the initializer before it, if there is one."""
        if isinstance(function, RemoteFunction):
            function = function.__wrapped__
        if self._initializer is None:
            return function
        is_shared = can_be_imported(self._initializer) and can_be_imported(function)
        return Initialized(function, self._key, self._initializer, self._initargs, is_shared)

    def _open(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        is_starred: bool,
        **options: Any,
    ) -> MapResults[Any]:
        self._check_open()
        if not callable(func):
            raise TypeError(f"a pool expected a function to call, got {type(func).__name__}")
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, got {chunksize}")
        function = self._prepared(func)
        if self._options:
            function = remote(function).options(**self._options)
        bound = self._processes if self._processes < int(seam.num_cpus()) else None
        opener: Any = starmap_items if is_starred else map_items
        found: MapResults[Any] = opener(function, iterable, progress=False, max_workers=bound, **options)
        self._maps.add(found)
        return found

    def _all(self, func: Any, iterable: Any, chunksize: int | None, *, is_starred: bool) -> list[Any]:
        return list(self._open(func, iterable, chunksize, is_starred))

    def _in_background(
        self,
        func: Any,
        iterable: Any,
        chunksize: Any,
        callback: Any,
        error_callback: Any,
        *,
        is_starred: bool,
    ) -> AsyncResult:
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        source = self._open(func, iterable, chunksize, is_starred)
        future: Future[Any] = Future()
        result = self._keep(AsyncResult(future, callback, error_callback))
        threading.Thread(target=_fill, args=(future, source), name="grainwise-pool", daemon=True).start()
        return result

    def _iterate(self, func: Any, iterable: Any, chunksize: Any, *, is_ordered: bool) -> ImapIterator:
        iterator = ImapIterator(
            self._open(func, iterable, chunksize, False, ordered=is_ordered, return_exceptions=True)
        )
        self._iterators.add(iterator)
        return iterator


_unfinished: set[AsyncResult] = set()
"""Kept until they have ended: their callbacks are due, whoever holds them."""


def _fill(future: Future[Any], source: MapResults[Any]) -> None:
    """Run a map to its end; in a thread of its own."""
    try:
        results = list(source)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(results)


def _drop(future: Future[Any]) -> bool:
    """End a call that the engine has not been given yet; false if there is nothing to end."""
    drop = getattr(future, "drop", None)
    return drop is not None and bool(drop())
