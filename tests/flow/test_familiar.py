"""What users of Flyte write, in the ways they write it."""

from __future__ import annotations

import functools
import types

import pytest

from grainwise import flow
from grainwise.flow import RestrictedTypeError, TypeMismatchError, create_node, dynamic, map_task, task, workflow


@task
def plus(a: int, b: int) -> int:
    return a + b


@task
def times(n: int, factors: list[int]) -> int:
    return n * sum(factors)


@task
def pair(a: int) -> (int, str):
    return a, str(a)


@workflow
def both(a: int) -> (int, str):
    number, text = pair(a=a)
    return number, text


def _pair_unquoted(a: int) -> tuple[int, str]:
    return a, str(a)


_pair_unquoted.__annotations__ = {"a": int, "return": (int, str)}  # as a file without the future import


def test_a_tuple_of_types_is_several_outputs() -> None:
    assert pair(a=3) == (3, "3")
    assert both(a=4) == (4, "4")
    assert task(_pair_unquoted)(a=5).o1 == "5"
    assert pair.python_interface.outputs == {"o0": int, "o1": str}

    class Local:
        pass

    @task
    def with_local(a: int) -> (Local, list[Local]):
        return Local(), [Local()]

    assert with_local.python_interface.outputs == {"o0": Local, "o1": list[Local]}


def test_a_tuple_of_one_is_no_output() -> None:
    with pytest.raises(RestrictedTypeError, match="tuple of one"):

        @task
        def one(a: int) -> tuple[int]:
            return (a,)


def test_the_partial_of_a_map_binds_promises(mode: str) -> None:
    @workflow
    def scaled(ns: list[int], b: int) -> list[int]:
        return map_task(functools.partial(plus, b=plus(a=b, b=1)))(a=ns)

    @workflow
    def summed(ns: list[int], factors: list[int]) -> list[int]:
        node = create_node(map_task(functools.partial(times, factors=factors)), n=ns)
        return node.o0

    @workflow
    def mixed(ns: list[int], factor: int) -> list[int]:
        return map_task(functools.partial(times, factors=[factor, 1]))(n=ns)

    assert scaled(ns=[1, 2], b=10) == [12, 13]
    assert summed(ns=[1, 2], factors=[3, 4]) == [7, 14]
    assert mixed(ns=[1, 2], factor=2) == [3, 6]


def test_a_partial_binds_promises_of_its_type() -> None:
    @workflow
    def wrong(ns: list[int], b: str) -> list[int]:
        return map_task(functools.partial(plus, b=b))(a=ns)

    with pytest.raises(TypeMismatchError, match="'b': expected `int`, got `str`"):
        wrong(ns=[1], b="x")


def test_what_has_no_type_is_anything_when_asked() -> None:
    @task(pickle_untyped=True)
    def same(a, b: int = 1):  # type: ignore[no-untyped-def]
        return [a] * b

    @workflow(pickle_untyped=True)
    def twice(a):  # type: ignore[no-untyped-def]
        return same(a=a, b=2)

    assert same(a={"x": 1}) == [{"x": 1}]
    assert twice(a="x") == ["x", "x"]
    with pytest.raises(TypeMismatchError):
        same(a=1, b="x")
