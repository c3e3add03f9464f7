"""Maps of tasks."""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import pytest

import grainwise
from grainwise import flow
from grainwise.flow import Concurrency, LaunchPlan, Options, TaskMetadata, map_task, task, workflow


class Parts(NamedTuple):
    low: int
    high: int


@task
def double(x: int) -> int:
    return 2 * x


@task
def combine(a: int, b: str = "b", c: float = 1.0) -> str:
    return f"{a}{b}{c}"


@task
def parts(x: int) -> Parts:
    return Parts(x - 1, x + 1)


@task
def odd_ones_fail(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd: {x}")
    return x


@task
def no_result(x: int) -> None:
    pass


@workflow
def double_plus(x: int, plus: int = 0) -> int:
    return double(x=x)


def test_order_is_kept(mode: str) -> None:
    assert map_task(double)(x=list(range(2000))) == [2 * x for x in range(2000)]
    assert map_task(double)(x=[]) == []
    assert map_task(no_result)(x=[1, 2]) is None


def test_bound_and_default_inputs(mode: str) -> None:
    assert map_task(combine)(a=[1, 2]) == ["1b1.0", "2b1.0"]
    assert map_task(combine)(a=[1, 2], b=["x", "y"]) == ["1x1.0", "2y1.0"]
    assert map_task(functools.partial(combine, b="z", c=2.0))(a=[1]) == ["1z2.0"]
    assert map_task(functools.partial(functools.partial(combine, b="z"), c=3.0))(a=[1]) == ["1z3.0"]
    assert map_task(combine, bound_inputs={"b", "c"})(a=[1, 2], b="q", c=0.5) == ["1q0.5", "2q0.5"]
    assert map_task(combine, bound_inputs={"b": "r"})(a=[1]) == ["1r1.0"]


def test_several_outputs_become_several_lists(mode: str) -> None:
    result = map_task(parts)(x=[1, 2, 3])
    assert result == ([0, 1, 2], [2, 3, 4])
    assert result.high == [2, 3, 4]


def test_maps_in_workflows(mode: str) -> None:
    @workflow
    def wf(xs: list[int]) -> list[int]:
        return map_task(double)(x=map_task(double, metadata=TaskMetadata(retries=1))(x=xs))  # type: ignore[no-any-return]

    assert wf(xs=[1, 2]) == [4, 8]


def test_the_first_error_is_raised_with_all_failures(mode: str) -> None:
    with pytest.raises(ValueError, match="odd: 1") as raised:
        map_task(odd_ones_fail, run_all_sub_nodes=True)(x=[0, 1, 2, 3])
    failures: Any = raised.value.failures  # type: ignore[attr-defined]
    assert [failure.index for failure in failures] == [1, 3]
    assert "odd_ones_fail" in failures[1].traceback


def test_tolerated_failures_are_none_and_kept(mode: str) -> None:
    results = map_task(odd_ones_fail, min_success_ratio=0.5)(x=[0, 1, 2, 3])
    assert results == [0, None, 2, None]
    failure = results.failures[1]
    assert (failure.index, failure.attempts, str(failure.error)) == (3, 1, "odd: 3")
    assert isinstance(failure.error, ValueError)
    assert map_task(odd_ones_fail, min_successes=1)(x=[0, 1]) == [0, None]
    for options in ({"min_success_ratio": 0.6}, {"min_successes": 3}):
        with pytest.raises(ValueError, match="odd"):
            map_task(odd_ones_fail, **options)(x=[0, 1, 2, 3])  # type: ignore[arg-type]
    tolerant = map_task(odd_ones_fail, min_success_ratio=0.1)
    assert repr(tolerant.python_interface) == "(x: List[int]) -> (o0: List[Optional[int]])"


def test_what_does_not_fit_is_named(mode: str) -> None:
    for call, words in (
        (lambda: map_task(double)(x=[1, "a"]), r"argument 'x': expected `int`, got `str` at `x\[1\]`"),
        (lambda: map_task(double)(x=3), "expected `List"),
        (lambda: map_task(double)(y=[3]), "unexpected argument 'y'"),
        (lambda: map_task(combine)(a=[1, 2], b=["x"]), "one length, got a: 2, b: 1"),
        (lambda: map_task(functools.partial(combine, z=3)), "'z'"),
        (lambda: map_task(functools.partial(combine, b=3)), "expected `str`, got `int`"),
    ):
        with pytest.raises(TypeError, match=words):
            call()  # type: ignore[no-untyped-call]


def test_what_can_be_no_map_is_refused() -> None:
    for make in (
        lambda: map_task(double_plus),
        lambda: map_task(abs),
        lambda: map_task(functools.partial(combine, 3)),
        lambda: map_task(double, concurrency="2"),
        lambda: map_task(double, concurrency={"key": "no", "limit": 2}),
        lambda: map_task(double, concurrency={"key": "x"}),
        lambda: map_task(double, min_successes=-1),
        lambda: map_task(double, min_success_ratio="1"),
    ):
        with pytest.raises(ValueError, match=r"map_task"):
            make()


def test_launch_plans_are_mapped(mode: str) -> None:
    assert map_task(LaunchPlan.get_or_create(double_plus))(x=[1, 2]) == [2, 4]


def test_an_element_of_the_wrong_type_is_a_failure(mode: str) -> None:
    @task
    def sometimes(x: int) -> int:
        return x if x != 1 else "one"  # type: ignore[return-value]

    results = map_task(sometimes, min_success_ratio=0.5)(x=[0, 1, 2])
    assert results == [0, None, 2]
    assert "expected `int`, got `str`" in str(results.failures[0].error)


def test_exceptions_may_be_results(mode: str) -> None:
    @task
    def give(x: int) -> Any:
        return ValueError(x)

    assert [error.args for error in map_task(give)(x=[1, 2])] == [(1,), (2,)]


@grainwise.remote
class Meter:
    """Counts what is inside at once."""

    def __init__(self) -> None:
        self.inside: dict[str, int] = {}
        self.most: dict[str, int] = {}

    def enter(self, key: str) -> None:
        self.inside[key] = self.inside.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.inside[key])

    def leave(self, key: str) -> None:
        self.inside[key] -= 1

    def read(self) -> dict[str, int]:
        return self.most


