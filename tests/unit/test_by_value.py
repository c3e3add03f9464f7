"""Cached functions and properties travel by value like any others, with empty caches."""

from __future__ import annotations

import functools
import textwrap
from typing import Any

import cloudpickle
import pytest

from grainwise.objects import by_value
from grainwise.objects.codec import serialize


def again(value: Any) -> Any:
    return cloudpickle.loads(by_value.dumps(value))


@functools.cache
def importable(x: int) -> int:
    return x + 1


def make_main(source: str) -> dict[str, Any]:
    """Run a script as `__main__`, which nobody can import."""
    names: dict[str, Any] = {"__name__": "__main__", "functools": functools}
    exec(textwrap.dedent(source), names)
    return names


@pytest.mark.parametrize("parameters", [{"maxsize": None, "typed": False}, {"maxsize": 3, "typed": True}])
def test_a_cached_function_of_the_main_script(parameters: dict[str, Any]) -> None:
    names = make_main("def double(x): return 2 * x")
    cached = functools.lru_cache(**parameters)(names["double"])
    cached(1)
    copy = again(cached)
    assert copy.cache_parameters() == parameters
    assert copy.cache_info().currsize == 0
    assert (copy(4), copy(4), copy.cache_info().hits) == (8, 8, 1)


def test_a_cached_function_that_calls_itself_shares_its_cache() -> None:
    names = make_main(
        """
        @functools.cache
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)
        """
    )
    copy = again(names["fib"])
    assert copy(100) == 354224848179261915075
    assert copy.cache_info().misses == 101


def test_functions_that_share_a_cached_one_still_do() -> None:
    names = make_main(
        """
        @functools.cache
        def load(): return []
        def first(): return load()
        def second(): return load()
        """
    )
    first, second = again([names["first"], names["second"]])
    assert first() is second()


def test_a_cached_function_of_a_module_travels_by_name() -> None:
    assert again(importable) is importable
    assert b"importable" in serialize(importable)


def test_cached_properties_and_methods() -> None:
    names = make_main(
        """
        class Model:
            @functools.cached_property
            def weights(self): return [1, 2]
            @functools.lru_cache(maxsize=2)
            def score(self, x): return x + sum(self.weights)
        """
    )
    copy = again(names["Model"]())
    assert copy.score(3) == 6
    assert copy.weights is copy.weights
