"""F9: 2,000 tasks of 1 ms and among them four of 500 ms: submitted last, first, or shuffled.

Tasks count in a loop, so that they burn a CPU. The limit is the lower bound as this machine gives it: the
work, of which every cost is known beforehand, packed evenly onto the processes, longest first, in one message
each. (On 2 CPUs an even share is 2 s, so four long tasks alone could be packed; a batch that is decided
too early keeps a worker's queue behind a long one, or keeps a long one to the end.)

Goal: at most 1.15 × the limit in all three orders.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.burning import burn, burn_all, calibrate, loops_of, measure
from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Row, Run

N_SHORT, SHORT_S = 1_996, 1e-3
N_LONG, LONG_S = 4, 0.5
ORDERS = ("last", "first", "shuffled")
OURS, LIMIT = "grainwise: naive loop", "limit: costs known, packed by hand"

Calls = Callable[[list[int]], Any]


def orders(bench: Bench, calls: Calls) -> Run:
    """A form's run: the timed part for each order, one after another."""
    shrink = 4 if bench.is_quick else 1
    short = [loops_of(bench.scratch, SHORT_S)] * (N_SHORT // shrink)
    long = [loops_of(bench.scratch, LONG_S / shrink)] * N_LONG
    shuffled = short + long
    random.Random(1).shuffle(shuffled)
    inputs = dict(zip(ORDERS, (short + long, long + short, shuffled), strict=True))

    def run() -> Iterator[tuple[str, int, Callable[[], Any]]]:
        for name, counts in inputs.items():
            yield name, sum(counts), functools.partial(calls, counts)

    return run


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.ratio_at_most(f"long ones {order}: ≤ 1.15 × the limit", OURS, LIMIT, 1.15, metric=order)
        for order in ORDERS
    ]


ROW = Row(
    id="F9",
    title="2,000 × 1 ms, four of them 500 ms: last, first, shuffled",
    reference=LIMIT,
    rounds=5,
    quick_rounds=2,
    units=dict.fromkeys(ORDERS, "s"),
    measure=measure,
    judge=judge,
    prepare=calibrate,
)


def pack(counts: list[int], n_parts: int) -> list[list[int]]:
    """Longest first, each to the part that has least so far."""
    loads: list[tuple[int, int, list[int]]] = [(0, i, []) for i in range(n_parts)]
    for count in sorted(counts, reverse=True):
        load, i, part = loads[0]
        part.append(count)
        heapq.heapreplace(loads, (load + count, i, part))
    return [part for _, _, part in loads]


@ROW.form("serial", "for loop", kind="serial", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    return orders(bench, burn_all)


@ROW.form("limit", "costs known, packed by hand", kind="limit")
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        parts = [(part,) for part in pack(counts, bench.n_workers)]
        return [x for part in bench.system.run(burn_all, parts) for x in part]

    return orders(bench, calls)


@ROW.form("grainwise", "naive loop", kind="ours")
def _(bench: Bench) -> Run:
    task = bench.system.remote(burn)
    return orders(bench, lambda counts: bench.system.get([task.remote(count) for count in counts]))


@ROW.form("grainwise", "one by one (batching off)", kind="ours, tuned", rounds=3)
def _(bench: Bench) -> Run:
    task = bench.system.remote(batching="off")(burn)
    return orders(bench, lambda counts: bench.system.get([task.remote(count) for count in counts]))


@ROW.form("pool", "map", kind="naive")
def _(bench: Bench) -> Run:
    return orders(bench, lambda counts: bench.system.map(burn, counts))


@ROW.form("pool", "map, one by one", kind="tuned")
def _(bench: Bench) -> Run:
    return orders(bench, lambda counts: bench.system.map(burn, counts, chunksize=1))


@ROW.form("executor", "submit loop", kind="naive")
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        return [f.result() for f in [bench.system.submit(burn, count) for count in counts]]

    return orders(bench, calls)


@ROW.form("executor", "map, chunks of 10", kind="tuned")
def _(bench: Bench) -> Run:
    return orders(bench, lambda counts: list(bench.system.map(burn, counts, chunksize=10)))


@ROW.form("ray", "naive loop", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    task = bench.system.remote(burn)
    return orders(bench, lambda counts: bench.system.get([task.remote(count) for count in counts]))


@ROW.form("joblib", "delayed", kind="naive")
def _(bench: Bench) -> Run:
    from joblib import delayed

    return orders(bench, lambda counts: bench.system()(delayed(burn)(count) for count in counts))


@ROW.form("joblib", "batch_size=10", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    return orders(bench, lambda counts: bench.system(batch_size=10)(delayed(burn)(count) for count in counts))


@ROW.form("distributed", "submit loop", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    def calls(counts: list[int]) -> list[int]:
        return list(bench.system.gather([bench.system.submit(burn, count, pure=False) for count in counts]))

    return orders(bench, calls)


@ROW.form("mpire", "map", kind="naive")
def _(bench: Bench) -> Run:
    return orders(bench, lambda counts: bench.system.map(burn, counts))


@ROW.form("mpire", "map, one by one", kind="tuned")
def _(bench: Bench) -> Run:
    return orders(bench, lambda counts: bench.system.map(burn, counts, chunk_size=1))
