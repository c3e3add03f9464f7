"""F18: a map of a typed task over a million elements of 1 µs, and a direct call of a typed task.

The types of inputs and results are checked, and the run is recorded as any run is. The peers have neither
types nor record: chunks of 4,096 chosen by hand, and a loop in one process.

Goal: at most 5 µs an element in all; at most 20 µs for a direct call.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples
from grainwise.flow import map_task, task

N_ELEMENTS, N_QUICK = 1_000_000, 100_000
N_LOOPS = 90  # about 1 µs
CHUNK = 4096
OURS = "grainwise: map_task, a direct call"


def work(x: int) -> int:
    for _ in range(N_LOOPS):
        pass
    return x + 1


@task
def typed_work(x: int) -> int:
    for _ in range(N_LOOPS):
        pass
    return x + 1


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """The time per element of one map; the median of 1,000 direct calls."""
    map_all, call = run()
    elements = list(range(N_QUICK if bench.is_quick else N_ELEMENTS))
    gc.collect()
    start = time.perf_counter()
    results = map_all(elements)
    samples: Samples = {"per element": [(time.perf_counter() - start) / len(elements)]}
    assert results[::997] == [x + 1 for x in elements[::997]], "wrong results"
    assert len(results) == len(elements), "results are missing"
    times = []
    for x in range(1_000):
        start = time.perf_counter()
        call(x)
        times.append(time.perf_counter() - start)
    samples["direct call"] = [statistics.median(times)]
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≤ 5 µs an element", OURS, 5e-6, "per element"),
        figures.at_most("≤ 20 µs a direct call", OURS, 20e-6, "direct call"),
    ]


ROW = Row(
    id="F18",
    title="map_task over 1,000,000 elements of 1 µs, and a direct call",
    reference=OURS,
    rounds=5,
    quick_rounds=2,
    units={"per element": "us", "direct call": "us"},
    warm_ups=1,
    measure=measure,
    judge=judge,
)


@ROW.form("serial", "a loop, a plain call", kind="serial")
def _(bench: Bench) -> Run:
    return lambda: (lambda elements: [work(x) for x in elements], work)


@ROW.form("pool", "map in chunks of 4,096, a plain call", kind="tuned")
def _(bench: Bench) -> Run:
    pool = bench.system
    return lambda: (lambda elements: pool.map(work, elements, CHUNK), work)


@ROW.form("grainwise", "map_task, a direct call", kind="ours")
def _(bench: Bench) -> Run:
    os.environ["GRAINWISE_RUN_DIR"] = str(bench.scratch / "runs")  # not among the user's own
    mapped = map_task(typed_work)
    return lambda: (lambda elements: mapped(x=elements), lambda x: typed_work(x=x))
