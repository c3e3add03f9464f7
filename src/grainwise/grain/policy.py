"""When to send tasks to which worker, and how many: a pure state machine.

Events go in through methods, instructions come out as return values. There is no clock, no thread, no input
or output here, so the engine, the cluster backend and a simulator in virtual time run the very same code.

    ready(key, n) ----.                              .--> Send(worker, parts)
    finished(...) -----+--> [ policy ] -- dispatch --+
    blocked, died ... -'              -- rebalance --+--> TakeBack(worker, count)

Tasks are counts of a *key* (a function with its resource shape and the size of its arguments), never objects:
a million ready tasks are one number. The rules, in the order in which they decide:

1. *Nagle's rule with credit.* While the driver waits, whatever is ready goes to a free worker at once. While
   it still submits, only a batch worth its message goes out: crumbs starve the submitter. The driver earns
   the right to talk early by submitting and finishing (`SHARE` of its time).
2. *Size.* A batch takes `quantum_s` of estimated time, never more than a fair share (half of a worker's part)
   of all that is ready, never less than `floor_s`. Keys share it, in turn; of each at most twice the largest
   batch that has come back.
3. *Unknown cost.* One task at a time, to one free worker each, `FIRST_PROBES` at once and then twice as many
   at each look that finds them still running.
4. *Two deep.* A worker whose estimated rest is below a quantum gets the next batch already.
5. *Take-back.* When a worker is free and nothing is ready, half of what the fullest worker has not begun
   comes back; all of it when that worker's running task is late, whatever the reason.
6. *Followers.* A task whose missing inputs are all results of one batch joins that batch (`follow`). A task
   with a large input goes to the worker that has it (`home`), if that one is free.
7. *Failures.* A key whose task has killed a worker goes out alone, one task at a time, until one succeeds.

Guarantee: a free worker and an un-started task that could run never coexist after `dispatch(waiting=True)`
followed by `rebalance` with the victims' progress, save for the tasks that a worker has claimed for its
current sub-block (some 200 us of estimated work). The bound on the makespan and its proof stand in
docs/internals/granularity.md.

The idea is that of Nagle (1984), guided self-scheduling (Polychronopoulos and Kuck 1987), factoring
(Hummel, Schonberg and Flynn 1992) and lazy splitting on demand (Tzannes 2010), adapted to workers that
can't hear anything while they run somebody's code.
"""

from __future__ import annotations

from .costs import Costs, Estimates
from .fusion import EPSILON, find_followers, may_share
from .instructions import Progress, Send, TakeBack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from typing import TypeVar

    from .costs import Estimate

    Task = TypeVar("Task", bound=Hashable)

__all__ = ["Policy", "Progress", "Send", "TakeBack", "may_share"]

OVERHEAD = 0.05
"""Share of a batch's time that its handling may cost."""
SHARE = 0.5
"""Share of its time that a submitting driver may talk."""
MIN_QUANTUM_S = 5e-3
"""Two batches of this length keep a worker busy over the 5 ms ticks of a driver that does not wait."""
MAX_BATCH = 8192
MAX_EXTRA_WORKERS = 64
FIRST_PROBES = 16
MAX_MISFITS = 8
"""So many keys in turn that don't fit into what is left of a batch, and it goes as it is."""


class _Worker:
    """What the policy knows of one worker."""

    __slots__ = ("back", "cpus", "held", "is_blocked", "sends")

    def __init__(self) -> None:
        self.held: dict[Hashable, int] = {}  # tasks sent and not reported, by key
        self.back: dict[Hashable, int] = {}  # tasks reported of the batch that runs
        self.sends = 0  # batches sent and not ended
        self.cpus = 0.0  # what its batches occupy
        self.is_blocked = False


class _Key:
    """What the policy knows of one key."""

    __slots__ = (
        "cpus", "estimate", "home", "is_assumed", "is_suspect", "limit", "max_probes", "probes", "ready",
    )  # fmt: skip

    def __init__(self, cpus: float, estimate: Estimate, limit: int, home: int | None) -> None:
        self.cpus = cpus
        self.estimate = estimate
        self.limit = limit  # tasks per batch as the user wants it, 0 for as many as is good
        self.home = home  # the worker that has their large input
        self.ready = 0
        self.probes = 0  # tasks under way while the cost is unknown
        self.max_probes = FIRST_PROBES
        self.is_suspect = False
        self.is_assumed = False  # only `ready` tells the rest; tasks of it were sent otherwise


