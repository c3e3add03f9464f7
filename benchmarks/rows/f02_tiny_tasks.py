"""F2: 100,000 tasks of `2 * x`, submitted one by one in a naive loop.

The work is nothing, so this is the cost of a call, its ref and its result. The limit is the barest engine
that still gives a ref per call: one object and one append per call, batches of 1,000 over a pipe, no error
handling, no dependencies, nothing checked.

Goal: at least 1 million tasks per second, ahead of Ray in batches of 1,000 by hand, as guides teach it.
Larger batches by hand are in the table too: they have no ref per call, and no engine that has one can follow.
"""

from __future__ import annotations

import pickle
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Row, Run
from benchmarks.systems import PlainProcesses

N = 100_000
NUMBERS = list(range(N))
BATCH = 1_000
OURS, RAY_BATCHED = "grainwise: naive loop", "ray: batches of 1,000 by hand"


def double(x: int) -> int:
    return 2 * x


def double_all(numbers: list[int]) -> list[int]:
    return [2 * x for x in numbers]


def batches(size: int) -> list[list[int]]:
    return [NUMBERS[i : i + size] for i in range(0, N, size)]


def flat(lists: list[list[int]]) -> list[int]:
    return [x for part in lists for x in part]


def check(result: list[int]) -> None:
    assert list(result) == [2 * x for x in NUMBERS], "wrong result"


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≥ 1,000,000 tasks/s (≤ 0.100 s)", OURS, 0.100),
        figures.ratio_at_most("ahead of Ray in batches of 1,000 by hand", OURS, RAY_BATCHED, 1.0),
    ]


ROW = Row(
    id="F2",
    title="100,000 × `2 * x`, naive loop and get",
    reference=OURS,
    rounds=9,
    quick_rounds=2,
    check=check,
    judge=judge,
)


class BareRef:
    """The least that a ref can be: it holds the argument, then the result."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class BareEngine:
    """Refs and batches of 1,000 over pipes, at most two batches under way per process."""

    def __init__(self, pipes: list[Any]) -> None:
        self._pipes = pipes
        self._open: list[BareRef] = []
        self._sent: list[list[list[BareRef]]] = [[] for _ in pipes]
        self._next = 0

    def remote(self, x: Any) -> BareRef:
        ref = BareRef(x)
        self._open.append(ref)
        if len(self._open) == BATCH:
            self._flush()
        return ref

    def _flush(self) -> None:
        i = self._next
        self._next = (i + 1) % len(self._pipes)
        if len(self._sent[i]) == 2:
            self._receive(i)
        self._pipes[i].send_bytes(pickle.dumps([ref.value for ref in self._open]))
        self._sent[i].append(self._open)
        self._open = []

    def _receive(self, i: int) -> None:
        results = pickle.loads(self._pipes[i].recv_bytes())
        for ref, result in zip(self._sent[i].pop(0), results, strict=True):
            ref.value = result

    def get(self, refs: list[BareRef]) -> list[Any]:
        for i, sent in enumerate(self._sent):
            while sent:
                self._receive(i)
        return [ref.value for ref in refs]


class BatchProcesses(PlainProcesses):
    """Plain processes that answer batches of bytes instead of calls."""

    @staticmethod
    def _serve(pipe: Any) -> None:
        while message := pipe.recv_bytes():
            pipe.send_bytes(pickle.dumps([double(x) for x in pickle.loads(message)]))

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send_bytes(b"")


@ROW.form("serial", "for loop", kind="serial")
def _(bench: Bench) -> Run:
    return lambda: [double(x) for x in NUMBERS]


@ROW.form("limit", "a bare ref per call, batches of 1,000", kind="limit")
def _(bench: Bench) -> Run:
    processes = BatchProcesses(bench.n_workers)
    bench.closing.callback(processes.close)

    def run() -> list[Any]:
        engine = BareEngine(processes.pipes)
        return engine.get([engine.remote(x) for x in NUMBERS])

    return run


@ROW.form("grainwise", "naive loop", kind="ours")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double)
    return lambda: bench.system.get([task.remote(x) for x in NUMBERS])


@ROW.form("grainwise", "batches of 1,000 by hand", kind="ours, tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double_all)
    return lambda: flat(bench.system.get([task.remote(part) for part in batches(BATCH)]))


@ROW.form("pool", "apply_async loop", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    return lambda: [r.get() for r in [bench.system.apply_async(double, (x,)) for x in NUMBERS]]


@ROW.form("pool", "map", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.map(double, NUMBERS)


@ROW.form("executor", "submit loop", kind="naive", rounds=1, quick_rounds=0, timeout_s=300)
def _(bench: Bench) -> Run:
    return lambda: [f.result() for f in [bench.system.submit(double, x) for x in NUMBERS]]


@ROW.form("executor", "map, chunks of 1,000", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: list(bench.system.map(double, NUMBERS, chunksize=BATCH))


@ROW.form("ray", "naive loop", kind="naive", rounds=1, quick_rounds=0, timeout_s=300)
def _(bench: Bench) -> Run:
    task = bench.system.remote(double)
    return lambda: bench.system.get([task.remote(x) for x in NUMBERS])


@ROW.form("ray", "batches of 1,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double_all)
    return lambda: flat(bench.system.get([task.remote(part) for part in batches(BATCH)]))


@ROW.form("ray", "batches of 10,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double_all)
    return lambda: flat(bench.system.get([task.remote(part) for part in batches(10_000)]))


@ROW.form("joblib", "delayed", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    from joblib import delayed

    return lambda: bench.system()(delayed(double)(x) for x in NUMBERS)


@ROW.form("joblib", "batch_size=10,000", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    return lambda: bench.system(batch_size=10_000)(delayed(double)(x) for x in NUMBERS)


@ROW.form("dask", "batches of 1,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    from dask import delayed

    task = delayed(double_all)
    return lambda: flat(list(bench.system(*[task(part) for part in batches(BATCH)])))


@ROW.form("distributed", "batches of 1,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: flat(bench.system.gather(bench.system.map(double_all, batches(BATCH), pure=False)))


@ROW.form("mpire", "map", kind="naive")
def _(bench: Bench) -> Run:
    return lambda: bench.system.map(double, NUMBERS)


@ROW.form("mpire", "map, chunks of 10,000", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.map(double, NUMBERS, chunk_size=10_000)
