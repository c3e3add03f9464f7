"""The real `Policy` on a billion tasks: ready tasks are counts, a batch is one event.

What a batch of n tasks costs is drawn at once, as the sum of n draws: exact for equal and for exponential
tasks, by the normal distribution for the slow ones among mixed tasks. The driver is a serial resource as in
`simulator`; tasks are submitted as one record each run (`map`), results come back as one record each batch.

    python -m tests.policy.runs [NUM_TASKS [NUM_CPUS [COST_S [KIND]]]]
"""

from __future__ import annotations

import heapq
import random
import sys
from time import perf_counter
from typing import NamedTuple

from grainwise.grain.costs import Costs
from grainwise.grain.policy import Policy, Progress, Send
from grainwise.grain.sizes import MAX_BATCH, OVERHEAD
from tests.policy.bounds import handover_s, settling_s

STARTUP_S = 3e-3
TICK_S = 5e-3
RECORD_S = 5e-6
"""The driver's time to submit a run, or to take the results of a batch."""

LONGEST = {"equal": 1, "exponential": 20, "mixed": 100}
"""The longest task of each kind, in means; of exponential ones, of 10^8."""


class Run(NamedTuple):
    """So many tasks of one key, all ready; `kind` is "equal", "exponential" or "mixed" (1 % take 100 x)."""

    key: int
    count: int
    mean_s: float
    kind: str = "equal"


class Outcome(NamedTuple):
    """What a run took.

    Attributes:
        took_s: the makespan in virtual time.
        ideal_s: the work divided by the workers.
        bound_s: the makespan that the policy promises.
        num_batches: batches sent.
        num_taken: tasks taken back.
        largest_state: entries in all of the policy's tables and of the driver's books, at most.
        policy_s: real time spent in the policy.
        real_s: real time in all.
    """

    took_s: float
    ideal_s: float
    bound_s: float
    num_batches: int
    num_taken: int
    largest_state: int
    policy_s: float
    real_s: float


class Batch:
    """Tasks on their way to a worker, or run by it."""

    __slots__ = ("begin_s", "costs_s", "end_s", "is_over", "parts")

    def __init__(self, parts: list[tuple[int, int]], costs_s: list[float]) -> None:
        self.parts, self.costs_s = parts, costs_s
        self.begin_s = self.end_s = 0.0
        self.is_over = False


