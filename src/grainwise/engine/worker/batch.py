"""A batch that is being run, and the exceptions that end an item of it in ways of our own."""

from __future__ import annotations

from collections import deque
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Cancelled(KeyboardInterrupt):
    """Raised inside a cancelled task; a KeyboardInterrupt, so that `except Exception` lets it pass."""


class HandBackError(Exception):
    """An item needs a result of its batch that only the driver can pass on: the batch ends before it."""


class InheritedError(Exception):
    """An item needs a result of its batch that is an error: that is its own result, too."""

    def __init__(self, wire: tuple[Any, ...]) -> None:
        self.wire = wire


class Batch:
    """A batch that is being run.

    Attributes:
        results: one wire per finished item, in order; sent ones are replaced by None.
        sent: how many results were reported.
        claimed: the claimed sub-block; emptying it ends the block after the running item.
        is_open: the function of an item may be running: a cancellation may raise.
        first: number of the first item in the run that it belongs to.
        function: what is being called, and cpus: what it occupies, for the runtime context.
        has_wires: some result is no atom.
        raw_from: results from here on have not been packed where they must be; -1 for none.
        failure: why the items could not be unpickled.
        stop: the batch ends here at the latest; set when the rest is given back.
        kept: packed results with their index, until they are reported: the driver must find the refs and the
            borrowed objects in them lent. Appended by the thread that runs tasks, popped by who reports.
    """

    __slots__ = (
        "begin_s", "claimed", "cpus", "failure", "first", "flags", "function", "has_wires", "is_open", "kept",
        "part", "raw_from", "results", "sent", "seq", "spent_s", "stop", "timed", "times", "values",
        "worst_s",
    )  # fmt: skip

    def __init__(self, seq: int, values: Any, flags: int) -> None:
        self.seq = seq
        self.begin_s = perf_counter()
        self.values = values
        self.flags = flags
        self.results: list[Any] = []
        self.kept: deque[tuple[int, Any]] = deque()
        self.sent = 0
        self.claimed: list[Any] = []
        self.is_open = False
        self.function: Any = None
        self.cpus = 1.0
        self.first = 0
        self.has_wires = False
        self.raw_from = -1
        self.failure: BaseException | None = None
        self.stop = len(values)
        self.part = 0
        self.times: list[tuple[int, int, float, float]] = []
        self.spent_s = 0.0  # run time of the part not reported yet
        self.worst_s = 0.0
        self.timed = 0  # items that the unreported time stands for
