"""The workers: what each of them holds, who may be sent something, and what CPUs are in use.

A worker that is not blocked stands in one of three places, by the batches that it was sent and has not ended:

    none            idle       it may be sent a batch
    one             half       perhaps a second one, behind the first
    one, and none of its tasks is left (all taken back)
                    drained    it is half, but as good as idle: before another worker could start
    two             nowhere

A blocked worker (its task waits for others) lends its CPUs and is sent nothing. Each environment has these
places of its own: see `lines`.
"""

from __future__ import annotations

from .fusion import EPSILON, may_share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

    from .keys import Key, Keys
    from .lines import Line

MAX_EXTRA_WORKERS = 64
"""So many workers may run tasks that occupy no CPU, and so many be started beyond those and the CPUs."""
MIN_WARM_WORKERS = 4
"""Beyond the CPUs, so many workers of several environments stay warm; or as many as there are CPUs."""


class Worker:
    """What is known of one worker.

    Attributes:
        held: tasks sent and not reported, by key.
        back: tasks reported of the batch that runs, by key.
        sends: batches sent and not ended.
        cpus: what its batches occupy.
        is_blocked: its task waits for others.
        line: that of its environment.
    """

    __slots__ = ("back", "cpus", "held", "is_blocked", "line", "sends")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.held: dict[Hashable, int] = {}
        self.back: dict[Hashable, int] = {}
        self.sends = 0
        self.cpus = 0.0
        self.is_blocked = False


