"""F6: `put` of 200 MB arrays, into fresh pages and into warm ones.

`fresh` puts four different arrays right after start and keeps them all, so each needs pages that nobody has
touched. `warm` then drops them and puts one array at a time, changed each time, dropping it in between: the
pages of the last one can be used again. Each result is read back and compared outside the timed part.

Page faults, not copying, are the cost: the limits are `os.write` into a new memfd (fresh; it takes no page
faults) and a plain copy into a mapping that is already touched (warm), by one thread and by two.

Goal: at least 10 GB/s warm, at least 1.5 GB/s fresh.
"""

from __future__ import annotations

import gc
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

N_BYTES = 200_000_000
N_FRESH = 4
N_WARM, N_WARM_QUICK = 5, 3
PAUSE_S = 0.2  # after dropping an object: some stores free it in the background
OURS = "grainwise: put"


class Store:
    """What a form gives: `put` an array, `read` it back, `drop` it. Handles are the form's own."""

    def __init__(
        self, put: Callable[[Any], Any], read: Callable[[Any], Any], drop: Callable[[Any], Any] | None = None
    ) -> None:
        self.put, self.read, self.drop = put, read, drop or (lambda handle: None)


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time puts only; a form may be for fresh pages, for warm ones, or (by default) both."""
    import numpy

    store: Store = run()
    arrays = [numpy.full(N_BYTES, i, dtype=numpy.uint8) for i in range(N_FRESH)]
    samples: Samples = {}
    if "warm" not in form.label:
        samples["fresh"] = _fresh(store, arrays)
    del arrays[1:]
    if "fresh" not in form.label:
        samples["warm"] = _warm(store, arrays[0], N_WARM_QUICK if bench.is_quick else N_WARM)
    return samples


def _fresh(store: Store, arrays: list[Any]) -> list[float]:
    times, handles = [], []
    for array in arrays:
        start = time.perf_counter()
        handles.append(store.put(array))
        times.append(time.perf_counter() - start)
    for handle, array in zip(handles, arrays, strict=True):
        _compare(store.read(handle), array)
    while handles:
        store.drop(handles.pop())
    return times


def _warm(store: Store, array: Any, n_puts: int) -> list[float]:
    times = []
    for i in range(1 + n_puts):
        gc.collect()
        time.sleep(PAUSE_S)
        array[i::4096] += 1 + i  # no two puts see the same content
        start = time.perf_counter()
        handle = store.put(array)
        times.append(time.perf_counter() - start)
        _compare(store.read(handle), array)
        store.drop(handle)
        del handle
    return times[1:]


def _compare(found: Any, array: Any) -> None:
    import numpy

    # As 64-bit words: a comparison byte by byte takes three times as long.
    same = numpy.array_equal(numpy.asarray(found).view(numpy.uint64), array.view(numpy.uint64))
    assert same, "wrong result"


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≥ 10 GB/s warm", OURS, N_BYTES / 10e9, "warm"),
        figures.at_most("≥ 1.5 GB/s fresh", OURS, N_BYTES / 1.5e9, "fresh"),
    ]


ROW = Row(
    id="F6",
    title="put of 200 MB arrays",
    reference=OURS,
    rounds=3,
    quick_rounds=1,
    units={"fresh": f"GB/s of {N_BYTES}", "warm": f"GB/s of {N_BYTES}"},
    requires=("numpy",),
    has_own_children=True,
    is_fresh_each_round=True,
    measure=measure,
    judge=judge,
)


def _system_form(bench: Bench) -> Run:
    """The same code for grainwise and Ray."""
    return lambda: Store(bench.system.put, bench.system.get)


ROW.form("grainwise", "put", kind="ours")(_system_form)
ROW.form("ray", "put", kind="tuned")(_system_form)


def _new_memfd() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("f06")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@ROW.form("limit", "fresh: os.write into a new memfd", kind="limit")
def _(bench: Bench) -> Run:
    import numpy

    def put(array: Any) -> int:
        descriptor = _new_memfd()
        view, written = memoryview(array), 0
        while written < N_BYTES:
            written += os.write(descriptor, view[written:])
        return descriptor

    def read(descriptor: int) -> Any:
        return numpy.frombuffer(mmap.mmap(descriptor, N_BYTES, prot=mmap.PROT_READ), dtype=numpy.uint8)

    return lambda: Store(put, read, os.close)


def _copy_into_one_mapping(n_threads: int) -> Callable[[Bench], Run]:
    def set_up(bench: Bench) -> Run:
        import numpy

        target = numpy.frombuffer(mmap.mmap(-1, N_BYTES), dtype=numpy.uint8)
        threads = bench.closing.enter_context(ThreadPoolExecutor(n_threads))
        part = N_BYTES // n_threads

        def copy(array: Any, i: int) -> None:
            target[i * part : (i + 1) * part] = array[i * part : (i + 1) * part]

        def put(array: Any) -> None:
            list(threads.map(copy, [array] * n_threads, range(n_threads)))

        return lambda: Store(put, lambda handle: target)

    return set_up


ROW.form("limit", "warm: copy into a touched mapping", kind="limit")(_copy_into_one_mapping(1))
ROW.form("limit", "warm: the same, two threads", kind="limit")(_copy_into_one_mapping(2))


@ROW.form("pool", "fresh: a new SharedMemory for each", kind="tuned")
def _(bench: Bench) -> Run:
    import numpy

    def put(array: Any) -> SharedMemory:
        block = SharedMemory(create=True, size=N_BYTES)
        numpy.ndarray((N_BYTES,), dtype=numpy.uint8, buffer=block.buf)[:] = array
        return block

    def read(block: SharedMemory) -> Any:
        return numpy.ndarray((N_BYTES,), dtype=numpy.uint8, buffer=block.buf).copy()

    def drop(block: SharedMemory) -> None:
        block.close()
        block.unlink()

    return lambda: Store(put, read, drop)


@ROW.form("pool", "warm: the same SharedMemory again", kind="tuned")
def _(bench: Bench) -> Run:
    import numpy

    block = SharedMemory(create=True, size=N_BYTES)
    bench.closing.callback(block.unlink)
    shared = numpy.ndarray((N_BYTES,), dtype=numpy.uint8, buffer=block.buf)

    def put(array: Any) -> None:
        shared[:] = array

    return lambda: Store(put, lambda handle: shared)


@ROW.form("joblib", "dump into /dev/shm", kind="tuned")
def _(bench: Bench) -> Run:
    import joblib

    fast = Path("/dev/shm")
    parent = fast if fast.is_dir() else Path(tempfile.gettempdir())
    folder = bench.closing.enter_context(tempfile.TemporaryDirectory(dir=parent))
    names = iter(range(1_000_000))

    def put(array: Any) -> Path:
        path = Path(folder, str(next(names)))
        joblib.dump(array, path)
        return path

    return lambda: Store(put, lambda path: joblib.load(path, mmap_mode="r"), os.unlink)
