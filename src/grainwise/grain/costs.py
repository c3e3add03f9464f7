"""What a task of each function costs: estimates learned from reports.

A report carries the pure run time of so many items of one key. The estimate is the time of the items of the
last quantum of work, divided by their number: so one 10 us item says little and a 5 ms batch says a lot, one
slow item among a thousand raises it by its share, and a function that has become slow is known as such after
one quantum.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable


class Costs:
    """What messages cost on this machine, in seconds.

    Attributes:
        submit_s: the driver's time to submit one task.
        finish_s: the driver's time to take one result.
        message_s: the driver's time to send or receive one message.
        round_trip_s: from a result leaving a worker to its next batch running, the driver being awake.
        batch_s: the worker's time to begin and end a batch.
        item_s: the worker's time to read one task and write its result, its run time aside.
    """

    __slots__ = ("batch_s", "finish_s", "item_s", "message_s", "round_trip_s", "submit_s")

    def __init__(
        self,
        submit_s: float = 0.5e-6,
        finish_s: float = 0.3e-6,
        message_s: float = 15e-6,
        round_trip_s: float = 60e-6,
        batch_s: float = 20e-6,
        item_s: float = 0.3e-6,
    ) -> None:
        self.submit_s = submit_s
        self.finish_s = finish_s
        self.message_s = message_s
        self.round_trip_s = round_trip_s
        self.batch_s = batch_s
        self.item_s = item_s


class Estimate:
    """What is known of one key's cost."""

    __slots__ = ("_count", "_total_s", "largest_batch", "mean_s", "num_reports", "worst_s")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self.worst_s = 0.0
        self.largest_batch = 0
        self.num_reports = 0
        self._count = 0.0  # items of the last quantum or so, older ones fading
        self._total_s = 0.0  # and their run time

    def learn(self, count: int, total_s: float, worst_s: float, quantum_s: float) -> None:
        """Take in a report of `count` items that ran `total_s` in all, the slowest of them `worst_s`.

        Args:
            count: items of the report, at least 1.
            total_s: their pure run time.
            worst_s: the slowest item's (or sub-block mean's) run time.
            quantum_s: the time of a full batch: a report that stands for so much halves all before it.
        """
        mean_s = total_s / count
        self.worst_s = max(worst_s, 0.9 * self.worst_s)
        self.num_reports += 1
        self.largest_batch = max(self.largest_batch, count)
        old_s = self.mean_s
        if old_s is None or (self.num_reports <= 4 and mean_s < old_s):
            # The first calls pay for imports and cold caches: believe the faster one.
            self._count, self._total_s = count, total_s
        else:
            # Items and times fade alike: a mean of means would take one slow item of a thousand for all.
            keep = 1 / (1 + total_s / quantum_s)
            self._count = self._count * keep + count
            self._total_s = self._total_s * keep + total_s
        self.mean_s = self._total_s / self._count

    def jump(self, cost_s: float) -> None:
        """Take an item that has run so long, and runs still, for what they all cost from now on."""
        self._count, self._total_s = 1.0, cost_s
        self.mean_s = cost_s


class Estimates:
    """The estimates of all keys."""

    def __init__(self, quantum_s: float) -> None:
        self._quantum_s = quantum_s
        self._known: dict[Hashable, Estimate] = {}

    def of(self, key: Hashable) -> Estimate:
        """Return what is known of a key, and will be."""
        estimate = self._known.get(key)
        if estimate is None:
            estimate = self._known[key] = Estimate()
        return estimate

    def learn(self, key: Hashable, count: int, total_s: float, worst_s: float) -> None:
        """Take in a report."""
        self.of(key).learn(count, total_s, worst_s, self._quantum_s)

    def forget(self, key: Hashable) -> None:
        """Drop what is known of a key that is gone."""
        self._known.pop(key, None)
