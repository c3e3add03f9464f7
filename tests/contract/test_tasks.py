"""Tasks: what is submitted, with which arguments and options, and what comes back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from .backend import exceptions, make_gate, ray

# --- arguments and results ----------------------------------------------------------------------------------


def test_a_call_returns_a_ref_and_get_its_value() -> None:
    @ray.remote
    def add(a: int, b: int = 10, *, c: int = 100) -> int:
        return a + b + c

    assert isinstance(add.remote(1), ray.ObjectRef)
    assert ray.get(add.remote(1)) == 111
    assert ray.get(add.remote(1, 2)) == 103
    assert ray.get(add.remote(b=2, a=1, c=3)) == 6


def test_variable_arguments() -> None:
    @ray.remote
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert ray.get(echo.remote()) == ((), {})
    assert ray.get(echo.remote(1, None, x=2)) == ((1, None), {"x": 2})


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"d": 1}, "got an unexpected keyword argument 'd'"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
    ],
)
def test_wrong_arguments_fail_where_the_call_is_made(args: Any, kwargs: Any, text: str) -> None:
    @ray.remote
    def add(a: int, b: int = 1, *, c: int = 2) -> int:
        return a + b + c

    with pytest.raises(TypeError, match=text):
        add.remote(*args, **kwargs)


def test_the_same_inside_of_a_task() -> None:
    @ray.remote
    def leaf(a: int) -> int:
        return a

    @ray.remote
    def outer() -> str:
        try:
            leaf.remote()
        except TypeError as error:
            return str(error)
        return "taken"

    assert "missing a required argument: 'a'" in ray.get(outer.remote())


def test_a_remote_function_can_not_be_called() -> None:
    @ray.remote
    def one() -> int:
        return 1

    with pytest.raises(TypeError, match="Remote functions cannot be called directly"):
        one()


def test_arguments_go_by_value() -> None:
    @ray.remote
    def total(values: list[int]) -> int:
        values.append(1)
        return sum(values)

    values = [1, 2, 3]
    ref = total.remote(values)
    values.append(100)
    assert ray.get(ref) == 7
    assert values == [1, 2, 3, 100]


def test_a_ref_at_top_level_is_replaced_by_its_value_and_inside_it_stays_a_ref() -> None:
    @ray.remote
    def kinds(value: Any, within: Any, *, named: Any) -> Any:
        return value, isinstance(within[0], ray.ObjectRef), ray.get(within[0]), named

    ref = ray.put(5)
    assert ray.get(kinds.remote(ref, [ref], named=ref)) == (5, True, 5, 5)


def test_results_of_tasks_are_arguments_of_others() -> None:
    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    ref = add.remote(1, 1)
    for _ in range(10):
        ref = add.remote(ref, ref)
    assert ray.get(ref) == 2 << 10


def test_get_of_a_list_keeps_its_order() -> None:
    @ray.remote
    def square(x: int) -> int:
        return x * x

    assert ray.get([square.remote(x) for x in range(50)]) == [x * x for x in range(50)]
    assert ray.get([]) == []


# --- number of results --------------------------------------------------------------------------------------


def test_several_results() -> None:
    @ray.remote(num_returns=3)
    def three() -> Any:
        return 1, 2, 3

    refs = three.remote()
    assert isinstance(refs, list)
    assert ray.get(refs) == [1, 2, 3]
    assert ray.get(refs[2]) == 3


def test_one_and_no_result() -> None:
    @ray.remote
    def pair() -> Any:
        return 1, 2

    assert ray.get(pair.remote()) == (1, 2)
    assert ray.get(pair.options(num_returns=2).remote()) == [1, 2]
    assert pair.options(num_returns=0).remote() is None


def test_a_wrong_number_of_results_is_an_error_of_each() -> None:
    @ray.remote(num_returns=3)
    def pair() -> Any:
        return 1, 2

    refs = pair.remote()
    for ref in refs:
        with pytest.raises(exceptions.RayTaskError):
            ray.get(ref)


# --- what is a task -----------------------------------------------------------------------------------------


def test_tasks_run_in_other_processes_at_once() -> None:
    gate = make_gate()

    @ray.remote
    def pid(handle: Any) -> int:
        ray.get(handle.wait.remote())
        return os.getpid()

    refs = [pid.remote(gate) for _ in range(3)]
    ray.get(gate.waiting.remote(3))  # all of them run
    ray.get(gate.open.remote())
    pids = set(ray.get(refs))
    assert len(pids) == 3
    assert os.getpid() not in pids


def test_closures_and_lambdas() -> None:
    offset = 10
    add = ray.remote(lambda x: x + offset)
    assert ray.get(add.remote(1)) == 11


def test_recursion() -> None:
    @ray.remote
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * ray.get(factorial.remote(n - 1))

    assert ray.get(factorial.remote(6)) == 720


def test_nested_tasks_and_their_refs() -> None:
    @ray.remote
    def leaf(x: int) -> int:
        return x + 1

    @ray.remote
    def parent(n: int) -> Any:
        return [leaf.remote(i) for i in range(n)]

    assert ray.get(ray.get(parent.remote(5))) == [1, 2, 3, 4, 5]


def test_more_blocked_tasks_than_cpus() -> None:
    @ray.remote
    def leaf(x: int) -> int:
        return x

    @ray.remote
    def parent(x: int) -> int:
        return int(ray.get(leaf.remote(x)))

    assert ray.get([parent.remote(i) for i in range(12)]) == list(range(12))


def test_the_plain_function_is_within_reach() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    assert double._function(4) == 8


# --- options ------------------------------------------------------------------------------------------------


def test_options_make_another_function() -> None:
    @ray.remote
    def name() -> Any:
        return ray.get_runtime_context().get_task_name()

    named = name.options(name="mine")
    assert ray.get(named.remote()) == "mine"
    assert ray.get(name.remote()) != "mine"


@pytest.mark.parametrize(
    ("option", "value", "kind", "text"),
    [
        ("max_retries", -2, ValueError, "The keyword 'max_retries' only accepts"),
        ("num_returns", -1, ValueError, "The keyword 'num_returns' only accepts"),
        ("num_cpus", -1, ValueError, "The quantity of resource num_cpus cannot be negative"),
        ("max_retries", "1", TypeError, "The type of keyword 'max_retries' must be"),
        ("max_retries", 1.5, TypeError, r"must be \(<class 'int'>, <class 'NoneType'>\), but received type"),
        ("max_retries", -3, ValueError, "0, -1 or a positive integer, where -1 represents infinity"),
        ("max_calls", -1, ValueError, "The keyword 'max_calls' only accepts None, 0 or a positive integer"),
        ("max_calls", 1.5, TypeError, "The type of keyword 'max_calls' must be"),
        ("placement_group", 3, TypeError, "placement_group"),
        ("name", 1, TypeError, "The type of keyword 'name' must be"),
        ("retry_exceptions", 3, TypeError, "The type of keyword 'retry_exceptions' must be"),
        ("max_restarts", 1, ValueError, "Invalid option keyword max_restarts for remote functions"),
        ("wrong", 1, ValueError, "Invalid option keyword wrong for remote functions"),
    ],
)
def test_wrong_options(option: str, value: Any, kind: type[Exception], text: str) -> None:
    def one() -> int:
        return 1

    with pytest.raises(kind, match=text):
        ray.remote(**{option: value})(one)
    with pytest.raises(kind, match=text):
        ray.remote(one).options(**{option: value})


def test_what_can_not_be_remote() -> None:
    async def waiting() -> None: ...

    with pytest.raises(ValueError, match="'async def' should not be used for remote tasks"):
        ray.remote(waiting)
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(3)
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(1, 2)


# --- wait ---------------------------------------------------------------------------------------------------


def test_wait_splits_into_ready_ones_and_others() -> None:
    gate = make_gate()

    @ray.remote
    def held(handle: Any) -> int:
        ray.get(handle.wait.remote())
        return 1

    @ray.remote
    def quick() -> int:
        return 2

    slow, fast = held.remote(gate), quick.remote()
    assert ray.wait([slow, fast]) == ([fast], [slow])
    assert ray.wait([slow], timeout=0) == ([], [slow])
    assert ray.wait([slow, fast], num_returns=2, timeout=0.01) == ([fast], [slow])
    ray.get(gate.open.remote())
    ready, rest = ray.wait([slow, fast], num_returns=2)
    assert (ready, rest) == ([slow, fast], [])


def test_wait_returns_no_more_than_asked_for() -> None:
    refs = [ray.put(i) for i in range(4)]
    ready, rest = ray.wait(refs, num_returns=2)
    assert len(ready) == len(rest) == 2
    assert len(ray.wait(refs)[0]) == 1
    assert ray.wait([]) == ([], [])
    assert len(ray.wait(refs, num_returns=4, fetch_local=False)[0]) == 4


def test_failed_tasks_are_ready() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError

    ref = fail.remote()
    assert ray.wait([ref]) == ([ref], [])


def test_wait_refuses_wrong_arguments() -> None:
    ref = ray.put(1)
    for wrong in (ref, 1, None, {ref}, [1], [[ref]]):
        with pytest.raises(TypeError):
            ray.wait(wrong)
    for num_returns in (0, -1, 2):
        with pytest.raises(ValueError, match="num"):
            ray.wait([ref], num_returns=num_returns)
    with pytest.raises(ValueError, match="unique"):
        ray.wait([ref, ref])
    with pytest.raises(ValueError, match="timeout"):
        ray.wait([ref], timeout=-1)


# --- get ----------------------------------------------------------------------------------------------------


def test_get_with_a_timeout() -> None:
    gate = make_gate()
    ref = gate.wait.remote()
    for timeout in (0, 0.05):
        begin = time.monotonic()
        with pytest.raises(exceptions.GetTimeoutError):
            ray.get(ref, timeout=timeout)
        assert time.monotonic() - begin >= timeout
    with pytest.raises(TimeoutError):
        ray.get([ray.put(1), ref], timeout=0.01)
    ray.get(gate.open.remote())
    assert ray.get(ref, timeout=60) == "open"


def test_get_refuses_what_is_no_ref() -> None:
    ref = ray.put(1)
    for wrong in (1, "ref", None, {"a": ref}, {ref}):
        with pytest.raises(ValueError, match="Invalid type of object refs"):
            ray.get(wrong)
    for wrong in ([1], [ref, None], [[ref]]):
        with pytest.raises(TypeError):
            ray.get(wrong)


# --- cancel -------------------------------------------------------------------------------------------------


def test_a_task_that_has_not_begun_can_be_cancelled(tmp_path: Path) -> None:
    end = tmp_path / "end"

    @ray.remote(num_cpus=4)
    def hold(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.005)
        return "held"

    @ray.remote(num_cpus=4)
    def behind() -> int:
        return 1

    held, queued = hold.remote(str(end)), behind.remote()
    ray.cancel(queued)
    end.touch()
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(queued, timeout=60)
    assert ray.get(held) == "held"


def test_a_running_task_is_interrupted() -> None:
    gate = make_gate()

    @ray.remote(max_retries=0)
    def endless(handle: Any) -> None:
        handle.wait.remote()
        while True:
            time.sleep(0.01)

    ref = endless.remote(gate)
    ray.get(gate.waiting.remote(1))
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


def test_a_running_task_can_be_killed() -> None:
    gate = make_gate()

    @ray.remote
    def endless(handle: Any) -> None:
        handle.wait.remote()
        while True:
            time.sleep(0.01)

    ref = endless.remote(gate)
    ray.get(gate.waiting.remote(1))
    ray.cancel(ref, force=True)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.WorkerCrashedError)):
        ray.get(ref, timeout=60)


def test_children_are_cancelled_with_their_parent() -> None:
    gate = make_gate()

    @ray.remote
    def endless(handle: Any) -> None:
        handle.wait.remote()
        while True:
            time.sleep(0.01)

    @ray.remote
    def parent(handle: Any, kept: list[Any]) -> None:
        ref = endless.remote(handle)
        ray.get(kept[0].keep.remote([ref]))
        ray.get(ref)

    @ray.remote
    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def give(self) -> Any:
            return self.refs

    keeper = Keeper.remote()
    ref = parent.remote(gate, [keeper])
    ray.get(gate.waiting.remote(1))
    (child,) = ray.get(keeper.give.remote())
    ray.cancel(ref)
    for each in (ref, child):
        with pytest.raises(exceptions.TaskCancelledError):
            ray.get(each, timeout=60)


def test_a_finished_task_is_left_alone() -> None:
    @ray.remote
    def one() -> int:
        return 1

    ref = one.remote()
    assert ray.get(ref) == 1
    ray.cancel(ref)
    assert ray.get(ref) == 1


def test_only_refs_can_be_cancelled() -> None:
    for wrong in (1, "ref", None, [ray.put(1)]):
        with pytest.raises(TypeError):
            ray.cancel(wrong)
