"""`map` and `starmap`: a function over many items, lazily, in order or as they come.

The words and their checks; what happens then is in `plan`, where items come from in `inputs`.
"""

from __future__ import annotations

from ..engine.current import Options
from .plan import Plan
from .session import engine as start_engine
from .tasks import RemoteFunction

TYPE_CHECKING = False
if not TYPE_CHECKING:

    def overload(function):
        """Do nothing: importing typing costs milliseconds."""
        return function

    class Typed:
        """Gives `MapResults[...]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias

else:  # last, so that linters take this `overload` for the one in effect
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Generic, Literal, TypeVar, overload

    A = TypeVar("A")
    B = TypeVar("B")
    R = TypeVar("R")
    R_co = TypeVar("R_co", covariant=True)
    ProgressWish = Callable[[int, int | None], object] | bool | None

    class Typed(Generic[R_co]):
        """Makes `MapResults` generic in what it yields."""


class MapResults(Typed["R_co"]):
    """The results of a `map`: an iterator, also an asynchronous one, and a context manager.

    Leaving the loop early, `close()` and the end of a `with` block cancel what is left.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._generator: Any = plan.results()

    def __iter__(self) -> Iterator[R_co]:
        results: Iterator[R_co] = self._generator
        return results

    def __next__(self) -> R_co:
        result: R_co = next(self._generator)
        return result

    def arrivals(self) -> Iterator[tuple[int, list[R_co]]]:
        """Yield results in the place of this iterator's: as they come, in ranges.

        For who keeps account of what is done: one that is slow holds up no other, and a range costs no more
        than a single result would.

        Returns:
            Pairs: the index of the first item of a range, and the results of it and those that follow it.
        """
        self._generator.close()
        self._generator = self._plan.arrivals()
        arrivals: Iterator[tuple[int, list[R_co]]] = self._generator
        return arrivals

    def __length_hint__(self) -> int:
        total = self._plan.total
        return 0 if total is None else max(0, total - self._plan.num_taken)

    def __aiter__(self) -> AsyncIterator[R_co]:
        return self._plan.results_async()

    def close(self) -> None:
        """Cancel what is left: nothing more is read, what has not begun never runs."""
        try:
            self._generator.close()
        except ValueError:  # another thread waits in it, or this is a signal handler that interrupted it
            pass
        self._plan.close()

    def __enter__(self) -> MapResults[R_co]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<map of {self._plan.name}: {self._plan.num_taken} results taken>"


MapResults.__module__ = "grainwise"