@task
def measured(x: int, tenant: str, meter: Any) -> int:
    grainwise.get(meter.enter.remote(tenant))
    grainwise.get(meter.leave.remote(tenant))
    return x


def test_concurrency_bounds_what_runs_at_once() -> None:
    meter = Meter.remote()
    bound = functools.partial(measured, meter=meter, tenant="all")
    assert map_task(bound, concurrency=1)(x=list(range(20))) == list(range(20))
    assert grainwise.get(meter.read.remote()) == {"all": 1}


def test_concurrency_by_key_and_shared() -> None:
    meter = Meter.remote()
    mapped = map_task(functools.partial(measured, meter=meter), concurrency={"key": "tenant", "limit": 1})
    assert mapped(x=list(range(12)), tenant=["a", "b", "c"] * 4) == list(range(12))
    assert grainwise.get(meter.read.remote()) == {"a": 1, "b": 1, "c": 1}

    meter = Meter.remote()
    budget = Concurrency(1)
    mapped = map_task(functools.partial(measured, meter=meter, tenant="all"), concurrency=budget)
    results: dict[int, list[int]] = {}

    def run(start: int) -> None:
        results[start] = mapped(x=list(range(start, start + 6)))

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: list(range(6)), 6: list(range(6, 12))}
    assert grainwise.get(meter.read.remote()) == {"all": 1}


def test_a_run_has_one_budget_for_maps_and_siblings() -> None:
    meter = Meter.remote()

    @workflow(default_options=Options(max_parallelism=1))
    def wf(xs: list[int]) -> list[int]:
        each = map_task(functools.partial(measured, meter=meter, tenant="all"))(x=xs)
        alone = [measured(x=i, tenant="all", meter=meter) for i in range(3)]
        return [total_of(xs=each), *alone]

    assert wf(xs=[1, 2, 3]) == [6, 0, 1, 2]
    assert grainwise.get(meter.read.remote()) == {"all": 1}


@task
def total_of(xs: list[int]) -> int:
    return sum(xs)


def test_retries_are_per_element(tmp_path: Any) -> None:
    @task(retries=2)
    def flaky(x: int, folder: str) -> int:
        import os

        path = os.path.join(folder, str(x))
        seen = os.path.getsize(path) if os.path.exists(path) else 0
        with open(path, "a") as file:
            file.write(".")
        if seen < x:
            raise ConnectionError(f"{x} again")
        return x

    bound = functools.partial(flaky, folder=str(tmp_path))
    results = map_task(bound, min_success_ratio=0.5)(x=[0, 1, 2, 3])
    assert results == [0, 1, 2, None]
    assert (results.failures[0].index, results.failures[0].attempts) == (3, 3)
    assert [len((tmp_path / str(x)).read_text()) for x in range(4)] == [1, 2, 3, 3]


def test_inline_maps_use_what_the_caller_has() -> None:
    seen = []

    @task
    def note(x: int) -> int:
        seen.append(x)
        return x

    with flow.inline():
        map_task(note)(x=[1, 2])
    assert seen == [1, 2]
