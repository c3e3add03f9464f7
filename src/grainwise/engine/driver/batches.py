"""Batches on their way: what was sent to whom, and what of it has come back."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...objects.ref import ObjectRef
    from ...watch.events import BatchLog
    from ..wire.tasks import TaskSpec


class SentBatch:
    """A batch as the driver sees it. A batch is a transport, not a unit of failure.

    Attributes:
        refs: the items, in order: refs, or what a run has sent: atoms, calls, or a slice.
        run: the run that they belong to, if they have no refs; first: the number of the first one there.
        item_flags: how a run's items are to be called.
        timeout_s: how long an item may run; timed_out: those that ran longer.
        watched_item: the one that ran at the last look, and watched_since: when it was seen first.
        spec: what the first items are calls of.
        parts: (end, spec) of each run of items of one spec, where there are several; else None.
        num_free: the items from here on are followers: they take results of items before them.
        base: results that have come back; they come in order.
        num_left: those that have not, of calls that run at once: they come in any order.
        stop: items from here on are not the worker's any more.
        calls: the arguments as they were sent, where something may have been lent with them.
        children: unresolved tasks that an item submitted, by the item's index.
        cancelled: items that were cancelled with all that they submit.
        is_blocked: the running item waits for others; it is the last one of the batch.
        sent_s, log: when it was sent, and what is noted of it for reports.
    """

    __slots__ = (
        "base", "calls", "cancelled", "children", "first", "flags", "is_blocked", "item_flags", "log",
        "num_free", "num_left", "parts", "refs", "run", "sent_s", "seq", "spec", "stop", "timed_out",
        "timeout_s",
        "watched_item", "watched_since",
    )  # fmt: skip

    def __init__(
        self,
        seq: int,
        refs: Any,
        parts: list[tuple[int, TaskSpec]],
        flags: int,
        num_free: int,
    ) -> None:
        self.seq = seq
        self.spec = parts[0][1]
        self.parts = parts if len(parts) > 1 else None
        self.refs = refs
        self.flags = flags
        self.num_free = num_free
        self.calls: list[Any] | None = None
        self.base = 0
        self.stop = len(refs)
        self.num_left = self.stop
        self.is_blocked = False
        self.children: dict[int, dict[ObjectRef[Any], None]] | None = None
        self.cancelled: set[int] = set()
        self.run = self.spec.run
        self.first = 0
        self.item_flags = 0
        self.timeout_s = None if self.run is None else self.run.timeout_s
        self.timed_out: set[int] = set()
        self.sent_s = 0.0
        self.log: BatchLog | None = None
        self.watched_item = -1
        self.watched_since = 0.0

    def spec_at(self, index: int) -> TaskSpec:
        """Return what an item is a call of."""
        for end, spec in self.parts or ():
            if index < end:
                return spec
        return self.spec

    def counts(self, start: int, stop: int) -> list[tuple[TaskSpec, int]]:
        """Return how many items of which spec there are in a range."""
        if self.parts is None:
            return [(self.spec, stop - start)]
        found: dict[TaskSpec, int] = {}
        begin = 0
        for end, spec in self.parts:
            count = min(stop, end) - max(start, begin)
            if count > 0:
                found[spec] = found.get(spec, 0) + count
            begin = end
        return list(found.items())

    def has_suspect(self, suspects: set[TaskSpec]) -> bool:
        """Say whether some item is of a spec whose task killed a worker."""
        if self.parts is None:
            return self.spec in suspects
        return any(spec in suspects for _, spec in self.parts)


def parts_of(specs: list[TaskSpec]) -> list[tuple[int, TaskSpec]]:
    """Return (end, spec) of each run of equal specs."""
    parts: list[tuple[int, TaskSpec]] = []
    for end, spec in enumerate(specs, 1):
        if parts and parts[-1][1] is spec:
            parts[-1] = (end, spec)
        else:
            parts.append((end, spec))
    return parts
