"""The elements of a map: which run, where, how often, and what becomes of them.

    lists ──► cached ones are taken out ──► round 1 ──► failed ones, after a pause ──► round 2 ... ──► one
    list

A round is one `map` of the engine, so tiny elements travel in batches and each worker gets only its own.
Where a budget is shared with others, or kept by key, elements go one by one as places come free.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

from ...api.map import map as map_items
from ...api.tasks import remote
from ...errors import GrainwiseError
from ..errors import MapError, TypeMismatchError
from ..lanes.attempt import remote_options, run_coroutine, surroundings
from ..replicas.images import place_of
from ..running.jobs import is_retriable, pause_s
from ..running.mode import _is_in_task
from .budget import Concurrency
from .window import EngineCalls, Failed, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..environment import ActorEnvironment
    from ..running.jobs import Job
    from ..running.scheduler import Scheduler

CHUNK = 4096
"""Results of an inline map that are looked at, and told, together."""
CHUNK_S = 0.02
"""The same: what takes longer is told earlier."""


class ElementFailure:
    """What is kept of an element that failed.

    Attributes:
        index: its place in the input.
        error: what its last run raised.
        traceback: the same as text, with the worker's lines.
        attempts: how often it ran.
    """

    def __init__(self, index: int, error: BaseException, attempts: int) -> None:
        self.index = index
        self.error = error
        self.attempts = attempts
        self.traceback = str(getattr(error, "traceback_text", "") or _text_of(error))

    def __repr__(self) -> str:
        text = f"{type(self.error).__name__}: {self.error}"
        return f"ElementFailure(index={self.index}, attempts={self.attempts}, error={text:.150})"


def _text_of(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


class PartialResults(list[Any]):
    """The results of a map that tolerated failures: None in their places, and the failures themselves.

    Attributes:
        failures: of each element that failed: index, error, traceback and attempts.
    """

    failures: Sequence[ElementFailure] = ()


class Element:
    """Runs a task on one element in a worker: the mapped inputs in order, the others with it."""

    def __init__(
        self, task: Any, names: tuple[str, ...], shared: dict[str, Any],
        limits: tuple[dict[str, str], int | None] | None,
    ) -> None:  # fmt: skip
        self._task = task
        self._names = names
        self._shared = shared
        self._limits = limits
        self.__name__ = task.name
        self.__qualname__ = task.name
        self._function = task.execute if task.stand_in is not None else task.task_function
        self._is_plain = limits is None and not task.is_async and task.kind == "task"
        self._check = task.interface.check_result

    def __call__(self, *items: Any) -> Any:
        """Run the function on an element; return its result, checked."""
        if not self._is_plain:
            return self._call_with_care(items)
        token = _is_in_task.set(True)
        try:
            return self._check(self._function(**dict(zip(self._names, items)), **self._shared))
        finally:
            _is_in_task.reset(token)

    def _call_with_care(self, items: tuple[Any, ...]) -> Any:
        values = {**self._shared, **dict(zip(self._names, items))}
        token = _is_in_task.set(True)
        try:
            variables, memory_bytes = self._limits or ({}, None)
            with surroundings(variables, memory_bytes):
                result = self._task.execute(**values)
                if self._task.is_async:
                    result = run_coroutine(result)
                return self._check(result)
        finally:
            _is_in_task.reset(token)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._task, self._names, self._shared, self._limits)


class RowElement(Element):
    """The same with the items of an element in one tuple."""

    def __call__(self, *row: Any) -> Any:
        """Run the function on an element, a tuple of its items; return its result, checked."""
        (items,) = row
        return super().__call__(*items)


class ElementsRun:
    """Runs a map. `run` is called in one thread; `cancel` may be called in another."""

    def __init__(self, job: Job, scheduler: Scheduler | None, *, is_inline: bool) -> None:
        self._map = job.entity
        self._task = self._map.target
        self._options = job.options
        self._is_inline = is_inline
        self._values = job.values
        self._path = job.path
        self._telling = scheduler.telling if scheduler is not None else None
        self._run_id = scheduler.run_id if scheduler is not None else ""
        self._refresh = bool(scheduler is not None and scheduler.options.overwrite_cache)
        self._resumption = getattr(scheduler, "resumption", None)
        shared = scheduler.budget if scheduler is not None else None
        self._budgets = self._find_budgets(self._map.concurrency, shared)
        self._is_cancelled = False
        self._results: Any = None
        self._failures: dict[int, ElementFailure] = {}
        names = [name for name in self._map.mapped if self._values.get(name) is not None]
        self._names = tuple(names)
        self._columns = [self._values[name] for name in names]
        self._shared = {
            name: value
            for name, value in self._values.items()
            if name not in self._map.mapped and name in self._task.interface.inputs
        }
        self._shared.update(self._map.bound)
        for name, each in self._task.interface.inputs.items():
            if name not in self._shared and name not in self._names:
                self._shared[name] = each.default
        is_here = is_inline or self._task.stand_in is not None
        self._place = None if is_here else place_of(self._task, self._options)
        self._element = self._make_element()

    def _make_element(self) -> Element:
        variables, memory_bytes = self._options.variables, self._options.memory_bytes
        kind: type[Element] = Element
        if self._place is not None:
            from ..replicas.places import left_to_set

            variables, memory_bytes = left_to_set(self._place, self._options)
            kind = Element if len(self._names) == 1 and not self._budgets else RowElement
        elif self._is_inline:
            memory_bytes = None
        limits = (variables, memory_bytes) if variables or memory_bytes is not None else None
        return kind(self._task, self._names, self._shared, limits)

    @staticmethod
    def _find_budgets(own: Any, shared: Concurrency | None) -> list[Concurrency]:
        """Return the budgets that elements take places of: their own by key or shared, and the run's."""
        budgets = [own] if isinstance(own, Concurrency) else []
        if shared is not None and own is None:
            budgets.append(shared)
        return budgets

    # -- the whole -------------------------------------------------------------------------------------

    def run(self) -> Any:
        """Run all elements; return a list, or a named tuple of lists for several outputs.

        Raises:
            Exception: what an element raised, if fewer succeed than must.
        """
        n_elements = self._length()
        results: list[Any] = [None] * n_elements
        todo = self._take_cached(results, self._take_resumed(results))
        for attempt in itertools.count(1):
            failed = self._round(todo, results, attempt)
            retried = [index for index in failed if is_retriable(failed[index])]
            if attempt > self._options.metadata.retries:
                retried = []
            for index in failed.keys() - set(retried):
                self._failures[index] = ElementFailure(index, failed[index], attempt)
            if not retried or (self._is_lost(n_elements) and not self._map.run_all_sub_nodes):
                break
            todo = sorted(retried)
            time.sleep(pause_s(attempt))
        self._check_enough(n_elements)
        return self._shaped(results)

    def _length(self) -> int:
        lengths = {name: len(column) for name, column in zip(self._names, self._columns)}
        if len(set(lengths.values())) > 1:
            raise MapLengthError(
                f"map of {self._task.name!r} expected lists of one length, got "
                + ", ".join(f"{name}: {length}" for name, length in lengths.items())
            )
        return next(iter(lengths.values()), 0)

    def _shaped(self, results: list[Any]) -> Any:
        interface = self._map.interface
        if not interface.outputs:
            return None
        failures = [self._failures[index] for index in sorted(self._failures)]
        if interface.output_class is None:
            return _partial(results, failures)
        columns: Any = zip(*(
            [None] * len(interface.outputs) if each is None else self._task.interface.split(each)
            for each in results
        ))  # fmt: skip
        lists = [_partial(list(column), failures) for column in columns] or [[] for _ in interface.outputs]
        return interface.output_class(*lists)

    # -- tolerance -------------------------------------------------------------------------------------

    def _allowed(self, n_elements: int) -> int:
        """Return how many elements may fail."""
        least: int = self._map.least_successes(n_elements)
        return n_elements - least

    def _is_lost(self, n_elements: int) -> bool:
        return len(self._failures) > self._allowed(n_elements)

    def _check_enough(self, n_elements: int) -> None:
        if not self._is_lost(n_elements):
            return
        failures = [self._failures[index] for index in sorted(self._failures)]
        error = failures[0].error
        if not isinstance(error, Exception):
            raise MapError(f"map of {self._task.name!r}: element {failures[0].index} ended with {error!r}",
                           failures=failures) from error  # fmt: skip
        try:
            error.failures = failures  # type: ignore[attr-defined]
        except (AttributeError, TypeError):  # a class with slots
            pass
        raise error

    # -- cache -----------------------------------------------------------------------------------------

    def _take_resumed(self, results: list[Any]) -> Sequence[int]:
        """Put results of an earlier driver of the run in their places; return the indices of the others."""
        if self._resumption is None:
            return range(len(results))
        done = self._resumption.elements(self._path, self._values)
        for index, value in done.items():
            results[index] = value
        return [index for index in range(len(results)) if index not in done] if done else range(len(results))

    def _take_cached(self, results: list[Any], todo: Sequence[int]) -> Sequence[int]:
        """Put results that are kept in their places; return the indices of the others."""
        self._keys: list[bytes] = []
        if self._options.cache is None:
            return todo
        from ..kept.keys import result_key
        from ..kept.store import cache_store

        self._keys = [
            result_key(self._task, self._options, {**self._shared, **dict(zip(self._names, items))})
            for items in zip(*self._columns)
        ]
        if self._refresh:
            return todo
        found = cache_store().get_many([self._keys[index] for index in todo])
        cached = [index for index in todo if self._keys[index] in found]
        for index in cached:
            results[index] = found[self._keys[index]]
        if cached:
            self._tell(cached, [results[index] for index in cached], {}, 1, is_cached=True)
        return [index for index in todo if self._keys[index] not in found]

    def _keep(self, indices: Sequence[int], values: Sequence[Any]) -> None:
        if self._keys:
            from ..kept.store import cache_store

            pairs = [(self._keys[index], value) for index, value in zip(indices, values)]
            cache_store().put_many(pairs, self._task.name)

    def _tell(
        self, indices: Sequence[int], results: Any, failures: dict[int, Any], attempt: int, *,
        is_cached: bool = False,
    ) -> None:  # fmt: skip
        if self._telling:
            facts = indices, results, failures, is_cached, attempt
            self._telling.tell("elements_ended", self._run_id, self._path, *facts)

    # -- a round ---------------------------------------------------------------------------------------

    def _round(self, todo: Sequence[int], results: list[Any], attempt: int) -> dict[int, BaseException]:
        """Run elements once; return the errors of those that failed."""
        failed: dict[int, BaseException] = {}
        if not len(todo):
            return failed
        may_stop = not self._map.run_all_sub_nodes and attempt > self._options.metadata.retries
        allowed = self._allowed(len(results)) - len(self._failures)
        is_whole = isinstance(todo, range)
        columns = self._columns if is_whole else [[column[i] for i in todo] for column in self._columns]
        # All up to `reached` have ended: too many failures there end it, so that the same ones do each time.
        arrived: dict[int, int] = {}
        reached = 0
        try:
            for start, chunk in self._run_round(columns):
                indices = todo[start : start + len(chunk)]
                errors = _errors_in(chunk)
                if is_whole and not errors:
                    results[start : start + len(chunk)] = chunk
                    self._keep(indices, chunk)
                else:
                    self._sort(indices, chunk, errors, results, failed)
                self._tell(indices, chunk, {indices[i]: e for i, e in errors.items()}, attempt)
                arrived[start] = len(chunk)
                while reached in arrived:
                    reached += arrived.pop(reached)
                if may_stop and len(failed) > allowed and _n_below(todo, reached, failed) > allowed:
                    break
        finally:
            self._close()
        return failed

    def _sort(
        self, indices: Sequence[int], chunk: list[Any], errors: dict[int, BaseException],
        results: list[Any], failed: dict[int, BaseException],
    ) -> None:  # fmt: skip
        good = [position for position in range(len(chunk)) if position not in errors]
        for position in good:
            results[indices[position]] = chunk[position]
        self._keep([indices[position] for position in good], [chunk[position] for position in good])
        for position, error in errors.items():
            failed[indices[position]] = error

    def _run_round(self, columns: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Return the results of a round as they come: the place of the first, and those that follow it."""
        if self._is_inline or self._task.stand_in is not None:
            return self._here(columns)
        if self._place is not None and not self._budgets:
            return self._in_environment(self._place, columns)
        if self._budgets:
            return self._one_by_one(columns)
        limit = self._map.concurrency
        self._results = map_items(
            self._remote(), *columns, return_exceptions=True, timeout=self._options.timeout_s,
            progress=False, max_workers=limit or None,
        )  # fmt: skip
        if self._is_cancelled:
            self._close()
        arrivals: Iterator[tuple[int, list[Any]]] = self._results.arrivals()
        return arrivals

    def _remote(self) -> Any:
        return remote(**remote_options(self._task, self._options))(self._element)

    def _here(self, columns: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        chunk: list[Any] = []
        start, due = 0, time.monotonic() + CHUNK_S
        for items in zip(*columns):
            try:
                chunk.append(self._element(*items))
            except Exception as error:
                chunk.append(Failed(error))
            if len(chunk) == CHUNK or time.monotonic() > due:
                yield start, chunk
                start, chunk, due = start + len(chunk), [], time.monotonic() + CHUNK_S
        if chunk:
            yield start, chunk

    def _one_by_one(self, columns: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Submit elements as places come free; yield results as they come."""
        calls: Any
        if self._place is None:
            calls = EngineCalls(self._remote())
        else:
            from ..replicas.calls import HostedCalls

            calls = HostedCalls(self._place, self._element, self._options.timeout_s)
        window = Window(self._budgets, calls, self._names, self._shared)
        return window.run(columns, lambda: self._is_cancelled)

    def _in_environment(self, place: ActorEnvironment, columns: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        from ..replicas.calls import Round

        limit = self._map.concurrency or None
        self._results = results = Round(place, self._element, self._options.timeout_s, limit)
        if self._is_cancelled:
            self._close()
        return results.run(columns)

    def cancel(self) -> None:
        """Stop: nothing more begins."""
        self._is_cancelled = True
        self._close()

    def _close(self) -> None:
        if self._results is not None:
            self._results.close()


class MapLengthError(TypeMismatchError, IndexError):
    """The lists of a map differ in length."""


def _errors_in(chunk: list[Any]) -> dict[int, BaseException]:
    """Return the errors among results, by position; the usual case, none, is found in C."""
    kinds = {kind for kind in set(map(type, chunk)) if kind is Failed or issubclass(kind, GrainwiseError)}
    if not kinds:
        return {}
    return {
        position: value.error if isinstance(value, Failed) else value
        for position, value in enumerate(chunk)
        if type(value) in kinds
    }


def _partial(results: list[Any], failures: list[ElementFailure]) -> list[Any]:
    if not failures:
        return results
    partial = PartialResults(results)
    partial.failures = failures
    return partial


def least_successes(n_elements: int, min_successes: int | None, ratio: float | None) -> int:
    """Return how many elements must succeed."""
    if min_successes is not None:
        return min(n_elements, min_successes)
    share = 1.0 if ratio is None else min(1.0, ratio)
    return math.ceil(n_elements * share - 1e-9)  # 0.7 * 10 is a little more than 7


def _n_below(todo: Sequence[int], reached: int, failed: dict[int, BaseException]) -> int:
    """Return how many of the failed elements are among the first of a round."""
    if reached >= len(todo):
        return len(failed)
    bound = todo[reached]
    return sum(index < bound for index in failed)
