"""What a worker's tasks use, for reports: running totals, of which each report of results takes the news.

The thread that runs tasks adds; whoever reports, under the send lock, takes differences. So nothing is lost
or counted twice between the two, and a result costs nothing: the clocks are read once for each report.
"""

from __future__ import annotations

from os import times
from time import perf_counter, process_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ...watch.events import Usage

SHORT_S = 1e-3
"""A shorter batch says nothing about waiting."""
LONG_S = 0.02
"""If there was so much time and little was computed, it is worth asking why."""


class Meter:
    """See the module docstring."""

    __slots__ = (
        "_children_s", "_crowded_s", "_has_news", "_is_stale", "_num_own", "_own_s", "_pack_s",
        "_packed_bytes", "_taken_s", "_told", "_waited_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self._waited_s = 0.0
        self._pack_s = 0.0
        self._packed_bytes = 0
        self._num_own = 0
        self._own_s = 0.0
        self._told = (0.0, process_time(), 0.0, 0, 0, 0.0)
        self._children_s = 0.0
        self._crowded_s = 0.0
        self._taken_s = 0.0
        self._has_news = False
        self._is_stale = False

    def waited(self, duration_s: float) -> None:
        """Note that a task waited for others."""
        self._waited_s += duration_s
        self._has_news = True

    def packed(self, duration_s: float, blobs: Sequence[Any]) -> None:
        """Note that a large result was written."""
        self._pack_s += duration_s
        for blob in blobs:
            self._packed_bytes += blob.nbytes
        self._has_news = True

    def ran_own(self, run_s: float) -> None:
        """Note that a child ran in place; its waits are not in its run time."""
        self._num_own += 1
        self._own_s += run_s
        self._has_news = True

    def take(self, begin_s: float, *, is_on_top: bool = False) -> float | Usage:
        """Return what was used since the last call, for a batch that began at `begin_s`; see `Usage`.

        For a short batch that is nothing but the time: asking for the processor time is a call of the system.
        Where tasks have run on top of each other, nobody can say whose processor time it was.

        Args:
            begin_s: when it began.
            is_on_top: it has run while a task below it waited.
        """
        now = perf_counter()
        if now - begin_s < SHORT_S and not self._has_news:
            self._is_stale = True
            return now
        old, was_stale = self._told, self._is_stale
        window_s, self._taken_s = now - max(begin_s, self._taken_s), now
        self._has_news = self._is_stale = False
        new = self._told = (
            self._waited_s, process_time(), self._pack_s, self._packed_bytes, self._num_own, self._own_s
        )  # fmt: skip
        waited_s, cpu_s, pack_s, packed_bytes, num_own, own_s = new
        cpu_s -= old[1]
        if was_stale or is_on_top or waited_s > old[0] or num_own > old[4]:
            cpu_s = -1.0  # that of others is in it, or some of its own is in theirs
        elif window_s > LONG_S and cpu_s < 0.5 * window_s:
            cpu_s = min(window_s, self._look_again(cpu_s))
        return (
            begin_s, now, waited_s - old[0], cpu_s, pack_s - old[2], packed_bytes - old[3], num_own - old[4],
            own_s - old[5],
        )  # fmt: skip

    def _look_again(self, cpu_s: float) -> float:
        """Return what becomes of little processor time when one asks why it was so little.

        Waiting for a processor on a crowded machine counts as using it, and of a task whose child processes
        have worked nothing is known (below 0).
        """
        ended = times()
        children_s, before_s = ended.children_user + ended.children_system, self._children_s
        self._children_s = children_s
        if children_s > before_s:
            return -1.0
        try:
            with open("/proc/self/schedstat", "rb") as file:
                crowded_s = int(file.read().split()[1]) * 1e-9
        except (OSError, ValueError, IndexError):
            return cpu_s
        before_s, self._crowded_s = self._crowded_s, crowded_s
        return cpu_s + crowded_s - before_s
