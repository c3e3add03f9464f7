"""Children that a blocked task runs itself, when they raise, die, exit or are cancelled with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current
from grainwise.errors import SerializationError, TaskCancelledError, TaskError, WorkerCrashedError

from .exception_classes import KeywordOnly, TwoArguments
from .full_pool import LIMIT_S, RunLog
from .hostile_values import Explodes
from .signposts import Sign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")


@pytest.fixture(params=[1, 2], ids=["one cpu", "two cpus"], autouse=True)
def num_cpus(request: pytest.FixtureRequest) -> Iterator[int]:
    ray.init(num_cpus=request.param)
    yield request.param
    ray.shutdown()


@ray.remote
def double(x: int) -> int:
    return 2 * x


def warm_up(function: Any, *args: Any) -> None:
    """In a task: let it learn that calls of a function are quick, so that it keeps the next ones."""
    for _ in range(5):
        ray.get([function.remote(*args)])


# --- errors -------------------------------------------------------------------------------------------------


ERRORS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: ValueError("plain"),
    "not an Exception": lambda: KeyboardInterrupt("typed"),
    "exit": lambda: SystemExit(3),
    "two arguments": lambda: TwoArguments(3, "awkward"),
    "keyword only": lambda: KeywordOnly(limit=4),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_a_child_raises_is_caught_by_its_type(name: str) -> None:
    make = ERRORS[name]

    @ray.remote
    def child(raises: bool) -> int:
        if raises:
            raise make()
        return 1

    @ray.remote
    def parent() -> list[Any]:
        warm_up(child, False)
        found: list[Any] = []
        refs = [child.remote(False), child.remote(True)]
        for _ in range(2):
            try:
                ray.get(refs)
            except TaskError as caught:
                found.append((isinstance(caught, type(make())), str(caught), caught.task_name))
                found.append("raise make()" in caught.traceback_text)
        return [*found, ray.get(refs[0])]

    first, has_trace, *again, value = ray.get(parent.remote(), timeout=LIMIT_S)
    assert (value, again) == (1, [first, has_trace])
    is_own_type, text, task_name = first
    assert is_own_type == isinstance(make(), Exception)
    assert str(make()) in text
    assert "child" in task_name
    assert has_trace


def test_an_error_goes_up_through_many_levels() -> None:
    @ray.remote
    def down(depth: int) -> int:
        if not depth:
            raise LookupError("at the bottom")
        return ray.get(down.remote(depth - 1))

    with pytest.raises(LookupError, match="at the bottom"):
        ray.get(down.remote(30), timeout=LIMIT_S)


def test_arguments_results_and_functions_that_resist() -> None:
    make_lock = ray.remote(lambda x: threading.Lock() if x else x)

    @ray.remote
    def take(value: Any) -> int:
        return 1

    @ray.remote
    def parent() -> list[str]:
        bomb = Explodes("ValueError('bang')")
        broken = ray.remote(lambda x: (x, bomb))
        warm_up(make_lock, 0)
        warm_up(take, 0)
        messages = []
        for submit in (
            lambda: make_lock.remote(1),
            lambda: take.remote(threading.Lock()),
            lambda: take.remote(value=bomb),
            lambda: broken.remote(1),
            lambda: take.remote(Explodes("SystemExit(3)")),
        ):
            try:
                ray.get([take.remote([1]), submit()])
            except SerializationError as error:
                messages.append(str(error))
        return messages

    result, argument, on_load, function, exits = ray.get(parent.remote(), timeout=LIMIT_S)
    assert "result" in result
    assert "argument 'value'" in argument
    assert "argument 'value'" in on_load
    assert "unpickled" in on_load
    assert "function" in function
    assert "SystemExit" in exits


# --- deaths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_retries", [0, 1])
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_parent_outlives_a_child_that_ends_its_process(how: str, max_retries: int, tmp_path: Path) -> None:
    """And is not charged: it may not die even once. Nor does the child run more often than it may."""
    deaths = RunLog(tmp_path)

    @ray.remote(max_retries=max_retries)
    def child(dies: bool) -> int:
        if dies:
            deaths.note()
            if how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    @ray.remote
    def middle(dies: bool) -> int:
        return ray.get(child.remote(dies))

    @ray.remote(max_retries=1)
    def parent() -> str:
        warm_up(middle, False)
        try:
            ray.get([middle.remote(False), middle.remote(True)])
        except WorkerCrashedError as error:
            return str(error)
        return "no error"

    message = ray.get(parent.remote(), timeout=LIMIT_S)
    assert "child" in message
    assert ("exit code 3" if how == "exit" else "SIGKILL") in message
    if not max_retries:
        assert len(deaths.runs()) == 1


def test_deadly_children_that_differ_at_each_run(tmp_path: Path) -> None:
    """A parent that runs again submits other functions, which nobody knows for deadly."""
    parents = RunLog(tmp_path)

    @ray.remote
    def parent() -> str:
        parents.note()
        token = uuid.uuid4().hex
        deadly = ray.remote(lambda: os._exit(len(token)))
        try:
            ray.get(deadly.remote())
        except WorkerCrashedError as error:
            return str(error)
        return "no error"

    assert "exit code 32" in ray.get(parent.remote(), timeout=LIMIT_S)
    assert len(parents.runs()) <= 3


def test_a_task_that_must_not_run_twice_dies_above_a_child(tmp_path: Path) -> None:
    """The child waits in its parent's process; what runs there on top of both is not to blame on either."""
    once_log, parents = RunLog(tmp_path), RunLog(tmp_path)

    @ray.remote(max_retries=0)
    def once() -> None:
        once_log.note()
        os._exit(3)

    @ray.remote
    def middle(dies: bool) -> None:
        if dies:
            ray.get(once.remote())

    @ray.remote
    def parent() -> str:
        parents.note()
        warm_up(middle, False)
        try:
            ray.get(middle.remote(True))
        except WorkerCrashedError as error:
            return error.task_name
        return "no error"

    assert "once" in ray.get(parent.remote(), timeout=LIMIT_S)
    assert (len(once_log.runs()), len(parents.runs())) == (1, 1)


