"""Starting and ending: arguments of `init`, variables, the automatic start, use after the end, limits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import EngineClosedError, InfeasibleTaskError, ObjectStoreFullError

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S
from .signposts import Sign


def double(x: int) -> int:
    return 2 * x


remote_double = ray.remote(double)


# --- arguments ----------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_cpus": 0}, ValueError, "num_cpus"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_cpus": NAN}, ValueError, "num_cpus"),
        ({"num_cpus": INF}, ValueError, "num_cpus"),
        ({"num_cpus": "2"}, TypeError, "num_cpus.*number, got str"),
        ({"num_cpus": True}, TypeError, "num_cpus.*number, got bool"),
        ({"num_cpus": [2]}, TypeError, "num_cpus.*number, got list"),
        ({"object_store_memory": 0}, ValueError, "object_store_memory"),
        ({"object_store_memory": -5}, ValueError, "object_store_memory"),
        ({"object_store_memory": NAN}, ValueError, "object_store_memory"),
        ({"object_store_memory": INF}, ValueError, "object_store_memory"),
        ({"object_store_memory": "1G"}, TypeError, "object_store_memory.*number, got str"),
        ({"spill_dir": "/does/not/exist"}, ValueError, "spill_dir.*/does/not/exist"),
        ({"spill_dir": 7}, TypeError, "spill_dir.*path, got int"),
        ({"cpus": 2}, TypeError, "cpus"),
    ],
)
def test_a_wrong_argument_is_named_and_starts_nothing(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ray.init(**arguments)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRAINWISE_NUM_CPUS", "many"),
        ("GRAINWISE_NUM_CPUS", "0"),
        ("GRAINWISE_NUM_CPUS", "-2"),
        ("GRAINWISE_NUM_CPUS", "nan"),
        ("GRAINWISE_NUM_CPUS", "inf"),
        ("GRAINWISE_OBJECT_STORE_MEMORY", "1G"),
        ("GRAINWISE_OBJECT_STORE_MEMORY", "10"),
        ("GRAINWISE_OBJECT_STORE_MEMORY", "nan"),
        ("GRAINWISE_SPILL_DIR", "/does/not/exist"),
        ("GRAINWISE_THREADS_PER_WORKER", "x"),
        ("GRAINWISE_THREADS_PER_WORKER", "-3"),
        ("GRAINWISE_THREADS_PER_WORKER", "2.5"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        ray.init()
    with pytest.raises(ValueError, match=name):
        remote_double.remote(1)  # the automatic start
    assert not ray.is_initialized()


def test_arguments_go_before_variables_and_variables_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "3")
    ray.init()
    with pytest.raises(InfeasibleTaskError, match="at most 3"):
        remote_double.options(num_cpus=4).remote(1)
    ray.shutdown()
    ray.init(num_cpus=1)
    with pytest.raises(InfeasibleTaskError, match="at most 1"):
        remote_double.options(num_cpus=2).remote(1)
    ray.shutdown()
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "")  # empty is unset
    ray.init()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with pytest.raises(InfeasibleTaskError):
        remote_double.options(num_cpus=cpus + 1).remote(1)


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_full_store_without_spilling_says_how_large_it_is(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "variable":
        monkeypatch.setenv("GRAINWISE_OBJECT_STORE_MEMORY", str(8 << 20))
        monkeypatch.setenv("GRAINWISE_SPILL_DIR", "off")
        ray.init(num_cpus=1)
    else:
        ray.init(num_cpus=1, object_store_memory=8 << 20, spill_dir="off")
    kept = [ray.put(bytes(1 << 20)) for _ in range(4)]
    with pytest.raises(ObjectStoreFullError, match=r"8\.0 MiB"):
        ray.put(bytes(32 << 20))
    assert [len(value) for value in ray.get(kept)] == [1 << 20] * 4


def test_spilling_goes_to_the_chosen_folder_and_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAINWISE_SPILL_DIR", str(tmp_path))
    ray.init(num_cpus=1, object_store_memory=4 << 20)
    refs = [ray.put(bytes([i]) * (1 << 20)) for i in range(12)]
    on_disk = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert any(target.startswith(str(tmp_path)) for target in on_disk)
    assert list(tmp_path.iterdir()) == []
    assert [value[0] for value in ray.get(refs)] == list(range(12))


def _is_link(fd: str) -> bool:
    try:
        os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
    return True


# --- start and end ------------------------------------------------------------------------------------------


def test_init_twice_is_an_error_unless_it_is_meant() -> None:
    ray.init(num_cpus=1)
    with pytest.raises(RuntimeError, match="shutdown"):
        ray.init(num_cpus=2)
    ray.init(num_cpus=2, ignore_reinit_error=True)
    with pytest.raises(InfeasibleTaskError):  # the first one stands
        remote_double.options(num_cpus=2).remote(1)


def first_task() -> None:
    assert ray.get(remote_double.remote(4), timeout=LIMIT_S) == 8


def first_put() -> None:
    assert ray.get(ray.put([4])) == [4]


def first_get() -> None:
    assert ray.get([]) == []


@pytest.mark.parametrize("use", [first_task, first_put, first_get])
def test_the_first_use_starts_the_engine(monkeypatch: pytest.MonkeyPatch, use: Callable[[], None]) -> None:
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "1")
    assert not ray.is_initialized()
    use()
    assert ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()
    use()
    assert ray.is_initialized()


def test_sixteen_threads_start_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAINWISE_NUM_CPUS", "1")
    barrier = threading.Barrier(16)
    results: list[int] = []

    def use(x: int) -> None:
        barrier.wait()
        results.append(ray.get(remote_double.remote(x), timeout=LIMIT_S))

    threads = [threading.Thread(target=use, args=(x,)) for x in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [2 * x for x in range(16)]


def test_shutdown_may_come_twice_or_without_init() -> None:
    ray.shutdown()
    ray.init(num_cpus=1)
    ray.shutdown()
    ray.shutdown()
    assert not ray.is_initialized()


def test_unfinished_tasks_of_an_ended_session_fail(tmp_path: Path) -> None:
    ray.init(num_cpus=1)
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")

    @ray.remote
    def wait() -> None:
        begun.put_up()
        gate.wait()

    running, queued = wait.remote(), remote_double.remote(2)
    dependant = remote_double.remote(running)
    future = queued.future()
    begun.wait()
    ray.shutdown()
    with pytest.raises(EngineClosedError, match="shut down"):
        future.result(timeout=LIMIT_S)
    for _ in range(2):
        for ref in (running, queued, dependant):
            with pytest.raises(EngineClosedError, match="shut down"):
                ray.get(ref, timeout=LIMIT_S)
        ray.shutdown()
        ray.init(num_cpus=1)


def test_functions_go_on_in_the_next_session() -> None:
    for x in range(5):
        ray.init(num_cpus=1)
        assert ray.get(remote_double.remote(x), timeout=LIMIT_S) == 2 * x
        ray.shutdown()


def test_twenty_sessions_leave_nothing() -> None:
    """Descriptors and threads are counted after each, not only at the end."""

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    counts = set()
    for x in range(20):
        ray.init(num_cpus=2)
        assert ray.get([remote_double.remote(i) for i in range(x)], timeout=LIMIT_S) == [
            2 * i for i in range(x)
        ]
        ray.shutdown()
        counts.add(count())
    assert len(counts) <= 2  # the first may load a library that keeps a descriptor


def test_options_made_in_a_loop_cost_no_memory() -> None:
    """`f.options(...).remote()` in a loop is how many programs are written."""
    import tracemalloc

    ray.init(num_cpus=1)

    def burst() -> None:
        for _ in range(20):
            ray.get([remote_double.options(num_cpus=1, name=f"n{i % 3}").remote(i) for i in range(50)])

    burst()
    tracemalloc.start()
    try:
        burst()
        first, _ = tracemalloc.get_traced_memory()
        burst()
        burst()
        second, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert second - first < 100_000  # bytes, for 2,000 calls


# --- what workers get ---------------------------------------------------------------------------------------

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@ray.remote
def blas_threads() -> tuple[dict[str, str | None], set[int]]:
    import numpy as np

    threadpoolctl = pytest.importorskip("threadpoolctl")
    np.dot(np.ones((64, 64)), np.ones((64, 64)))
    pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return {name: os.environ.get(name) for name in THREAD_VARIABLES}, pools


@pytest.mark.parametrize("is_warm", [False, True], ids=["not imported", "imported by the program"])
def test_numeric_libraries_get_one_thread_per_worker(monkeypatch: pytest.MonkeyPatch, is_warm: bool) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("threadpoolctl")
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if not is_warm:
        monkeypatch.delitem(sys.modules, "numpy")
    ray.init(num_cpus=2)
    variables, pools = ray.get(blas_threads.remote(), timeout=LIMIT_S)
    assert variables == dict.fromkeys(THREAD_VARIABLES, "1")
    assert pools <= {1}
    assert not any(name in os.environ for name in THREAD_VARIABLES)  # the program's own are its own


def test_the_limit_of_threads_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By our variable for all libraries, by the library's own for one."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAINWISE_THREADS_PER_WORKER", "2")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    ray.init(num_cpus=1)
    found = ray.get(
        ray.remote(lambda: [os.environ[name] for name in THREAD_VARIABLES]).remote(), timeout=LIMIT_S
    )
    assert found == ["2", "2", "3"]


def test_workers_have_the_program_s_folder_arguments_and_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_OWN_VARIABLE", "hello")
    monkeypatch.setattr(sys, "argv", ["program", "--flag"])
    ray.init(num_cpus=1)

    @ray.remote
    def look() -> tuple[str, list[str], str | None, str, list[str]]:
        return os.getcwd(), sys.argv, os.environ.get("MY_OWN_VARIABLE"), sys.prefix, sys.path

    found = ray.get(look.remote(), timeout=LIMIT_S)
    path = [entry or str(tmp_path) for entry in sys.path]
    assert found == (str(tmp_path), ["program", "--flag"], "hello", sys.prefix, path)


# --- small machines -----------------------------------------------------------------------------------------

MANY_OBJECTS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
import grainwise as ray
ray.init(num_cpus=2)

@ray.remote
def make(i):
    return bytes([i % 256]) * 100_000

@ray.remote
def first(data):
    return data[0]

made = [make.remote(i) for i in range(2_500)]
put = [ray.put(bytes([i % 256]) * 100_000) for i in range(2_500)]
ray.wait(made, num_returns=len(made))
live = ray.get(made[:500]) + ray.get(put[:500])
assert [value[0] for value in live] == [i % 256 for i in range(500)] * 2
assert ray.get([first.remote(ref) for ref in made + put]) == [i % 256 for i in range(2_500)] * 2
print("fine")
"""


