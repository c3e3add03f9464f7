"""`cancel`: what has not begun never runs, what runs is interrupted, and the slot is free afterwards."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import GetTimeoutError, TaskCancelledError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .signposts import Sign, is_alive, wait_until_gone


@pytest.fixture
def one_cpu() -> Iterator[None]:
    ray.init(num_cpus=1)
    yield
    ray.shutdown()


@pytest.fixture
def two_cpus() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
def worker_pid() -> int:
    return os.getpid()


@ray.remote
def wait_for(begun: Sign, gate: Sign) -> str:
    """Say that it has begun, and wait in Python code, a few milliseconds at a time."""
    begun.put_up(str(os.getpid()))
    gate.wait()
    return "finished"


def assert_cancelled(ref: ray.ObjectRef[Any]) -> None:
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=LIMIT_S)


def signs(folder: Path, *names: str) -> list[Sign]:
    return [Sign(folder / name) for name in names]


# --- not begun ----------------------------------------------------------------------------------------------


def test_a_queued_task_never_runs_and_is_resolved_at_once(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    blocker = wait_for.remote(begun, gate)
    begun.wait()
    queued = [ray.remote(log.note).remote(i) for i in range(5)]
    for ref in queued:
        ray.cancel(ref)
    for ref in queued:
        assert_cancelled(ref)  # while the only worker is still busy
    gate.put_up()
    assert ray.get(blocker, timeout=LIMIT_S) == "finished"
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9
    assert log.runs() == []


def test_two_thousand_queued_tasks_are_cancelled_and_their_neighbours_run(
    one_cpu: None, tmp_path: Path
) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    blocker = wait_for.remote(begun, gate)
    begun.wait()
    note = ray.remote(log.note)
    refs = [note.remote(i) for i in range(2_000)]
    for ref in refs[100:]:
        ray.cancel(ref)
    gate.put_up()
    assert ray.get(blocker, timeout=LIMIT_S) == "finished"
    assert ray.get(refs[:100], timeout=LIMIT_S) == [None] * 100
    for ref in refs[100:]:
        assert_cancelled(ref)
    assert sorted(map(int, log.runs())) == list(range(100))


def test_a_task_that_waits_for_its_arguments_never_runs(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    source = wait_for.remote(begun, gate)
    dependant = ray.remote(log.note).remote(source)
    ray.cancel(dependant)
    assert_cancelled(dependant)
    gate.put_up()
    assert ray.get(source, timeout=LIMIT_S) == "finished"
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9
    assert log.runs() == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("is_ready", [True, False], ids=["queued", "waiting for arguments"])
def test_one_of_several_results_stands_for_all(
    one_cpu: None, tmp_path: Path, which: int, is_ready: bool
) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)

    @ray.remote(num_returns=2)
    def two(_: object) -> tuple[int, int]:
        log.note()
        return 1, 2

    blocker = wait_for.remote(begun, gate)
    begun.wait()
    both = two.remote(0 if is_ready else blocker)
    ray.cancel(both[which])
    for ref in both:
        assert_cancelled(ref)
    gate.put_up()
    assert ray.get(blocker, timeout=LIMIT_S) == "finished"
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9
    assert log.runs() == []


def test_what_depends_on_a_cancelled_task_fails_with_it(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)
    running = wait_for.remote(begun, gate)
    dependant = ray.remote(log.note).remote(running)
    last = ray.remote(log.note).remote(dependant)
    begun.wait()
    ray.cancel(running)
    for ref in (running, dependant, last):
        assert_cancelled(ref)
    assert log.runs() == []


def test_a_task_behind_a_long_one_of_its_batch_never_runs(one_cpu: None, tmp_path: Path) -> None:
    """The function was quick two thousand times, so its tasks travel together; this one is not quick."""
    begun, gate = signs(tmp_path, "begun", "gate")
    log = RunLog(tmp_path)

    @ray.remote
    def mixed(kind: str) -> None:
        if kind == "long":
            begun.put_up()
            gate.wait()
        elif kind == "noted":
            log.note()

    for _ in range(4):
        ray.get([mixed.remote("quick") for _ in range(500)], timeout=LIMIT_S)
    refs = [mixed.remote(kind) for kind in ("long", "noted", "quick")]
    ray.wait(refs, timeout=0)
    begun.wait()
    ray.cancel(refs[1])
    gate.put_up()
    assert ray.get([refs[0], refs[2]], timeout=LIMIT_S) == [None, None]
    assert_cancelled(refs[1])
    assert log.runs() == []


# --- running ------------------------------------------------------------------------------------------------


def test_a_running_task_is_interrupted_and_its_slot_is_free(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    ref = wait_for.remote(begun, gate)
    pid = int(begun.wait())
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError, match="wait_for"):
        ray.get(ref, timeout=LIMIT_S)
    assert ray.get(worker_pid.remote(), timeout=LIMIT_S) == pid  # interrupted, not killed


@pytest.mark.parametrize("where", ["sleep", "lock", "event", "join", "input", "loop"])
def test_it_is_interrupted_wherever_it_waits(one_cpu: None, tmp_path: Path, where: str) -> None:
    begun = Sign(tmp_path / "begun")

    @ray.remote
    def blocked() -> None:
        if where == "sleep":
            begun.put_up()
            time.sleep(1_000)
        elif where == "lock":
            lock = threading.Lock()
            lock.acquire()
            begun.put_up()
            lock.acquire()
        elif where == "event":
            begun.put_up()
            threading.Event().wait()
        elif where == "join":
            thread = threading.Thread(target=time.sleep, args=(1_000,), daemon=True)
            thread.start()
            begun.put_up()
            thread.join()
        elif where == "input":
            near, _far = os.pipe()
            begun.put_up()
            os.read(near, 1)
        else:
            begun.put_up()
            while True:
                pass

    ref = blocked.remote()
    begun.wait()
    ray.cancel(ref)
    assert_cancelled(ref)
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9


def test_clean_up_runs_and_except_exception_does_not_stop_it(one_cpu: None, tmp_path: Path) -> None:
    begun, gate, cleaned = signs(tmp_path, "begun", "gate", "cleaned")

    @ray.remote
    def careful() -> str:
        try:
            while True:
                try:
                    begun.put_up()
                    gate.wait()
                except Exception:
                    continue
        finally:
            cleaned.put_up()

    ref = careful.remote()
    begun.wait()
    ray.cancel(ref)
    assert_cancelled(ref)
    cleaned.wait()


def test_a_task_may_catch_its_cancellation_and_still_return(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")

    @ray.remote
    def partial() -> str:
        try:
            begun.put_up()
            gate.wait()
        except KeyboardInterrupt:
            return "what was done so far"
        return "all"

    ref = partial.remote()
    begun.wait()
    ray.cancel(ref)
    assert ray.get(ref, timeout=LIMIT_S) == "what was done so far"


def test_force_ends_what_never_returns_to_python(two_cpus: None, tmp_path: Path) -> None:
    begun = Sign(tmp_path / "begun")
    log = RunLog(tmp_path)

    @ray.remote(max_retries=3)
    def in_c() -> int:
        log.note()
        begun.put_up(str(os.getpid()))
        return sum(range(10**14))

    ref = in_c.remote()
    pid = int(begun.wait())
    ray.cancel(ref)
    with pytest.raises(GetTimeoutError):  # it can't hear
        ray.get(ref, timeout=0.05)
    ray.cancel(ref, force=True)
    assert_cancelled(ref)
    wait_until_gone(pid)
    assert_pool_is_full(tmp_path)
    assert len(log.runs()) == 1  # the retries are for accidents


def test_force_costs_the_neighbours_nothing(one_cpu: None, tmp_path: Path) -> None:
    """What waited on the same worker runs elsewhere, and is not charged a retry."""
    begun, gate = signs(tmp_path, "begun", "gate")

    @ray.remote(max_retries=0)
    def mixed(x: int) -> int:
        if x == 50:
            begun.put_up()
            gate.wait()
        return x

    refs = [mixed.remote(x) for x in range(100)]
    ray.wait(refs, timeout=0)
    begun.wait()
    ray.cancel(refs[50], force=True)
    assert_cancelled(refs[50])
    others = [x for x in range(100) if x != 50]
    assert ray.get([refs[x] for x in others], timeout=LIMIT_S) == others


@pytest.mark.parametrize("force", [False, True], ids=["interrupt", "force"])
def test_what_a_task_has_started_goes_with_it(one_cpu: None, tmp_path: Path, force: bool) -> None:
    begun = Sign(tmp_path / "begun")

    @ray.remote
    def start_program() -> None:
        with subprocess.Popen(["sleep", "1000"]) as program:
            begun.put_up(str(program.pid))
            try:
                program.wait()
            except BaseException:
                program.kill()
                raise

    ref = start_program.remote()
    pid = int(begun.wait())
    assert is_alive(pid)
    ray.cancel(ref, force=force)
    assert_cancelled(ref)
    wait_until_gone(pid)
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9


# --- finished, and otherwise out of order -------------------------------------------------------------------


def test_a_finished_task_keeps_its_value(one_cpu: None) -> None:
    ref, stored = square.remote(5), ray.put([1])
    assert ray.get(ref, timeout=LIMIT_S) == 25
    for force in (False, True):
        ray.cancel(ref, force=force)
        ray.cancel(stored, force=force)
    assert ray.get([ref, stored], timeout=LIMIT_S) == [25, [1]]


def test_a_failed_task_keeps_its_error(one_cpu: None) -> None:
    ref = ray.remote(lambda: 1 / 0).remote()
    ray.wait([ref], timeout=LIMIT_S)
    ray.cancel(ref, force=True)
    with pytest.raises(ZeroDivisionError):
        ray.get(ref)


def test_cancelling_twice_is_cancelling_once(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    ref = wait_for.remote(begun, gate)
    begun.wait()
    for _ in range(3):
        ray.cancel(ref)
    ray.cancel(ref, force=True)
    assert_cancelled(ref)
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9


def test_whoever_waits_in_another_thread_is_told(one_cpu: None, tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "begun", "gate")
    ref = wait_for.remote(begun, gate)
    future = ref.future()

    def cancel_it() -> None:
        begun.wait()
        ray.cancel(ref)

    canceller = threading.Thread(target=cancel_it)
    canceller.start()
    assert_cancelled(ref)
    assert ray.wait([ref], timeout=0)[0] == [ref]
    with pytest.raises(TaskCancelledError):
        future.result(timeout=LIMIT_S)
    canceller.join()


@pytest.mark.parametrize("wrong", [None, 1, "ref", []])
def test_only_refs_can_be_cancelled(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"cancel\(\) expected an ObjectRef, got {type(wrong).__name__}"):
        ray.cancel(wrong)
