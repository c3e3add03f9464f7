"""When to send tasks to which worker, and how many: a pure state machine.

Events go in through methods, time is an argument, instructions come out as return values. There is no clock,
no thread, no input or output here, so the engine, the cluster backend and a simulator in virtual time run
the very same code.

    ready(key, n) ----.                              .--> Send(worker, key, count)
    finished(...) -----+--> [ policy ] -- dispatch --+
    blocked, died ... -'              -- rebalance --+--> TakeBack(worker, count)

Tasks are counts of a *key* (a function with its resource shape), never objects: a million ready tasks are one
number. The rules, in the order in which they decide:

1. *Nagle's rule with credit.* While the driver waits, whatever is ready goes to a free worker at once. While
   it still submits, only a batch worth its message goes out: crumbs starve the submitter. The driver earns
   the right to talk early by submitting and finishing (`SHARE` of its time).
2. *Size.* A batch takes `quantum_s` of estimated time, never more than a fair share (half of a worker's part)
   of what is ready, never less than `floor_s`; it at most doubles the largest batch of its key that has come
   back. A key of unknown cost goes out one task at a time, to one free worker each.
3. *Two deep.* A worker whose estimated rest is below a quantum gets the next batch already.
4. *Take-back.* When a worker is free and nothing is ready, half of what the fullest worker has not begun
   comes back; all of it when that worker's running task is late, whatever the reason.

Guarantee: a free worker and an un-started task never coexist after `dispatch(waiting=True)` followed by
`rebalance` with the victims' progress, save for the tasks that a worker has claimed for its current
sub-block (some 50 us of estimated work).

The idea is that of Nagle (1984), guided self-scheduling (Polychronopoulos and Kuck 1987), factoring
(Hummel, Schonberg and Flynn 1992) and lazy splitting on demand (Tzannes 2010), adapted to workers that
can't hear anything while they run somebody's code.
"""

from __future__ import annotations

from collections import deque

from .costs import Costs, Estimates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

OVERHEAD = 0.05
"""Share of a batch's time that its handling may cost."""
SHARE = 0.5
"""Share of its time that a submitting driver may talk."""
MIN_QUANTUM_S = 5e-3
"""Two batches of this length keep a worker busy over the 5 ms ticks of a driver that does not wait."""
MAX_BATCH = 8192
MAX_EXTRA_WORKERS = 64
EPSILON = 1e-9