class RunSimulation:
    """See the module docstring."""

    def __init__(self, runs: list[Run], num_cpus: int, seed: int = 0) -> None:
        self.runs = {run.key: run for run in runs}
        self.policy = Policy(num_cpus, Costs(submit_s=0.0, finish_s=1e-9))
        self.ready = {run.key: run.count for run in runs}
        self.left = sum(run.count for run in runs)
        self.now = self.busy_until = 0.0
        self.num_batches = self.num_taken = self.largest_state = 0
        self.policy_s = 0.0
        self._work_s = 0.0
        self._longest_s = 0.0
        self._rng = random.Random(seed)
        self._heap: list[tuple[float, int, int, Batch | None]] = []
        self._num_events = 0
        self._held: dict[int, list[Batch]] = {}
        self._next_look_s = 0.0

    def run(self) -> Outcome:
        begin_s = perf_counter()
        self.busy_until = RECORD_S * len(self.runs)
        self._dispatch()
        self._at(TICK_S, -1, None)
        while self.left:
            self.now, _, worker, batch = heapq.heappop(self._heap)
            if batch is None:
                self._look()
                self._at(self.now + TICK_S, -1, None)
            elif not batch.is_over and batch.end_s + self._half_trip_s() <= self.now + 1e-12:
                self._on_report(worker, batch)
        return Outcome(
            max(self.now, self.busy_until),
            self._work_s / self.policy.num_cpus,
            self._bound_s(),
            self.num_batches,
            self.num_taken,
            self.largest_state,
            self.policy_s,
            perf_counter() - begin_s,
        )

    def _bound_s(self) -> float:
        policy = self.policy
        pair_s = 2 * policy.costs.message_s + RECORD_S
        num_full = sum(run.count for run in self.runs.values()) / MAX_BATCH
        driver_s = pair_s * max(2 * self._work_s / policy.floor_s, num_full)
        busy_s = max(self._work_s / policy.num_cpus, driver_s)
        return (
            (1 + 3 * OVERHEAD) * busy_s
            + self._longest_s
            + handover_s(policy)
            + settling_s(policy, len(self.runs))
        )

    # -- the driver ------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        begin_s = perf_counter()
        for key, count in self.ready.items():
            self.policy.ready(key, count)
        sends = self.policy.dispatch(waiting=True)
        self.policy_s += perf_counter() - begin_s
        for send in sends:
            self._send(send)

    def _send(self, send: Send) -> None:
        parts: list[tuple[int, int]] = []
        for key, count in send.parts:
            assert isinstance(key, int)
            self.ready[key] -= count
            assert count > 0 <= self.ready[key]
            parts.append((key, count))
        batch = Batch(parts, [self._draw(*part) for part in parts])
        self.num_batches += 1
        held = self._held.get(send.worker)
        starts_s = STARTUP_S if held is None else 0.0
        if held is None:
            held = self._held[send.worker] = []
        self.busy_until = max(self.busy_until, self.now) + self.policy.costs.message_s
        arrival_s = self.busy_until + self._half_trip_s() + starts_s
        batch.begin_s = max(arrival_s, held[-1].end_s if held else 0.0) + self.policy.costs.batch_s
        batch.end_s = batch.begin_s + sum(batch.costs_s)
        held.append(batch)
        assert len(held) <= 2
        self._at(batch.end_s + self._half_trip_s(), send.worker, batch)

    def _on_report(self, worker: int, batch: Batch) -> None:
        batch.is_over = True
        held = self._held[worker]
        assert held.pop(0) is batch
        self.busy_until = max(self.busy_until, self.now) + self.policy.costs.message_s + RECORD_S
        self.now = max(self.now, self.busy_until)
        begin_s = perf_counter()
        for (key, count), cost_s in zip(batch.parts, batch.costs_s):
            self.left -= count
            if count:
                self.policy.finished(worker, key, count, count, cost_s, cost_s / count)
        self.policy.ended(worker)
        self.policy_s += perf_counter() - begin_s
        self._dispatch()
        self.largest_state = max(self.largest_state, self.state())

    def state(self) -> int:
        """Return how many entries all tables have together."""
        keys, roster = self.policy._keys, self.policy._roster
        tables = (keys.known, keys.turn, roster.workers, roster.idle, roster.half, self._held)
        return sum(map(len, tables)) + len(self._heap) + len(self.ready)

    # -- taking back -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """See what idle workers could have; once a tick, as it looks at each worker."""
        if any(self.ready.values()) or not self.policy.may_take_back():
            return
        progress = {}
        for worker, held in self._held.items():
            unstarted = sum(self._unstarted(batch) for batch in held)
            if unstarted:
                progress[worker] = Progress(unstarted, 0.0)
        begin_s = perf_counter()
        takes = self.policy.rebalance(progress) if progress else ()
        self.policy_s += perf_counter() - begin_s
        for take in takes:
            self._take_back(take.worker, take.count)
        if takes:
            self._dispatch()

    def _unstarted(self, batch: Batch) -> int:
        count = sum(count for _, count in batch.parts)
        share = (batch.end_s - self.now) / max(batch.end_s - batch.begin_s, 1e-12)
        return max(0, min(count, int(share * count) - 1)) if self.now > batch.begin_s else count

    def _take_back(self, worker: int, count: int) -> None:
        held = self._held[worker]
        for batch in reversed(held):
            taken = min(count, self._unstarted(batch))
            if taken <= 0:
                continue
            count -= taken
            self.num_taken += taken
            self._shorten(worker, batch, taken)
        end_s = 0.0
        for batch in held:
            batch.begin_s = max(batch.begin_s if batch is held[0] else end_s, 0.0)
            batch.end_s = end_s = batch.begin_s + sum(batch.costs_s)
            self._at(max(self.now, batch.end_s + self._half_trip_s()), worker, batch)
        self.busy_until = max(self.busy_until, self.now) + self.policy.costs.message_s

    def _shorten(self, worker: int, batch: Batch, count: int) -> None:
        """Remove tasks from the end of a batch; what remains costs its share."""
        for i in range(len(batch.parts) - 1, -1, -1):
            key, old = batch.parts[i]
            taken = min(old, count)
            batch.parts[i] = key, old - taken
            batch.costs_s[i] *= (old - taken) / old if old else 0.0
            count -= taken
            self.ready[key] += taken
            self.policy.returned(worker, key, taken)

    # -- time ------------------------------------------------------------------------------------------

    def _draw(self, key: int, count: int) -> float:
        run, rng = self.runs[key], self._rng
        if run.kind == "equal":
            cost_s = count * run.mean_s
        elif run.kind == "exponential":
            cost_s = rng.gammavariate(count, run.mean_s)
        else:
            mean, spread = count * 0.01, (count * 0.01 * 0.99) ** 0.5
            num_slow = max(0, round(rng.gauss(mean, spread))) if count > 100 else 0
            num_slow = num_slow if count > 100 else sum(rng.random() < 0.01 for _ in range(count))
            cost_s = run.mean_s * (100 * num_slow + (count - num_slow))
        self._work_s += cost_s
        self._longest_s = max(
            self._longest_s, run.mean_s * {"equal": 1, "exponential": 20}.get(run.kind, 100)
        )
        return cost_s

    def _half_trip_s(self) -> float:
        return self.policy.costs.round_trip_s / 2

    def _at(self, time_s: float, worker: int, batch: Batch | None) -> None:
        self._num_events += 1
        heapq.heappush(self._heap, (time_s, self._num_events, worker, batch))


def simulate(
    num_tasks: int = 10**9, num_cpus: int = 4096, cost_s: float = 100e-6, kind: str = "exponential"
) -> Outcome:
    """Simulate so many tasks of one function; a billion of 100 us on 4,096 workers take about a minute."""
    return RunSimulation([Run(0, num_tasks, cost_s, kind)], num_cpus).run()


def main(arguments: list[str]) -> None:
    num_tasks = int(float(arguments[0])) if arguments else 10**9
    num_cpus = int(arguments[1]) if len(arguments) > 1 else 4096
    cost_s = float(arguments[2]) if len(arguments) > 2 else 100e-6
    outcome = simulate(num_tasks, num_cpus, cost_s, arguments[3] if len(arguments) > 3 else "exponential")
    for name, value in outcome._asdict().items():
        print(f"{name:14s} {value:,.3f}" if isinstance(value, float) else f"{name:14s} {value:,}")
    print(f"took / ideal   {outcome.took_s / outcome.ideal_s:.3f}")
    print(f"took / bound   {outcome.took_s / outcome.bound_s:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