def test_few_descriptors_are_enough_for_many_objects() -> None:
    result = run_script(MANY_OBJECTS, timeout=LIMIT_S, args=["256"])
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)
    assert_nothing_left(result.mark)


TOO_FEW = """
import ctypes, os, resource  # ctypes: what is loaded late must not be what fails
import grainwise as ray
ray.init(num_cpus=2)

@ray.remote
def tree(depth):
    if not depth:
        return 1
    small, large = tree.remote(0), tree.remote(depth - 1)
    return ray.get(small) + ray.get(large)

@ray.remote
def double(x):
    return 2 * x

assert ray.get([tree.remote(3) for _ in range(4)]) == [4] * 4
ray.shutdown()
ray.init(num_cpus=2)
assert ray.get([double.remote(i) for i in range(100)]) == [2 * i for i in range(100)]
highest = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, highest + 4))
try:
    print(ray.get([tree.remote(10) for _ in range(4)], timeout=20))
except ray.errors.GetTimeoutError:
    print("hangs")
except Exception as error:
    print(type(error).__name__, "open files" in str(error))
print(ray.get([double.remote(i) for i in range(100)], timeout=20) == [2 * i for i in range(100)])
"""


def test_when_descriptors_run_out_it_is_said_and_what_there_is_goes_on() -> None:
    """No room for another worker: the work goes on with those there are, or fails with the reason."""
    result = run_script(TOO_FEW, timeout=LIMIT_S * 2)
    assert (result.stderr, result.returncode) == ("", 0)
    first, second = result.stdout.splitlines()
    assert first in ("[11, 11, 11, 11]", "WorkerStartError True")
    assert second == "True"
    assert_nothing_left(result.mark)
