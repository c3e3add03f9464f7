"""F1: 10,000 tasks that sleep 10 µs and double a number, submitted one by one in a naive loop.

The classic of too fine-grained tasks: about 60-90 µs of (mostly timer) work each, far less than what one
task costs most systems. The limit is each worker doing its share in one message; splitting evenly by hand
is as good as that here, because all tasks take the same time.

Goal: at most 1.10 × the limit, and faster than every hand-tuned peer.
"""

from __future__ import annotations

import time

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Row, Run

N = 10_000
NUMBERS = list(range(N))
BATCH = 1_000
OURS, LIMIT = "grainwise: naive loop", "limit: one message per process"


def double(x: int) -> int:
    time.sleep(0.00001)
    return 2 * x


def double_all(numbers: list[int]) -> list[int]:
    return [double(x) for x in numbers]


def batches(size: int) -> list[list[int]]:
    return [NUMBERS[i : i + size] for i in range(0, N, size)]


def flat(lists: list[list[int]]) -> list[int]:
    return [x for part in lists for x in part]


def check(result: list[int]) -> None:
    assert list(result) == [2 * x for x in NUMBERS], "wrong result"


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.ratio_at_most("≤ 1.10 × the limit", OURS, LIMIT, 1.10),
        figures.ratio_at_most(
            "faster than every hand-tuned peer (the best is named)", OURS, figures.best(["tuned"]), 1.0
        ),
    ]


ROW = Row(
    id="F1",
    title="10,000 × (sleep 10 µs, double), naive loop and get",
    reference=OURS,
    rounds=9,
    quick_rounds=2,
    check=check,
    judge=judge,
)


@ROW.form("serial", "for loop", kind="serial", quick_rounds=1)
def _(bench: Bench) -> Run:
    return lambda: [double(x) for x in NUMBERS]


@ROW.form("limit", "one message per process", kind="limit")
def _(bench: Bench) -> Run:
    share = -(-N // bench.n_workers)
    parts = [(NUMBERS[i * share : (i + 1) * share],) for i in range(bench.n_workers)]
    return lambda: flat(bench.system.run(double_all, parts))


@ROW.form("grainwise", "naive loop", kind="ours")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double)
    return lambda: bench.system.get([task.remote(x) for x in NUMBERS])


@ROW.form("grainwise", "batches of 1,000 by hand", kind="ours, tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double_all)
    return lambda: flat(bench.system.get([task.remote(part) for part in batches(BATCH)]))


@ROW.form("pool", "apply_async loop", kind="naive", rounds=5)
def _(bench: Bench) -> Run:
    return lambda: [r.get() for r in [bench.system.apply_async(double, (x,)) for x in NUMBERS]]


@ROW.form("pool", "map", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.map(double, NUMBERS)


@ROW.form("pool", "map, an even share per worker", kind="tuned")
def _(bench: Bench) -> Run:
    share = -(-N // bench.n_workers)
    return lambda: bench.system.map(double, NUMBERS, chunksize=share)


@ROW.form("executor", "submit loop", kind="naive", rounds=5, quick_rounds=1)
def _(bench: Bench) -> Run:
    return lambda: [f.result() for f in [bench.system.submit(double, x) for x in NUMBERS]]


@ROW.form("executor", "map, chunks of 1,000", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: list(bench.system.map(double, NUMBERS, chunksize=BATCH))


@ROW.form("ray", "naive loop", kind="naive", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    task = bench.system.remote(double)
    return lambda: bench.system.get([task.remote(x) for x in NUMBERS])


@ROW.form("ray", "batches of 1,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double_all)
    return lambda: flat(bench.system.get([task.remote(part) for part in batches(BATCH)]))


@ROW.form("joblib", "delayed", kind="naive")
def _(bench: Bench) -> Run:
    from joblib import delayed

    return lambda: bench.system()(delayed(double)(x) for x in NUMBERS)


@ROW.form("joblib", "batch_size=1,000", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    return lambda: bench.system(batch_size=BATCH)(delayed(double)(x) for x in NUMBERS)


@ROW.form("dask", "delayed", kind="naive", rounds=2, quick_rounds=0)
def _(bench: Bench) -> Run:
    from dask import delayed

    task = delayed(double)
    return lambda: list(bench.system(*[task(x) for x in NUMBERS]))


@ROW.form("dask", "batches of 1,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    from dask import delayed

    task = delayed(double_all)
    return lambda: flat(list(bench.system(*[task(part) for part in batches(BATCH)])))


@ROW.form("distributed", "submit loop", kind="naive", rounds=1, quick_rounds=0)
def _(bench: Bench) -> Run:
    # pure=False: otherwise the second round would be answered from the first one's results.
    return lambda: bench.system.gather([bench.system.submit(double, x, pure=False) for x in NUMBERS])


@ROW.form("distributed", "batches of 1,000 by hand", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: flat(bench.system.gather(bench.system.map(double_all, batches(BATCH), pure=False)))


@ROW.form("mpire", "map", kind="naive")
def _(bench: Bench) -> Run:
    return lambda: bench.system.map(double, NUMBERS)


@ROW.form("mpire", "map, chunks of 1,000", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.map(double, NUMBERS, chunk_size=BATCH)
