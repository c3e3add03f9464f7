"""F14: calls of one actor: one after the other, and 100,000 in a naive loop.

The method adds a number and returns the sum, so that order and number of the calls can be checked. The
limits are bare processes: a socket pair on which both sides block, and additions in batches of 1,000 over a
pipe with one object per call. `BaseManager` is the standard library's actor: a round trip per call.

Goal: a round trip in at most 0.08 ms; at least 500,000 calls per second in a loop.
"""

from __future__ import annotations

import gc
import os
import pickle
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples
from benchmarks.systems import PlainProcesses

N_CALLS, N_SLOW_CALLS = 100_000, 5_000
BATCH = 1_000
OURS = "grainwise: actor"


class Adder:
    """The actor's class."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, x: int) -> int:
        self._sum += x
        return self._sum


Call = Callable[[int], int]
Loop = Callable[[int], list[int]]


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """The median of 1,000 round trips; the time per call of a loop."""
    one, many, n_calls = run()
    samples: Samples = {}
    if one is not None:
        times = []
        total = one(0)
        for _ in range(300 if bench.is_quick else 1_000):
            start = time.perf_counter()
            total_now = one(1)
            times.append(time.perf_counter() - start)
            assert total_now == total + 1, "a call was lost"
            total = total_now
        samples["round trip"] = [statistics.median(times)]
    if many is not None:
        gc.collect()
        start = time.perf_counter()
        sums = many(n_calls)
        samples["per call in a loop"] = [(time.perf_counter() - start) / n_calls]
        assert sums == list(range(sums[0], sums[0] + n_calls)), "calls out of order"
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≤ 0.08 ms a round trip", OURS, 80e-6, "round trip"),
        figures.at_most("≥ 500,000 calls/s in a loop (≤ 2 µs)", OURS, 2e-6, "per call in a loop"),
    ]


ROW = Row(
    id="F14",
    title="calls of one actor",
    reference=OURS,
    rounds=7,
    quick_rounds=2,
    units={"round trip": "us", "per call in a loop": "us"},
    warm_ups=1,
    measure=measure,
    judge=judge,
)


class AddingProcesses(PlainProcesses):
    """Plain processes that answer batches of numbers with their running sums."""

    @staticmethod
    def _serve(pipe: Any) -> None:
        adder = Adder()
        while message := pipe.recv_bytes():
            pipe.send_bytes(pickle.dumps([adder.add(x) for x in pickle.loads(message)]))

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send_bytes(b"")


@ROW.form("serial", "method calls", kind="serial")
def _(bench: Bench) -> Run:
    adder = Adder()
    return lambda: (adder.add, lambda n: [adder.add(1) for _ in range(n)], N_CALLS)


@ROW.form("limit", "socket pair, blocking", kind="limit")
def _(bench: Bench) -> Run:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        adder = Adder()
        while data := theirs.recv(8):
            theirs.send(adder.add(data[0]).to_bytes(8, "little"))
        os._exit(0)
    theirs.close()
    bench.closing.callback(os.waitpid, pid, 0)
    bench.closing.callback(ours.close)

    def one(x: int) -> int:
        ours.send(bytes([x]))
        return int.from_bytes(ours.recv(8), "little")

    return lambda: (one, None, 0)


@ROW.form("limit", "one object per call, batches of 1,000", kind="limit")
def _(bench: Bench) -> Run:
    processes = AddingProcesses(1)
    bench.closing.callback(processes.close)
    pipe = processes.pipes[0]

    def many(n_calls: int) -> list[int]:
        n_sent, sums, calls = 0, [], [[1] for _ in range(n_calls)]
        while len(sums) < n_calls:
            while n_sent < n_calls and n_sent - len(sums) < 2 * BATCH:
                pipe.send_bytes(pickle.dumps([call[0] for call in calls[n_sent : n_sent + BATCH]]))
                n_sent += BATCH
            sums += pickle.loads(pipe.recv_bytes())
        return sums

    return lambda: (None, many, N_CALLS)


@ROW.form("grainwise", "actor", kind="ours")
def _(bench: Bench) -> Run:
    return _actor(bench, N_CALLS)


@ROW.form("ray", "actor", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    return _actor(bench, N_SLOW_CALLS)


@ROW.form("executor", "BaseManager's proxy", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    class Manager(BaseManager):
        pass

    Manager.register("Adder", Adder)
    manager = Manager()
    manager.start()
    bench.closing.callback(manager.shutdown)
    proxy = manager.Adder()  # type: ignore[attr-defined]
    return lambda: (proxy.add, lambda n: [proxy.add(1) for _ in range(n)], N_SLOW_CALLS)


def _actor(bench: Bench, n_calls: int) -> Run:
    system = bench.system
    actor = system.remote(Adder).remote()

    def many(n_calls: int) -> list[int]:
        sums: list[int] = system.get([actor.add.remote(1) for _ in range(n_calls)])
        return sums

    return lambda: (lambda x: system.get(actor.add.remote(x)), many, n_calls)
