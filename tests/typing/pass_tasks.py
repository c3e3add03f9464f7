# pyright: strict
"""What a user's type checker must know of tasks and refs. Checked, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from typing_extensions import assert_type

import grainwise
import grainwise as ray
from grainwise import (
    DynamicObjectRefGenerator,
    ObjectRef,
    ObjectRefGenerator,
    cancel,
    get,
    init,
    is_initialized,
    put,
    remote,
    shutdown,
    wait,
)


@remote
def double(x: int) -> int:
    return 2 * x


@remote(num_cpus=1, max_retries=3, retry_exceptions=[OSError], name="join")
def join(first: str, /, *others: str, sep: str = " ") -> str:
    return sep.join([first, *others])


@ray.remote
def nothing() -> None: ...


@remote(num_returns=2)
def split(text: str) -> tuple[str, str]:
    return text[:1], text[1:]


def plain(x: float, times: int = 1) -> list[float]:
    return [x] * times


# The signature survives the decorator: bare, with options, as a call, on a lambda.
assert_type(double.remote(1), ObjectRef[int])
assert_type(double.remote(x=1), ObjectRef[int])
assert_type(join.remote("a"), ObjectRef[str])
assert_type(join.remote("a", "b", sep="-"), ObjectRef[str])
assert_type(nothing.remote(), ObjectRef[None])
assert_type(remote(plain).remote(1.0, times=2), ObjectRef[list[float]])
assert_type(remote(num_cpus=2)(plain).remote(1.0), ObjectRef[list[float]])
assert_type(double.options(num_cpus=0.5, max_retries=0, retry_exceptions=True).remote(1), ObjectRef[int])
assert_type(double.options(runtime_env={"env_vars": {"A": "1"}}).remote(1), ObjectRef[int])
assert_type(grainwise.remote(lambda: "made here").remote(), ObjectRef[str])

# Several results: one ref each. Their types stay open, since a type variable cannot take a tuple apart.
assert_type(split.remote("ab"), list[ObjectRef[Any]])
assert_type(double.options(num_returns=2).remote(1), list[ObjectRef[Any]])
assert_type(double.options(num_returns=1).remote(1), ObjectRef[int])

# put and get.
number = double.remote(1)
assert_type(put(3), ObjectRef[int])
assert_type(put([1.0]), ObjectRef[list[float]])
assert_type(get(number), int)
assert_type(get(number, timeout=1.5), int)
assert_type(get([double.remote(i) for i in range(3)]), list[int])
assert_type(get([number], timeout=None), list[int])
assert_type(get(put("a")), str)


def gather(refs: Sequence[ObjectRef[int]], either: ObjectRef[int] | ObjectRef[bool]) -> int:
    assert_type(get(refs), list[int])
    return sum(get(refs)) + get(either)


# A ref is a value that is only read: covariant.
wider: ObjectRef[float] = double.remote(1)
widest: Sequence[ObjectRef[object]] = [double.remote(1), join.remote("a")]

# wait and cancel.
ready, waiting = wait([number], num_returns=1, timeout=0.1)
assert_type(ready, list[ObjectRef[int]])
assert_type(waiting, list[ObjectRef[int]])
cancel(number)
cancel(number, force=True)

# Refs as arguments, in any of the first four places. A ParamSpec cannot say "each parameter or a ref to it", so
# the call is then checked for its result only: neither what the ref holds nor the arguments beside it. A ref given
# by keyword cannot be told from a wrong argument, so checkers refuse it: give it by place.
assert_type(double.remote(put(3)), ObjectRef[int])
assert_type(double.remote(double.remote(3)), ObjectRef[int])
assert_type(join.remote("a", put("b")), ObjectRef[str])
assert_type(join.remote("a", "b", put("c"), sep="-"), ObjectRef[str])
assert_type(join.remote("a", "b", "c", put("d"), "e"), ObjectRef[str])
assert_type(split.remote(put("ab")), list[ObjectRef[Any]])


# Nested refs keep their type: they arrive as refs.
@remote
def total(refs: list[ObjectRef[int]]) -> int:
    return sum(get(refs))


assert_type(total.remote([double.remote(1)]), ObjectRef[int])


async def in_a_coroutine() -> None:
    assert_type(await double.remote(1), int)
    assert_type(double.remote(1).future(), Future[int])


def life() -> None:
    init()
    init(num_cpus=2, object_store_memory=1 << 30)
    assert_type(is_initialized(), bool)
    assert_type(shutdown(), None)


# Generators give refs of what they yield, sync or async; options change how.
@remote
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@remote(_generator_backpressure_num_objects=1)
async def words(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word


@remote(num_returns="dynamic")
def all_numbers() -> Generator[int, None, None]:
    yield 1


assert_type(numbers.remote(3), ObjectRefGenerator[int])
assert_type(words.remote("a b"), ObjectRefGenerator[str])
assert_type(next(numbers.remote(3)), ObjectRef[int])
assert_type([get(each) for each in numbers.remote(3)], list[int])
assert_type(numbers.options(num_cpus=2).remote(3), ObjectRefGenerator[int])
assert_type(numbers.options(num_returns="streaming").remote(3), ObjectRefGenerator[int])
assert_type(numbers.options(num_returns="dynamic").remote(3), ObjectRef[DynamicObjectRefGenerator[int]])
assert_type(all_numbers.remote(), ObjectRef[DynamicObjectRefGenerator[int]])
assert_type(numbers.options(num_returns=1).remote(3), ObjectRef[int])
assert_type(numbers.remote(1).completed(), ObjectRef[None])
first_ready, others = wait([numbers.remote(1)], num_returns=1)
assert_type(first_ready, list[ObjectRefGenerator[int]])
cancel(numbers.remote(1))


def untyped(x: int) -> Any:
    return x


# A function of which nothing is known is none.
some: ObjectRef[int] = remote(num_cpus=1)(untyped).remote(1)
