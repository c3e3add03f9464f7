"""Memory goes back: when refs are dropped, when nothing happens any more, after terabytes in theory."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import SerializationError

from .full_pool import LIMIT_S
from .shared_memory import resident_bytes, shared_bytes, wait_until

MB = 1 << 20
SLACK = 64 * MB
"""What may stay for reuse."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")

_make = ray.remote(lambda size: bytes(size))
_length = ray.remote(lambda value: len(value))


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2, object_store_memory=1 << 30)
    yield
    ray.shutdown()


# --- dropped refs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["put", "argument", "result"])
def test_gigabytes_through_the_store_leave_nothing(form: str) -> None:
    import numpy as np

    size, count = 80 * MB, 50
    for i in range(count):
        if form == "put":
            ref = ray.put(np.full(size, i, np.uint8))
            assert ray.get(ref)[-1] == i
            del ref
        elif form == "argument":
            assert ray.get(_length.remote(np.full(size, i, np.uint8)), timeout=LIMIT_S) == size
        else:
            assert len(ray.get(_make.remote(size), timeout=LIMIT_S)) == size
        assert shared_bytes() < 512 * MB
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_refs_dropped_long_after_the_last_task_give_their_memory_back() -> None:
    """Nobody submits or waits any more: the program goes on with something else."""
    refs = [ray.put(bytes(100 * MB)), _make.remote(100 * MB), _make.remote(100 * MB)]
    ray.wait(refs, num_returns=3, timeout=LIMIT_S)
    engine_threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    # The engine has gone to sleep once it has given back what was free: no thread of it wakes for a while.
    assert wait_until(lambda: _is_asleep(), LIMIT_S), engine_threads
    assert shared_bytes() >= 300 * MB
    refs.clear()
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def _is_asleep() -> bool:
    """Say whether no thread but this one has run for a quarter of a second."""

    def switches() -> list[str]:
        lines = []
        for task in os.listdir("/proc/self/task"):
            if int(task) != threading.get_native_id():
                status = Path(f"/proc/self/task/{task}/status").read_text()
                lines += [line for line in status.splitlines() if line.startswith("voluntary")]
        return lines

    before = switches()
    threading.Event().wait(0.4)
    return switches() == before


def test_a_lonely_put_that_is_dropped_gives_its_memory_back() -> None:
    ref = ray.put(bytes(200 * MB))
    assert shared_bytes() >= 200 * MB
    del ref
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_the_arguments_of_a_finished_task_are_let_go_while_its_ref_lives() -> None:
    refs = [_length.remote(bytes([i]) * 50 * MB) for i in range(4)]
    assert ray.get(refs, timeout=LIMIT_S) == [50 * MB] * 4
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)
    assert len(refs) == 4


def test_a_stored_argument_is_kept_for_the_next_call_and_let_go_with_its_source() -> None:
    import numpy as np

    array = np.arange(100 * MB, dtype=np.uint8)
    assert ray.get(_length.remote(array), timeout=LIMIT_S) == len(array)
    assert shared_bytes() >= 100 * MB
    del array
    assert ray.get(_length.remote(b""), timeout=LIMIT_S) == 0
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_views_keep_their_memory_and_nothing_else_does() -> None:
    import numpy as np

    part = ray.get(ray.put(np.ones(100 * MB, np.uint8)))[5:10]
    others = [ray.put(bytes(50 * MB)) for _ in range(4)]
    others.clear()
    assert ray.get(_length.remote(b""), timeout=LIMIT_S) == 0
    assert wait_until(lambda: shared_bytes() < 100 * MB + SLACK, LIMIT_S)
    assert part.tolist() == [1] * 5
    del part
    assert ray.get(_length.remote(b""), timeout=LIMIT_S) == 0
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_values_of_nested_tasks_are_let_go() -> None:
    @ray.remote
    def parent(inside: list[Any]) -> int:
        refs = [ray.put(bytes(20 * MB)), _make.remote(20 * MB), *inside]
        return sum(len(value) for value in ray.get(refs))

    for _ in range(5):
        given = ray.put(bytes(20 * MB))
        assert ray.get(parent.remote([given]), timeout=LIMIT_S) == 60 * MB
        del given
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_refs_that_a_task_returned_are_let_go() -> None:
    @ray.remote
    def give() -> dict[str, Any]:
        return {"put": ray.put(bytes(30 * MB)), "task": _make.remote(30 * MB)}

    for _ in range(5):
        refs = ray.get(give.remote(), timeout=LIMIT_S)
        assert [len(value) for value in ray.get(list(refs.values()), timeout=LIMIT_S)] == [30 * MB] * 2
        del refs
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_the_parts_of_a_result_or_call_that_failed_to_pickle_are_let_go() -> None:
    @ray.remote(num_returns=2)
    def fail() -> Any:
        return bytes(20 * MB), threading.Lock()

    count_all = ray.remote(lambda *values: len(values))

    @ray.remote
    def parent() -> int:
        count = 0
        for _ in range(3):
            try:
                count_all.remote(bytes(20 * MB), threading.Lock())
            except SerializationError:
                count += 1
        return count

    for _ in range(5):
        for ref in fail.remote():
            with pytest.raises(SerializationError):
                ray.get(ref, timeout=LIMIT_S)
        assert ray.get(parent.remote(), timeout=LIMIT_S) == 3
        del ref
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_results_of_a_dead_worker_are_let_go() -> None:
    @ray.remote(max_retries=0)
    def die(refs: list[Any]) -> None:
        refs.append(ray.put(bytes(30 * MB)))
        ray.get(refs)
        os._exit(3)

    kept = [_make.remote(30 * MB) for _ in range(4)]
    for _ in range(3):
        ray.wait([die.remote([ray.put(bytes(30 * MB))])], timeout=LIMIT_S)
    assert [len(value) for value in ray.get(kept, timeout=LIMIT_S)] == [30 * MB] * 4
    kept.clear()
    assert ray.get(_length.remote(b""), timeout=LIMIT_S) == 0
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


