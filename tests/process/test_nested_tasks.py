"""Tasks that submit, wait, put and return refs: any depth on any number of workers, and never a deadlock."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import GetTimeoutError

from ..leaks import run_script
from .full_pool import LIMIT_S

BLOB = bytes(range(256)) * 1024
"""A value that goes into shared memory."""


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"], autouse=True)
def num_cpus(request: pytest.FixtureRequest) -> Iterator[int]:
    ray.init(num_cpus=request.param)
    yield request.param
    ray.shutdown()


def _num_processes() -> int:
    """Return how many workers there are: children of the template, our only child of that name."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    count = 0
    for pid in children:
        try:
            if b"grainwise" in Path(f"/proc/{pid}/cmdline").read_bytes():
                count += len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            continue
    return count


# --- depth --------------------------------------------------------------------------------------------------


def test_a_chain_of_ten_tasks_that_wait_for_each_other(num_cpus: int) -> None:
    @ray.remote
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + ray.get(down.remote(depth - 1))

    assert ray.get(down.remote(10), timeout=LIMIT_S) == 10
    assert ray.get([down.remote(10) for _ in range(5)], timeout=LIMIT_S) == [10] * 5


def test_a_tree_deeper_and_wider_than_there_are_workers(num_cpus: int) -> None:
    @ray.remote
    def count(depth: int) -> int:
        if depth == 0:
            return 1
        return sum(ray.get([count.remote(depth - 1) for _ in range(3)]))

    assert ray.get(count.remote(5), timeout=LIMIT_S) == 3**5


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_blocked_tasks_need_few_processes(num_cpus: int) -> None:
    @ray.remote
    def count(depth: int) -> int:
        return 1 if depth == 0 else sum(ray.get([count.remote(depth - 1) for _ in range(4)]))

    refs = [count.remote(4) for _ in range(4)]
    most = 0
    while ray.wait(refs, num_returns=len(refs), timeout=0.01)[1]:
        most = max(most, _num_processes())
    assert ray.get(refs, timeout=LIMIT_S) == [256] * 4
    # Two chains for each CPU, as deep as the tree: a worker that has just lent its CPU starts another one.
    assert most <= 2 * num_cpus * 5


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_tasks_that_wait_for_what_is_queued_let_it_go_ahead(num_cpus: int, tmp_path: Path) -> None:
    @ray.remote
    def make(number: int) -> int:
        return number

    @ray.remote
    def read(refs: list[Any]) -> int:
        number: int = ray.get(refs[0])
        (tmp_path / str(os.getpid())).touch()
        return number

    for _ in range(3):
        made = [make.remote(number) for number in range(200)]
        assert ray.get([read.remote([ref]) for ref in made], timeout=LIMIT_S) == list(range(200))
    assert len(list(tmp_path.iterdir())) <= 10 * num_cpus


def test_fibonacci_the_naive_way(num_cpus: int) -> None:
    @ray.remote
    def fibonacci(n: int) -> int:
        if n < 2:
            return n
        return sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    assert ray.get(fibonacci.remote(11), timeout=LIMIT_S) == 89


def test_a_wide_fan_out_inside_one_task(num_cpus: int) -> None:
    double = ray.remote(lambda x: 2 * x)

    @ray.remote
    def parent(n: int) -> int:
        return sum(ray.get([double.remote(i) for i in range(n)]))

    assert ray.get([parent.remote(2000) for _ in range(3)], timeout=LIMIT_S) == [2000 * 1999] * 3


# --- waiting for what stands behind -------------------------------------------------------------------------


def test_tasks_that_wait_for_tasks_of_their_own_batch(num_cpus: int) -> None:
    """Tiny tasks travel together; one that waits for its neighbour must not keep it from running."""
    double = ray.remote(lambda x: 2 * x)
    assert ray.get([double.remote(i) for i in range(2000)], timeout=LIMIT_S)[-1] == 3998  # known to be quick

    @ray.remote
    def read(inside: list[Any]) -> int:
        return ray.get(inside[0])

    for _ in range(5):
        refs = [read.remote([ray.put(1)])]
        for _ in range(100):
            refs.append(read.remote([refs[-1]]))
        assert ray.get(refs[::-1], timeout=LIMIT_S) == [1] * 101


