"""Which functions carry data: those must not run from the copy in another function's closure."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.worker.captured import carries_data

LIMIT = 3
SHARED: list[int] = []


def local(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that travels by value, as those of `__main__` do."""
    function.__module__ = "__main__"
    return function


@local
def plain(x: int) -> int:
    return x + LIMIT + int(math.sqrt(4))


@local
def recursive(n: int) -> int:
    return n and recursive(n - 1)


@local
def shares(x: int) -> list[int]:
    return [*SHARED, x]


@local
def calls_one_that_shares(x: int) -> list[int]:
    return shares(x)


def closure_over(value: object) -> Callable[[], object]:
    return local(lambda: value)


def with_default(x: int, table: dict[str, int] = {}) -> int:  # noqa: B006
    return len(table) + x


local(with_default)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, False),
        (recursive, False),
        (len, False),
        (math.sqrt, False),
        (closure_over(3), False),
        (closure_over((1, "a", None)), False),
        (closure_over(math), False),
        (closure_over(dict), False),
        (closure_over(plain), False),
        (closure_over(ray.remote(plain)), False),
        (closure_over([]), True),
        (closure_over((1, [2])), True),
        (closure_over(object()), True),
        (shares, True),
        (calls_one_that_shares, True),
        (with_default, True),
        (local(lambda: [SHARED for _ in range(3)]), True),
        (partial(plain, 3), True),
        (carries_data, False),
    ],
)
def test_what_carries_data(function: object, expected: bool) -> None:
    assert carries_data(function) is expected


def test_an_empty_cell_carries_nothing() -> None:
    def make() -> Callable[[], object]:
        function = local(lambda: later)
        if LIMIT < 0:
            later = 1
        return function

    assert not carries_data(make())