def test_functions_that_are_gone_let_their_captured_arrays_go() -> None:
    import numpy as np

    def call(i: int) -> int:
        array = np.full(20 * MB, i, np.uint8)
        result: int = ray.get(ray.remote(lambda: int(array[-1])).remote(), timeout=LIMIT_S)
        return result

    assert [call(i) for i in range(10)] == list(range(10))
    gc.collect()
    assert ray.get(_length.remote(b""), timeout=LIMIT_S) == 0
    assert wait_until(lambda: shared_bytes() < SLACK, LIMIT_S)


# --- long runs ----------------------------------------------------------------------------------------------


def test_hundreds_of_thousands_of_tasks_leave_driver_and_workers_as_they_were() -> None:
    double = ray.remote(lambda x: 2 * x)
    pairs = ray.remote(lambda x: [x, x])
    sizes = ray.remote(lambda pid: resident_bytes(pid))
    pid = ray.remote(os.getpid)

    def run() -> None:
        for _ in range(5):
            assert ray.get([double.remote(i) for i in range(10_000)], timeout=LIMIT_S)[-1] == 19_998
            assert ray.get([pairs.remote(i) for i in range(2000)], timeout=LIMIT_S)[-1] == [1999, 1999]

    for _ in range(2):
        run()  # warm up: pages, caches, arenas
    gc.collect()
    pids = set(ray.get([pid.remote() for _ in range(50)], timeout=LIMIT_S))
    before = resident_bytes()
    before_workers = [ray.get(sizes.remote(each), timeout=LIMIT_S) for each in sorted(pids)]
    for _ in range(3):
        run()
    gc.collect()
    assert resident_bytes() - before < 20 * MB
    for was, each in zip(before_workers, sorted(pids)):
        assert ray.get(sizes.remote(each), timeout=LIMIT_S) - was < 20 * MB


def test_calls_and_results_are_freed_without_the_garbage_collector() -> None:
    class Payload:
        """Something that weak references can watch."""

    gc.collect()
    gc.disable()
    try:
        payload = Payload()
        watch = weakref.ref(payload)
        ref = ray.put([1, 2])
        value = [ray.get(ref), payload]
        del payload, value
        assert watch() is None
        refs = [_make.remote(MB) for _ in range(10)]
        ray.wait(refs, num_returns=10, timeout=LIMIT_S)
        ref = _length.remote(refs[0])
        assert ray.get(ref, timeout=LIMIT_S) == MB
        del ref, refs
        assert ray.get(_length.remote(b""), timeout=LIMIT_S) == 0
        assert wait_until(lambda: shared_bytes() < 64 * MB, LIMIT_S)
    finally:
        gc.enable()


# --- dropped at odd moments ---------------------------------------------------------------------------------


def test_refs_dropped_by_finalizers_callbacks_and_the_collector_at_every_allocation() -> None:
    class Holder:
        """In a cycle with itself, so that only the collector ends it."""

        def __init__(self, refs: list[Any]) -> None:
            self.refs = refs
            self.me = self

        def __del__(self) -> None:
            self.refs.clear()

    callbacks: list[Any] = []
    kept: dict[int, list[Any]] = {}
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for i in range(150):
            Holder([ray.put(bytes(70_000)), _make.remote(70_000), _length.remote(bytes(70_000))])
            target = Holder([_length.remote([i])])
            kept[i] = [ray.put(bytes(70_000)), _make.remote(100)]
            callbacks.append(weakref.ref(target, lambda _, i=i: kept.pop(i)))
            del target
            assert ray.get(_length.remote([1, 2]), timeout=LIMIT_S) == 2
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert kept == {}
    assert ray.get([_length.remote([0] * i) for i in range(100)], timeout=LIMIT_S) == list(range(100))


def test_refs_dropped_in_other_threads_while_results_arrive() -> None:
    import queue

    waste: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def drop() -> None:
        while waste.get() is not None:
            pass

    threads = [threading.Thread(target=drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(1000):
        waste.put([_make.remote(70_000 if i % 20 == 0 else 10), ray.put(i)])
    for _ in threads:
        waste.put(None)
    for thread in threads:
        thread.join()
    assert ray.get(_length.remote([1]), timeout=LIMIT_S) == 1


def test_a_ref_dropped_inside_a_task_by_the_collector() -> None:
    @ray.remote
    def parent() -> int:
        class Holder:
            def __init__(self, refs: list[Any]) -> None:
                self.refs, self.me = refs, self

        gc.set_threshold(1, 1, 1)
        try:
            total = 0
            for _ in range(50):
                Holder([ray.put(bytes(70_000)), _make.remote(70_000)])
                total += ray.get(_length.remote([1]))
            return total
        finally:
            gc.set_threshold(700, 10, 10)

    assert ray.get([parent.remote() for _ in range(2)], timeout=LIMIT_S) == [50, 50]