def test_two_children_that_share_the_cpu_that_their_parent_lends(num_cpus: int, tmp_path: Path) -> None:
    """Half a CPU each, and they meet: the parent's CPU has room for both while it waits."""
    fifo = str(tmp_path / "meeting")
    os.mkfifo(fifo)

    @ray.remote(num_cpus=0.5)
    def meet(mode: int) -> int:
        os.close(os.open(fifo, mode))
        return mode

    @ray.remote
    def parent() -> int:
        return len(ray.get([meet.remote(os.O_RDONLY), meet.remote(os.O_WRONLY)]))

    assert ray.get(parent.remote(), timeout=LIMIT_S) == 2


def test_siblings_that_wait_for_the_same_child(num_cpus: int) -> None:
    double = ray.remote(lambda x: 2 * x)

    @ray.remote
    def read(inside: list[Any]) -> int:
        return ray.get(inside[0])

    @ray.remote
    def parent() -> list[int]:
        shared = double.remote(21)
        return ray.get([read.remote([shared]) for _ in range(10)])

    assert ray.get(parent.remote(), timeout=LIMIT_S) == [42] * 10


def test_a_task_that_keeps_half_a_cpu_waits_for_children_that_need_a_whole_one(num_cpus: int) -> None:
    @ray.remote(num_cpus=1)
    def child(x: int) -> int:
        return x

    @ray.remote(num_cpus=0.5)
    def parent(n: int) -> int:
        return sum(ray.get([child.remote(i) for i in range(n)]))

    assert ray.get([parent.remote(4) for _ in range(6)], timeout=LIMIT_S) == [6] * 6


def test_children_nobody_waits_for_run_all_the_same(num_cpus: int, tmp_path: Path) -> None:
    fifo = str(tmp_path / "done")
    os.mkfifo(fifo)

    @ray.remote
    def child() -> None:
        Path(fifo).write_text("ran")

    @ray.remote
    def parent() -> str:
        child.remote()
        return "gone"

    assert ray.get(parent.remote(), timeout=LIMIT_S) == "gone"
    assert Path(fifo).read_text() == "ran"


def test_a_child_runs_while_its_parent_computes(num_cpus: int, tmp_path: Path) -> None:
    if num_cpus == 1:
        pytest.skip("the only CPU is the parent's")
    fifo = str(tmp_path / "news")
    os.mkfifo(fifo)

    @ray.remote
    def child() -> None:
        Path(fifo).write_text("from the child")

    @ray.remote
    def parent() -> str:
        child.remote()
        return Path(fifo).read_text()  # without a get: nobody has told the engine that it waits

    assert ray.get(parent.remote(), timeout=LIMIT_S) == "from the child"


# --- refs that travel ---------------------------------------------------------------------------------------


def test_a_task_may_return_refs_and_the_caller_reads_them(num_cpus: int) -> None:
    double = ray.remote(lambda x: x * 2)

    @ray.remote
    def give() -> dict[str, Any]:
        return {"task": double.remote(21), "small": ray.put([1]), "large": ray.put(BLOB)}

    @ray.remote
    def give_one() -> Any:
        return double.remote(4)

    refs = ray.get(give.remote(), timeout=LIMIT_S)
    assert ray.get([refs["large"], refs["task"], refs["small"]], timeout=LIMIT_S) == [BLOB, 42, [1]]
    assert ray.get(double.remote(refs["task"]), timeout=LIMIT_S) == 84
    assert ray.get(ray.get(give_one.remote(), timeout=LIMIT_S), timeout=LIMIT_S) == 8


def test_refs_travel_down_up_and_sideways(num_cpus: int) -> None:
    @ray.remote
    def wrap(inside: list[Any]) -> list[Any]:
        return [*inside, ray.put(len(inside))]

    @ray.remote
    def length(inside: list[Any]) -> int:
        return sum(len(value) if isinstance(value, bytes) else value for value in ray.get(inside))

    @ray.remote
    def parent(inside: list[Any]) -> int:
        for _ in range(3):
            inside = ray.get(wrap.remote(inside))
        return ray.get(length.remote(inside))

    given = ray.put(BLOB)
    assert ray.get(parent.remote([given]), timeout=LIMIT_S) == len(BLOB) + 1 + 2 + 3
    del given


