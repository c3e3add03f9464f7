"""Cancellations that strike at awkward moments, and those of whole trees of tasks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import TaskCancelledError, TaskError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .signposts import Sign
from .test_cancel import assert_cancelled, one_cpu, signs, square, two_cpus, wait_for, worker_pid

__all__ = ["one_cpu", "two_cpus"]  # fixtures


# --- trees --------------------------------------------------------------------------------------------------


@ray.remote
def leaf(log: RunLog, begun: Sign, gate: Sign) -> str:
    log.note("leaf began")
    try:
        begun.put_up()  # the interruption may come before this has returned
        gate.wait()
    except KeyboardInterrupt:
        log.note("leaf interrupted")
        raise
    log.note("leaf finished")
    return "leaf"


@ray.remote
def branch(depth: int, log: RunLog, begun: Sign, gate: Sign) -> str:
    child = branch.remote(depth - 1, log, begun, gate) if depth else leaf.remote(log, begun, gate)
    try:
        return ray.get(child)
    except TaskCancelledError:
        log.note("branch heard of it")
        raise


@pytest.mark.parametrize("num_cpus", [1, 2, 4])
@pytest.mark.parametrize("depth", [0, 2])
def test_a_whole_tree_is_cancelled(tmp_path: Path, num_cpus: int, depth: int) -> None:
    """Whether the child runs on top of its parent or in another worker."""
    ray.init(num_cpus=num_cpus)
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    root = branch.remote(depth, log, begun, gate)
    begun.wait()
    ray.cancel(root)
    assert_cancelled(root)
    assert ray.get([square.remote(i) for i in range(100)], timeout=LIMIT_S) == [i * i for i in range(100)]
    deadline = time.monotonic() + LIMIT_S
    while "leaf interrupted" not in log.runs():
        assert time.monotonic() < deadline, "the leaf goes on"
        time.sleep(0.005)
    assert not gate.is_up()


def test_children_that_have_not_begun_never_run(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)

    @ray.remote
    def parent() -> None:
        children = [leaf.remote(log, begun, gate) for _ in range(20)]
        ray.get(children)

    ref = parent.remote()
    begun.wait()
    ray.cancel(ref)
    assert_cancelled(ref)
    gate.put_up()
    assert_pool_of_one_is_full()
    assert log.runs().count("leaf began") == 1


def assert_pool_of_one_is_full() -> None:
    assert ray.get([square.remote(i) for i in range(100)], timeout=LIMIT_S) == [i * i for i in range(100)]


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_without_recursion_the_child_goes_on(tmp_path: Path, num_cpus: int) -> None:
    ray.init(num_cpus=num_cpus)
    begun, gate, done = signs(tmp_path, "begun", "gate", "done")

    @ray.remote
    def child() -> None:
        begun.put_up()
        gate.wait()
        done.put_up()

    @ray.remote
    def parent() -> None:
        ray.get(child.remote())

    ref = parent.remote()
    begun.wait()
    ray.cancel(ref, recursive=False)
    gate.put_up()
    done.wait()
    assert_cancelled(ref)
    assert_pool_of_one_is_full()


def test_force_takes_the_tree_as_well(two_cpus: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    root = branch.remote(2, log, begun, gate)
    begun.wait()
    ray.cancel(root, force=True)
    assert_cancelled(root)
    assert_pool_is_full(tmp_path)
    assert log.runs().count("leaf began") == 1
    assert "leaf finished" not in log.runs()


def test_a_task_cancels_its_own_child(two_cpus: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")

    @ray.remote
    def parent() -> str:
        child = wait_for.remote(begun, gate)
        ray.wait([child], timeout=0)
        begun.wait()
        ray.cancel(child)
        try:
            ray.get(child, timeout=LIMIT_S)
        except TaskCancelledError as error:
            return error.task_name
        return "not cancelled"

    assert ray.get(parent.remote(), timeout=LIMIT_S) == "wait_for"
    assert_pool_is_full(tmp_path)


def test_a_task_that_waits_for_another_program_s_work_is_cancelled(one_cpu: None, tmp_path: Path) -> None:
    """It is blocked in `get` of a ref that is not its child's."""
    begun, gate, waiting = signs(tmp_path, "begun", "gate", "waiting")
    slow = wait_for.remote(begun, gate)

    @ray.remote
    def waiter(refs: list[ray.ObjectRef[str]]) -> str:
        waiting.put_up()
        return ray.get(refs[0])

    ref = waiter.remote([slow])
    begun.wait()
    ray.cancel(ref)
    assert_cancelled(ref)
    gate.put_up()
    assert ray.get(slow, timeout=LIMIT_S) == "finished"


