"""F17: 10, 20 and 100 elements of no work, as a map of a typed task.

The naive form starts an interpreter for each element, ten at a time, which is what a container for each comes
to at best. Ours is a reusable environment of ten replicas, warm as another run has left it. The tuned form is
a pool of ten forked processes, without types and record, that the program itself keeps. Pool and environment
have had a map before anything is timed.

Goal: at most 3, 3 and 5 ms, typed and recorded.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples
from grainwise.flow import ActorEnvironment, map_task

N_REPLICAS = 10
COUNTS = (10, 20, 100)
GOALS_S = {10: 3e-3, 20: 3e-3, 100: 5e-3}
OURS = "grainwise: warm environment of ten"

env = ActorEnvironment(name="warm", replica_count=N_REPLICAS, ttl_seconds=600)


def same(x: int) -> int:
    return x


@env.task
def typed_same(x: int) -> int:
    return x


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """The median of maps that follow one another."""
    n_maps = 1 if form.kind == "naive" else 3 if bench.is_quick else 9
    map_all: Callable[[list[int]], list[int]] = run()
    samples: Samples = {}
    for count in COUNTS:
        elements = list(range(count))
        times = []
        for _ in range(n_maps):
            start = time.perf_counter()
            results = map_all(elements)
            times.append(time.perf_counter() - start)
            assert results == elements, "wrong results"
        samples[f"{count} elements"] = [statistics.median(times)]
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most(f"{count} elements: ≤ {limit_s * 1e3:g} ms", OURS, limit_s, f"{count} elements")
        for count, limit_s in GOALS_S.items()
    ]


ROW = Row(
    id="F17",
    title="10, 20, 100 elements of no work in a warm environment",
    reference=OURS,
    rounds=9,
    quick_rounds=2,
    units={f"{count} elements": "ms" for count in COUNTS},
    measure=measure,
    judge=judge,
)


@ROW.form("serial", "a fresh interpreter for each, ten at a time", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    starters = ThreadPoolExecutor(N_REPLICAS)
    bench.closing.callback(starters.shutdown)

    def run_one(x: int) -> int:
        command = [sys.executable, "-S", "-c", f"print({x})"]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    return lambda: lambda elements: list(starters.map(run_one, elements))


@ROW.form("pool", "ten forked processes, kept warm", kind="tuned")
def _(bench: Bench) -> Run:
    pool = multiprocessing.get_context("fork").Pool(N_REPLICAS)
    bench.closing.callback(pool.terminate)
    pool.map(same, range(100))
    return lambda: lambda elements: pool.map(same, elements)


@ROW.form("grainwise", "warm environment of ten", kind="ours")
def _(bench: Bench) -> Run:
    use_own_hosts(bench)
    mapped = map_task(typed_same)
    mapped(x=list(range(100)))
    return lambda: lambda elements: mapped(x=elements)


def use_own_hosts(bench: Bench) -> None:
    """Have environments in a folder of the row's own, and end them with it."""
    from grainwise.flow.hosts import list_hosts, stop

    folder = bench.scratch / "hosts"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["GRAINWISE_RUNTIME_DIR"] = str(folder)

    def end() -> None:
        for status in list_hosts():
            stop(status.fingerprint)

    bench.closing.callback(end)
