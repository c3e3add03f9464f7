"""`ray.experimental.tqdm_ray`: progress of a task, in lines that arrive like all that it prints."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


class tqdm:  # noqa: N801 -- the name that programs import
    """Counts steps and says on standard error how many are done, now and then and at the end.

    Args:
        iterable: what `for` goes through, if it is used so.
        desc: stands before the count.
        total: how many steps there are; by default the length of `iterable`, if it has one.
        unit: what a step is called.
        position: no effect: lines of several tasks follow each other.
        flush_interval_s: seconds between two lines at least.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float = 1.0,
    ) -> None:
        self.total = total
        if total is None and hasattr(iterable, "__len__"):
            sized: Any = iterable
            self.total = len(sized)
        self.n = 0
        self._iterable = iterable
        self._desc = desc or ""
        self._unit = unit or "it"
        self._interval_s = flush_interval_s
        self._shown = 0.0
        self._is_closed = False

    def set_description(self, desc: str) -> None:
        """Change what stands before the count."""
        self._desc = desc

    def update(self, n: int = 1) -> None:
        """Count `n` more steps."""
        self.n += n
        if time.monotonic() - self._shown >= self._interval_s:
            self.refresh()

    def refresh(self) -> None:
        """Say how many steps are done."""
        self._shown = time.monotonic()
        of = "" if self.total is None else f"/{self.total}"
        before = f"{self._desc}: " if self._desc else ""
        sys.stderr.write(f"{before}{self.n}{of} {self._unit}\n")

    def close(self) -> None:
        """Say the last count; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.refresh()

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("tqdm was made without an iterable - expected one for iterating over it")
        for item in self._iterable:
            yield item
            self.update()
        self.close()


safe_print = print
"""No bar has to be hidden before."""

__all__ = ["safe_print", "tqdm"]