class Send:
    """Send `count` tasks of `key` to `worker`; an identity never seen before means: start that worker."""

    __slots__ = ("count", "key", "worker")

    def __init__(self, worker: int, key: Hashable, count: int) -> None:
        self.worker = worker
        self.key = key
        self.count = count


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
    """

    __slots__ = ("running_s", "unstarted")

    def __init__(self, unstarted: int, running_s: float) -> None:
        self.unstarted = unstarted
        self.running_s = running_s


class _Worker:
    """What the policy knows of one worker."""

    __slots__ = ("cpus", "held", "is_blocked", "sends")

    def __init__(self) -> None:
        self.held: dict[Hashable, int] = {}  # tasks sent and not reported, by key
        self.sends = 0  # batches sent and not ended
        self.cpus = 0.0  # what its batches occupy
        self.is_blocked = False


class _Key:
    """What the policy knows of one key."""

    __slots__ = ("cpus", "probes", "ready")

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self.ready = 0
        self.probes = 0  # tasks under way while the cost is unknown


class Policy:
    """Decides what goes where. Not thread-safe: one owner at a time.

    Args:
        num_cpus: how many CPUs' worth of tasks may run at once.
        costs: what messages cost.
    """

    def __init__(self, num_cpus: float, costs: Costs | None = None) -> None:
        self.num_cpus = num_cpus
        self.costs = costs = costs or Costs()
        pair_s = 2 * costs.message_s
        self.floor_s = max(costs.batch_s / OVERHEAD, pair_s * num_cpus)
        self.quantum_s = max(MIN_QUANTUM_S, 2 * self.floor_s, (costs.round_trip_s + pair_s) / OVERHEAD)
        self.full_batch = max(1, int(pair_s / (2 * OVERHEAD * (costs.submit_s + costs.finish_s))))
        self.estimates = Estimates(self.quantum_s, self.floor_s)
        self._keys: dict[Hashable, _Key] = {}
        self._turn: deque[Hashable] = deque()  # keys with something ready, round robin
        self._workers: dict[int, _Worker] = {}
        self._next_worker = 0
        self._cpus_in_use = 0.0
        self._credit_s = 4 * pair_s

    # -- events ----------------------------------------------------------------------------------------

    def ready(self, key: Hashable, count: int, cpus: float = 1.0) -> None:
        """Set how many tasks of a key are ready to be sent now."""
        known = self._keys.get(key)
        if known is None:
            if not count:
                return
            known = self._keys[key] = _Key(cpus)
        if count and not known.ready:
            self._turn.append(key)
        elif not count and known.ready:
            self._turn.remove(key)
        if count > known.ready:
            self._earn((count - known.ready) * self.costs.submit_s)
        known.ready = count

    def finished(
        self, worker: int, key: Hashable, count: int, num_timed: int, total_s: float, worst_s: float
    ) -> None:
        """Note that a worker reported results of a key, and what tasks of it cost.

        Args:
            worker: who.
            key: of what.
            count: results reported.
            num_timed: tasks that the time stands for; reports in the middle of a sub-block count them later.
            total_s: their pure run time in seconds.
            worst_s: the slowest, or the mean of the slowest sub-block.
        """
        self._release(worker, key, count)
        self._earn(count * self.costs.finish_s)
        if num_timed:
            self.estimates.learn(key, num_timed, total_s, worst_s)

    def returned(self, worker: int, key: Hashable, count: int) -> None:
        """Note that tasks that a worker held are ready again, not run."""
        self._release(worker, key, count)

    def ended(self, worker: int) -> None:
        """Note that a batch of a worker has ended."""
        known = self._workers.get(worker)
        if known is None:
            return
        known.sends -= 1
        left = (self._keys[name].cpus for name in known.held) if known.sends else ()
        self._occupy(known, max(left, default=0.0))

    def blocked(self, worker: int) -> None:
        """Note that a worker's task waits for others: it lends its CPUs."""
        known = self._workers[worker]
        if not known.is_blocked:
            self._occupy_delta(known, -1)
            known.is_blocked = True

    def resumed(self, worker: int) -> None:
        """Note that a worker's task goes on."""
        known = self._workers[worker]
        if known.is_blocked:
            known.is_blocked = False
            self._occupy_delta(known, 1)

    def sent(self, worker: int, key: Hashable, count: int) -> None:
        """Note that the engine sent tasks by itself (a blocked worker runs its own children in place)."""
        self._hold(worker, key, count)

    def died(self, worker: int) -> None:
        """Forget a worker that is gone; what it held is reported by `ready` again."""
        known = self._workers.pop(worker, None)
        if known is None:
            return
        if not known.is_blocked:
            self._occupy_delta(known, -1)
        for key, count in known.held.items():
            held = self._keys.get(key)
            if held is not None:
                held.probes = max(0, held.probes - count)

    def forget(self, key: Hashable) -> None:
        """Forget a key that is gone; nothing of it may be ready or held."""
        self._keys.pop(key, None)
        self.estimates.forget(key)

    def surplus(self) -> list[int]:
        """Return idle workers beyond what the CPUs can keep busy, latest first; the engine may end them."""
        idle = [worker for worker, known in self._workers.items() if not known.sends]
        active = sum(1 for known in self._workers.values() if not known.is_blocked)
        excess = active - max(1, int(self.num_cpus))
        return sorted(idle, reverse=True)[: max(0, excess)]

    # -- instructions ----------------------------------------------------------------------------------

    def dispatch(self, waiting: bool) -> list[Send]:
        """Return what to send now.

        Args:
            waiting: the driver waits for results or has fallen silent; false while it still submits.
        """
        sends: list[Send] = []
        turn = self._turn
        if not turn:
            return sends
        for worker, known in list(self._workers.items()):
            if known.sends or known.is_blocked:
                continue
            send = self._take(worker, known, waiting)
            if send is not None:
                sends.append(send)
            if not turn:
                return sends
        while turn:
            send = self._take_new(waiting)
            if send is None:
                break
            sends.append(send)
        for worker, known in list(self._workers.items()) if turn else ():
            if known.sends == 1 and not known.is_blocked and self._held_s(known) <= 1.5 * self.quantum_s:
                send = self._take(worker, known, waiting)
                if send is not None:
                    sends.append(send)
        return sends

    def lone(self, key: Hashable, cpus: float) -> int | None:
        """Return an idle worker for the only ready task, which counts as sent; None if none is idle.

        What `dispatch` would say, for the round trip of a single task: every instruction on it counts.
        """
        if self._turn or key not in self._keys or self._cpus_in_use + cpus > self.num_cpus + EPSILON:
            return None
        for worker, known in self._workers.items():
            if not known.sends and not known.is_blocked:
                self._hold(worker, key, 1)
                return worker
        return None

    def next_look(self, key: Hashable) -> int:
        """Return how many more tasks of a key must be submitted before `dispatch` is worth a call."""
        mean_s = self.estimates.mean_s(key)
        if mean_s is None:
            return 64
        return max(1, min(self.full_batch, int(self.floor_s / max(mean_s, 1e-8))))

    def is_long(self, key: Hashable) -> bool:
        """Say whether one task of a key is worth a message of its own."""
        mean_s = self.estimates.mean_s(key)
        return mean_s is None or mean_s >= self.floor_s

    def rebalance(self, progress: Mapping[int, Progress]) -> list[TakeBack]:
        """Return what to take back, given the progress of busy workers.

        Nothing is taken while something is ready or no worker is free.
        """
        if not progress:
            return []
        room = self.num_cpus - self._cpus_in_use
        slots = self._num_idle() + self._num_unborn()
        slots_without_cpu = MAX_EXTRA_WORKERS - self._num_without_cpu()
        takes: list[TakeBack] = []
        victims = sorted(progress.items(), key=lambda item: -self._rest_s(item[0], item[1].unstarted))
        for worker, seen in victims:
            known = self._workers.get(worker)
            if slots <= 0:
                break
            if known is None or not seen.unstarted or not known.held:
                continue
            need = min(self._keys[name].cpus for name in known.held)
            if need > room + EPSILON or (not need and slots_without_cpu <= 0):
                continue  # nobody could run it: what is ready now is so because it needs more, too
            mean_s = self._mean_held_s(known)
            has_begun = sum(known.held.values()) > seen.unstarted
            spare = seen.unstarted if has_begun else seen.unstarted - 1
            is_late = known.is_blocked or seen.running_s > 2 * mean_s + 4 * self.costs.round_trip_s
            worth_s = (spare + 1) // 2 * mean_s
            if is_late and seen.running_s > self.floor_s:
                if not known.is_blocked and len(known.held) == 1:  # it has told its cost without an end
                    (name,) = known.held
                    self.estimates.learn(name, 1, seen.running_s, seen.running_s)
                takes.append(TakeBack(worker, seen.unstarted))
            elif worth_s >= 2 * (2 * self.costs.round_trip_s + 2 * self.costs.message_s):
                takes.append(TakeBack(worker, (spare + 1) // 2))
            else:
                continue
            slots -= 1
            slots_without_cpu -= not need
            room -= need
        return takes

    # -- inside ----------------------------------------------------------------------------------------

    def _take(self, worker: int, known: _Worker, waiting: bool) -> Send | None:
        """Choose a batch for a worker that is idle or nearly so."""
        is_idle = known.sends == 0
        for _ in range(len(self._turn)):
            name = self._turn[0]
            key = self._keys[name]
            count = self._size(name, key, is_idle, waiting) if self._fits(known, key) else 0
            if count:
                self._hold(worker, name, count)
                key.ready -= count
                if key.ready:
                    self._turn.rotate(-1)
                else:
                    self._turn.popleft()
                return Send(worker, name, count)
            self._turn.rotate(-1)
        return None

    def _take_new(self, waiting: bool) -> Send | None:
        """Choose a batch for a worker that does not exist yet, when CPUs are free for it."""
        if self._num_unborn() <= 0:
            return None
        worker = self._next_worker
        known = self._workers[worker] = _Worker()
        send = self._take(worker, known, waiting)
        if send is None:
            del self._workers[worker]
        else:
            self._next_worker += 1
        return send

    def _fits(self, known: _Worker, key: _Key) -> bool:
        if known.sends:
            return key.cpus <= known.cpus + EPSILON and (key.cpus > 0) == (known.cpus > 0)
        if not key.cpus:
            return self._num_without_cpu() < MAX_EXTRA_WORKERS  # they must leave room for the others
        return self._cpus_in_use + key.cpus <= self.num_cpus + EPSILON

    def _size(self, name: Hashable, key: _Key, is_idle: bool, waiting: bool) -> int:
        """Return how many tasks of a key are worth sending now, 0 for none."""
        estimate = self.estimates
        mean_s = estimate.mean_s(name)
        if mean_s is None:
            if not is_idle or (key.probes and not waiting and self._credit_s < self.costs.message_s):
                return 0
            return 1
        share_s = key.ready * mean_s / (2 * max(1.0, self.num_cpus))
        budget_s = min(self.quantum_s, max(share_s, self.floor_s))
        fit = max(1, int(budget_s / max(mean_s, 1e-8)))
        growth = max(2 * estimate.largest_batch(name), int(self.floor_s / max(mean_s, 1e-8)) + 1)
        count = min(fit, growth, key.ready, MAX_BATCH)
        worth_s = count * mean_s
        if not waiting and not (worth_s >= 0.9 * self.quantum_s or count >= self.full_batch):
            pair_s = 2 * self.costs.message_s
            if not is_idle or worth_s < self.floor_s or self._credit_s < pair_s:
                return 0
            self._credit_s -= pair_s
        if not is_idle and worth_s < self.floor_s:
            return 0
        return count

    def _earn(self, spent_s: float) -> None:
        self._credit_s = min(self._credit_s + SHARE * spent_s, 8 * self.costs.message_s)

    def _hold(self, worker: int, name: Hashable, count: int) -> None:
        known = self._workers.get(worker)
        if known is None:
            known = self._workers[worker] = _Worker()
            self._next_worker = max(self._next_worker, worker + 1)
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = _Key(1.0)
        known.held[name] = known.held.get(name, 0) + count
        known.sends += 1
        key.probes += count
        self._occupy(known, max(known.cpus, key.cpus))

    def _release(self, worker: int, name: Hashable, count: int) -> None:
        key = self._keys.get(name)
        if key is not None:
            key.probes = max(0, key.probes - count)
        known = self._workers.get(worker)
        if known is None:
            return
        left = known.held.get(name, 0) - count
        if left > 0:
            known.held[name] = left
        else:
            known.held.pop(name, None)

    def _occupy(self, known: _Worker, cpus: float) -> None:
        if not known.is_blocked:
            self._cpus_in_use += cpus - known.cpus
        known.cpus = cpus

    def _occupy_delta(self, known: _Worker, sign: int) -> None:
        self._cpus_in_use += sign * known.cpus

    def _held_s(self, known: _Worker) -> float:
        return sum(
            count * (self.estimates.mean_s(key) or self.quantum_s) for key, count in known.held.items()
        )

    def _mean_held_s(self, known: _Worker) -> float:
        count = sum(known.held.values())
        return self._held_s(known) / count if count else 0.0

    def _rest_s(self, worker: int, unstarted: int) -> float:
        known = self._workers.get(worker)
        return unstarted * self._mean_held_s(known) if known else 0.0

    def _num_idle(self) -> int:
        return sum(1 for known in self._workers.values() if not known.sends and not known.is_blocked)

    def _num_without_cpu(self) -> int:
        return sum(1 for w in self._workers.values() if w.sends and not w.cpus and not w.is_blocked)

    def _num_unborn(self) -> int:
        """Return how many workers may still be started."""
        awake = sum(1 for known in self._workers.values() if not known.is_blocked)
        return int(self.num_cpus) + 2 * MAX_EXTRA_WORKERS - awake
