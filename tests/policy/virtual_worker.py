"""Workers in virtual time: they claim, run, report, give back, wait and die as `engine.worker` does."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from grainwise.engine.worker.loop import BLOCK_S, MAX_BLOCK
from grainwise.engine.worker.reporting import REPORT_S
from grainwise.grain.costs import Costs

NO_LIMIT = 1 << 62
STARTUP_S = 3e-3


class Engine(Protocol):
    """What a worker needs of the simulation that it is in."""

    now: float
    costs: Costs
    report_s: float
    eager_s: float

    def at(self, time_s: float, action: Callable[..., None], *args: Any) -> None: ...
    def post(self, worker: Worker, message: tuple[Any, ...]) -> None: ...
    def register(self, task: Task) -> Task: ...
    def stolen_s(self, count: int) -> float: ...
    def die(self, worker: Worker | None) -> None: ...


class Child(NamedTuple):
    """A task that a task submits and waits for."""

    key: int
    cost_s: float
    children: tuple[Child, ...] = ()


class Task:
    """One call. `kills`: so many of its runs end their worker; `inputs`: tasks whose results it takes."""

    __slots__ = (
        "children",
        "cost_s",
        "dependents",
        "inputs",
        "is_sent",
        "is_submitted",
        "key",
        "kills",
        "num_missing",
        "num_results",
        "num_runs",
        "parent",
        "waiter",
    )

    def __init__(
        self, key: int, cost_s: float, children: Sequence[Child] = (), kills: int = 0,
        inputs: Sequence[Task] = (),
    ) -> None:  # fmt: skip
        self.key, self.cost_s, self.children, self.kills = key, cost_s, children, kills
        self.inputs = tuple(dict.fromkeys(inputs))
        self.dependents: list[Task] = []
        for each in self.inputs:
            each.dependents.append(self)
        self.num_missing = len(self.inputs)  # of these, the driver has no result yet
        self.parent: Worker | None = None
        self.waiter: Wait | None = None
        self.is_submitted = self.is_sent = False
        self.num_runs = self.num_results = 0


class Burst(NamedTuple):
    """Tasks that the program submits one after another, not before `time_s`."""

    time_s: float
    tasks: Sequence[Task]


class Batch:
    """What was sent, with the words that both sides share: `claim` and `limit`."""

    def __init__(
        self, seq: int, items: list[Task], hints: Mapping[int, int], in_place: bool, cpus: float
    ) -> None:
        self.seq, self.items, self.hints, self.in_place, self.cpus = seq, items, hints, in_place, cpus
        self.is_eager = False  # somebody waits for results of it
        self.base, self.stop, self.is_blocked = 0, len(items), False  # the driver's
        self.claim, self.limit = 0, NO_LIMIT
        self.cut, self.sent, self.ends = len(items), 0, list[float]()  # the worker's
        self.times: dict[int, tuple[int, float, float]] = {}  # by key: items, their time, the worst
        self.seen = -1  # results at the reporter's last tick
        self.part_ends = [len(items)] * len(items)  # where the run of items of one key ends
        for i in range(len(items) - 2, -1, -1):
            self.part_ends[i] = self.part_ends[i + 1] if items[i].key == items[i + 1].key else i + 1

    def done(self, now: float) -> int:
        return bisect_right(self.ends, now + 1e-12)

    def time(self, key: int, count: int, spent_s: float) -> None:
        timed, total_s, worst_s = self.times.get(key, (0, 0.0, 0.0))
        self.times[key] = timed + count, total_s + spent_s, max(worst_s, spent_s / count)


class Wait:
    """A task of a worker's batch `seq` waits for its children."""

    def __init__(self, worker: Worker, seq: int, tasks: list[Task]) -> None:
        self.worker, self.seq, self.tasks = worker, seq, tasks
        self.num_left = len(tasks)


