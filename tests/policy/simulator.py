"""The real `Policy` in virtual time: a driver and workers that act on it as `engine` does.

One heap of (time, sequence) events. The driver is a serial resource: it submits, reads, sends, and looks
around every `TICK_S`. A worker is a generator (`virtual_worker`). Nothing here is random but who dies.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from grainwise.engine.driver.backstop import TICK_S
from grainwise.engine.driver.dispatcher import BLOCK_S
from grainwise.engine.driver.nested import IN_PLACE_S
from grainwise.engine.worker.reporting import intervals
from grainwise.grain.costs import Costs
from grainwise.grain.policy import Policy, Progress, Send
from grainwise.grain.roster import MAX_EXTRA_WORKERS
from tests.policy.virtual_worker import Batch, Burst, Task, Wait, Worker

STUCK_S = 20.0
FEW = 64
"""So many workers can be looked at after each event."""
TINY = 1e-9
WARM_S = 1e-3
"""A message that comes so soon after another finds warm caches."""


class Simulation:
    """A program that submits `bursts` and then waits for everything.

    Attributes:
        costs: what messages cost in this world; by default what the policy assumes.
        warm_message_s: what a message costs that soon follows another; by default the same.
        has_driver_cpu: the driver has a CPU of its own; else what it does for a batch takes a worker's time.
        trace: what the driver sent and took back: (time, what, worker, key, count).
        crumbs: batches sent while it submitted that were not worth a message.
        coexisted_s: how long, at most, a waiting driver had a free CPU beside one task not begun.
        most_held_s: the most estimated work that a worker was left with by a send, its longest task aside.
    """

    def __init__(
        self, bursts: Sequence[Burst], num_cpus: float, cpus: Mapping[Hashable, float] | None = None,
        deaths: Sequence[float] = (), seed: int = 0, policy: Policy | None = None,
        costs: Costs | None = None, has_driver_cpu: bool = True, warm_message_s: float | None = None,
    ) -> None:  # fmt: skip
        self.policy = policy or Policy(num_cpus)
        self.costs = costs or self.policy.costs
        self.warm_message_s = self.costs.message_s if warm_message_s is None else warm_message_s
        self._last_message_s = -1.0
        self.has_driver_cpu = has_driver_cpu
        self.cpus = cpus or {}
        # What workers are told not to undercut: the reports of all must not keep the driver busy.
        policy = self.policy
        self.report_s, self.eager_s = intervals(num_cpus, policy.quantum_s, policy.costs.message_s)
        self.now = self.busy_until = self.coexisted_s = self.most_held_s = 0.0
        self.trace: list[tuple[float, str, int, int, int]] = []
        self.crumbs: list[Send] = []
        self.num_taken = self.num_deaths = self.num_left = self.num_resolved = 0
        self.tasks: list[Task] = []
        self.workers: dict[int, Worker] = {}
        self.mail: dict[Worker, None] = {}
        self.open: dict[int, deque[Task]] = {}
        self._rng = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_events = self._next_seq = self._num_sent = self._rounds = self._seen = self._last_round = 0
        self._send_at: dict[int, int] = {}
        self._active: dict[int, None] = {}
        self._suspects: set[int] = set()
        self._bursts = deque((burst.time_s, deque(map(self.register, burst.tasks))) for burst in bursts)
        self._is_waiting = self._is_silent = self._is_pump_due = False
        self._coexisting: dict[Task, float] = {}
        self._next_check_s = 0.0
        for time_s in deaths:
            self.at(time_s, self.die, None)

    # -- time ------------------------------------------------------------------------------------------

    def at(self, time_s: float, action: Callable[..., None], *args: Any) -> None:
        self._num_events += 1
        heapq.heappush(self._heap, (time_s, self._num_events, action, args))

    def run(self) -> float:
        """Run to the end and return the time that it took, in seconds."""
        self.at(0.0, self._submit)
        self.at(TICK_S, self._tick)
        moved = 0, 0.0
        while self.num_left:
            self.now, _, action, args = heapq.heappop(self._heap)
            action(*args)
            if self.num_resolved != moved[0] or self._bursts:
                moved = self.num_resolved, self.now
            assert self.now - moved[1] < STUCK_S, f"stuck with {self.num_left} of {len(self.tasks)} tasks"
        return self.now

    def _spend(self, time_s: float) -> None:
        self.busy_until = max(self.busy_until, self.now) + time_s

    def _message_s(self) -> float:
        """Return what the next message costs: less if the last one has left the caches warm."""
        last_s, self._last_message_s = self._last_message_s, max(self.busy_until, self.now)
        return self.warm_message_s if self._last_message_s - last_s < WARM_S else self.costs.message_s

    def stolen_s(self, count: int) -> float:
        """Return what the driver takes of a worker's time for a batch of so many tasks."""
        return 0.0 if self.has_driver_cpu else 2 * self._message_s() + count * self.costs.finish_s

    def register(self, task: Task) -> Task:
        self.tasks.append(task)
        self.num_left += 1
        self.open.setdefault(task.key, deque())
        self._send_at.setdefault(task.key, 1)
        return task

    # -- the driver, as `submissions`, `driver` and `backstop` do it -----------------------------------

    def _submit(self) -> None:
        if self.now < self.busy_until:
            self.at(self.busy_until, self._submit)
            return
        tasks = self._bursts[0][1]
        for _ in range(1000):
            if not tasks:
                break
            task = tasks.popleft()
            task.is_submitted = True
            self._spend(self.costs.submit_s)
            if task.num_missing:
                continue  # whoever resolves the last of its inputs queues it
            self.open[task.key].append(task)
            if len(self.open[task.key]) >= self._send_at[task.key]:
                self._look_at(task.key)
                break
        if not tasks:
            self._bursts.popleft()
        self._is_waiting = not self._bursts
        if self._is_waiting:
            self._pump()
        else:
            self.at(max(self.busy_until, self._bursts[0][0]), self._submit)

    def _tick(self) -> None:
        seen = len(self.trace) + sum(len(self.open[key]) for key in self._active)
        self._is_silent, self._seen = seen == self._seen, seen
        if self._is_waiting or self._rounds == self._last_round:
            self._pump()
        self._last_round = self._rounds
        self.at(self.now + TICK_S, self._tick)

    def post(self, worker: Worker, message: tuple[Any, ...]) -> None:
        """A worker sends to the driver."""

        def arrive() -> None:
            worker.inbox.append(message)
            self.mail[worker] = None
            if self._is_waiting:
                self._pump()

        self.at(self.now + self.costs.round_trip_s / 2, arrive)

    def _pump(self) -> None:
        if self.now < self.busy_until:
            if not self._is_pump_due:
                self._is_pump_due = True
                self.at(self.busy_until, self._pump_late)
            return
        self._rounds += 1
        mail, self.mail = self.mail, {}
        for worker in mail:
            self._read(worker)
        is_waiting = self._is_waiting or self._is_silent
        self.dispatch(is_waiting)
        if is_waiting and self._num_sent and self.policy.may_take_back():
            self._rebalance()
        if self._is_waiting and (len(self.workers) <= FEW or self.now >= self._next_check_s):
            self._next_check_s = self.now + TICK_S
            self._check_coexistence()

    def _pump_late(self) -> None:
        self._is_pump_due = False  # it may be busy again by now
        self._pump()

    def _look_at(self, key: int) -> None:
        self._active[key] = None
        enough = self.policy.next_look(key)
        if len(self.open[key]) >= enough or self.policy.is_long(key):
            self.dispatch(waiting=False)
        else:
            self._send_at[key] = enough

    # -- sending, as `dispatcher` does it --------------------------------------------------------------

    def dispatch(self, waiting: bool) -> None:
        policy = self.policy
        if self._active and not (waiting and len(self._active) == 1 and self._dispatch_lone()):
            for key in self._active:
                policy.ready(key, len(self.open[key]), self._cpus_of(key))
            for send in policy.dispatch(waiting):
                if not waiting and not self._is_worth_it(send):
                    self.crumbs.append(send)
                self._send(send)
            for key in list(self._active):
                left = len(self.open[key])
                self._send_at[key] = left + policy.next_look(key) if left else 1
                if not left:
                    del self._active[key]
                    policy.ready(key, 0)

    def _dispatch_lone(self) -> bool:
        (key,) = self._active
        cpus = self._cpus_of(key)
        worker = self.policy.lone(key, cpus) if cpus and len(self.open[key]) == 1 else None
        if worker is None:
            return False
        self._active.clear()
        self._send_at[key] = 1
        self._send(Send(worker, [(key, 1)], self.policy.mean_s(key) or 0.0, self.policy.floor_s))
        return True

    def _is_worth_it(self, send: Send) -> bool:
        policy = self.policy
        return (
            send.count >= policy.full_batch
            or send.worth_s >= policy.floor_s
            or any(policy.mean_s(key) is None or key in self._suspects for key, _ in send.parts)
        )

    def _send(self, send: Send) -> None:
        policy = self.policy
        worker = self.workers.get(send.worker)
        if worker is None:
            worker = self.workers[send.worker] = Worker(self, send.worker)
        cpus = max(self._cpus_of(key) for key, _ in send.parts)
        if not worker.batches and len(self.workers) <= FEW:
            in_use = self.cpus_in_use()
            assert in_use + cpus <= policy.num_cpus + TINY, f"{in_use} CPUs are in use"
        items = list[Task]()
        for key, count in send.parts:
            left = count
            while self.open[key] and left:
                task = self.open[key].popleft()
                if not task.is_sent and not task.num_results:
                    task.is_sent = True
                    items.append(task)
                    left -= 1
            if left:
                policy.returned(send.worker, key, left)
        if not items:
            policy.ended(send.worker)
            return
        for task in policy.follow(send, items, self._may_follow, _num_missing, self._key_of):
            task.is_sent = True
            items.append(task)
        self._send_batch(worker, items, cpus)

    def _may_follow(self, task: Task) -> list[Task]:
        return [each for each in task.dependents if each.is_submitted and not each.is_sent]

    def _key_of(self, task: Task) -> tuple[int, float]:
        return task.key, self._cpus_of(task.key)

    def _cpus_of(self, key: Hashable) -> float:
        return self.cpus.get(key, 1.0)

    def _send_batch(self, worker: Worker, items: list[Task], cpus: float, in_place: bool = False) -> None:
        key = items[0].key
        hints = {key: self._hint(key) for key in {task.key for task in items}}
        self._next_seq += 1
        batch = Batch(self._next_seq, items, hints, in_place, cpus)
        batch.is_eager = any(self._may_follow(task) for task in items[:-1])
        before = set[Task]()
        for task in items:
            assert task.num_missing <= len(task.inputs), "an input counted twice"
            if task.num_missing:
                assert all(each.num_results or each in before for each in task.inputs), "an input is missing"
            if task.dependents:
                before.add(task)
        if not worker.batches:
            worker.progress = (-1, -1, 0.0)  # its time of rest is no run time
        worker.batches[batch.seq] = batch
        assert in_place or len(worker.batches) <= 2, "a worker holds more than two batches"
        if not worker.stack:
            self._measure_held(worker)
        self._num_sent += 1
        self.trace.append((self.now, "send", worker.number, key, len(items)))
        self._spend(self._message_s())
        self.at(self.busy_until + self.costs.round_trip_s / 2, worker.deliver, batch)

    def _hint(self, key: int) -> int:
        mean_s = self.policy.mean_s(key)
        if mean_s is None:
            return 1
        return min(int(BLOCK_S / max(mean_s, 1e-8)), 4 * self.policy.largest_batch(key))

    def _measure_held(self, worker: Worker) -> None:
        held_s, longest_s = 0.0, 0.0
        for batch in worker.batches.values():
            for key, count in Counter(task.key for task in batch.items[batch.base : batch.stop]).items():
                mean_s = self.policy.mean_s(key) or 0.0
                held_s, longest_s = held_s + count * mean_s, max(longest_s, mean_s)
        self.most_held_s = max(self.most_held_s, held_s - longest_s)

    def _rebalance(self) -> None:
        progress = {}
        for worker in self.workers.values():
            unstarted = tied = 0
            for batch in worker.batches.values() if worker.is_up else ():
                if not batch.is_blocked:
                    rest = batch.items[max(batch.claim, batch.base) : batch.stop]
                    unstarted += len(rest)
                    tied += sum(1 for task in rest if task.num_missing)
            if unstarted:
                running = worker.batch
                mark = (0, 0) if running is None else (running.seq, running.done(self.now))
                if mark != worker.progress[:2]:
                    worker.progress = (*mark, self.now)
                progress[worker.number] = Progress(unstarted, self.now - worker.progress[2], tied)
        num_taken = self.num_taken
        for take in self.policy.rebalance(progress) if progress else ():
            self._take_back(self.workers[take.worker], take.count)
        if self.num_taken > num_taken:
            self.dispatch(waiting=True)

    def _take_back(self, worker: Worker, count: int) -> None:
        for batch in reversed(list(worker.batches.values())):
            start = max(batch.claim, batch.base, batch.stop - count)
            if batch.is_blocked or start >= batch.stop:
                continue
            batch.limit = start
            count -= batch.stop - start
            self.num_taken += batch.stop - start
            self.trace.append((self.now, "take", worker.number, batch.items[start].key, batch.stop - start))
            self._spend(self._message_s())
            self._requeue(worker, batch, start)

    def _requeue(self, worker: Worker, batch: Batch, start: int) -> None:
        items, batch.stop = batch.items[start : batch.stop], start
        for key, count in Counter(task.key for task in items).items():
            self.policy.returned(worker.number, key, count)
        self._queue_first(items)

    def _queue_first(self, items: list[Task]) -> None:
        """Put tasks back to the front; those whose inputs are missing wait for them again."""
        for task in reversed(items):
            if not task.num_results:
                task.is_sent = False
                if not task.num_missing:
                    self.open[task.key].appendleft(task)
                    self._active[task.key] = None

    # -- receiving, as `results` and `nested` do it ----------------------------------------------------

    def _read(self, worker: Worker) -> None:
        while worker.inbox:
            kind, *rest = worker.inbox.popleft()
            self._spend(self._message_s())
            if kind == "results":
                self._on_results(worker, *rest)
            else:
                self._on_want(worker, *rest)

    def _on_results(
        self, worker: Worker, seq: int, start: int, end: int, times: dict[int, tuple[int, float, float]],
        stopped: int,
    ) -> None:  # fmt: skip
        batch = worker.batches[seq]
        counts = Counter(task.key for task in batch.items[start:end])
        for task in batch.items[start:end]:
            self._spend(self.costs.finish_s)
            self._resolve(task)
        batch.base = end
        for key in counts | times:
            self.policy.finished(worker.number, key, counts[key], *times.get(key, (0, 0.0, 0.0)))
            if key in self._suspects and counts[key]:
                self._suspects.discard(key)
                self.policy.suspect(key, False)
        if stopped >= 0:
            del worker.batches[seq]
            self._num_sent -= 1
            if stopped < batch.stop:
                self._requeue(worker, batch, stopped)
            self.policy.ended(worker.number)
            if worker.stack:
                self._count_blocked(worker)
                self._offer(worker)

    def _resolve(self, task: Task) -> None:
        if task.num_results:
            return
        task.num_results += 1
        self.num_left -= 1
        self.num_resolved += 1
        for each in task.dependents:
            each.num_missing -= 1
            if not each.num_missing and each.is_submitted and not each.is_sent:
                self.open[each.key].append(each)
                self._active[each.key] = None
        wait = task.waiter
        if wait is not None:
            wait.num_left -= 1
            if not wait.num_left and not wait.worker.is_dead:
                wait.worker.stack.remove(wait)
                wait.worker.batches[wait.seq].is_blocked = False
                self._count_blocked(wait.worker)
                self._spend(self._message_s())
                self.at(self.busy_until + self.costs.round_trip_s / 2, wait.worker.deliver, wait.tasks)

    def _on_want(self, worker: Worker, seq: int, index: int, children: list[Task]) -> None:
        wait = Wait(worker, seq, children)
        for task in reversed(children):
            task.parent, task.waiter, task.is_submitted = worker, wait, True
            self.open[task.key].appendleft(task)
            self._active[task.key] = None
        for batch in list(worker.batches.values()):
            if batch.seq == seq:
                if index + 1 < batch.stop:
                    self._requeue(worker, batch, index + 1)
            elif batch.seq > seq and not batch.is_blocked and batch.stop:
                batch.limit = 0
                self._requeue(worker, batch, batch.base)
        worker.batches[seq].is_blocked = True
        worker.stack.append(wait)
        self._count_blocked(worker)
        self._offer(worker)

    def _count_blocked(self, worker: Worker) -> None:
        is_running = any(batch.in_place and not batch.is_blocked for batch in worker.batches.values())
        if worker.stack and not is_running:
            self.policy.blocked(worker.number)
        else:
            self.policy.resumed(worker.number)

    def _offer(self, worker: Worker) -> None:
        """Send a blocked worker children of its own, to run on top of the task that waits for them."""
        if not worker.stack or any(b.in_place and not b.is_blocked for b in worker.batches.values()):
            return
        wanted = worker.stack[-1].tasks
        chosen = [t for t in wanted if not t.is_sent and not t.num_results and t.key not in self._suspects]
        if not chosen:
            return
        key = chosen[0].key
        mean_s = self.policy.mean_s(key)
        share = len(wanted) / (2 * self.policy.num_cpus)
        room = 1 if mean_s is None else max(1, int(min(IN_PLACE_S / max(mean_s, 1e-8), share)))
        chosen = [task for task in chosen if task.key == key][:room]
        for task in chosen:
            task.is_sent = True
        self.policy.resumed(worker.number)
        self.policy.sent(worker.number, key, len(chosen))
        self._send_batch(worker, chosen, self._cpus_of(key), in_place=True)

    # -- dying, as `crash` does it ---------------------------------------------------------------------

    def die(self, worker: Worker | None) -> None:
        """End a worker (any that is up, if None); the driver hears of it a little later."""
        alive = [each for each in self.workers.values() if each.is_up and not each.is_dead]
        if worker is None and alive:
            worker = self._rng.choice(alive)
        if worker is not None:
            self.num_deaths += 1
            worker.is_dead = True
            batch = worker.batch
            if batch is not None:
                begun = batch.done(self.now)
                for task in batch.items[begun + 1 : len(batch.ends)]:
                    task.num_runs -= 1  # of the block that was under way, it had not come to these
            self.at(self.now + 1e-3, self._on_death, worker, None if batch is None else (batch.seq, begun))

    def _on_death(self, worker: Worker, running: tuple[int, int] | None) -> None:
        self._read(worker)
        self._num_sent -= len(worker.batches)
        for batch in reversed(list(worker.batches.values())):
            rest = batch.items[batch.base : batch.stop]
            if running is not None and running[0] == batch.seq and batch.base <= running[1] < batch.stop:
                suspect = batch.items[running[1]].key
                self._suspects.add(suspect)
                self.policy.suspect(suspect, True)
            self._queue_first(rest)
        self.policy.died(worker.number)
        del self.workers[worker.number]
        self._pump()

    # -- what must hold --------------------------------------------------------------------------------

    def cpus_in_use(self) -> float:
        """Return what the workers occupy that are not blocked, by the batch that each runs or will run."""
        in_use = 0.0
        for worker in self.workers.values():
            live = [b.cpus for b in worker.batches.values() if b.base < b.stop and not b.is_blocked]
            if live:
                in_use += live[-1 if worker.stack else 0]
        return in_use

    def _check_coexistence(self) -> None:
        """Measure how long a free CPU and a task that could run and nobody has claimed stand side by side."""
        free = self.policy.num_cpus - self.cpus_in_use()
        busy = [worker.batches for worker in self.workers.values() if worker.batches]
        num_without_cpu = sum(not next(iter(batches.values())).cpus for batches in busy)
        is_worker_free = len(busy) < len(self.workers) and num_without_cpu < MAX_EXTRA_WORKERS
        found: dict[Task, float] = {}
        for task in self._unclaimed() if free > TINY or is_worker_free else ():
            need = self._cpus_of(task.key)
            if need <= free + TINY and (need or is_worker_free):
                found[task] = self._coexisting.get(task, self.now)
        self._coexisting = found
        self.coexisted_s = max(self.coexisted_s, self.now - min(found.values(), default=self.now))

    def _unclaimed(self) -> Iterator[Task]:
        for queue in self.open.values():
            for task in queue:
                if not task.is_sent and not task.num_results and task.key not in self._suspects:
                    yield task
        for worker in self.workers.values():
            for batch in worker.batches.values() if worker.is_up else ():
                if not batch.is_blocked:
                    for task in islice(batch.items, max(batch.claim, batch.base), batch.stop):
                        if not task.num_missing and task.key not in self._suspects:
                            yield task


def _num_missing(task: Task) -> int:
    return task.num_missing
