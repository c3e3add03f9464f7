"""A task that kills every worker that runs it: as many runs as it may have, then an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import WorkerCrashedError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@pytest.mark.parametrize("max_retries", [0, 1, 4])
def test_a_poison_task_runs_once_and_as_often_as_it_may_be_retried(max_retries: int, tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=max_retries)
    def poison() -> None:
        log.note()
        os._exit(3)

    with pytest.raises(WorkerCrashedError) as info:
        ray.get(poison.remote(), timeout=LIMIT_S)
    assert info.value.exit_code == 3
    assert len(log.runs()) == 1 + max_retries
    assert len(set(log.pids())) == 1 + max_retries, "each run is in a worker of its own"
    assert info.value.pid == log.pids()[-1]
    assert_pool_is_full(tmp_path)


def test_the_default_is_three_retries(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote
    def poison() -> None:
        log.note()
        os._exit(3)

    with pytest.raises(WorkerCrashedError):
        ray.get(poison.remote(), timeout=LIMIT_S)
    assert len(log.runs()) == 4


def test_a_task_without_a_limit_runs_until_it_succeeds(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=-1)
    def task() -> int:
        log.note()
        runs = len(log.runs())
        if runs < 8:
            os._exit(3)
        return runs

    assert ray.get(task.remote(), timeout=LIMIT_S) == 8


def test_a_hundred_poison_tasks_at_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=0)
    def poison(i: int) -> None:
        log.note(i)
        os._exit(3)

    refs = [poison.remote(i) for i in range(100)]
    ray.wait(refs, num_returns=len(refs), timeout=2 * LIMIT_S)
    for ref in refs:
        with pytest.raises(WorkerCrashedError):
            ray.get(ref, timeout=0)
    assert sorted(map(int, log.runs())) == list(range(100))
    assert_pool_is_full(tmp_path)


def test_a_thousand_poison_tasks_one_after_the_other(tmp_path: Path) -> None:
    poison = ray.remote(max_retries=0)(lambda _: os._exit(3))
    for i in range(1000):
        with pytest.raises(WorkerCrashedError):
            ray.get(poison.remote(i), timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


def test_poison_and_wholesome_tasks_of_one_function(tmp_path: Path) -> None:
    """Every tenth call is poison; a batch-mate of one is never charged for it."""
    log = RunLog(tmp_path)

    @ray.remote(max_retries=1)
    def task(i: int) -> int:
        log.note(i)
        if i % 10 == 5:
            os._exit(3)
        return i

    refs = [task.remote(i) for i in range(100)]
    ray.wait(refs, num_returns=len(refs), timeout=2 * LIMIT_S)
    for i, ref in enumerate(refs):
        if i % 10 == 5:
            with pytest.raises(WorkerCrashedError):
                ray.get(ref, timeout=0)
        else:
            assert ray.get(ref, timeout=0) == i
    runs = [int(run) for run in log.runs()]
    assert all(runs.count(i) == 2 for i in range(5, 100, 10))
    assert_pool_is_full(tmp_path)


def test_two_kinds_of_poison_at_once(tmp_path: Path) -> None:
    by_exit = ray.remote(max_retries=1)(lambda: os._exit(3))
    by_signal = ray.remote(max_retries=2)(lambda: os.kill(os.getpid(), 9))
    refs = [task.remote() for _ in range(5) for task in (by_exit, by_signal)]
    for ref in refs:
        with pytest.raises(WorkerCrashedError):
            ray.get(ref, timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


# --- nested -------------------------------------------------------------------------------------------------


def test_a_poison_child_fails_and_its_parent_learns_of_it(tmp_path: Path) -> None:
    parents, children = RunLog(tmp_path), RunLog(tmp_path)

    @ray.remote(max_retries=1)
    def child() -> None:
        children.note()
        os._exit(3)

    @ray.remote(max_retries=0)
    def parent() -> str:
        parents.note()
        try:
            ray.get(child.remote())
        except WorkerCrashedError as error:
            return error.task_name
        return "the child lived"

    assert "child" in ray.get(parent.remote(), timeout=LIMIT_S)
    assert len(children.runs()) == 2
    assert len(parents.runs()) == 1, "the parent must not run twice, so no child may die on top of it"
    assert_pool_is_full(tmp_path)


def test_a_poison_child_among_wholesome_ones(tmp_path: Path) -> None:
    """A worker that waits runs its own children meanwhile: one that kills it may not do so for ever."""
    log = RunLog(tmp_path)

    @ray.remote(max_retries=1)
    def child(i: int) -> int:
        log.note(i)
        if i == 3:
            os._exit(3)
        return i

    @ray.remote(max_retries=3)
    def parent() -> list[int]:
        log.note("parent")
        return ray.get([child.remote(i) for i in range(6)])

    with pytest.raises(WorkerCrashedError, match="child"):
        ray.get(parent.remote(), timeout=LIMIT_S)
    assert log.runs().count("parent") <= 1 + 3
    assert_pool_is_full(tmp_path)


def test_poison_several_levels_down(tmp_path: Path) -> None:
    @ray.remote(max_retries=1)
    def leaf(depth: int) -> int:
        if depth == 4:
            os._exit(3)
        return depth

    @ray.remote(max_retries=1)
    def node(depth: int) -> int:
        if depth == 4:
            return sum(ray.get([leaf.remote(i) for i in range(6)]))
        return ray.get(node.remote(depth + 1))

    with pytest.raises(WorkerCrashedError, match="leaf"):
        ray.get(node.remote(0), timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)