def test_put_inside_a_task_outlives_the_task(num_cpus: int) -> None:
    @ray.remote
    def store(n: int) -> list[Any]:
        return [ray.put(bytes([i]) * 100_000) for i in range(n)]

    refs = ray.get(store.remote(20), timeout=LIMIT_S)
    assert [value[:1] for value in ray.get(refs)] == [bytes([i]) for i in range(20)]


def test_a_ref_from_the_driver_is_read_by_grandchildren(num_cpus: int) -> None:
    @ray.remote
    def read(inside: list[Any], depth: int) -> int:
        return len(ray.get(inside[0])) if not depth else ray.get(read.remote(inside, depth - 1))

    assert ray.get([read.remote([ray.put(BLOB)], 3) for _ in range(5)], timeout=LIMIT_S) == [len(BLOB)] * 5


def test_a_pending_ref_given_to_a_child_at_top_level_and_nested(num_cpus: int) -> None:
    @ray.remote
    def add(x: int, inside: list[Any]) -> int:
        return x + sum(ray.get(inside))

    @ray.remote
    def parent(inside: list[Any]) -> int:
        first = add.remote(1, [])
        return ray.get(add.remote(first, [first, *inside]))

    outside = ray.remote(lambda: 40).remote()
    assert ray.get(parent.remote([outside]), timeout=LIMIT_S) == 42


def test_several_results_of_a_child(num_cpus: int) -> None:
    @ray.remote(num_returns=2)
    def split() -> tuple[bytes, int]:
        return BLOB, 1

    @ray.remote(num_returns=0)
    def silent() -> None:
        return None

    @ray.remote
    def parent() -> tuple[int, int, bool]:
        blob, one = split.remote()
        return len(ray.get(blob)), ray.get(one), silent.remote() is None

    assert ray.get(parent.remote(), timeout=LIMIT_S) == (len(BLOB), 1, True)


def test_get_in_a_task_gives_up_after_its_timeout(num_cpus: int, tmp_path: Path) -> None:
    fifo = str(tmp_path / "gate")
    os.mkfifo(fifo)

    @ray.remote
    def held() -> str:
        return Path(fifo).read_text()

    @ray.remote
    def parent() -> tuple[str, str]:
        ref = held.remote()
        first = "in time"
        try:
            ray.get(ref, timeout=0.05)
        except GetTimeoutError:
            first = "too late"
        return first, ray.get(opens.remote()) + ray.get(ref)

    @ray.remote(num_cpus=0)  # the child that outlives the timeout may hold the only CPU
    def opens() -> str:
        Path(fifo).write_text("held")
        return "opened "

    assert ray.get(parent.remote(), timeout=LIMIT_S) == ("too late", "opened held")


def test_wait_in_a_task_returns_at_the_first(num_cpus: int, tmp_path: Path) -> None:
    fifo = str(tmp_path / "gate")
    os.mkfifo(fifo)

    @ray.remote(num_cpus=0.5)
    def held() -> str:
        return Path(fifo).read_text()

    @ray.remote(num_cpus=0.5)
    def quick() -> str:
        return "quick"

    @ray.remote
    def parent() -> tuple[str, int, str]:
        refs = [held.remote(), quick.remote()]
        ready, rest = ray.wait(refs)
        Path(fifo).write_text("held")
        return ray.get(ready[0]), len(rest), ray.get(rest[0])

    assert ray.get(parent.remote(), timeout=LIMIT_S) == ("quick", 1, "held")


