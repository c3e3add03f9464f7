"""What the policy is told of busy workers, and what it tells the engine to do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable


class Send:
    """Send tasks to `worker` as one batch; an identity never seen before means: start that worker.

    Attributes:
        worker: to whom.
        parts: (key, count) in the order in which they run.
        worth_s: the estimated time of all parts.
        budget_s: what a batch may be worth now, in fairness to other workers.
    """

    __slots__ = ("budget_s", "parts", "worker", "worth_s")

    def __init__(
        self,
        worker: int,
        parts: list[tuple[Hashable, int]],
        worth_s: float = 0.0,
        budget_s: float = 0.0,
    ) -> None:
        self.worker = worker
        self.parts = parts
        self.worth_s = worth_s
        self.budget_s = budget_s

    @property
    def count(self) -> int:
        """How many tasks it is."""
        return sum(count for _, count in self.parts)


class TakeBack:
    """Take up to `count` un-started tasks back from the end of what `worker` holds."""

    __slots__ = ("count", "worker")

    def __init__(self, worker: int, count: int) -> None:
        self.worker = worker
        self.count = count


class Progress:
    """What the engine can see of a busy worker without its help.

    Attributes:
        unstarted: tasks that it holds and has not begun.
        running_s: how long its present task has run at least, 0 if unknown.
        tied: those of the un-started that need results of tasks before them in their batch: nobody else
            could run them now.
    """

    __slots__ = ("running_s", "tied", "unstarted")

    def __init__(self, unstarted: int, running_s: float, tied: int = 0) -> None:
        self.unstarted = unstarted
        self.running_s = running_s
        self.tied = tied