# --- awkward moments ----------------------------------------------------------------------------------------


class Slow:
    """Puts a sign up at a certain step of its pickling or unpickling, and is slow there."""

    def __init__(self, step: str, begun: Sign, gate: Sign) -> None:
        self.step, self.begun, self.gate = step, begun, gate

    def __getstate__(self) -> dict[str, Any]:
        if self.step == "pickle":
            self.begun.put_up()
            self.gate.wait()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.step == "unpickle":
            self.begun.put_up()
            self.gate.wait()


class SlowError(Exception):
    def __init__(self, begun: Sign, gate: Sign) -> None:
        super().__init__("slow to pickle")
        self.begun, self.gate = begun, gate

    def __reduce__(self) -> tuple[Any, ...]:
        self.begun.put_up()
        self.gate.wait()
        return SlowError, (self.begun, self.gate)


def test_while_its_arguments_are_unpickled(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    ref = ray.remote(log.note).remote(Slow("unpickle", begun, gate))
    begun.wait()
    ray.cancel(ref)
    assert_cancelled(ref)
    assert_pool_of_one_is_full()
    assert log.runs() == []


def test_while_its_result_is_pickled(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)

    @ray.remote
    def make() -> Slow:
        log.note()
        return Slow("pickle", begun, gate)

    ref = make.remote()
    begun.wait()
    ray.cancel(ref)
    assert_cancelled(ref)
    assert_pool_of_one_is_full()
    assert len(log.runs()) == 1


def test_while_its_exception_is_pickled(one_cpu: None, tmp_path: Path) -> None:
    """Too late or just in time: either answer will do, but the worker lives and nothing runs twice."""
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)

    @ray.remote
    def fail() -> None:
        log.note()
        raise SlowError(begun, gate)

    ref = fail.remote()
    begun.wait()
    ray.cancel(ref)
    time.sleep(0)  # whichever comes first: the signal or the gate
    gate.put_up()
    with pytest.raises((TaskCancelledError, TaskError)):
        ray.get(ref, timeout=LIMIT_S)
    assert ray.get(worker_pid.remote(), timeout=LIMIT_S) == log.pids()[0]
    assert len(log.runs()) == 1


def test_while_its_function_is_unpickled_on_top_of_another(one_cpu: None, tmp_path: Path) -> None:
    """The parent is cancelled while its child's function arrives; the function works for others later."""
    begun, gate = signs(tmp_path, "begun", "gate")
    captured = Slow("unpickle", begun, gate)

    @ray.remote
    def child() -> str:
        return captured.step

    @ray.remote
    def parent() -> str:
        return ray.get(child.remote())

    ref = parent.remote()
    begun.wait()
    ray.cancel(ref)
    gate.put_up()
    assert_cancelled(ref)
    assert ray.get(child.remote(), timeout=LIMIT_S) == "unpickle"


def test_a_hundred_cancellations_at_any_moment(two_cpus: None) -> None:
    """Each task ends in its value or in TaskCancelledError, and no worker dies of it."""

    @ray.remote
    def short(x: int) -> int:
        end = time.perf_counter() + 0.0005
        while time.perf_counter() < end:
            pass
        return x

    def workers() -> set[int]:
        found: set[int] = set()
        deadline = time.monotonic() + LIMIT_S
        while len(found) < 2 and time.monotonic() < deadline:
            found |= set(ray.get([slow_pid.remote() for _ in range(4)], timeout=LIMIT_S))
        return found

    @ray.remote
    def slow_pid() -> int:
        time.sleep(0.01)
        return os.getpid()

    before = workers()
    outcomes = set()
    for i in range(100):
        refs = [short.remote(x) for x in range(5)]
        ray.wait(refs, num_returns=1 + i % 5, timeout=LIMIT_S if i % 3 else 0)
        for ref in refs:
            ray.cancel(ref)
        for x, ref in enumerate(refs):
            try:
                assert ray.get(ref, timeout=LIMIT_S) == x
                outcomes.add("value")
            except TaskCancelledError:
                outcomes.add("cancelled")
    assert outcomes == {"value", "cancelled"}
    assert workers() == before
