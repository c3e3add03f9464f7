"""F4: a 200 MB array passed by value to 10 tasks that sum it; the first time, and again.

The anti-pattern of passing the same large argument to many tasks. "First" is the first call after start,
when the store has no warm page; "again" passes the same array once more. After that one element is changed
in place and the by-value forms must see it (not timed): by value means by value.

Memory is sampled in a run of its own: the growth of shared memory of the whole system plus the private
memory of the child and its workers, at its peak; one copy of the array is 200 MB.

Goal: naive at most 1.15 × our own `put` form; at most 0.25 s first and 0.12 s again; memory grows by one
copy.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import cache
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples, time_first_and_again

N_TASKS = 10
N_NUMBERS = 25_000_000
N_BYTES = 8 * N_NUMBERS
N_AGAIN = 3
OURS, OURS_PUT = "grainwise: by value, naive loop", "grainwise: put once, pass the ref"

RECOGNISING = ("grainwise", "joblib")  # may recognise an argument, and must see when it has changed


@cache
def array() -> Any:
    import numpy

    return numpy.arange(N_NUMBERS, dtype=numpy.float64) % 1000


def total(numbers: Any) -> float:
    return float(numbers.sum())


def check(result: list[float]) -> None:
    assert result == [float(array().sum())] * N_TASKS, "wrong result"


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time the first run and some more, then see that a change in place is seen."""
    array()
    samples = time_first_and_again(run, check, n_again=1 if form.kind == "naive" else N_AGAIN)
    if form.label.startswith("by value") and form.system in RECOGNISING:
        array()[N_NUMBERS // 3] += 1000
        check(run())
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.ratio_at_most("first: ≤ 1.15 × our own put form", OURS, OURS_PUT, 1.15, metric="first"),
        figures.ratio_at_most("again: ≤ 1.15 × our own put form", OURS, OURS_PUT, 1.15, metric="again"),
        figures.at_most("first: ≤ 0.25 s", OURS, 0.25, "first"),
        figures.at_most("again: ≤ 0.12 s", OURS, 0.12, "again"),
        figures.at_most("memory grows by one copy (≤ 1.25 × 200 MB)", OURS, 1.25 * N_BYTES, "peak memory"),
    ]


ROW = Row(
    id="F4",
    title="a 200 MB array by value to 10 tasks (sum)",
    reference=OURS,
    rounds=4,
    quick_rounds=1,
    units={"first": "s", "again": "s", "peak memory": "MB"},
    requires=("numpy",),
    has_own_children=True,
    is_fresh_each_round=True,
    measures_memory=True,
    check=check,
    measure=measure,
    judge=judge,
)


@ROW.form("serial", "for loop", kind="serial")
def _(bench: Bench) -> Run:
    numbers = array()
    return lambda: [total(numbers) for _ in range(N_TASKS)]


# The reference for "again": pages present and mapped by every process, nothing to send.


def sums_of_mapped(n_times: int) -> list[float]:
    return [total(_mapped[0]) for _ in range(n_times)]


_mapped: list[Any] = []


def _shares(n_workers: int) -> list[int]:
    return [len(range(i, N_TASKS, n_workers)) for i in range(n_workers)]


@ROW.form("limit", "array already in every process", kind="limit")
def _(bench: Bench) -> Run:
    from benchmarks.systems import PlainProcesses

    _mapped.append(array())  # before the fork
    processes = PlainProcesses(bench.n_workers)
    bench.closing.callback(processes.close)
    shares = [(n,) for n in _shares(bench.n_workers)]
    processes.run(sums_of_mapped, shares)
    return lambda: [x for part in processes.run(sums_of_mapped, shares) for x in part]


@ROW.form("limit", "fork, then sum", kind="limit")
def _(bench: Bench) -> Run:
    context = multiprocessing.get_context("fork")
    numbers = array()

    def child(pipe: Any, n_times: int) -> None:
        pipe.send([total(numbers) for _ in range(n_times)])

    def run() -> list[float]:
        results, processes = [], []
        for n_times in _shares(bench.n_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs, n_times))
            process.start()
            processes.append((process, ours))
        for process, pipe in processes:
            results += pipe.recv()
            process.join()
        return results

    return run


def _warm_numpy(bench: Bench) -> tuple[Any, Any]:
    """The row's array, and a small one: workers must have NumPy imported before the timed part."""
    numbers = array()
    return numbers, numbers[:1000].copy()


@ROW.form("grainwise", "by value, naive loop", kind="ours")
def _(bench: Bench) -> Run:
    grainwise, (numbers, small) = bench.system, _warm_numpy(bench)
    task = grainwise.remote(total)
    grainwise.get([task.remote(small) for _ in range(N_TASKS)])
    return lambda: grainwise.get([task.remote(numbers) for _ in range(N_TASKS)])


