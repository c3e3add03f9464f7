"""Tiny children that a blocked task runs itself: the program can't tell them from those that workers ran."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current
from grainwise.errors import GetTimeoutError

from .full_pool import LIMIT_S, RunLog
from .shared_memory import resident_bytes, shared_bytes, wait_until
from .signposts import Sign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")

MB = 1 << 20


@pytest.fixture(params=[1, 2], ids=["one cpu", "two cpus"], autouse=True)
def num_cpus(request: pytest.FixtureRequest) -> Iterator[int]:
    ray.init(num_cpus=request.param)
    yield request.param
    ray.shutdown()


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def get_pid(_: int = 0) -> int:
    return os.getpid()


def warm_up(function: Any, *args: Any) -> None:
    """In a task: let it learn that calls of a function are quick, so that it keeps the next ones."""
    for _ in range(5):
        ray.get([function.remote(*args)])


# --- what runs where ----------------------------------------------------------------------------------------


def test_tiny_children_run_in_the_process_of_their_parent() -> None:
    @ray.remote
    def parent() -> tuple[int, list[int]]:
        warm_up(get_pid)
        return os.getpid(), ray.get([get_pid.remote(i) for i in range(3)])

    seen = [ray.get(parent.remote(), timeout=LIMIT_S) for _ in range(20)]
    assert any(pids == [own] * 3 for own, pids in seen)


def test_fibonacci() -> None:
    @ray.remote
    def fibonacci(n: int) -> int:
        return n if n < 2 else sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    assert ray.get(fibonacci.remote(15), timeout=LIMIT_S) == 610


@pytest.mark.parametrize("depth", [39, 200])
def test_a_deep_recursion(depth: int) -> None:
    @ray.remote
    def down(n: int, label: list[int]) -> list[int]:
        return label if not n else [*ray.get(down.remote(n - 1, [*label, n])), n]

    assert ray.get(down.remote(depth, []), timeout=LIMIT_S) == [
        *range(depth, 0, -1),
        *range(1, depth + 1),
    ]


def test_children_that_meet_their_siblings(num_cpus: int, tmp_path: Path) -> None:
    """The function was quick before. If both ran one after the other in the parent, they would never meet."""
    if num_cpus == 1:
        return  # one CPU lets nobody meet
    signs = [Sign(tmp_path / name) for name in "ab"]

    @ray.remote
    def meet(k: int = -1) -> int:
        if k >= 0:
            signs[k].put_up()
            signs[1 - k].wait()
        return k

    @ray.remote
    def parent() -> list[int]:
        warm_up(meet)
        return ray.get([meet.remote(), meet.remote(0), meet.remote(), meet.remote(1), meet.remote()])

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [-1, 0, -1, 1, -1]


def test_a_grandchild_that_meets_a_child(num_cpus: int, tmp_path: Path) -> None:
    if num_cpus == 1:
        return
    signs = [Sign(tmp_path / name) for name in "ab"]

    @ray.remote
    def meet(k: int = -1, depth: int = 0) -> int:
        if depth:
            return ray.get(meet.remote(k, depth - 1))
        if k >= 0:
            signs[k].put_up()
            signs[1 - k].wait()
        return k

    @ray.remote
    def parent() -> list[int]:
        warm_up(meet, -1, 2)
        return ray.get([meet.remote(0), meet.remote(1, 2)])

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [0, 1]


def test_what_a_child_asks_the_driver_for(num_cpus: int) -> None:
    @ray.remote
    def read(inside: list[Any], n: int = 0) -> int:
        return len(ray.get(inside[0])) + (ray.get(read.remote(inside, n - 1)) if n else 0)

    @ray.remote
    def parent(inside: list[Any]) -> list[int]:
        warm_up(read, [ray.put("x")])
        return ray.get([read.remote(inside, 2), read.remote([ray.put(bytes(MB))], 1)])

    late = ray.remote(lambda: "four")
    for value in (ray.put(bytes(MB)), ray.put([1]), late.remote()):
        size = len(ray.get(value, timeout=LIMIT_S))
        assert ray.get(parent.remote([value]), timeout=LIMIT_S) == [3 * size, 2 * MB]


# --- by value -----------------------------------------------------------------------------------------------


def test_arguments_and_results_are_copies() -> None:
    @ray.remote
    def grow(values: list[Any], inner: dict[str, list[int]]) -> tuple[Any, Any]:
        values.append(1)
        inner["a"].append(2)
        return values, inner

    @ray.remote
    def parent() -> list[Any]:
        warm_up(grow, [], {"a": []})
        values: list[Any] = []
        inner: dict[str, list[int]] = {"a": []}
        refs = [grow.remote(values, inner) for _ in range(3)]
        values.append("changed after the call")
        first = ray.get(refs)
        first[0][0].append("changed by the parent")
        return [values, inner, ray.get(refs)]

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [
        ["changed after the call"],
        {"a": []},
        [([1], {"a": [2]})] * 3,
    ]


def test_captured_values_are_copies_as_of_the_first_call() -> None:
    captured: list[int] = []

    @ray.remote
    def parent() -> list[Any]:
        mine: list[int] = []

        @ray.remote
        def look() -> list[list[int]]:
            return [list(mine), list(captured)]

        seen = [ray.get(look.remote()) for _ in range(3)]
        mine.append(1)
        captured.append(1)
        seen += ray.get([look.remote() for _ in range(3)])
        return [seen, mine]

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [[[[], []]] * 6, [1]]
    assert captured == []


def test_large_values_captured_passed_and_returned() -> None:
    import numpy as np

    @ray.remote
    def parent() -> list[Any]:
        weights = np.arange(MB, dtype=np.uint8)
        scale = ray.remote(lambda x: int(weights[x]))
        total = ray.remote(lambda data: int(data[-1]))
        make = ray.remote(lambda x: np.full(MB, x, np.uint8))
        for function, arg in ((scale, 1), (total, [1]), (make, 1)):
            warm_up(function, arg)
        made = ray.get([make.remote(i) for i in range(3)])
        assert not any(each.flags.writeable for each in made)
        return [
            ray.get([scale.remote(i) for i in range(3)]),
            ray.get([total.remote(weights), total.remote(made[2])]),
            ray.get([total.remote(make.remote(i)) for i in range(3)]),
        ]

    for _ in range(3):
        assert ray.get(parent.remote(), timeout=LIMIT_S) == [[0, 1, 2], [255, 2], [0, 1, 2]]
    gc.collect()
    assert ray.get(double.remote(1), timeout=LIMIT_S) == 2
    assert wait_until(lambda: shared_bytes() < 64 * MB, LIMIT_S)


# --- refs of such children ----------------------------------------------------------------------------------


def test_refs_of_children_that_ran_here_go_everywhere() -> None:
    pair = ray.remote(lambda x: [x, x])
    read = ray.remote(lambda inside: [ray.get(each) for each in inside])
    same = ray.remote(lambda value: value)

    @ray.remote
    def parent() -> dict[str, Any]:
        warm_up(double, 1)
        warm_up(pair, 1)
        refs = [double.remote(4), pair.remote(5)]
        ray.get(refs)
        kept = {"nested": refs, "put": ray.put(refs)}
        kept["argument"] = ray.get([same.remote(ref) for ref in refs])
        kept["inside"] = ray.get(read.remote(refs))
        kept["same child"] = ray.get(read.remote([ray.get(kept["put"])[1]]))
        return kept

    for _ in range(3):
        found = ray.get(parent.remote(), timeout=LIMIT_S)
        assert ray.get(found["nested"], timeout=LIMIT_S) == [8, [5, 5]]
        assert ray.get(ray.get(found["put"]), timeout=LIMIT_S) == [8, [5, 5]]
        assert found["argument"] == found["inside"] == [8, [5, 5]]
        assert found["same child"] == [[5, 5]]
        assert ray.get(double.remote(found["nested"][0]), timeout=LIMIT_S) == 16
        del found
    engine: Any = current()
    assert wait_until(lambda: not engine.borders.refs, LIMIT_S)


def test_a_child_returns_a_ref_of_its_own_child() -> None:
    @ray.remote
    def give(depth: int) -> Any:
        ref = give.remote(depth - 1) if depth else double.remote(21)
        ray.wait([ref])
        return [ref]

    @ray.remote
    def give_unfinished(depth: int) -> Any:
        return [give_unfinished.remote(depth - 1) if depth else double.remote(21)]

    @ray.remote
    def parent(function: Any) -> Any:
        warm_up(function, 0)
        refs = [function.remote(depth) for depth in range(4)]
        return [*refs, *ray.get(refs)]

    for function in (give, give_unfinished):
        found = ray.get(parent.remote(function), timeout=LIMIT_S)
        for depth, ref in enumerate(found[:4]):
            value = ref
            for _ in range(depth + 2):
                value = ray.get(value, timeout=LIMIT_S)
                value = value[0] if isinstance(value, list) else value
            assert value == 42


def test_the_ref_of_a_failed_child_fails_elsewhere_with_its_error() -> None:
    @ray.remote
    def fail(x: int) -> int:
        raise LookupError(f"no {x}")

    @ray.remote
    def parent() -> list[Any]:
        warm_up(double, 1)
        for _ in range(5):
            ray.wait([fail.remote(0)])
        ref = fail.remote(7)
        try:
            ray.get(ref)
        except LookupError:
            return [ref, double.remote(ref)]
        return []

    for ref in ray.get(parent.remote(), timeout=LIMIT_S):
        with pytest.raises(LookupError, match="no 7") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert "fail" in info.value.task_name  # type: ignore[attr-defined]


def test_waiting_with_an_end_and_one_by_one() -> None:
    @ray.remote
    def parent() -> list[Any]:
        warm_up(double, 1)
        refs = [double.remote(i) for i in range(6)]
        found: list[Any] = [ray.get(refs[0], timeout=LIMIT_S)]
        ready, rest = ray.wait(refs[1:], num_returns=2, timeout=LIMIT_S)
        found += [len(ready), len(rest)]
        found.append(ray.get(refs[5]))
        found.append(ray.get([refs[4], refs[4], refs[0]]))
        never = ray.remote(lambda: threading.Event().wait()).remote()
        try:
            ray.get([double.remote(1), never], timeout=0.01)
        except GetTimeoutError:
            found.append("too late")
        ray.cancel(never, force=True)
        return found

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [0, 2, 3, 10, [8, 8, 0], "too late"]


def test_threads_of_a_task_share_its_children() -> None:
    @ray.remote
    def with_thread(x: int) -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(ray.get(double.remote(x))))
        thread.start()
        here = ray.get([double.remote(x), double.remote(x)])
        thread.join()
        return sum(here + found)

    @ray.remote
    def parent() -> list[Any]:
        from concurrent.futures import ThreadPoolExecutor

        warm_up(double, 1)
        warm_up(with_thread, 1)
        refs = [double.remote(i) for i in range(20)]
        ray.get(refs[10:])
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(ray.get, refs + refs))
            submitted = list(threads.map(lambda x: ray.get(double.remote(x)), range(20)))
            more = ray.get([double.remote(i) for i in range(20)])
        return [found, submitted, more, ray.get([with_thread.remote(1) for _ in range(5)])]

    doubled = [2 * i for i in range(20)]
    assert ray.get(parent.remote(), timeout=LIMIT_S) == [doubled + doubled, doubled, doubled, [6] * 5]


def test_a_task_that_forks_can_not_run_its_children_in_the_fork() -> None:
    @ray.remote
    def parent() -> list[int]:
        warm_up(double, 1)
        ref = double.remote(4)
        pid = os.fork()
        if not pid:
            try:
                ray.get(ref)
            except Exception:
                os._exit(8)
            os._exit(7)
        return [os.WEXITSTATUS(os.waitpid(pid, 0)[1]), ray.get(ref)]

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [8, 8]


@pytest.mark.parametrize("size", [1, MB], ids=["small", "large"])
def test_a_child_that_forks(size: int) -> None:
    """The fork that comes back from the child's function ends there, with success."""

    @ray.remote
    def fork(returns: bool) -> Any:
        pid = os.fork()
        if not pid:
            if returns:
                return [bytes(size)]
            os._exit(5)
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])

    @ray.remote
    def parent() -> list[Any]:
        warm_up(fork, False)
        return [ray.get(fork.remote(True)), ray.get(fork.remote(False)), ray.get(double.remote(2))]

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [0, 5, 4]


