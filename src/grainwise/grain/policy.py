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
6. *Followers.* A task whose missing inputs are all results of one batch joins that batch (`follow`): up to a
   quantum in a chain; of siblings up to the fair share, and the crumbs beyond it. A task with a large input
   goes to the worker that has it (`home`), if that one is free.
7. *Failures.* A key whose task has killed a worker goes out alone, one task at a time, until one succeeds.
8. *Environments.* A worker serves one of them. While several have something ready, they take turns at the
   CPUs and nobody is two deep.

Guarantee: a free worker and an un-started task that could run never coexist after `dispatch(waiting=True)`
followed by `rebalance` with the victims' progress, save for the tasks that a worker has claimed for its
current sub-block (some 200 us of estimated work). The bound on the makespan and its proof stand in
docs/internals/granularity.md.

The idea is that of Nagle (1984), guided self-scheduling (Polychronopoulos and Kuck 1987), factoring
(Hummel, Schonberg and Flynn 1992) and lazy splitting on demand (Tzannes 2010), adapted to workers that
can't hear anything while they run somebody's code.
"""

from __future__ import annotations

from .costs import Costs
from .fusion import EPSILON, find_followers, may_share
from .instructions import Progress, Send, TakeBack
from .keys import Keys
from .packing import MAX_MISFITS, Packer
from .roster import Roster, Worker
from .sizes import MAX_BATCH, MIN_MEAN_S, Sizes
from .take_back import Rebalancer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from typing import TypeVar

    from .lines import Line

    Task = TypeVar("Task", bound=Hashable)

__all__ = ["Policy", "Progress", "Send", "TakeBack", "may_share"]


class Policy:
    """Decides what goes where. Not thread-safe: one owner at a time.

    Args:
        num_cpus: how many CPUs' worth of tasks may run at once.
        costs: what messages cost.
        max_batch: tasks of a batch at most.

    Attributes:
        floor_s: what a batch is worth at least while there is plenty, in seconds.
        quantum_s: what a batch is worth at most.
        full_batch: tasks of a batch that is worth its message however quick they are.
        estimates: what tasks cost.
    """

    def __init__(self, num_cpus: float, costs: Costs | None = None, max_batch: int = MAX_BATCH) -> None:
        self.num_cpus = num_cpus
        self.costs = costs = costs or Costs()
        self.max_batch = max_batch
        sizes = Sizes(num_cpus, costs, max_batch)
        self.floor_s, self.quantum_s, self.full_batch = sizes.floor_s, sizes.quantum_s, sizes.full_batch
        self._least_s = sizes.least_s
        self._keys = keys = Keys(sizes.quantum_s)
        self.estimates = keys.estimates
        self._roster = roster = Roster(num_cpus, keys, sizes.quantum_s)
        self._packer = Packer(sizes, keys, roster)
        self._rebalancer = Rebalancer(sizes, keys, roster)

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
        is_alone: bool = False,
        max_workers: int = 0,
        environment: Hashable | None = None,
    ) -> None:
        """Set how many tasks of a key are ready to be sent now.

        Args:
            key: of what.
            count: how many.
            cpus: what one of them occupies while it runs.
            cost: whose estimates it shares; its own by default.
            limit: tasks per batch as the user wants it; 0 leaves it to the rules.
            home: the worker that has their large input.
            is_alone: its batches hold nothing else.
            max_workers: so many workers may hold tasks of it at once; 0 for all.
            environment: where it runs, None for the program's own environment.
        """
        more = self._keys.set_ready(key, count, cpus, cost, limit, home, is_alone, max_workers, environment)
        if more > 0:
            self._packer.earn(more * self.costs.submit_s)

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
        roster, keys = self._roster, self._keys
        roster.release(worker, key, count)
        self._packer.earn(count * self.costs.finish_s)
        estimate = (keys.known.get(key) or keys.assume(key, 1.0)).estimate
        if num_timed:
            estimate.learn(num_timed, total_s, worst_s, self.quantum_s)
        known = roster.workers.get(worker)
        if known is not None and count:
            known.back[key] = count = known.back.get(key, 0) + count
            if count > estimate.largest_batch:
                estimate.largest_batch = count

    def returned(self, worker: int, key: Hashable, count: int) -> None:
        """Note that tasks that a worker held are ready again, not run."""
        self._roster.release(worker, key, count)

    def ended(self, worker: int) -> None:
        """Note that a batch of a worker has ended."""
        self._roster.end(worker)

    def blocked(self, worker: int) -> None:
        """Note that a worker's task waits for others: it lends its CPUs."""
        self._roster.block(worker)

    def resumed(self, worker: int) -> None:
        """Note that a worker's task goes on."""
        self._roster.resume(worker)

    def needed(self, key: Hashable, change: int) -> bool:
        """Note that so many more blocked tasks, below 0 fewer, wait for tasks of a key, which goes ahead.

        Returns:
            Whether the key is known; if not, nothing was noted.
        """
        return self._keys.needed(key, change)

    def sent(self, worker: int, key: Hashable, count: int) -> None:
        """Note that the engine sent tasks by itself (a blocked worker runs its own children in place)."""
        self._roster.hold(worker, [(key, count)])

    def died(self, worker: int) -> None:
        """Forget a worker that is gone; what it held is reported by `ready` again."""
        self._roster.remove(worker)

    def reserve(self, cpus: float) -> None:
        """Note that something else occupies CPUs, as actors do; below 0 it gives them back."""
        self._roster.use(cpus)

    def cpus_in_use(self) -> float:
        """Return how many CPUs tasks occupy that are not blocked, and what is reserved."""
        return self._roster.cpus_in_use

    def hold_back(self, is_needed: bool) -> None:
        """Send nothing behind what runs: something else has reserved CPUs and waits for them to be free."""
        self._roster.holds_back = is_needed

    def suspect(self, key: Hashable, is_suspect: bool) -> None:
        """Note that a task of a key has killed a worker, or that one has succeeded since."""
        known = self._keys.known.get(key)
        if known is not None:
            known.is_suspect = is_suspect

    def forget(self, key: Hashable) -> None:
        """Forget a key that is gone; nothing of it may be ready or held."""
        self._keys.forget(key)

    def surplus(self) -> list[int]:
        """Return idle workers beyond what the CPUs can keep busy, latest first; the engine may end them."""
        return self._roster.surplus()

    def crowd(self) -> list[int]:
        """Return idle workers that the engine should end as it starts another, oldest first.

        Those of one environment stay warm while another is in use, but not without limit.
        """
        return self._roster.crowd() if len(self._keys.lines) > 1 else []

    # -- instructions ----------------------------------------------------------------------------------

    def dispatch(self, waiting: bool) -> list[Send]:
        """Return what to send now.

        Args:
            waiting: the driver waits for results or has fallen silent; false while it still submits.
        """
        sends: list[Send] = []
        keys = self._keys
        lines = [line for line in keys.lines.values() if line.turn]
        if not lines:
            return sends
        self._packer.begin(waiting)
        if keys.num_homed:
            self._send_home(sends, waiting)
        for line in lines:
            before = len(sends)
            self._fill(line, sends, waiting)
            if len(lines) > 1 and len(sends) > before:
                keys.pass_turn(line)
        if len(lines) == 1:
            self._send_ahead(lines[0], sends, waiting)
        return sends

    def _fill(self, line: Line, sends: list[Send], waiting: bool) -> None:
        """Give what is ready in a line to its workers that have nothing, and to new ones."""
        roster, pack = self._roster, self._packer.pack
        turn, idle = line.turn, line.idle
        while turn and idle:
            worker = next(reversed(idle))
            send = pack(worker, roster.workers[worker], waiting, turn)
            if send is None:
                break  # what speaks against this one speaks against them all
            sends.append(send)
        for worker in list(line.drained) if turn else ():  # they will be idle before another could start
            send = pack(worker, roster.workers[worker], waiting, turn) if turn else None
            if send is None:
                break
            sends.append(send)
        while turn and roster.num_unborn() > 0:
            send = pack(roster.next_worker, Worker(line), waiting, turn)
            if send is None:
                break
            sends.append(send)

    def lone(self, key: Hashable, cpus: float) -> int | None:
        """Return an idle worker for the only ready task, which counts as sent; None if none is idle.

        What `dispatch` would say, for the round trip of a single task: every instruction on it counts.
        """
        roster = self._roster
        known = self._keys.known.get(key)
        if known is None or known.home is not None or known.max_workers:
            return None  # of what only some workers may hold, `dispatch` knows who
        if roster.cpus_in_use + cpus > self.num_cpus + EPSILON:
            return None
        line = known.line
        if line.turn or not line.idle:
            return None
        worker = next(reversed(line.idle))
        roster.hold(worker, [(key, 1)])
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
        roster = self._roster
        followers = find_followers(
            tasks, dependents, num_missing, key_of, self._packer.room_for, roster.workers[send.worker].cpus,
            self.quantum_s - send.worth_s, min(send.budget_s, self.quantum_s) - send.worth_s, self._least_s,
        )  # fmt: skip
        for task in followers:
            roster.add(send.worker, *key_of(task))
        return followers

    def next_look(self, key: Hashable) -> int:
        """Return how many more tasks of a key must be submitted before `dispatch` is worth a call."""
        mean_s = self._keys.mean_s(key)
        if mean_s is None:
            return 64
        return max(1, min(self.full_batch, int(self.floor_s / max(mean_s, MIN_MEAN_S))))

    def is_long(self, key: Hashable) -> bool:
        """Say whether one task of a key is worth a message of its own."""
        mean_s = self._keys.mean_s(key)
        return mean_s is None or mean_s >= self.floor_s

    def mean_s(self, key: Hashable) -> float | None:
        """Return the estimated cost of one task in seconds, None while unknown."""
        return self._keys.mean_s(key)

    def largest_batch(self, key: Hashable) -> int:
        """Return the size of the largest batch of a key that has come back."""
        known = self._keys.known.get(key)
        return 0 if known is None else known.estimate.largest_batch

    def may_take_back(self) -> bool:
        """Say whether `rebalance` might want anything: a worker and a CPU are free."""
        return self._rebalancer.may_want()

    def rebalance(self, progress: Mapping[int, Progress]) -> list[TakeBack]:
        """Return what to take back, given the progress of busy workers.

        Nothing is taken while no worker is free.
        """
        return self._rebalancer.choose(progress)

    def _send_home(self, sends: list[Send], waiting: bool) -> None:
        """Give tasks with a large input to the worker that has it, where that one is free."""
        roster = self._roster
        for line in self._keys.lines.values():
            for name in list(line.turn):
                home = self._keys.known[name].home
                if home is not None and home in line.idle:
                    send = self._packer.pack(home, roster.workers[home], waiting, (name,))
                    if send is not None:
                        sends.append(send)

    def _send_ahead(self, line: Line, sends: list[Send], waiting: bool) -> None:
        """Put a second batch behind those that will soon be done."""
        roster, turn, half = self._roster, line.turn, line.half
        refused: list[int] = []
        while turn and half and len(refused) < MAX_MISFITS:
            number = next(iter(half))
            worker = roster.workers[number]
            if roster.held_s(worker) > 1.5 * self.quantum_s:
                del half[number]  # until it reports
                continue
            send = self._packer.pack(number, worker, waiting, turn)
            if send is None:
                del half[number]
                refused.append(number)
            else:
                sends.append(send)
        half.update(dict.fromkeys(refused))  # last in line, so that others have their turn
