"""Other rules for the size of batches, to be replayed in the same simulator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from grainwise.grain.policy import Policy, Send


class FixedSize(Policy):
    """So many tasks in each batch, two batches deep, nothing taken back."""

    def __init__(self, num_cpus: float, size: int) -> None:
        super().__init__(num_cpus)
        self.size = size

    def dispatch(self, waiting: bool) -> list[Send]:
        sends: list[Send] = []
        keys, roster = self._keys, self._roster
        while keys.turn:
            name = next(iter(keys.turn))
            workers = [next(reversed(roster.idle))] if roster.idle else list[int]()
            if not workers and roster.cpus_in_use < self.num_cpus:
                workers = [roster.next_worker]
            workers += list(roster.half)[:1]
            count = self._next_size(keys.known[name].ready, waiting) if workers else 0
            if not count:
                break
            self._note(workers[0], count)
            sends.append(self._packer.commit(workers[0], [(name, count)], 0.0, 0.0))
        return sends

    def _note(self, worker: int, count: int) -> None:
        """Take notice of a batch that is about to be sent."""

    def _next_size(self, ready: int, waiting: bool) -> int:
        return min(self.size, ready) if waiting or ready >= self.size else 0

    def next_look(self, key: object) -> int:
        return self.size

    def is_long(self, key: object) -> bool:
        return self.size == 1

    def may_take_back(self) -> bool:
        return False

    def follow(self, *_: Any) -> list[Any]:
        return []


class Joblib(FixedSize):
    """The rule of `joblib._parallel_backends.AutoBatchingMixin`, with the tail of `dispatch_one_batch`.

    A batch's duration is that from dispatch to completion; between 0.2 and 2 s it is left as it is.
    """

    def __init__(self, num_cpus: float) -> None:
        super().__init__(num_cpus, 1)
        self.clock: Callable[[], float] = float  # set by who runs it
        self._slices: deque[int] = deque()
        self._sent: dict[int, deque[tuple[float, int]]] = {}
        self._smoothed_s = 0.0

    def _next_size(self, ready: int, waiting: bool) -> int:
        if not self._slices:
            n_jobs = int(self.num_cpus)
            taken = min(self.size * n_jobs, ready)
            if not waiting and ready < self.size * n_jobs:
                return 0
            is_end = taken == ready and waiting
            size = max(1, taken // (10 * n_jobs if is_end else n_jobs))
            self._slices.extend(min(size, taken - at) for at in range(0, taken, size))
        return min(self._slices.popleft(), ready) if self._slices else 0

    def _note(self, worker: int, count: int) -> None:
        self._sent.setdefault(worker, deque()).append((self.clock(), count))

    def ended(self, worker: int) -> None:
        super().ended(worker)
        sent_s, count = self._sent[worker].popleft()
        if count == self.size:
            spent_s = self.clock() - sent_s
            self._smoothed_s = 0.8 * self._smoothed_s + 0.2 * spent_s if self._smoothed_s else spent_s
        self._adapt()

    def lone(self, key: object, cpus: float) -> int | None:
        return None

    def _adapt(self) -> None:
        spent_s, old = self._smoothed_s, self.size
        if 0 < spent_s < 0.2:
            self.size = max(1, min(2 * old, 2 * int(old * 0.2 / spent_s)))
        elif spent_s > 2 and old >= 2:
            self.size = max(1, 2 * int(old * 0.2 / spent_s))
        if self.size != old:
            self._smoothed_s = 0.0


def sizes(count: int) -> Sequence[int]:
    """Return the powers of two up to a number."""
    return [1 << i for i in range(count.bit_length())]
