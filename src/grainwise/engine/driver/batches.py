"""Batches on their way: what was sent to whom, and what of it has come back."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..wire.tasks import TaskSpec


class SentBatch:
    """A batch as the driver sees it. A batch is a transport, not a unit of failure.

    Attributes:
        refs: the items, in order.
        base: results that have come back; they come in order.
        stop: items from here on are not the worker's any more.
        calls: the arguments as they were sent, where something may have been lent with them.
        children: refs of tasks that an item submitted, by the item's index.
        is_blocked: the running item waits for others; it is the last one of the batch.
    """

    __slots__ = ("base", "calls", "children", "flags", "is_blocked", "refs", "seq", "spec", "stop")

    def __init__(self, seq: int, spec: TaskSpec, refs: list[ObjectRef[Any]], flags: int) -> None:
        self.seq = seq
        self.spec = spec
        self.refs = refs
        self.flags = flags
        self.calls: list[Any] | None = None
        self.base = 0
        self.stop = len(refs)
        self.is_blocked = False
        self.children: dict[int, list[ObjectRef[Any]]] | None = None
