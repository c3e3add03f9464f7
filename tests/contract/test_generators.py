"""Generators: their values arrive one by one, as refs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .backend import exceptions, make_gate, ray

INIT = {"num_cpus": 2}


def count(number: int) -> Any:
    value = 0
    while value < number:  # under Ray a `yield from` a range fails
        yield value
        value += 1


def test_a_generator_yields_refs() -> None:
    values = ray.remote(count).remote(3)
    assert isinstance(values, ray.ObjectRefGenerator)
    assert iter(values) is values
    assert [ray.get(ref) for ref in values] == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(values)
    with pytest.raises(StopIteration):
        next(ray.remote(count).remote(0))


def test_values_arrive_before_the_end() -> None:
    gate = make_gate()

    @ray.remote
    def two() -> Any:
        yield 1
        ray.get(gate.wait.remote())
        yield 2

    values = two.remote()
    assert ray.get(next(values)) == 1
    assert not values.is_finished()
    assert not values.next_ready()
    ray.get(gate.open.remote())
    assert ray.get(next(values)) == 2
    ray.get(values.completed())
    with pytest.raises(StopIteration):
        next(values)
    assert values.is_finished()


def test_an_error_in_mid_stream() -> None:
    @ray.remote(max_retries=0)
    def fails() -> Any:
        yield 1
        raise ValueError("after one")

    values = fails.remote()
    assert ray.get(next(values)) == 1
    failed = next(values)
    with pytest.raises(ValueError, match="after one"):
        ray.get(failed)
    with pytest.raises(StopIteration):
        next(values)


def test_a_dynamic_number_of_results() -> None:
    made = ray.remote(num_returns="dynamic")(count).remote(4)
    assert isinstance(made, ray.ObjectRef)
    refs = ray.get(made)
    assert isinstance(refs, ray.DynamicObjectRefGenerator)
    assert len(refs) == 4
    assert [ray.get(ref) for ref in refs] == [0, 1, 2, 3]

    @ray.remote
    def total(refs: Any) -> int:
        return sum(ray.get(list(refs)))

    assert ray.get(total.remote(made)) == 6


def test_a_fixed_number_of_results() -> None:
    assert ray.get(ray.remote(num_returns=3)(count).remote(3)) == [0, 1, 2]


def test_methods_yield_too() -> None:
    class Counter:
        def plain(self, number: int) -> Any:
            value = 0
            while value < number:
                yield value
                value += 1

        @ray.method(num_returns="dynamic")
        def all(self) -> Any:
            yield 1
            yield 2

    counter = ray.remote(Counter).remote()
    assert [ray.get(ref) for ref in counter.plain.remote(3)] == [0, 1, 2]
    assert [ray.get(ref) for ref in counter.plain.options(num_returns="streaming").remote(2)] == [0, 1]
    assert [ray.get(ref) for ref in ray.get(counter.all.remote())] == [1, 2]


def test_asynchronous_methods_yield_too() -> None:
    class Counter:
        async def slow(self, number: int) -> Any:
            for value in range(number):
                await asyncio.sleep(0)
                yield value

    counter = ray.remote(Counter).remote()
    assert [ray.get(ref) for ref in counter.slow.remote(3)] == [0, 1, 2]


def test_async_for() -> None:
    values = ray.remote(count).remote(3)

    async def collect() -> list[int]:
        return [await ref async for ref in values]

    assert asyncio.run(collect()) == [0, 1, 2]


def test_back_pressure_changes_no_value() -> None:
    counting = ray.remote(_generator_backpressure_num_objects=2)(count)
    assert [ray.get(ref) for ref in counting.remote(10)] == list(range(10))
    with pytest.raises(ValueError, match="backpressure"):
        ray.remote(count).options(_generator_backpressure_num_objects=0).remote(1)


def test_generators_are_waited_for() -> None:
    gate = make_gate()

    @ray.remote(num_cpus=0)
    def held() -> Any:
        ray.get(gate.wait.remote())
        yield 2

    fast, slow = ray.remote(count).remote(2), held.remote()
    ready, rest = ray.wait([slow, fast], num_returns=1)
    assert (ready, rest) == ([fast], [slow])
    assert ray.get(next(fast)) == 0
    ray.get(gate.open.remote())
    assert ray.get(next(slow)) == 2


def test_a_generator_can_be_cancelled() -> None:
    gate = make_gate()

    @ray.remote
    def held() -> Any:
        yield 1
        ray.get(gate.wait.remote())
        yield 2

    values = held.remote()
    ray.get(next(values))
    ray.get(gate.waiting.remote(1))
    ray.cancel(values)
    with pytest.raises((exceptions.TaskCancelledError, exceptions.RayTaskError)):
        ray.get(list(values))
    ray.get(gate.open.remote())


def test_what_is_no_generator_has_no_stream() -> None:
    with pytest.raises(ValueError, match="can only be used with generator functions"):
        ray.remote(num_returns="dynamic")(lambda: [1])


def test_a_generator_is_not_passed_on() -> None:
    @ray.remote
    def take(values: Any) -> int:
        return len(list(values))

    with pytest.raises(TypeError):
        take.remote(ray.remote(count).remote(2))