class Policy:
    """Decides what goes where. Not thread-safe: one owner at a time.

    Args:
        num_cpus: how many CPUs' worth of tasks may run at once.
        costs: what messages cost.
        max_batch: tasks of a batch at most.
    """

    def __init__(self, num_cpus: float, costs: Costs | None = None, max_batch: int = MAX_BATCH) -> None:
        self.num_cpus = num_cpus
        self.costs = costs = costs or Costs()
        self.max_batch = max_batch
        pair_s = 2 * costs.message_s
        self.floor_s = max(costs.batch_s / OVERHEAD, pair_s * num_cpus)
        self._least_s = costs.batch_s / OVERHEAD
        self._pair_s = pair_s
        self.quantum_s = max(MIN_QUANTUM_S, 2 * self.floor_s, (costs.round_trip_s + pair_s) / OVERHEAD)
        self.full_batch = max(1, int(pair_s / (2 * OVERHEAD * (costs.submit_s + costs.finish_s))))
        self.estimates = Estimates(self.quantum_s)
        self._keys: dict[Hashable, _Key] = {}
        self._turn: dict[Hashable, None] = {}  # keys with something ready, round robin
        self._num_homed = 0  # of those, keys with a home
        self._has_free_keys = False  # some key occupies no CPU
        self._ready_s = 0.0  # estimated time of all that is ready, as of the present dispatch
        self._batch_floor_s = self.floor_s  # the least that a batch is worth, as of the present dispatch
        self._workers: dict[int, _Worker] = {}
        self._idle: dict[int, None] = {}  # nothing sent, latest last
        self._half: dict[int, None] = {}  # one batch sent, and perhaps room for another
        self._drained: dict[int, None] = {}  # of those: all of it was taken back
        self._num_blocked = 0
        self._next_worker = 0
        self._cpus_in_use = 0.0
        self._credit_s = 4 * pair_s

    # -- events ----------------------------------------------------------------------------------------

    def ready(
        self,
        key: Hashable,
        count: int,
        cpus: float = 1.0,
        *,
        cost: Hashable | None = None,
        limit: int = 0,
        home: int | None = None,
    ) -> None:
        """Set how many tasks of a key are ready to be sent now.

        Args:
            key: of what.
            count: how many.
            cpus: what one of them occupies while it runs.
            cost: whose estimates it shares; its own by default.
            limit: tasks per batch as the user wants it; 0 leaves it to the rules.
            home: the worker that has their large input.
        """
        known = self._keys.get(key)
        if known is None or known.is_assumed:
            if not count:
                return
            known = self._learn_key(key, cpus, cost, limit, home)
        if count and not known.ready:
            self._turn[key] = None
            self._num_homed += known.home is not None
        elif not count and known.ready:
            self._leave_turn(key, known)
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
        estimate = (self._keys.get(key) or self._assume_key(key, 1.0)).estimate
        if num_timed:
            estimate.learn(num_timed, total_s, worst_s, self.quantum_s)
        known = self._workers.get(worker)
        if known is not None and count:
            known.back[key] = count = known.back.get(key, 0) + count
            estimate.largest_batch = max(estimate.largest_batch, count)

    def returned(self, worker: int, key: Hashable, count: int) -> None:
        """Note that tasks that a worker held are ready again, not run."""
        self._release(worker, key, count)

    def ended(self, worker: int) -> None:
        """Note that a batch of a worker has ended."""
        known = self._workers.get(worker)
        if known is None:
            return
        known.sends -= 1
        known.back.clear()
        left = (self._keys[name].cpus for name in known.held) if known.sends else ()
        self._occupy(known, max(left, default=0.0))
        self._file(worker, known)

    def blocked(self, worker: int) -> None:
        """Note that a worker's task waits for others: it lends its CPUs."""
        known = self._workers[worker]
        if not known.is_blocked:
            self._cpus_in_use -= known.cpus
            known.is_blocked = True
            self._num_blocked += 1
            self._file(worker, known)

    def resumed(self, worker: int) -> None:
        """Note that a worker's task goes on."""
        known = self._workers[worker]
        if known.is_blocked:
            known.is_blocked = False
            self._num_blocked -= 1
            self._cpus_in_use += known.cpus
            self._file(worker, known)

    def sent(self, worker: int, key: Hashable, count: int) -> None:
        """Note that the engine sent tasks by itself (a blocked worker runs its own children in place)."""
        self._hold(worker, [(key, count)])

    def died(self, worker: int) -> None:
        """Forget a worker that is gone; what it held is reported by `ready` again."""
        known = self._workers.pop(worker, None)
        if known is None:
            return
        self._idle.pop(worker, None)
        self._half.pop(worker, None)
        self._drained.pop(worker, None)
        if known.is_blocked:
            self._num_blocked -= 1
        else:
            self._cpus_in_use -= known.cpus
        for key, count in known.held.items():
            held = self._keys.get(key)
            if held is not None:
                held.probes = max(0, held.probes - count)

    def suspect(self, key: Hashable, is_suspect: bool) -> None:
        """Note that a task of a key has killed a worker, or that one has succeeded since."""
        known = self._keys.get(key)
        if known is not None:
            known.is_suspect = is_suspect

    def forget(self, key: Hashable) -> None:
        """Forget a key that is gone; nothing of it may be ready or held."""
        known = self._keys.pop(key, None)
        if known is not None and known.ready:
            self._leave_turn(key, known)
        self.estimates.forget(key)

    def surplus(self) -> list[int]:
        """Return idle workers beyond what the CPUs can keep busy, latest first; the engine may end them."""
        excess = len(self._workers) - self._num_blocked - max(1, int(self.num_cpus))
        return sorted(self._idle, reverse=True)[: max(0, excess)]

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
        self._ready_s = 0.0
        for key in map(self._keys.__getitem__, turn):
            mean_s = key.estimate.mean_s
            if mean_s is not None:
                self._ready_s += key.ready * mean_s
            elif waiting and key.probes >= key.max_probes:
                key.max_probes *= 2
        # Of a short rest, batches so long that the driver is never the bottleneck would leave workers idle:
        # for the time pair * R / b + b that a rest of R takes in batches of b, b = sqrt(pair * R) is best.
        self._batch_floor_s = max(self._least_s, min(self.floor_s, (self._pair_s * self._ready_s) ** 0.5))
        if self._num_homed:
            self._send_home(sends, waiting)
        while turn and self._idle:
            worker = next(reversed(self._idle))
            send = self._pack(worker, self._workers[worker], waiting, turn)
            if send is None:
                break  # what speaks against this one speaks against them all
            sends.append(send)
        for worker in list(self._drained) if turn else ():  # they will be idle before another could start
            send = self._pack(worker, self._workers[worker], waiting, turn) if turn else None
            if send is None:
                break
            sends.append(send)
        while turn and self._num_unborn() > 0:
            send = self._pack(self._next_worker, _Worker(), waiting, turn)
            if send is None:
                break
            sends.append(send)
        self._send_ahead(sends, waiting)
        return sends

    def lone(self, key: Hashable, cpus: float) -> int | None:
        """Return an idle worker for the only ready task, which counts as sent; None if none is idle.

        What `dispatch` would say, for the round trip of a single task: every instruction on it counts.
        """
        if self._turn or not self._idle or self._cpus_in_use + cpus > self.num_cpus + EPSILON:
            return None
        known = self._keys.get(key)
        if known is None or known.home is not None:
            return None
        worker = next(reversed(self._idle))
        self._hold(worker, [(key, 1)])
        return worker

    def follow(
        self,
        send: Send,
        tasks: Sequence[Task],
        dependents: Callable[[Task], Iterable[Task]],
        num_missing: Callable[[Task], int],
        key_of: Callable[[Task], tuple[Hashable, float]],
    ) -> list[Task]:
        """Return tasks to run behind those of a batch, in the same batch; they count as sent.

        Args:
            send: the batch.
            tasks: its tasks.
            dependents: tasks that wait for a task and may join.
            num_missing: how many tasks a task waits for.
            key_of: a task's key and its CPUs.
        """
        known = self._workers[send.worker]
        followers = find_followers(
            tasks, dependents, num_missing, key_of, self._room_for, known.cpus,
            self.quantum_s - send.worth_s, min(send.budget_s, self.quantum_s) - send.worth_s,
        )  # fmt: skip
        held = known.held
        for task in followers:
            name, cpus = key_of(task)
            key = self._keys.get(name) or self._assume_key(name, cpus)
            key.probes += 1
            held[name] = held.get(name, 0) + 1
        return followers

    def next_look(self, key: Hashable) -> int:
        """Return how many more tasks of a key must be submitted before `dispatch` is worth a call."""
        known = self._keys.get(key)
        mean_s = None if known is None else known.estimate.mean_s
        if mean_s is None:
            return 64
        return max(1, min(self.full_batch, int(self.floor_s / max(mean_s, 1e-8))))

    def is_long(self, key: Hashable) -> bool:
        """Say whether one task of a key is worth a message of its own."""
        known = self._keys.get(key)
        mean_s = None if known is None else known.estimate.mean_s
        return mean_s is None or mean_s >= self.floor_s

    def mean_s(self, key: Hashable) -> float | None:
        """Return the estimated cost of one task in seconds, None while unknown."""
        known = self._keys.get(key)
        return None if known is None else known.estimate.mean_s

    def largest_batch(self, key: Hashable) -> int:
        """Return the size of the largest batch of a key that has come back."""
        known = self._keys.get(key)
        return 0 if known is None else known.estimate.largest_batch

    def may_take_back(self) -> bool:
        """Say whether `rebalance` might want anything: a worker and a CPU are free."""
        has_cpu = self._cpus_in_use + EPSILON < self.num_cpus or self._has_free_keys
        return has_cpu and (bool(self._idle) or self._num_unborn() > 0)

    def rebalance(self, progress: Mapping[int, Progress]) -> list[TakeBack]:
        """Return what to take back, given the progress of busy workers.

        Nothing is taken while no worker is free.
        """
        if not progress:
            return []
        room = self.num_cpus - self._cpus_in_use
        slots = len(self._idle) + self._num_unborn()
        slots_without_cpu = MAX_EXTRA_WORKERS - self._num_without_cpu()
        takes: list[TakeBack] = []
        rests_s = {worker: self._rest_s(worker, seen.unstarted) for worker, seen in progress.items()}
        # As for batches: of much work on many workers, small takes would keep the driver busy for longer.
        rest_s = min(self.floor_s, (self._pair_s * sum(rests_s.values())) ** 0.5)
        least_s = max(2 * (2 * self.costs.round_trip_s + self._pair_s), rest_s)
        for worker in sorted(progress, key=rests_s.__getitem__, reverse=True):
            seen = progress[worker]
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
            free = seen.unstarted - seen.tied
            spare = free if has_begun else free - 1
            is_late = known.is_blocked or seen.running_s > 2 * mean_s + 4 * self.costs.round_trip_s
            worth_s = (spare + 1) // 2 * mean_s
            if is_late and seen.running_s > self.floor_s:
                if not known.is_blocked and len(known.held) == 1:  # it has told its cost without an end
                    (name,) = known.held
                    self._keys[name].estimate.jump(seen.running_s)
                takes.append(TakeBack(worker, seen.unstarted))
            elif worth_s >= least_s:
                takes.append(TakeBack(worker, seen.tied + (spare + 1) // 2))
            else:
                continue
            slots -= 1
            slots_without_cpu -= not need
            room -= need
        return takes

    # -- packing ---------------------------------------------------------------------------------------

    def _send_home(self, sends: list[Send], waiting: bool) -> None:
        """Give tasks with a large input to the worker that has it, where that one is free."""
        for name in list(self._turn):
            home = self._keys[name].home
            if home is not None and home in self._idle:
                send = self._pack(home, self._workers[home], waiting, (name,))
                if send is not None:
                    sends.append(send)

    def _send_ahead(self, sends: list[Send], waiting: bool) -> None:
        """Put a second batch behind those that will soon be done."""
        turn, half = self._turn, self._half
        refused: list[int] = []
        while turn and half and len(refused) < MAX_MISFITS:
            worker = next(iter(half))
            known = self._workers[worker]
            if self._held_s(known) > 1.5 * self.quantum_s:
                del half[worker]  # until it reports
                continue
            send = self._pack(worker, known, waiting, turn)
            if send is None:
                del half[worker]
                refused.append(worker)
            else:
                sends.append(send)
        half.update(dict.fromkeys(refused))  # last in line, so that others have their turn

    def _pack(self, worker: int, known: _Worker, waiting: bool, names: Iterable[Hashable]) -> Send | None:
        """Fill a batch for a worker with what is ready, keys in turn; None if it is not worth a message."""
        is_idle = not known.held
        budget_s = min(
            self.quantum_s, max(self._ready_s / (2 * max(1.0, self.num_cpus)), self._batch_floor_s)
        )
        parts: list[tuple[Hashable, int]] = []
        total, worth_s, batch_cpus, misfits = 0, 0.0, 0.0, 0
        other: Hashable | None = None
        for name in names:
            key = self._keys[name]
            mean_s = key.estimate.mean_s
            if not parts:
                if not self._fits(known, key):
                    continue
                if mean_s is None or key.limit or key.is_suspect:
                    count = self._alone(key, is_idle, waiting)
                    if count:
                        return self._commit(worker, known, [(name, count)], count * (mean_s or 0.0), 0.0)
                    continue
                batch_cpus = key.cpus
                count = min(max(1, int(budget_s / max(mean_s, 1e-8))), self._most(key), key.ready)
            else:
                if misfits >= MAX_MISFITS:
                    break
                if mean_s is None or key.limit or key.is_suspect or not may_share(key.cpus, batch_cpus):
                    misfits += 1
                    other = name if other is None else other
                    continue
                fit = int((budget_s - worth_s) / max(mean_s, 1e-8))
                count = min(fit, self._most(key), key.ready, self.max_batch - total)
                if not count:
                    misfits += 1
                    other = name if other is None else other
                    continue
            parts.append((name, count))
            total += count
            worth_s += count * mean_s
            if worth_s >= 0.9 * budget_s or total >= self.max_batch:
                break
        if not parts:
            return None
        if not self._is_worth_it(total, worth_s, is_idle, waiting):
            # One key's crumbs must not stand in the way of a long task, or of a probe, behind them.
            return None if other is None else self._pack(worker, known, waiting, (other,))
        return self._commit(worker, known, parts, worth_s, budget_s)

    def _is_worth_it(self, total: int, worth_s: float, is_idle: bool, waiting: bool) -> bool:
        """Say whether a batch is worth its message now; the right to talk early is spent."""
        if not is_idle and worth_s < 0.9 * self._batch_floor_s:  # a whole number of tasks is a little less
            return False
        if waiting or worth_s >= 0.9 * self.quantum_s or total >= self.full_batch:
            return True
        pair_s = 2 * self.costs.message_s
        if not is_idle or worth_s < self.floor_s or self._credit_s < pair_s:
            return False
        self._credit_s -= pair_s
        return True

    def _alone(self, key: _Key, is_idle: bool, waiting: bool) -> int:
        """Return how many tasks of a key go out now that shares a batch with no other, 0 for none."""
        if key.is_suspect:
            return int(is_idle)
        if key.limit:
            if not waiting and key.ready < key.limit:
                return 0
            return min(key.limit, key.ready)
        if not is_idle or key.probes >= key.max_probes:
            return 0
        if key.probes and not waiting:
            if self._credit_s < self.costs.message_s:
                return 0
            self._credit_s -= self.costs.message_s
        return 1

    def _most(self, key: _Key) -> int:
        """Return how many tasks of a key a batch may hold, by what has come back so far."""
        mean_s = max(key.estimate.mean_s or 0.0, 1e-8)
        return min(max(2 * key.estimate.largest_batch, int(self._batch_floor_s / mean_s) + 1), self.max_batch)

    def _room_for(self, name: Hashable) -> tuple[float | None, int]:
        """Return a key's mean cost in seconds, and how many tasks of it may follow in one batch."""
        key = self._keys.get(name)
        if key is None or key.estimate.mean_s is None:
            return None, 1
        if key.limit or key.is_suspect:
            return key.estimate.mean_s, 0
        return key.estimate.mean_s, self._most(key)

    def _commit(
        self,
        worker: int,
        known: _Worker,
        parts: list[tuple[Hashable, int]],
        worth_s: float,
        budget_s: float,
    ) -> Send:
        if worker not in self._workers:
            self._workers[worker] = known
            self._next_worker = worker + 1
        for name, count in parts:
            key = self._keys[name]
            left = key.ready - count
            self._leave_turn(name, key)
            key.ready = left
            if left:
                self._turn[name] = None
                self._num_homed += key.home is not None
        self._ready_s = max(0.0, self._ready_s - worth_s)
        self._hold(worker, parts)
        return Send(worker, parts, worth_s, budget_s)

    def _fits(self, known: _Worker, key: _Key) -> bool:
        if known.held:
            return may_share(key.cpus, known.cpus)
        if not key.cpus:
            return self._num_without_cpu() < MAX_EXTRA_WORKERS  # they must leave room for the others
        return self._cpus_in_use + key.cpus <= self.num_cpus + EPSILON

    # -- books -----------------------------------------------------------------------------------------

    def _learn_key(
        self,
        name: Hashable,
        cpus: float,
        cost: Hashable | None = None,
        limit: int = 0,
        home: int | None = None,
    ) -> _Key:
        estimate = self.estimates.of(name if cost is None else cost)
        assumed = self._keys.get(name)
        key = self._keys[name] = _Key(cpus, estimate, limit, home)
        self._has_free_keys |= not cpus
        if assumed is not None:
            key.probes, key.is_suspect = assumed.probes, assumed.is_suspect
        return key

    def _assume_key(self, name: Hashable, cpus: float) -> _Key:
        key = self._learn_key(name, cpus)
        key.is_assumed = True
        return key

    def _leave_turn(self, name: Hashable, key: _Key) -> None:
        del self._turn[name]
        self._num_homed -= key.home is not None

    def _earn(self, spent_s: float) -> None:
        self._credit_s = min(self._credit_s + SHARE * spent_s, 8 * self.costs.message_s)

    def _hold(self, worker: int, parts: list[tuple[Hashable, int]]) -> None:
        known = self._workers.get(worker)
        if known is None:
            known = self._workers[worker] = _Worker()
            self._next_worker = max(self._next_worker, worker + 1)
        known.sends += 1
        cpus = known.cpus
        for name, count in parts:
            key = self._keys.get(name) or self._assume_key(name, 1.0)
            known.held[name] = known.held.get(name, 0) + count
            key.probes += count
            cpus = max(cpus, key.cpus)
        self._occupy(known, cpus)
        self._file(worker, known)

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
        if known.sends == 1:
            self._file(worker, known)

    def _file(self, worker: int, known: _Worker) -> None:
        """Keep the lists of workers that may be sent something."""
        if known.sends != 1 or known.held or known.is_blocked:
            self._drained.pop(worker, None)
        else:
            self._drained[worker] = None
        if known.is_blocked or known.sends > 1:
            self._idle.pop(worker, None)
            self._half.pop(worker, None)
        elif known.sends:
            self._idle.pop(worker, None)
            self._half[worker] = None
        else:
            self._half.pop(worker, None)
            self._idle[worker] = None

    def _occupy(self, known: _Worker, cpus: float) -> None:
        if not known.is_blocked:
            self._cpus_in_use += cpus - known.cpus
        known.cpus = cpus

    def _held_s(self, known: _Worker) -> float:
        total_s = 0.0
        for name, count in known.held.items():
            mean_s = self._keys[name].estimate.mean_s
            total_s += count * (self.quantum_s if mean_s is None else mean_s)
        return total_s

    def _mean_held_s(self, known: _Worker) -> float:
        count = sum(known.held.values())
        return self._held_s(known) / count if count else 0.0

    def _rest_s(self, worker: int, unstarted: int) -> float:
        known = self._workers.get(worker)
        return unstarted * self._mean_held_s(known) if known else 0.0

    def _num_without_cpu(self) -> int:
        return sum(1 for w in self._workers.values() if w.sends and not w.cpus and not w.is_blocked)

    def _num_unborn(self) -> int:
        """Return how many workers may still be started."""
        awake = len(self._workers) - self._num_blocked
        return int(self.num_cpus) + 2 * MAX_EXTRA_WORKERS - awake
