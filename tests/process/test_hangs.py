"""A task that never ends: `get` gives up when told to, and the task can be ended by force."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import GetTimeoutError, TaskCancelledError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's signals")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def loop_for_ever() -> None:
    while True:
        pass


def ignore_everything() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            signal.pause()
        except BaseException:
            pass


def catch_everything() -> None:
    while True:
        try:
            while True:
                time.sleep(0.001)
        except BaseException:
            continue


def block_in_native_code() -> None:
    """Hold the GIL for ever: no Python code runs in this process any more."""
    ctypes.PyDLL(None).pause()
    loop_for_ever()


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


HANGS: dict[str, Callable[[], None]] = {
    "busy loop": loop_for_ever,
    "ignored signals": ignore_everything,
    "caught exceptions": catch_everything,
    "native code that holds the GIL": block_in_native_code,
    "lock": wait_for_a_lock,
}


class Hanging:
    """A task that tells its pid over a fifo and hangs."""

    def __init__(self, folder: Path, hang: Callable[[], None], **options: int) -> None:
        self.fifo = fifo = str(folder / "pid")
        os.mkfifo(fifo)
        self.log = log = RunLog(folder)

        def hanging(x: int) -> int:
            log.note(x)
            Path(fifo).write_text(str(os.getpid()))
            hang()
            return x

        self.remote = ray.remote(**options)(hanging).remote if options else ray.remote(hanging).remote

    def await_pid(self) -> int:
        return int(Path(self.fifo).read_text())


@pytest.mark.parametrize("name", HANGS)
def test_a_hanging_task_can_be_waited_for_in_vain_and_ended(name: str, tmp_path: Path) -> None:
    hanging = Hanging(tmp_path, HANGS[name])
    ref = hanging.remote(1)
    hanging.await_pid()
    for timeout in (0, 0.05):
        with pytest.raises(GetTimeoutError):
            ray.get(ref, timeout=timeout)
    assert ray.wait([ref], timeout=0) == ([], [ref])
    ray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError, match="hanging"):
        ray.get(ref, timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)
    assert hanging.log.runs() == ["1"], "a cancelled task is not retried"


def test_a_hanging_task_does_not_hold_up_others(tmp_path: Path) -> None:
    """One of its own function, sent with it, is run elsewhere; so are others."""
    fifo = str(tmp_path / "pid")
    os.mkfifo(fifo)

    @ray.remote
    def sometimes(i: int) -> int:
        if i == 50:
            Path(fifo).write_text("here")
            wait_for_a_lock()
        return i

    assert ray.get([sometimes.remote(i) for i in range(20)], timeout=LIMIT_S) == list(range(20))
    refs = [sometimes.remote(i) for i in range(200)]
    Path(fifo).read_text()
    assert ray.get(refs[:50] + refs[51:], timeout=LIMIT_S) == [i for i in range(200) if i != 50]
    other = ray.remote(lambda x: -x)
    assert ray.get([other.remote(i) for i in range(200)], timeout=LIMIT_S) == [-i for i in range(200)]
    ray.cancel(refs[50], force=True)
    with pytest.raises(TaskCancelledError):
        ray.get(refs[50], timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


def test_all_workers_hang_and_one_is_freed(tmp_path: Path) -> None:
    fifo = str(tmp_path / "pids")
    os.mkfifo(fifo)

    @ray.remote
    def hanging(i: int) -> None:
        Path(fifo).write_text(f"{os.getpid()}\n")
        wait_for_a_lock()

    refs = [hanging.remote(i) for i in range(2)]
    num_pids = 0
    while num_pids < 2:
        num_pids += len(Path(fifo).read_text().split())
    work = ray.remote(lambda x: x).remote(7)
    with pytest.raises(GetTimeoutError):
        ray.get(work, timeout=0.05)
    ray.cancel(refs[0], force=True)
    assert ray.get(work, timeout=LIMIT_S) == 7
    ray.cancel(refs[1], force=True)
    for ref in refs:
        with pytest.raises(TaskCancelledError):
            ray.get(ref, timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


def test_ending_one_by_force_costs_no_other_task_a_run(tmp_path: Path) -> None:
    """The queued neighbours of a task that is ended by force may not be retried, and need not be."""
    fifo = str(tmp_path / "pid")
    os.mkfifo(fifo)
    log = RunLog(tmp_path)

    @ray.remote(max_retries=0)
    def task(i: int) -> int:
        log.note(i)
        if i == 0:
            Path(fifo).write_text("here")
            wait_for_a_lock()
        return i

    refs = [task.remote(i) for i in range(100)]
    Path(fifo).read_text()
    ray.cancel(refs[0], force=True)
    assert ray.get(refs[1:], timeout=LIMIT_S) == list(range(1, 100))
    assert sorted(map(int, log.runs())) == list(range(100))


def test_a_hanging_child_ended_by_its_parent(tmp_path: Path) -> None:
    fifo = str(tmp_path / "pid")
    os.mkfifo(fifo)

    @ray.remote
    def child() -> None:
        Path(fifo).write_text("here")
        wait_for_a_lock()

    @ray.remote(max_retries=0)
    def parent() -> str:
        ref = child.remote()
        Path(fifo).read_text()
        try:
            ray.get(ref, timeout=0.05)
        except GetTimeoutError:
            ray.cancel(ref, force=True)
        try:
            ray.get(ref)
        except TaskCancelledError:
            return "cancelled"
        return "returned"

    assert ray.get(parent.remote(), timeout=LIMIT_S) == "cancelled"
    assert_pool_is_full(tmp_path)


def test_shutdown_does_not_wait_for_hanging_tasks(tmp_path: Path) -> None:
    hanging = Hanging(tmp_path, ignore_everything)
    ref = hanging.remote(1)
    hanging.await_pid()
    ray.shutdown()
    with pytest.raises(ray.errors.EngineClosedError):
        ray.get(ref, timeout=LIMIT_S)
