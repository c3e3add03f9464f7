"""Tasks that fork: the child is no second worker, and nobody else notices."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import TaskError

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S, RunLog
from .signposts import Sign, wait_until_gone


@ray.remote
def square(x: int) -> int:
    return x * x


def assert_pool_is_quick() -> None:
    assert ray.get([square.remote(i) for i in range(200)], timeout=LIMIT_S) == [i * i for i in range(200)]


@pytest.mark.parametrize("num_cpus", [1, 2])
@pytest.mark.parametrize(
    ("leave", "status"), [("exit", 3), ("os._exit", 4), ("raise", 1), ("return", 0), ("interrupt", 1)]
)
def test_the_child_of_a_task_is_no_second_worker(
    tmp_path: Path, num_cpus: int, leave: str, status: int
) -> None:
    """It ends where the task would; the batch-mates run once, in the worker."""
    ray.init(num_cpus=num_cpus)
    log = RunLog(tmp_path)

    def fork(x: int) -> tuple[int, int]:
        log.note(x)
        if x != 5:
            return x, 0
        pid = os.fork()
        if pid == 0:
            if leave == "exit":
                raise SystemExit(3)
            if leave == "os._exit":
                os._exit(4)
            if leave == "raise":
                raise ValueError("only the child's")
            if leave == "interrupt":
                raise KeyboardInterrupt
            return x, -1
        return x, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    results = ray.get([ray.remote(fork).remote(x) for x in range(20)], timeout=LIMIT_S)
    assert results == [(x, status if x == 5 else 0) for x in range(20)]
    assert sorted(map(int, log.runs())) == list(range(20))
    assert_pool_is_quick()


def test_the_child_of_a_task_may_not_use_the_engine(tmp_path: Path) -> None:
    ray.init(num_cpus=1)
    answers = Sign(tmp_path / "answers")

    @ray.remote
    def fork(refs: list[ray.ObjectRef[int]]) -> str:
        child = square.remote(3)
        ray.get(square.remote(2))
        words = {
            "remote": lambda: square.remote(4),
            "put": lambda: ray.put([1]),
            "get": lambda: ray.get(child),
            "wait": lambda: ray.wait([child]),
            "get of an argument": lambda: ray.get(refs[0]),
            "cancel": lambda: ray.cancel(child),
            "future": lambda: child.future().result(10),
            "init": lambda: ray.init(),
        }
        pid = os.fork()
        if pid == 0:
            text = ""
            for name, word in words.items():
                try:
                    word()
                except ray.errors.EngineClosedError:
                    continue
                except BaseException as error:
                    text += f"{name}: {error!r}\n"
                else:
                    text += f"{name} was not refused\n"
            answers.put_up(text)
            os._exit(0)
        os.waitpid(pid, 0)
        assert ray.get(child) == 9
        return answers.wait()

    assert ray.get(fork.remote([ray.put(7)]), timeout=LIMIT_S) == ""
    assert_pool_is_quick()


def test_a_pool_of_processes_inside_a_task() -> None:
    ray.init(num_cpus=2)

    @ray.remote
    def pool(x: int) -> list[int]:
        import multiprocessing
        import warnings

        warnings.simplefilter("ignore")
        with multiprocessing.get_context("fork").Pool(2) as inner:
            return inner.map(abs, [-x, -1])

    assert ray.get([pool.remote(x) for x in range(4)], timeout=LIMIT_S) == [[x, 1] for x in range(4)]
    assert_pool_is_quick()


def test_a_child_that_outlives_its_task_disturbs_nobody(tmp_path: Path) -> None:
    """It goes with its worker at the latest."""
    ray.init(num_cpus=1)

    @ray.remote
    def leave_behind() -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        return pid

    pid = ray.get(leave_behind.remote(), timeout=LIMIT_S)
    assert_pool_is_quick()
    ray.shutdown()
    wait_until_gone(pid)


def test_a_task_in_a_thread_forks_while_the_worker_reports(tmp_path: Path) -> None:
    """The fork may fall into any moment of the threads of the worker."""
    ray.init(num_cpus=2)

    @ray.remote
    def fork(_: int) -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert ray.get([fork.remote(i) for i in range(200)], timeout=LIMIT_S) == [0] * 200


def test_an_error_of_the_child_is_shown_and_not_taken_for_the_task_s(tmp_path: Path) -> None:
    result = run_script(
        """
import os
import grainwise as ray
ray.init(num_cpus=1)

@ray.remote
def fork():
    pid = os.fork()
    if pid == 0:
        raise ValueError("only the child's")
    os.waitpid(pid, 0)
    return "the parent's"

print(ray.get(fork.remote(), timeout=60))
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.returncode) == ("the parent's\n", 0)
    assert "ValueError: only the child's" in result.stderr
    assert_nothing_left(result.mark)


def test_a_task_s_own_error_is_still_its_error() -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def fail() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        raise ValueError("the parent's")

    with pytest.raises(ValueError, match="the parent's") as info:
        ray.get(fail.remote(), timeout=LIMIT_S)
    assert isinstance(info.value, TaskError)