# --- what stays ---------------------------------------------------------------------------------------------


def test_functions_defined_in_tasks_leave_nothing_in_their_workers() -> None:
    """Each is a new one, with much captured text, and all its calls run where it was made."""

    @ray.remote
    def parent(i: int) -> int:
        text = f"{i}" + "x" * 60_000  # just too small for shared memory
        inner = ray.remote(lambda x: x + len(text))
        return ray.get(inner.remote(1)) + ray.get(inner.remote(1))

    @ray.remote
    def measure() -> tuple[int, int]:
        return os.getpid(), resident_bytes()

    for _ in range(2):
        ray.get([parent.remote(i) for i in range(1000)], timeout=LIMIT_S)
    before = dict(ray.get([measure.remote() for _ in range(20)], timeout=LIMIT_S))
    ray.get([parent.remote(i) for i in range(1500)], timeout=LIMIT_S)  # 90 MB if it stayed
    after = dict(ray.get([measure.remote() for _ in range(20)], timeout=LIMIT_S))
    for pid in before.keys() & after.keys():
        assert after[pid] - before[pid] < 25 * MB


def test_thousands_of_children_leave_the_driver_as_it_was() -> None:
    pair = ray.remote(lambda x: [x, x])

    @ray.remote
    def parent(n: int) -> int:
        return sum(a for a, _ in ray.get([pair.remote(i) for i in range(n)])) + ray.get(double.remote(1))

    assert ray.get([parent.remote(200) for _ in range(20)], timeout=LIMIT_S) == [19900 + 2] * 20
    engine: Any = current()
    assert wait_until(lambda: not engine.borders.refs, LIMIT_S)
    assert not engine.results.watchers
    assert not engine.results.dependents


def test_each_child_runs_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote
    def note(i: int) -> int:
        log.note(i)
        return i

    @ray.remote
    def parent(k: int) -> int:
        warm_up(double, 1)
        return sum(ray.get([note.remote(100 * k + i) for i in range(100)]))

    ray.get([parent.remote(k) for k in range(10)], timeout=LIMIT_S)
    assert sorted(map(int, log.runs())) == list(range(1000))


def test_what_a_parent_changes_is_not_seen_by_children_of_an_exported_function() -> None:
    """Some of them run in the parent's process, where the captured list is the very one that it changes."""
    captured: list[int] = []
    child = ray.remote(lambda: list(captured))
    assert ray.get(child.remote(), timeout=LIMIT_S) == []

    @ray.remote
    def parent() -> list[list[int]]:
        captured.append(1)
        return ray.get([child.remote() for _ in range(3)])

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [[], [], []]
