"""A window of elements that run one by one, under budgets."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from ...api.values import cancel, get, wait
from .budget import Concurrency

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE_S = 0.02
"""How long a wait for elements goes on while others hold a place that is waited for."""


class Failed:
    """The error of an element that ran here; a task may also return an exception as its result."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class EngineCalls:
    """Elements as calls of the engine's workers.

    Args:
        function: a remote function; takes the items of an element.
    """

    def __init__(self, function: Any) -> None:
        self._function = function

    def submit(self, row: tuple[Any, ...]) -> Any:
        """Begin a call."""
        return self._function.remote(*row)

    def wait(self, calls: list[Any], timeout_s: float | None) -> list[Any]:
        """Return one that has ended, or nothing when the time is over."""
        return wait(calls, num_returns=1, timeout=timeout_s)[0]

    def result(self, call: Any) -> Any:
        """Return what one gave, an error as `Failed`."""
        try:
            return get(call)
        except Exception as error:
            return Failed(error)

    def cancel(self, call: Any) -> None:
        """Stop one."""
        cancel(call)


class Window:
    """Runs elements under budgets: each is a call of its own, submitted when it has a place in all.

    Args:
        budgets: what elements take places of.
        calls: begins, awaits and ends them: `EngineCalls`, or `replicas.calls.HostedCalls`.
        names: of the mapped inputs.
        shared: the others.
    """

    def __init__(self, budgets: list[Concurrency], calls: Any, names: tuple[str, ...], shared: Any) -> None:
        self._budgets = budgets
        self._calls = calls
        self._names = names
        self._shared = shared
        self._event = threading.Event()

    def run(self, columns: list[Any], is_cancelled: Any) -> Iterator[tuple[int, list[Any]]]:
        """Yield results as they come, each with its index."""
        rows = list(zip(*columns))
        # One queue for each mix of places, so that an element that must wait holds up only its own kind.
        waiting: dict[Any, deque[int]] = {}
        for index, row in enumerate(rows):
            values = {**self._shared, **dict(zip(self._names, row))}
            places = tuple(budget.place_of(values) for budget in self._budgets)
            waiting.setdefault(places, deque()).append(index)
        running: dict[Any, tuple[int, Any]] = {}
        try:
            while (waiting or running) and not is_cancelled():
                self._event.clear()
                is_held = self._submit(waiting, running, rows)
                if running:
                    for call in self._calls.wait(list(running), SLICE_S if is_held else None):
                        index, places = running.pop(call)
                        self._give(places)
                        yield index, [self._calls.result(call)]
                else:
                    self._event.wait(1.0)  # others have all places; they wake us
        finally:
            for call, (_, places) in running.items():
                self._calls.cancel(call)
                self._give(places)

    def _submit(self, waiting: dict[Any, deque[int]], running: dict[Any, Any], rows: list[Any]) -> bool:
        """Submit all that have a place; say whether others hold a place that is waited for."""
        is_held = False
        for places in list(waiting):
            indices = waiting[places]
            while indices and self._take(places):
                index = indices.popleft()
                running[self._calls.submit(rows[index])] = (index, places)
            if indices:
                is_held = True
            else:
                del waiting[places]
        return is_held

    def _take(self, places: Any) -> bool:
        taken: list[tuple[Concurrency, Any]] = []
        for budget, place in zip(self._budgets, places):
            if not budget.try_take(place):
                budget.when_free(self._event.set)
                for other, held in taken:
                    other.give(held)
                return False
            taken.append((budget, place))
        return True

    def _give(self, places: Any) -> None:
        for budget, place in zip(self._budgets, places):
            budget.give(place)