class Worker:
    """A worker process, and what the driver knows of it (`batches`, `stack`, `progress`)."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine, self.number = engine, number
        self.batches: dict[int, Batch] = {}
        self.stack: list[Wait] = []
        self.progress: tuple[int, int, float] = (-1, -1, 0.0)
        self.inbox: deque[tuple[Any, ...]] = deque()  # on its way to the driver, arrived
        self.mailbox: deque[Any] = deque()
        self.later: deque[Batch] = deque()
        self.batch: Batch | None = None
        self.is_up = self.is_dead = self.is_receiving = self.is_waiting = self.has_reporter = False
        self.process = self._main()
        self.step()

    def step(self) -> None:
        if not self.is_dead:
            wait_s = next(self.process)
            self.is_receiving = wait_s is None
            if wait_s is not None:
                self.engine.at(self.engine.now + wait_s, self.step)

    def deliver(self, message: Any) -> None:
        self.mailbox.append(message)
        if self.is_receiving:
            self.step()

    def _main(self) -> Generator[float | None, None, None]:
        yield STARTUP_S
        self.is_up = True
        while True:
            while not self.later and not self.mailbox:
                yield None
            yield from self._run_batch(self.later.popleft() if self.later else self.mailbox.popleft())

    def _run_batch(self, batch: Batch) -> Generator[float | None, None, None]:
        outer, self.batch = self.batch, batch
        if len(batch.items) > 1 and not self.has_reporter:
            self.has_reporter = True
            self.engine.at(self.engine.now + self.engine.report_s, self._report_late)
        costs = self.engine.costs
        count = len(batch.items)
        yield costs.batch_s + count * costs.item_s + self.engine.stolen_s(count)
        size, last_report_s = 0, self.engine.now
        report_s = self.engine.eager_s if batch.is_eager else self.engine.report_s
        while True:
            first = len(batch.ends)
            if first < batch.cut and (not first or batch.part_ends[first - 1] == first):
                size = max(1, min(batch.hints[batch.items[first].key], MAX_BLOCK))
            stop = self._claim(batch, first, size)
            if stop <= first:
                break
            begin_s = self.engine.now
            waited_s = 0.0
            while len(batch.ends) < min(batch.claim, batch.cut):  # the reporter may lower the claim
                waited_s += yield from self._run_items(batch, stop)
            spent_s, count = self.engine.now - begin_s - waited_s, len(batch.ends) - first
            batch.time(batch.items[first].key, count, spent_s)
            size = max(1, min(MAX_BLOCK, 4 * size, int(BLOCK_S / max(spent_s / count, 1e-8))))
            if self.engine.now - last_report_s > report_s and len(batch.ends) < batch.cut:
                self._report(batch, -1)
                last_report_s = self.engine.now
        self.batch = outer
        self._report(batch, len(batch.ends))

    def _claim(self, batch: Batch, first: int, size: int) -> int:
        part_end = batch.part_ends[first] if first < batch.cut else batch.cut
        batch.claim = min(first + size, batch.cut, part_end)
        if batch.limit < batch.claim:
            batch.claim = max(first, batch.limit)
        return batch.claim

    def _run_items(self, batch: Batch, stop: int) -> Generator[float | None, None, float]:
        """Run plain items, a long one as the last, or one special item; return how long that waited."""
        now = self.engine.now
        while len(batch.ends) < stop:
            task = batch.items[len(batch.ends)]
            if task.children or task.kills > task.num_runs:
                break
            task.num_runs += 1
            now += task.cost_s
            batch.ends.append(now)
            if task.cost_s > REPORT_S:
                break
        if now > self.engine.now or len(batch.ends) == stop:
            yield now - self.engine.now
            return 0.0
        task.num_runs += 1
        yield task.cost_s / 2
        if task.kills >= task.num_runs:
            self.engine.die(self)
            yield None
        batch.cut = min(batch.cut, len(batch.ends) + 1)
        self._report(batch, -1)
        children = [self.engine.register(Task(*child)) for child in task.children]
        self.engine.post(self, ("want", batch.seq, len(batch.ends), children))
        begin_s = self.engine.now
        self.is_waiting = True
        while True:
            while not self.mailbox:
                yield None
            message = self.mailbox.popleft()
            if message is children:
                break
            if message.in_place:
                self.is_waiting = False
                yield from self._run_batch(message)
                self.is_waiting = True
            else:
                self.later.append(message)
        self.is_waiting = False
        waited_s = self.engine.now - begin_s
        yield task.cost_s / 2
        batch.ends.append(self.engine.now)
        return waited_s

    def _report(self, batch: Batch, stopped: int) -> None:
        end = batch.done(self.engine.now)
        if end == batch.sent and stopped < 0:
            return
        self.engine.post(self, ("results", batch.seq, batch.sent, end, batch.times, stopped))
        batch.sent, batch.times = end, {}

    def _report_late(self) -> None:
        """The reporter thread: what waits behind a long item is reported, not timed yet, or given up."""
        batch = self.batch
        self.has_reporter = batch is not None and not self.is_dead
        if batch is not None and self.has_reporter:
            if not self.is_waiting:
                done = batch.done(self.engine.now)
                if done == batch.seen and done < len(batch.items):
                    batch.claim = min(batch.claim, done + 1)
                batch.seen = done
                self._report(batch, -1)
            self.engine.at(self.engine.now + self.engine.report_s, self._report_late)