def _put_form(bench: Bench) -> Run:
    """The same code for grainwise and Ray."""
    system, (numbers, small) = bench.system, _warm_numpy(bench)
    task = system.remote(total)
    system.get([task.remote(small) for _ in range(N_TASKS)])

    def run() -> list[float]:
        ref = system.put(numbers)
        results: list[float] = system.get([task.remote(ref) for _ in range(N_TASKS)])
        return results

    return run


ROW.form("grainwise", "put once, pass the ref", kind="ours, tuned")(_put_form)


@ROW.form("pool", "by value, apply_async loop", kind="naive", rounds=1, quick_rounds=0)
def _(bench: Bench) -> Run:
    pool, (numbers, small) = bench.system, _warm_numpy(bench)
    pool.map(total, [small] * N_TASKS)
    return lambda: [r.get() for r in [pool.apply_async(total, (numbers,)) for _ in range(N_TASKS)]]


_attached: list[Any] = []


def _attach(name: str) -> None:
    """Initializer: map the shared block and keep it mapped."""
    import numpy

    block = SharedMemory(name=name)
    _attached.extend([block, numpy.ndarray((N_NUMBERS,), dtype=numpy.float64, buffer=block.buf)])


def sum_attached(_: int) -> float:
    return total(_attached[1])


@ROW.form("pool", "shared memory by hand", kind="tuned")
def _(bench: Bench) -> Run:
    import numpy

    block = SharedMemory(create=True, size=N_BYTES)
    bench.closing.callback(block.unlink)
    shared = numpy.ndarray((N_NUMBERS,), dtype=numpy.float64, buffer=block.buf)
    pool = bench.closing.enter_context(
        multiprocessing.get_context("fork").Pool(bench.n_workers, _attach, (block.name,))
    )
    numbers = array()

    def run() -> list[float]:
        shared[:] = numbers
        results: list[float] = pool.map(sum_attached, range(N_TASKS), chunksize=1)
        return results

    return run


@ROW.form("executor", "by value, submit loop", kind="naive", rounds=1, quick_rounds=0)
def _(bench: Bench) -> Run:
    executor, (numbers, small) = bench.system, _warm_numpy(bench)
    list(executor.map(total, [small] * N_TASKS))
    return lambda: [f.result() for f in [executor.submit(total, numbers) for _ in range(N_TASKS)]]


@ROW.form("ray", "by value, naive loop", kind="naive", rounds=2, quick_rounds=0)
def _(bench: Bench) -> Run:
    ray, (numbers, small) = bench.system, _warm_numpy(bench)
    task = ray.remote(total)
    ray.get([task.remote(small) for _ in range(N_TASKS)])
    return lambda: ray.get([task.remote(numbers) for _ in range(N_TASKS)])


ROW.form("ray", "put once, pass the ref", kind="tuned")(_put_form)


@ROW.form("joblib", "by value, delayed (memory-mapped by joblib)", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    numbers, small = _warm_numpy(bench)
    bench.system()(delayed(total)(small) for _ in range(N_TASKS))
    return lambda: bench.system()(delayed(total)(numbers) for _ in range(N_TASKS))


@ROW.form("dask", "by value, delayed", kind="naive", rounds=1, quick_rounds=0)
def _(bench: Bench) -> Run:
    from dask import delayed

    numbers, small = _warm_numpy(bench)
    task = delayed(total)
    bench.system(*[task(small) for _ in range(N_TASKS)])
    return lambda: list(bench.system(*[task(numbers) for _ in range(N_TASKS)]))


@ROW.form("distributed", "scatter once, pass the future", kind="tuned", rounds=2)
def _(bench: Bench) -> Run:
    client, (numbers, small) = bench.system, _warm_numpy(bench)
    client.gather([client.submit(total, small, pure=False) for _ in range(N_TASKS)])

    def run() -> list[float]:
        future = client.scatter(numbers, broadcast=True, hash=False)
        results: list[float] = client.gather(
            [client.submit(total, future, pure=False) for _ in range(N_TASKS)]
        )
        return results

    return run


def sum_shared_object(numbers: Any, _: int) -> float:
    return total(numbers)


@ROW.form("mpire", "shared_objects (fork)", kind="tuned")
def _(bench: Bench) -> Run:
    from mpire import WorkerPool

    # The fork that shares the array is part of the work here: mpire has no later way to share it.
    numbers = array()

    def run() -> list[float]:
        with WorkerPool(n_jobs=bench.n_workers, shared_objects=numbers, start_method="fork") as pool:
            results: list[float] = pool.map(sum_shared_object, range(N_TASKS), chunk_size=1)
            return results

    return run