class Roster:
    """All workers. Others read the fields; `Policy._send_ahead` also reorders `half` of a line.

    Args:
        num_cpus: how many CPUs' worth of tasks may run at once.
        keys: what tasks of each key need and cost.
        quantum_s: what a task of unknown cost is taken for, in seconds.

    Attributes:
        workers: all of them, by number.
        idle: numbers of those of the program's own environment with nothing sent, latest last.
        next_worker: the number of the next one to be started.
        cpus_in_use: by all that are not blocked.
        holds_back: something else waits for CPUs: nothing is sent behind what runs.
        num_blocked: how many wait for others.
    """

    __slots__ = (
        "_keys", "_known_keys", "_quantum_s", "cpus_in_use", "half", "holds_back", "idle", "next_worker",
        "num_blocked", "num_cpus", "workers",
    )  # fmt: skip

    def __init__(self, num_cpus: float, keys: Keys, quantum_s: float) -> None:
        self.num_cpus = num_cpus
        self._keys = keys
        self._known_keys = keys.known  # the same table: each message looks into it
        self._quantum_s = quantum_s
        self.workers: dict[int, Worker] = {}
        self.idle = keys.base.idle
        self.half = keys.base.half
        self.next_worker = 0
        self.cpus_in_use = 0.0
        self.num_blocked = 0
        self.holds_back = False

    # -- what they hold --------------------------------------------------------------------------------

    def hold(self, number: int, parts: list[tuple[Hashable, int]]) -> None:
        """Note a batch sent to a worker, which may be a new one."""
        worker = self.workers.get(number)
        if worker is None:
            known = self._known_keys.get(parts[0][0])
            line = self._keys.base if known is None else known.line
            line.num_workers += 1
            worker = self.workers[number] = Worker(line)
            self.next_worker = max(self.next_worker, number + 1)
        worker.sends += 1
        cpus, held = worker.cpus, worker.held
        for name, count in parts:
            key = self._known_keys.get(name) or self._keys.assume(name, 1.0)
            held[name] = held.get(name, 0) + count
            key.probes += count
            if key.cpus > cpus:
                cpus = key.cpus
        self._occupy(worker, cpus)
        self._file(number, worker)

    def add(self, number: int, name: Hashable, cpus: float) -> None:
        """Note one more task in the batch that a worker was sent last."""
        key = self._known_keys.get(name) or self._keys.assume(name, cpus)
        key.probes += 1
        held = self.workers[number].held
        held[name] = held.get(name, 0) + 1

    def release(self, number: int, name: Hashable, count: int) -> None:
        """Note that a worker no longer holds tasks: they were reported, or came back."""
        key = self._known_keys.get(name)
        if key is not None:
            left = key.probes - count
            key.probes = left if left > 0 else 0
        worker = self.workers.get(number)
        if worker is None:
            return
        left = worker.held.get(name, 0) - count
        if left > 0:
            worker.held[name] = left
        else:
            worker.held.pop(name, None)
        if worker.sends == 1:
            self._file(number, worker)

    def end(self, number: int) -> None:
        """Note that a batch of a worker has ended."""
        worker = self.workers.get(number)
        if worker is None:
            return
        worker.sends -= 1
        worker.back.clear()
        left = [self._known_keys[name].cpus for name in worker.held] if worker.sends else None
        self._occupy(worker, max(left) if left else 0.0)
        self._file(number, worker)

    def held_s(self, worker: Worker) -> float:
        """Return the estimated time of all that a worker holds, in seconds."""
        total_s = 0.0
        for name, count in worker.held.items():
            mean_s = self._known_keys[name].estimate.mean_s
            total_s += count * (self._quantum_s if mean_s is None else mean_s)
        return total_s

    def mean_held_s(self, worker: Worker) -> float:
        """Return the mean estimated time of the tasks that a worker holds, in seconds."""
        count = sum(worker.held.values())
        return self.held_s(worker) / count if count else 0.0

    # -- waiting and dying -----------------------------------------------------------------------------

    def block(self, number: int) -> None:
        """Note that a worker's task waits for others."""
        worker = self.workers[number]
        if not worker.is_blocked:
            self.use(-worker.cpus)
            worker.is_blocked = True
            self.num_blocked += 1
            self._file(number, worker)

    def resume(self, number: int) -> None:
        """Note that a worker's task goes on."""
        worker = self.workers[number]
        if worker.is_blocked:
            worker.is_blocked = False
            self.num_blocked -= 1
            self.use(worker.cpus)
            self._file(number, worker)

    def remove(self, number: int) -> None:
        """Forget a worker that is gone, and what it held."""
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        line = worker.line
        line.idle.pop(number, None)
        line.half.pop(number, None)
        line.drained.pop(number, None)
        line.num_workers -= 1
        self._keys.forget_line(line)
        if worker.is_blocked:
            self.num_blocked -= 1
        else:
            self.use(-worker.cpus)
        for name, count in worker.held.items():
            key = self._known_keys.get(name)
            if key is not None:
                key.probes = max(0, key.probes - count)

    # -- room ------------------------------------------------------------------------------------------

    def has_room(self, worker: Worker, key: Key) -> bool:
        """Say whether a worker may run a task of a key: there is a CPU for it, or it has taken one."""
        if key.line is not worker.line:
            return False
        if key.max_workers and not self.may_hold(worker, key):
            return False
        if worker.held:
            return may_share(key.cpus, worker.cpus) and not self.holds_back
        if not key.cpus:
            return self.num_without_cpu() < MAX_EXTRA_WORKERS  # they must leave room for the others
        return self.cpus_in_use + key.cpus <= self.num_cpus + EPSILON

    def may_hold(self, worker: Worker, key: Key) -> bool:
        """Say whether one more worker may have tasks of a key, or this one has some already."""
        num_others = 0
        for other in self.workers.values():
            if any(self._known_keys.get(name) is key for name in other.held):
                if other is worker:
                    return True
                num_others += 1
        return num_others < key.max_workers

    def num_without_cpu(self) -> int:
        """Return how many workers run tasks that occupy no CPU."""
        return sum(1 for w in self.workers.values() if w.sends and not w.cpus and not w.is_blocked)

    def num_unborn(self) -> int:
        """Return how many workers may still be started."""
        awake = len(self.workers) - self.num_blocked
        return int(self.num_cpus) + 2 * MAX_EXTRA_WORKERS - awake

    def surplus(self) -> list[int]:
        """Return idle workers beyond what the CPUs can keep busy, latest first."""
        excess = len(self.workers) - self.num_blocked - max(1, int(self.num_cpus))
        return sorted(self.all_idle(), reverse=True)[: max(0, excess)]

    def crowd(self) -> list[int]:
        """Return idle workers that are too many even with several environments in turn, oldest first."""
        num_cpus = max(1, int(self.num_cpus))
        excess = len(self.workers) - self.num_blocked - num_cpus - max(num_cpus, MIN_WARM_WORKERS)
        return sorted(self.all_idle())[: max(0, excess)]

    def all_idle(self) -> list[int]:
        """Return idle workers of all environments."""
        return [number for line in self._keys.lines.values() for number in line.idle]

    def use(self, cpus: float) -> None:
        """Count so many more CPUs as in use, below 0 fewer; tenths and thirds add up without drifting."""
        in_use = self.cpus_in_use + cpus
        self.cpus_in_use = round(in_use, 6) if cpus % 1.0 else in_use

    def _occupy(self, worker: Worker, cpus: float) -> None:
        if not worker.is_blocked and cpus != worker.cpus:
            change = cpus - worker.cpus
            if change % 1.0:
                self.use(change)
            else:
                self.cpus_in_use += change  # the common case, twice for each message
        worker.cpus = cpus

    def _file(self, number: int, worker: Worker) -> None:
        """Keep the lists of workers that may be sent something."""
        line = worker.line
        if worker.sends != 1 or worker.held or worker.is_blocked:
            line.drained.pop(number, None)
        else:
            line.drained[number] = None
        if worker.is_blocked or worker.sends > 1:
            line.idle.pop(number, None)
            line.half.pop(number, None)
        elif worker.sends:
            line.idle.pop(number, None)
            line.half[number] = None
        else:
            line.half.pop(number, None)
            line.idle[number] = None
