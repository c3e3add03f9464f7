"""Budgets: how many tasks and elements run at once, shared by whoever holds the same one."""

from __future__ import annotations

import threading
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Concurrency:
    """How many elements run at once, as a number or by key. Maps that are given the same object share it.

        per_tenant = Concurrency(limit=3, key="tenant")
        map_task(load, concurrency=per_tenant)
        map_task(store, concurrency=per_tenant)

    Args:
        limit: how many, of all or of each key; from 1 up.
        key: the name of an input: elements with the same value of it share the limit, others do not count.

    Raises:
        ValueError: the limit is below 1, or the key is no text.
    """

    def __init__(self, limit: int, key: str | None = None) -> None:
        given: Any = limit
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ValueError(f"Concurrency(limit={limit!r}) expected a whole number from 1 up")
        if key is not None and not isinstance(key, str):
            raise ValueError(f"Concurrency(key={key!r:.50}) expected the name of an input")
        self.limit = limit
        self.key = key
        self._lock = threading.Lock()
        self._taken: dict[Any, int] = {}
        self._wake: list[Callable[[], None]] = []

    def place_of(self, values: dict[str, Any]) -> Any:
        """Return what an element counts as: its value of the key, made hashable."""
        if self.key is None:
            return None
        value = values.get(self.key)
        try:
            hash(value)
        except TypeError:
            return repr(value)
        return value

    def try_take(self, place: Any = None) -> bool:
        """Take a place if there is one."""
        with self._lock:
            taken = self._taken.get(place, 0)
            if taken >= self.limit:
                return False
            self._taken[place] = taken + 1
            return True

    def give(self, place: Any = None) -> None:
        """Give a place back, and wake whoever waits for one."""
        with self._lock:
            left = self._taken[place] - 1
            if left:
                self._taken[place] = left
            else:
                del self._taken[place]
            wake, self._wake = self._wake, []
        for call in wake:
            call()

    def when_free(self, wake: Callable[[], None]) -> None:
        """Have a function called, once, at the next place that is given back."""
        with self._lock:
            self._wake.append(wake)

    def __reduce__(self) -> tuple[Any, ...]:
        return Concurrency, (self.limit, self.key)

    def __repr__(self) -> str:
        return f"Concurrency(limit={self.limit}, key={self.key!r})"