@overload
def map(
    function: Callable[[A], R], iterable: Iterable[A], /, *, ordered: bool = True,
    return_exceptions: Literal[False] = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: None = None, seed: int | None = None,
    max_workers: int | None = None,
) -> MapResults[R]: ...  # fmt: skip
@overload
def map(
    function: Callable[[A, B], R], iterable: Iterable[A], second: Iterable[B], /, *, ordered: bool = True,
    return_exceptions: Literal[False] = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: None = None, seed: int | None = None,
    max_workers: int | None = None,
) -> MapResults[R]: ...  # fmt: skip
@overload
def map(
    function: Callable[..., R], iterable: Iterable[Any], /, *iterables: Iterable[Any], ordered: bool = True,
    return_exceptions: Literal[False] = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[R]: ...  # fmt: skip
@overload
def map(
    function: Callable[..., R], iterable: Iterable[Any], /, *iterables: Iterable[Any], ordered: bool = True,
    return_exceptions: bool, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[R | BaseException]: ...  # fmt: skip
@overload
def map(
    function: RemoteFunction[..., R, Any], iterable: Iterable[Any], /, *iterables: Iterable[Any],
    ordered: bool = True, return_exceptions: bool = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[R]: ...  # fmt: skip
def map(
    function: Any, /, *iterables: Any, ordered: bool = True, return_exceptions: bool = False,
    retries: int = 0, timeout: float | None = None, progress: Any = None, setup: Any = None,
    seed: int | None = None, max_workers: int | None = None, **shared: Any,
) -> MapResults[Any]:  # fmt: skip
    """Call a function on every item in worker processes; yield the results as they are asked for.

        for result in grainwise.map(analyse, paths): ...

    Items are grouped by measured cost; nobody picks a chunk size. The input is read no further than workers
    need, so it may be endless; results come as soon as they are there. Nothing runs before the first one is
    asked for. Ranges, lists, NumPy arrays (rows of the first axis), Arrow tables and data frames (rows as
    dictionaries) are sent in slices; large arrays lie in shared memory once.

    Args:
        function: a plain function, lambda, method, `functools.partial`, or a `@remote` function, whose
            `num_cpus` then holds.
        *iterables: the items; of several, the n-th items are its arguments, up to the end of the shortest. A
            single one may be asynchronous, for `async for` over the results.
        ordered: results in the order of the input; False yields them as they come.
        return_exceptions: yield the exception of an item that failed, or that can't be pickled, in its
            place, instead of raising it and cancelling the rest.
        retries: runs beyond the first for an item that raised, ran out of time, or whose worker died. When
            a worker dies, items that it had not reported run again in any case, and of items below 4 µs the
            one that killed it, too: only the second death tells which it is.
        timeout: seconds that one item may run; then it is interrupted, or its worker killed if that does not
            help, and it fails with `TaskTimeoutError`. Loading the function and `setup` do not count. None:
            as long as it takes. Not inside tasks.
        progress: None shows a bar in terminals and notebooks after a second, True at once, False never; a
            function is called with (items done, total or None) about ten times a second.
        setup: called once in each worker that takes part; what it returns is the function's first argument,
            before the item: load a model there. Kept for later maps of the same function and setup; of the
            last four such pairs, and only while nothing large is captured or shared.
        seed: gives item i the same random numbers whatever the number of workers: as `rng=`, a
            `numpy.random.Generator`, if the function has a parameter of this name; else by seeding `random`
            and `numpy.random`.
        max_workers: so many items run at once; by default as many as there are CPUs.
        **shared: keyword arguments for every call, stored once. The calls in one worker see the same objects:
            the function should leave them as they are.

    Raises:
        TypeError: the function can't be called, an input can't be iterated over, or an option is of the
            wrong type.
        ValueError: an option is out of range.
        SerializationError: the function or an item can't be pickled; names the culprit.
        TaskError: an item raised; the error is also of the type that it raised, and names item and index.
        TaskTimeoutError: an item ran out of time.
        WorkerCrashedError: an item's worker died.
    """
    return _open(
        "map", function, iterables, shared, False, ordered, return_exceptions, retries, timeout, progress,
        setup, seed, max_workers,
    )  # fmt: skip


@overload
def starmap(
    function: Callable[..., R], iterable: Iterable[Iterable[Any]], /, *, ordered: bool = True,
    return_exceptions: Literal[False] = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[R]: ...  # fmt: skip
@overload
def starmap(
    function: Callable[..., R], iterable: Iterable[Iterable[Any]], /, *, ordered: bool = True,
    return_exceptions: bool, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[R | BaseException]: ...  # fmt: skip
@overload
def starmap(
    function: RemoteFunction[..., R, Any], iterable: Iterable[Iterable[Any]], /, *, ordered: bool = True,
    return_exceptions: bool = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[R]: ...  # fmt: skip
def starmap(
    function: Any, iterable: Iterable[Iterable[Any]], /, *, ordered: bool = True,
    return_exceptions: bool = False, retries: int = 0, timeout: float | None = None,
    progress: ProgressWish = None, setup: Callable[[], Any] | None = None, seed: int | None = None,
    max_workers: int | None = None, **shared: Any,
) -> MapResults[Any]:  # fmt: skip
    """Call a function on every tuple of arguments in worker processes: `map` with `function(*item)`.

    See `map` for the other arguments and the errors.
    """
    return _open(
        "starmap", function, (iterable,), shared, True, ordered, return_exceptions, retries, timeout,
        progress, setup, seed, max_workers,
    )  # fmt: skip


map.__module__ = starmap.__module__ = "grainwise"


def _open(
    word: str, function: Any, iterables: tuple[Any, ...], shared: dict[str, Any], is_starred: bool,
    ordered: bool, return_exceptions: bool, retries: int, timeout: float | None, progress: Any, setup: Any,
    seed: int | None, max_workers: int | None,
) -> MapResults[Any]:  # fmt: skip
    """Check the arguments of `map` or `starmap`, and make its results."""
    if not iterables:
        raise TypeError(f"{word}() expected at least one iterable")
    plain = function.__wrapped__ if isinstance(function, RemoteFunction) else function
    if not callable(plain):
        raise TypeError(f"{word}() expected a function, got {type(plain).__name__}")
    _check_plain(word, plain)
    if setup is not None and not callable(setup):
        raise TypeError(f"{word}(setup=...) expected a function, got {type(setup).__name__}")
    if seed is not None:
        _check_int(word, "seed", seed, 0)
    if max_workers is not None:
        _check_int(word, "max_workers", max_workers, 1)
    _check_int(word, "retries", retries, 0)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise TypeError(f"{word}(timeout=...) expected seconds or None, got {type(timeout).__name__}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"{word}(timeout={timeout}) expected more than 0 seconds")
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"{word}(progress=...) expected True, False or a function, got {progress!r:.100}")
    name = str(getattr(plain, "__qualname__", None) or getattr(plain, "__name__", type(plain).__name__))
    options = Options(name=name.replace("<locals>.", ""))
    if isinstance(function, RemoteFunction):
        options = Options(*function._options.astuple())
        options.num_returns = 1
    options.max_retries = retries
    options.retry_exceptions = retries > 0
    called = plain
    if shared or setup is not None or seed is not None:
        from .mapped import Mapped

        called = Mapped(plain, shared, setup, seed, takes_rng=seed is not None and _takes_rng(plain))
    engine: Any = start_engine()
    plan = Plan(engine, called, options, is_ordered=bool(ordered), is_safe=bool(return_exceptions))
    plan.open(iterables, is_starred=is_starred, timeout_s=timeout, max_workers=max_workers or 0, word=word)
    plan.progress_wish = progress
    return MapResults(plan)


def _check_plain(word: str, function: Any) -> None:
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & 0x2A0:  # coroutine, generator or asynchronous generator
        kind = "an async function" if code.co_flags & 0x280 else "a generator function"
        raise TypeError(
            f"{word}() got {kind}, {function.__qualname__!r} - expected a function that returns its result"
        )


def _check_int(word: str, name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{word}({name}=...) expected an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{word}({name}={value}) expected at least {least}")


def _takes_rng(function: Any) -> bool:
    import inspect

    try:
        return "rng" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