# --- functions that travel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
@pytest.mark.parametrize("form", ["closure", "argument", "never called here"])
def test_a_child_function_whose_only_holder_is_a_task_under_way(
    num_cpus: int, form: str, size: int, tmp_path: Path
) -> None:
    fifo = str(tmp_path / "gate")
    os.mkfifo(fifo)

    def submit() -> Any:
        captured = bytes(size)
        child = ray.remote(lambda x: x + len(captured))
        if form != "never called here":
            assert ray.get(child.remote(1), timeout=LIMIT_S) == size + 1

        def use(function: Any) -> list[int]:
            Path(fifo).read_text()
            return [ray.get(function.remote(i)) for i in range(3)]

        if form == "closure":
            return ray.remote(lambda: use(child)).remote()
        return ray.remote(lambda inside: use(inside[0])).remote([child])

    ref = submit()
    gc.collect()
    assert ray.get(ray.remote(num_cpus=0)(lambda: 1).remote(), timeout=LIMIT_S) == 1
    Path(fifo).write_text("")
    assert ray.get(ref, timeout=LIMIT_S) == [size, size + 1, size + 2]


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
def test_a_function_made_in_a_task_is_used_elsewhere(num_cpus: int, size: int) -> None:
    @ray.remote
    def make() -> Any:
        captured = bytes(size)
        function = ray.remote(lambda x: x + len(captured))
        ray.get(function.remote(1))
        return function

    @ray.remote
    def use(function: Any, x: int) -> int:
        return ray.get(function.remote(x))

    function = ray.get(make.remote(), timeout=LIMIT_S)
    assert ray.get(function.remote(2), timeout=LIMIT_S) == size + 2
    assert ray.get([use.remote(function, x) for x in range(5)], timeout=LIMIT_S) == [
        size + x for x in range(5)
    ]
    refs = [use.remote(ray.get(make.remote(), timeout=LIMIT_S), x) for x in range(3)]
    assert ray.get(refs, timeout=LIMIT_S) == [size, size + 1, size + 2]


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
def test_a_recursive_function_with_a_captured_value(num_cpus: int, size: int) -> None:
    captured = bytes(size)

    @ray.remote
    def down(depth: int) -> int:
        return len(captured) if not depth else ray.get(down.remote(depth - 1))

    assert ray.get([down.remote(4) for _ in range(3)], timeout=LIMIT_S) == [size] * 3


# --- much at once -------------------------------------------------------------------------------------------


def test_a_task_reads_thousands_of_values_just_too_small_for_shared_memory(num_cpus: int) -> None:
    """The answer is one message of 180 MB; its cost must not grow with the square of its length."""
    make = ray.remote(lambda: bytes(60_000))

    @ray.remote
    def total(inside: list[Any]) -> int:
        return sum(map(len, ray.get(inside)))

    refs = [make.remote() for _ in range(3000)]
    assert ray.get(total.remote(refs), timeout=LIMIT_S) == 3000 * 60_000


PAUSED_DRIVER = """
import fcntl, os, signal, struct, subprocess, sys, termios, threading, time
import grainwise as ray

ray.init(num_cpus=1)
driver = os.getpid()

@ray.remote
def total(inside):
    def pause():
        sockets = [fd for fd in range(3, 100) if is_socket(fd)]
        while not any(unread(fd) for fd in sockets):
            if is_over.is_set():
                return  # the answer came and was read between two looks
        os.kill(driver, signal.SIGSTOP)
        time.sleep(2.5)  # what is tested is a pause: the driver sends nothing for so long
        os.kill(driver, signal.SIGCONT)

    def is_socket(fd):
        try:
            return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            return False

    def unread(fd):
        return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]

    is_over = threading.Event()
    thread = threading.Thread(target=pause)
    thread.start()
    try:
        return sum(map(len, ray.get(inside)))
    finally:
        is_over.set()
        thread.join()

refs = [ray.put([bytes(50_000)]) for _ in range(400)]
print(ray.get(total.remote(refs), timeout=60) == 400)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts on /proc")
def test_a_driver_that_pauses_in_the_middle_of_an_answer(num_cpus: int) -> None:
    """Suspended, swapped out, or in a C call that keeps the GIL: the task's `get` waits for the rest."""
    if num_cpus == 1:
        ray.shutdown()
        result = run_script(
            PAUSED_DRIVER, timeout=LIMIT_S, env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        )
        assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr
