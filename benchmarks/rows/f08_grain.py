"""F8: the same work cut finer and finer: 1, 10, 100 µs, 1, 10, 100 ms a task, submitted in a naive loop.

2 s of work (0.4 s under `--quick`) at each grain; tasks count in a loop, so that they burn a CPU. The figure
is the efficiency, serial ÷ (workers × parallel): 1 would be every CPU at work on nothing but tasks. Peers run
their naive forms from the grain on at which they come to an end within seconds, and several chunk sizes by
hand at every grain; the best of those, grain by grain, is what we are held against. The limit is an even
share for each process in one message: right where all tasks take the same time, and that is known beforehand.

Goal: at least 0.85 of the best tuned peer's efficiency at 10 µs, 0.95 from 100 µs on; at 1 µs, where a ref
for each call costs half as much as the call, at least 0.9 through `map`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.burning import burn, burn_all, calibrate, loops_of, measure
from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Row, Run

GRAINS_S = {"1 µs": 1e-6, "10 µs": 1e-5, "100 µs": 1e-4, "1 ms": 1e-3, "10 ms": 1e-2, "100 ms": 1e-1}
GOALS = {"10 µs": 0.85, "100 µs": 0.95, "1 ms": 0.95, "10 ms": 0.95, "100 ms": 0.95}
WORK_S, QUICK_WORK_S = 2.0, 0.4
OURS, OURS_MAP, SERIAL = "grainwise: naive loop", "grainwise: map", "serial: for loop"
MAP_GOAL = 0.9
NAIVE_FROM_S = 1e-4

Calls = Callable[[list[int]], Any]


def counts_of(bench: Bench, grain_s: float) -> list[int]:
    """What each task counts to."""
    n_tasks = round((QUICK_WORK_S if bench.is_quick else WORK_S) / grain_s)
    return [loops_of(bench.scratch, grain_s)] * n_tasks


def grains(bench: Bench, calls: Calls, from_s: float = 0.0) -> Run:
    """A form's run: the timed part at each grain, one after another."""

    def run() -> Iterator[tuple[str, int, Callable[[], Any]]]:
        for name, grain_s in GRAINS_S.items():
            if grain_s >= from_s:
                counts = counts_of(bench, grain_s)
                yield name, sum(counts), functools.partial(calls, counts)

    return run


def efficiency(figures: Figures, key: str, metric: str) -> float:
    """Serial time ÷ (workers × this form's time), rounds paired."""
    return figures.ratio(SERIAL, key, metric) / figures.n_workers


def judge(figures: Figures) -> list[Goal]:
    naive = [_judge_grain(figures, OURS, metric, share) for metric, share in GOALS.items()]
    return [_judge_grain(figures, OURS_MAP, "1 µs", MAP_GOAL), *naive]


def _judge_grain(figures: Figures, key: str, metric: str, share: float) -> Goal:
    text = f"{metric}{' through `map`' if key == OURS_MAP else ''}: ≥ {share} of the best tuned peer"
    best = figures.best(["tuned"], metric)
    for needed in (SERIAL, key, best):
        if needed is None or not figures.has(needed, metric):
            return Goal(text, f"{needed or 'any peer'} was not measured", None)
    ours, theirs = efficiency(figures, key, metric), efficiency(figures, best, metric)  # type: ignore[arg-type]
    ratio = 1 / figures.ratio(key, best, metric)  # type: ignore[arg-type]
    return Goal(text, f"{ratio:.2f}: efficiency {ours:.2f} against {theirs:.2f} of {best}", ratio >= share)


ROW = Row(
    id="F8",
    title="2 s of work cut into tasks of 1 µs to 100 ms, naive loop and get",
    reference=OURS,
    rounds=5,
    quick_rounds=2,
    units=dict.fromkeys(GRAINS_S, "s"),
    measure=measure,
    judge=judge,
    prepare=calibrate,
)


def chunk(bench: Bench, counts: list[int], seconds: float) -> int:
    """How many tasks make a chunk of so many seconds of work."""
    work_s = QUICK_WORK_S if bench.is_quick else WORK_S
    return max(1, round(len(counts) * seconds / work_s))


def share(bench: Bench, counts: list[int]) -> int:
    """How many tasks are an even share of a worker."""
    return -(-len(counts) // bench.n_workers)


def batches(counts: list[int], size: int) -> list[list[int]]:
    return [counts[i : i + size] for i in range(0, len(counts), size)]


def flat(lists: Any) -> list[int]:
    return [x for part in lists for x in part]


@ROW.form("serial", "for loop", kind="serial")
def _(bench: Bench) -> Run:
    return grains(bench, burn_all)


@ROW.form("limit", "one message per process", kind="limit")
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        size = share(bench, counts)
        parts = [(counts[i * size : (i + 1) * size],) for i in range(bench.n_workers)]
        return flat(bench.system.run(burn_all, parts))

    return grains(bench, calls)


@ROW.form("grainwise", "naive loop", kind="ours")
def _(bench: Bench) -> Run:
    task = bench.system.remote(burn)
    return grains(bench, lambda counts: bench.system.get([task.remote(count) for count in counts]))


@ROW.form("grainwise", "map", kind="ours")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: list(bench.system.map(burn, counts)))


@ROW.form("grainwise", "batches of 10 ms by hand", kind="ours, tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(burn_all)

    def calls(counts: list[int]) -> list[int]:
        parts = batches(counts, chunk(bench, counts, 0.01))
        return flat(bench.system.get([task.remote(part) for part in parts]))

    return grains(bench, calls)


@ROW.form("pool", "apply_async loop", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        return [r.get() for r in [bench.system.apply_async(burn, (count,)) for count in counts]]

    return grains(bench, calls, NAIVE_FROM_S / 10)


@ROW.form("pool", "map", kind="tuned")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: bench.system.map(burn, counts))


@ROW.form("pool", "map, an even share per worker", kind="tuned")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: bench.system.map(burn, counts, chunksize=share(bench, counts)))


@ROW.form("pool", "map, chunks of 10 ms", kind="tuned")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: bench.system.map(burn, counts, chunksize=chunk(bench, counts, 0.01)))


@ROW.form("pool", "map, chunks of 1 ms", kind="tuned")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: bench.system.map(burn, counts, chunksize=chunk(bench, counts, 0.001)))


@ROW.form("executor", "submit loop", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        return [f.result() for f in [bench.system.submit(burn, count) for count in counts]]

    return grains(bench, calls, NAIVE_FROM_S)


@ROW.form("executor", "map, chunks of 10 ms", kind="tuned")
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        return list(bench.system.map(burn, counts, chunksize=chunk(bench, counts, 0.01)))

    return grains(bench, calls)


@ROW.form("ray", "naive loop", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    task = bench.system.remote(burn)
    run = lambda counts: bench.system.get([task.remote(count) for count in counts])  # noqa: E731
    return grains(bench, run, NAIVE_FROM_S)


@ROW.form("ray", "batches of 50 ms by hand", kind="tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(burn_all)

    def calls(counts: list[int]) -> list[int]:
        parts = batches(counts, chunk(bench, counts, 0.05))
        return flat(bench.system.get([task.remote(part) for part in parts]))

    return grains(bench, calls)


@ROW.form("joblib", "delayed", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    from joblib import delayed

    return grains(bench, lambda counts: bench.system()(delayed(burn)(x) for x in counts), NAIVE_FROM_S / 10)


@ROW.form("joblib", "batches of 50 ms", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    def calls(counts: list[int]) -> list[int]:
        parallel = bench.system(batch_size=chunk(bench, counts, 0.05))
        return list(parallel(delayed(burn)(count) for count in counts))

    return grains(bench, calls, NAIVE_FROM_S / 10)


@ROW.form("dask", "batches of 50 ms by hand", kind="tuned")
def _(bench: Bench) -> Run:
    from dask import delayed

    task = delayed(burn_all)

    def calls(counts: list[int]) -> list[int]:
        parts = batches(counts, chunk(bench, counts, 0.05))
        return flat(bench.system(*[task(part) for part in parts]))

    return grains(bench, calls)


@ROW.form("distributed", "batches of 50 ms by hand", kind="tuned")
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        parts = batches(counts, chunk(bench, counts, 0.05))
        return flat(bench.system.gather(bench.system.map(burn_all, parts, pure=False)))

    return grains(bench, calls)


@ROW.form("mpire", "map, an even share per worker", kind="tuned")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: bench.system.map(burn, counts, chunk_size=share(bench, counts)))


@ROW.form("mpire", "map, chunks of 10 ms", kind="tuned")
def _(bench: Bench) -> Run:
    return grains(bench, lambda counts: bench.system.map(burn, counts, chunk_size=chunk(bench, counts, 0.01)))
