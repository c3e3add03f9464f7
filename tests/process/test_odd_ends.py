"""Tasks that end in odd ways, short of a deadly signal: each is a typed error, never a raw one."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import TaskError, WorkerCrashedError

from .full_pool import LIMIT_S, assert_pool_is_full, find_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def raiser(error: BaseException) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


ENDS: dict[str, tuple[Callable[[], object], type[BaseException]]] = {
    "sys.exit()": (lambda: sys.exit(), SystemExit),
    "sys.exit(0)": (lambda: sys.exit(0), SystemExit),
    "sys.exit('text')": (lambda: sys.exit("why it ended"), SystemExit),
    "exit()": (lambda: exit(1), SystemExit),
    "SystemExit": (raiser(SystemExit(5)), SystemExit),
    "KeyboardInterrupt": (raiser(KeyboardInterrupt("by hand")), KeyboardInterrupt),
    "GeneratorExit": (raiser(GeneratorExit()), GeneratorExit),
    "StopIteration": (raiser(StopIteration(1)), StopIteration),
    "CancelledError": (raiser(asyncio.CancelledError()), asyncio.CancelledError),
    "BaseException": (raiser(BaseException("bare")), BaseException),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_would_end_the_program_arrives_as_a_plain_task_error(name: str, tmp_path: Path) -> None:
    """It ends neither the worker nor the program that asks, and `except Exception` is enough."""
    end, kind = ENDS[name]

    @ray.remote(max_retries=0)
    def odd_task(i: int) -> int:
        if i == 10:
            end()
        return i

    before = find_workers(tmp_path)
    refs = [odd_task.remote(i) for i in range(20)]
    with pytest.raises(TaskError, match=kind.__name__) as info:
        ray.get(refs, timeout=LIMIT_S)
    assert type(info.value) is TaskError
    assert type(info.value.cause) is kind
    assert "odd_task" in info.value.task_name
    assert "odd_task" in info.value.traceback_text
    assert ray.get(refs[:10] + refs[11:], timeout=LIMIT_S) == [i for i in range(20) if i != 10]
    assert find_workers(tmp_path) == before, "no worker has died of it"


@pytest.mark.parametrize("status", [0, 3, 255])
def test_os_exit_is_told_with_its_status(status: int, tmp_path: Path) -> None:
    """Also a status of 0: the process has ended, and the task has no result."""

    @ray.remote(max_retries=0)
    def leaving_task(i: int) -> int:
        if i == 10:
            os._exit(status)
        return i

    refs = [leaving_task.remote(i) for i in range(20)]
    with pytest.raises(WorkerCrashedError, match=f"exit code {status}") as info:
        ray.get(refs[10], timeout=LIMIT_S)
    assert (info.value.exit_code, info.value.signal) == (status, None)
    assert "leaving_task" in info.value.task_name
    assert ray.get(refs[:10] + refs[11:], timeout=LIMIT_S) == [i for i in range(20) if i != 10]
    assert_pool_is_full(tmp_path)


def test_os_exit_in_a_thread_of_the_task(tmp_path: Path) -> None:
    @ray.remote(max_retries=0)
    def task() -> None:
        thread = threading.Thread(target=os._exit, args=(4,))
        thread.start()
        threading.Event().wait()

    with pytest.raises(WorkerCrashedError, match="exit code 4"):
        ray.get(task.remote(), timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


def test_an_exit_while_the_result_is_pickled() -> None:
    class Leaving:
        def __reduce__(self) -> tuple[object, ...]:
            sys.exit(3)

    with pytest.raises(TaskError) as info:
        ray.get(ray.remote(max_retries=0)(lambda: Leaving()).remote(), timeout=LIMIT_S)
    assert not isinstance(info.value, SystemExit)
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=LIMIT_S) == 1


def test_an_exit_while_an_argument_is_unpickled() -> None:
    class Leaving:
        def __reduce__(self) -> tuple[object, ...]:
            return sys.exit, (3,)

    task = ray.remote(max_retries=0)(lambda x: x)
    with pytest.raises(Exception, match="argument") as info:
        ray.get(task.remote(Leaving()), timeout=LIMIT_S)
    assert not isinstance(info.value, SystemExit)
    assert ray.get(task.remote(1), timeout=LIMIT_S) == 1


def test_an_exit_while_the_function_is_unpickled() -> None:
    class Leaving:
        def __reduce__(self) -> tuple[object, ...]:
            return sys.exit, (3,)

    leaving = Leaving()
    task = ray.remote(max_retries=0, name="captures_it")(lambda: leaving)
    for _ in range(2):
        with pytest.raises(Exception, match="captures_it") as info:
            ray.get(task.remote(), timeout=LIMIT_S)
        assert not isinstance(info.value, SystemExit)
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=LIMIT_S) == 1


def test_an_exception_whose_every_method_exits() -> None:
    class HostileError(Exception):
        def __str__(self) -> str:  # noqa: PLE0307
            sys.exit(1)

        __repr__ = __str__

        def __reduce__(self) -> tuple[object, ...]:
            sys.exit(2)

    def task() -> None:
        raise HostileError

    with pytest.raises(TaskError) as info:
        ray.get(ray.remote(max_retries=0)(task).remote(), timeout=LIMIT_S)
    assert "HostileError" in info.value.traceback_text
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=LIMIT_S) == 1


def test_endless_recursion_is_an_ordinary_error(tmp_path: Path) -> None:
    @ray.remote(max_retries=0)
    def recurse(depth: int) -> int:
        def deeper(depth: int) -> int:
            return deeper(depth + 1)

        return deeper(depth)

    before = find_workers(tmp_path)
    for _ in range(5):
        with pytest.raises(RecursionError, match="recursion") as info:
            ray.get(recurse.remote(0), timeout=LIMIT_S)
        assert isinstance(info.value, TaskError)
    assert find_workers(tmp_path) == before


def test_a_result_too_deep_to_pickle_is_an_ordinary_error(tmp_path: Path) -> None:
    @ray.remote(max_retries=0)
    def nest() -> object:
        value: object = None
        for _ in range(100_000):
            value = [value]
        return value

    before = find_workers(tmp_path)
    with pytest.raises(Exception, match="nest"):
        ray.get(nest.remote(), timeout=LIMIT_S)
    assert find_workers(tmp_path) == before


def test_running_out_of_memory_in_python_is_an_ordinary_error(tmp_path: Path) -> None:
    """A hundred times: each worker is still there, and takes the next task."""

    @ray.remote(max_retries=0)
    def allocate(nbytes: int) -> int:
        return len(bytearray(nbytes))

    before = find_workers(tmp_path)
    refs = [allocate.remote(1 << 60) for _ in range(100)]
    for ref in refs:
        with pytest.raises(MemoryError) as info:
            ray.get(ref, timeout=LIMIT_S)
        assert isinstance(info.value, TaskError)
        assert "allocate" in info.value.task_name
    assert ray.get(allocate.remote(10), timeout=LIMIT_S) == 10
    assert find_workers(tmp_path) == before


def test_typed_errors_in_nested_tasks() -> None:
    """An inner task's exit reaches the outer task as an error that it can handle, not as an exit."""

    @ray.remote(max_retries=0)
    def inner() -> None:
        sys.exit(3)

    @ray.remote(max_retries=0)
    def outer() -> str:
        try:
            ray.get(inner.remote())
        except Exception as error:
            return f"{type(error).__name__} of {type(getattr(error, 'cause', None)).__name__}"
        return "nothing"

    assert ray.get(outer.remote(), timeout=LIMIT_S) == "TaskError of SystemExit"
