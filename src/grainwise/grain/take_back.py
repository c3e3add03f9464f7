"""What comes back from busy workers when others are free and nothing is ready.

Half of what the fullest worker has not begun, as in work stealing, if it is worth the messages; all of it,
whatever its worth, behind a task that is late.
"""

from __future__ import annotations

from .fusion import EPSILON
from .instructions import TakeBack
from .lines import Line
from .roster import MAX_EXTRA_WORKERS, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .instructions import Progress
    from .keys import Keys
    from .roster import Roster, Worker
    from .sizes import Sizes

_NOBODY = Worker(Line(None))


class Rebalancer:
    """Chooses what to take back.

    What came back is reported to the policy by who carries it out; nothing changes here but the estimate of a
    task that is late.

    Args:
        sizes: what batches are worth.
        keys: what tasks need and cost.
        roster: who holds what.
    """

    __slots__ = ("_keys", "_roster", "_sizes")

    def __init__(self, sizes: Sizes, keys: Keys, roster: Roster) -> None:
        self._sizes = sizes
        self._keys = keys
        self._roster = roster

    def may_want(self) -> bool:
        """Say whether a worker and a CPU are free."""
        roster = self._roster
        has_cpu = roster.cpus_in_use + EPSILON < roster.num_cpus or self._keys.has_free
        return has_cpu and (bool(roster.idle) or roster.num_unborn() > 0)

    def choose(self, progress: Mapping[int, Progress]) -> list[TakeBack]:
        """Return what to take back from workers of which this is the progress, for as many as are free."""
        if not progress:
            return []
        roster = self._roster
        room = roster.num_cpus - roster.cpus_in_use
        slots = len(roster.idle) + roster.num_unborn()
        slots_without_cpu = MAX_EXTRA_WORKERS - roster.num_without_cpu()
        takes: list[TakeBack] = []
        rests_s = {number: self._rest_s(number, seen.unstarted) for number, seen in progress.items()}
        least_s = self._least_s(sum(rests_s.values()))
        for number in sorted(progress, key=rests_s.__getitem__, reverse=True):
            if slots <= 0:
                break
            worker, seen = roster.workers.get(number), progress[number]
            if worker is None or not seen.unstarted or not worker.held:
                continue
            if not self._is_wanted(worker):
                continue
            need = min(self._keys.known[name].cpus for name in worker.held)
            if need > room + EPSILON or (not need and slots_without_cpu <= 0):
                continue  # nobody could run it: what is ready now is so because it needs more, too
            count = self._count(worker, seen, least_s)
            if not count:
                continue
            takes.append(TakeBack(number, count))
            slots -= 1
            slots_without_cpu -= not need
            room -= need
        return takes

    def _count(self, worker: Worker, seen: Progress, least_s: float) -> int:
        """Return how many tasks of a worker should come back, 0 for none."""
        mean_s = self._roster.mean_held_s(worker)
        has_begun = sum(worker.held.values()) > seen.unstarted
        free = seen.unstarted - seen.tied
        spare = free if has_begun else free - 1
        is_late = (
            worker.is_blocked or seen.running_s > 2 * mean_s + 4 * self._sizes.costs.round_trip_s
        ) and seen.running_s > self._sizes.floor_s
        if is_late:
            if not worker.is_blocked and len(worker.held) == 1:  # it has told its cost without an end
                (name,) = worker.held
                self._keys.known[name].estimate.jump(seen.running_s)
            return seen.unstarted
        half = (spare + 1) // 2
        return seen.tied + half if half * mean_s >= least_s else 0

    def _is_wanted(self, worker: Worker) -> bool:
        """Say whether some other worker may have what this one holds."""
        keys = [self._keys.known[name] for name in worker.held]
        return any(not key.max_workers or self._roster.may_hold(_NOBODY, key) for key in keys)

    def _least_s(self, rest_s: float) -> float:
        """Return what a take is worth at least, in seconds, when so much has not begun in all."""
        sizes = self._sizes
        # As for batches: of much work on many workers, small takes would keep the driver busy for longer.
        batch_s: float = min(sizes.floor_s, (sizes.pair_s * rest_s) ** 0.5)
        return max(2 * (2 * sizes.costs.round_trip_s + sizes.pair_s), batch_s)

    def _rest_s(self, number: int, unstarted: int) -> float:
        worker = self._roster.workers.get(number)
        return unstarted * self._roster.mean_held_s(worker) if worker else 0.0
