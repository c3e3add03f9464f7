"""The engine reaps its own processes only: exit codes of the program's and the tasks' children are theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray
from tests.leaks import assert_nothing_left, run_script

from .full_pool import LIMIT_S, assert_pool_is_full

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")

PATH = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def run_children() -> list[int]:
    """Start children in several ways and return their exit codes."""
    codes = [subprocess.run(["sh", "-c", f"exit {code}"], check=False).returncode for code in (0, 7, 255)]
    codes.append(os.waitstatus_to_exitcode(os.system("exit 9")))
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 11"], os.environ)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    killed = subprocess.Popen(["sleep", "1000"])
    killed.kill()
    codes.append(killed.wait(LIMIT_S))
    return codes


CODES = [0, 7, 255, 9, 11, -signal.SIGKILL]


def test_children_of_the_program_while_workers_come_and_go() -> None:
    die = ray.remote(max_retries=0)(lambda _: os._exit(5))
    refs = [die.remote(i) for i in range(20)]
    for _ in range(3):
        assert run_children() == CODES
    for ref in refs:
        with pytest.raises(ray.errors.WorkerCrashedError, match="exit code 5"):
            ray.get(ref, timeout=LIMIT_S)
    assert run_children() == CODES


def test_children_of_tasks() -> None:
    task = ray.remote(lambda _: run_children())
    assert ray.get([task.remote(i) for i in range(6)], timeout=LIMIT_S) == [CODES] * 6


def test_children_of_threads_of_a_task() -> None:
    def task() -> list[list[int]]:
        codes: list[list[int]] = []
        threads = [threading.Thread(target=lambda: codes.append(run_children())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes

    assert ray.get(ray.remote(task).remote(), timeout=LIMIT_S) == [CODES] * 3


def test_an_unreaped_child_of_the_program_stays_its_own() -> None:
    """It ends before a worker does, and waits for the program."""
    child = subprocess.Popen(["sh", "-c", "exit 13"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ray.errors.WorkerCrashedError):
        ray.get(ray.remote(max_retries=1)(lambda: os._exit(5)).remote(), timeout=LIMIT_S)
    ray.shutdown()
    assert child.wait(LIMIT_S) == 13


def test_a_program_that_reaps_whatever_ends(tmp_path: Path) -> None:
    """As a supervisor does; it takes the exit status of our own child, too, and that must not matter."""
    reaped = []

    def reap(*_: object) -> None:
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                reaped.append(ended)
        except ChildProcessError:
            pass

    previous = signal.signal(signal.SIGCHLD, reap)
    try:
        assert_pool_is_full(tmp_path)
        ray.shutdown()
        ray.init(num_cpus=2)
        with pytest.raises(ray.errors.WorkerCrashedError):
            ray.get(ray.remote(max_retries=1)(lambda: os._exit(5)).remote(), timeout=LIMIT_S)
        assert_pool_is_full(tmp_path)
        ray.shutdown()
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert len(reaped) <= 2


def test_multiprocessing_beside_the_engine() -> None:
    source = """
import multiprocessing, sys
import grainwise as ray

if __name__ == "__main__":
    ray.init(num_cpus=2)
    process = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(17,))
    process.start()
    print(sum(ray.get([ray.remote(lambda x: x).remote(i) for i in range(100)])))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    process.join()
    print(process.exitcode)
"""
    result = run_script(source, timeout=2 * LIMIT_S, env=PATH)
    assert (result.stdout, result.stderr, result.returncode) == ("4950\n[1, 2]\n17\n", "", 0)
    assert_nothing_left(result.mark)
