"""F3: `2 * x` through `map`, over 100,000 numbers and over 10 million.

F2 without a ref per call: what is left is the cost of an item in the driver, in its message, and in the loop
that calls the function. The limit is one message per process, its share of the numbers in it.

Goal: no slower than `Pool.map`, which takes a quarter of each worker's share as a chunk; at least 5 million
items a second over 10 million.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

SIZES = {"100,000": 100_000, "10 million": 10_000_000}
OURS, POOL = "grainwise: map", "pool: map"

Calls = Callable[[range], Any]


def double(x: int) -> int:
    return 2 * x


def double_all(numbers: range) -> list[int]:
    return [double(x) for x in numbers]


def sizes(calls: Calls) -> Run:
    """A form's run: the timed part over each number of items, one after another."""

    def run() -> Iterator[tuple[str, range, Calls]]:
        for name, count in SIZES.items():
            yield name, range(count), calls

    return run


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time each of the parts; the results are counted and added up, outside the timed part."""
    samples: Samples = {}
    for name, numbers, calls in run():
        gc.collect()
        start = time.perf_counter()
        result = calls(numbers)
        samples[name] = [time.perf_counter() - start]
        assert len(result) == len(numbers), "wrong number of results"
        assert sum(result) == 2 * sum(numbers), "wrong result"
        del result
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.ratio_at_most("100,000: no slower than Pool.map", OURS, POOL, 1.0, metric="100,000"),
        figures.at_most("10 million: ≥ 5,000,000 items/s (≤ 2.0 s)", OURS, 2.0, "10 million"),
    ]


ROW = Row(
    id="F3",
    title="`2 * x` through `map`, 100,000 and 10 million times",
    reference=OURS,
    rounds=7,
    quick_rounds=2,
    units=dict.fromkeys(SIZES, "s"),
    measure=measure,
    judge=judge,
)


@ROW.form("serial", "for loop", kind="serial")
def _(bench: Bench) -> Run:
    return sizes(double_all)


@ROW.form("limit", "one message per process", kind="limit")
def _(bench: Bench) -> Run:
    def calls(numbers: range) -> list[int]:
        size = -(-len(numbers) // bench.n_workers)
        parts = [(numbers[i : i + size],) for i in range(0, len(numbers), size)]
        return [x for part in bench.system.run(double_all, parts) for x in part]

    return sizes(calls)


@ROW.form("grainwise", "map", kind="ours")
def _(bench: Bench) -> Run:
    return sizes(lambda numbers: list(bench.system.map(double, numbers)))


@ROW.form("pool", "map", kind="naive")
def _(bench: Bench) -> Run:
    return sizes(lambda numbers: bench.system.map(double, numbers))


@ROW.form("pool", "imap, chunks of 1,000", kind="tuned", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    return sizes(lambda numbers: list(bench.system.imap(double, numbers, chunksize=1_000)))


@ROW.form("executor", "map, chunks of 10,000", kind="tuned", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    return sizes(lambda numbers: list(bench.system.map(double, numbers, chunksize=10_000)))


@ROW.form("mpire", "map", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    return sizes(lambda numbers: bench.system.map(double, numbers))