def test_a_parent_that_must_not_run_twice_runs_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote
    def child(dies: bool) -> int:
        if dies:
            os._exit(3)
        return 1

    @ray.remote(max_retries=0)
    def parent() -> str:
        log.note()
        warm_up(child, False)
        try:
            ray.get(child.remote(True))
        except WorkerCrashedError as error:
            return str(error)
        return "no error"

    assert "exit code 3" in ray.get(parent.remote(), timeout=LIMIT_S)
    assert len(log.runs()) == 1


def test_batch_mates_of_a_parent_whose_child_dies(tmp_path: Path) -> None:
    @ray.remote
    def child(dies: bool) -> int:
        if dies:
            os._exit(3)
        return 1

    @ray.remote
    def parent(i: int) -> str:
        if i % 50 < 49:
            return "quick"
        try:
            return str(ray.get([child.remote(i == 149), child.remote(False)]))
        except WorkerCrashedError:
            return "died"

    for _ in range(2):
        ray.get([parent.remote(0) for _ in range(1000)], timeout=LIMIT_S)
    values = ray.get([parent.remote(i) for i in range(200)], timeout=LIMIT_S)
    assert values[49::50] == ["[1, 1]", "[1, 1]", "died", "[1, 1]"]
    assert values.count("quick") == 196


# --- cancellation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("where", ["child", "waits", "between"])
def test_a_parent_cancelled_while_its_child_runs(recursive: bool, where: str, tmp_path: Path) -> None:
    begun, gate, ended = (Sign(tmp_path / name) for name in ("begun", "gate", "ended"))

    @ray.remote
    def child(holds: bool) -> int:
        if holds and where == "child":
            begun.put_up()
            gate.wait()
            ended.put_up()
        elif holds and where == "waits":
            begun.put_up()
            return ray.get(hold.remote())
        return 1

    @ray.remote(num_cpus=0)
    def hold() -> int:
        gate.wait()
        return 1

    @ray.remote
    def parent() -> None:
        warm_up(child, False)
        if where == "between":
            begun.put_up()
            while True:
                ray.get([child.remote(False) for _ in range(3)])
        ray.get(child.remote(True))

    ref = parent.remote()
    ray.wait([ref], timeout=0)
    begun.wait()
    ray.cancel(ref, recursive=recursive)
    if not recursive and where != "between":
        gate.put_up()  # the child is spared: it ends in peace, and its parent then
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=LIMIT_S)
    gate.put_up()
    if where == "child":
        assert ended.is_up() == (not recursive)
    assert ray.get([double.remote(i) for i in range(100)], timeout=LIMIT_S) == [2 * i for i in range(100)]


def test_parents_cancelled_at_any_moment_leave_their_workers_as_they_were() -> None:
    @ray.remote
    def tree(depth: int) -> list[int]:
        if not depth:
            return [1]
        return [one for part in ray.get([tree.remote(depth - 1) for _ in range(3)]) for one in part]

    assert ray.get(tree.remote(4), timeout=LIMIT_S) == [1] * 81
    for i in range(40):
        refs = [tree.remote(4) for _ in range(3)]
        ray.wait(refs, timeout=0.0002 * i)  # somewhere in the middle, elsewhere each time
        ray.cancel(refs[0], recursive=i % 2 == 0)
        ray.cancel(refs[2], recursive=True, force=i % 10 == 9)
        assert ray.get(refs[1], timeout=LIMIT_S) == [1] * 81
        for ref in (refs[0], refs[2]):
            try:
                assert ray.get(ref, timeout=LIMIT_S) == [1] * 81
            except TaskCancelledError:
                pass
    assert ray.get([tree.remote(3) for _ in range(10)], timeout=LIMIT_S) == [[1] * 27] * 10
    engine: Any = current()
    assert engine.num_waiting == 0


def test_a_parent_cancels_children_that_have_run_that_run_and_that_have_not(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")

    @ray.remote(num_cpus=0)
    def hold() -> None:
        gate.wait()

    @ray.remote
    def parent() -> list[Any]:
        warm_up(double, 1)
        done, open_, held = double.remote(1), double.remote(2), hold.remote()
        ray.get(done)
        ray.cancel(done)
        ray.cancel(held)
        found: list[Any] = [ray.get(done)]
        ray.cancel(open_)
        for ref in (open_, held):
            try:
                found.append(ray.get(ref))
            except TaskCancelledError:
                found.append("cancelled")
        return found

    done, open_, held = ray.get(parent.remote(), timeout=LIMIT_S)
    assert (done, held) == (2, "cancelled")
    assert open_ in (4, "cancelled")
