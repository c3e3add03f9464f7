"""`map` and `starmap` as their docstrings have them: what may be called, in which order, how they end."""

from __future__ import annotations

import asyncio
import functools
import operator
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.errors import EngineClosedError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .mapped_functions import Scaler, cached, double
from .signposts import Sign


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    grainwise.init(num_cpus=2)
    yield
    grainwise.shutdown()


# --- functions ----------------------------------------------------------------------------------------------

FUNCTIONS = {
    "plain": (double, [0, 2, 4]),
    "lambda": (lambda x: x + 1, [1, 2, 3]),
    "builtin": (bin, ["0b0", "0b1", "0b10"]),
    "method of a built-in": ("a{}".format, ["a0", "a1", "a2"]),
    "class": (float, [0.0, 1.0, 2.0]),
    "partial": (functools.partial(pow, 2), [1, 2, 4]),
    "partial with names": (functools.partial(int.__add__, 5), [5, 6, 7]),
    "bound method": (Scaler(3).scale, [0, 3, 6]),
    "class method": (Scaler.named, ["Scaler 0", "Scaler 1", "Scaler 2"]),
    "static method": (Scaler.plain, [0, 3, 6]),
    "object": (Scaler(4), [0, 4, 8]),
    "operator": (operator.neg, [0, -1, -2]),
    "cached": (cached, [0, 2, 4]),
    "remote": (grainwise.remote(double), [0, 2, 4]),
    "remote with options": (grainwise.remote(num_cpus=2, max_retries=0)(double), [0, 2, 4]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whatever_can_be_called_can_be_mapped(name: str) -> None:
    function, wanted = FUNCTIONS[name]
    assert list(grainwise.map(function, range(3))) == wanted
    assert list(grainwise.map(function, [0, 1, 2])) == wanted
    assert list(grainwise.map(function, (i for i in range(3)), ordered=True)) == wanted
    assert sorted(grainwise.map(function, range(3), ordered=False), key=wanted.index) == wanted


def test_a_remote_function_with_two_results_gives_both_in_one() -> None:
    @grainwise.remote(num_returns=2)
    def pair(x: int) -> tuple[int, int]:
        return x, -x

    assert list(grainwise.map(pair, range(3))) == [(0, 0), (1, -1), (2, -2)]
    first, second = pair.remote(5)
    assert grainwise.get([first, second], timeout=LIMIT_S) == [5, -5]


def test_a_function_is_pickled_as_it_is_when_map_is_called() -> None:
    offset = 1

    def add(x: int) -> int:
        return x + offset

    before = grainwise.map(add, range(3))
    offset = 100
    assert list(grainwise.map(add, range(3))) == [100, 101, 102]
    assert list(before) == [1, 2, 3]


# --- order --------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_input_and_only_then(tmp_path: Path) -> None:
    last = Sign(tmp_path / "last")

    def wait_for_the_last(i: int) -> int:
        if i == 0:
            last.wait()
        elif i == 1:
            last.put_up()
        return i

    assert list(grainwise.map(wait_for_the_last, range(2))) == [0, 1]


def test_unordered_results_come_when_they_are_there(tmp_path: Path) -> None:
    seen = Sign(tmp_path / "seen")

    def wait_for_it(i: int) -> int:
        if i == 0:
            seen.wait()
        return i

    results = grainwise.map(wait_for_it, range(40), ordered=False)
    others = [next(results) for _ in range(39)]
    assert sorted(others) == list(range(1, 40))
    seen.put_up()
    assert list(results) == [0]


def test_arrivals_are_ranges_of_what_is_there(tmp_path: Path) -> None:
    seen = Sign(tmp_path / "seen")

    def wait_for_it(i: int) -> int:
        if i == 0:
            seen.wait()
        if i == 7:
            raise KeyError(i)
        return -i

    found: dict[int, Any] = {}
    for first, results in grainwise.map(wait_for_it, range(40), return_exceptions=True).arrivals():
        found.update(enumerate(results, first))
        if len(found) == 39:
            assert 0 not in found
            seen.put_up()
    assert isinstance(found.pop(7), KeyError)
    assert found == {i: -i for i in range(40) if i != 7}
    with pytest.raises(KeyError):
        list(grainwise.map(wait_for_it, [1, 7]).arrivals())


def test_arrivals_inside_a_task() -> None:
    @grainwise.remote
    def outer() -> list[tuple[int, list[int]]]:
        return list(grainwise.map(double, range(3)).arrivals())

    assert grainwise.get(outer.remote()) == [(0, [0]), (1, [2]), (2, [4])]


def test_a_result_comes_while_the_next_item_still_runs(tmp_path: Path) -> None:
    seen = Sign(tmp_path / "seen")

    def wait_for_it(i: int) -> int:
        if i >= 5:
            seen.wait()
        return i

    results = grainwise.map(wait_for_it, range(20))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    seen.put_up()
    assert list(results) == list(range(5, 20))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_hundred_thousand_tiny_items(ordered: bool) -> None:
    results = list(grainwise.map(double, range(100_000), ordered=ordered))
    assert (results if ordered else sorted(results)) == list(range(0, 200_000, 2))


@pytest.mark.parametrize("value", [(0, 1), (1, None, "x", "y", 0)], ids=["pair", "looks like an error"])
def test_many_tiny_items_with_tuples_as_results(value: Any) -> None:
    for result in grainwise.map(lambda _: value, range(300_000)):
        assert result == value


def test_tiny_items_whose_results_change_in_kind() -> None:
    def odd(i: int) -> Any:
        return [i] if i % 1000 == 999 else "x" * 5000 if i % 1000 == 500 else i

    assert all(result == odd(i) for i, result in enumerate(grainwise.map(odd, range(30_000))))


# --- several inputs -----------------------------------------------------------------------------------------


def test_several_inputs_end_with_the_shortest() -> None:
    def join(*parts: Any) -> str:
        return "".join(map(str, parts))

    assert list(grainwise.map(join, "abc", range(5), [7, 8])) == ["a07", "b18"]
    assert list(grainwise.map(join, range(3), [])) == []
    assert list(grainwise.map(join, range(2), iter("xyz"), {"k": 1, "l": 2})) == ["0xk", "1yl"]
    assert list(grainwise.map(join, [[1]] * 2, [{}, {}])) == ["[1]{}", "[1]{}"]


def test_starmap_spreads_each_item() -> None:
    assert list(grainwise.starmap(pow, [(2, 3), (3, 2)])) == [8, 9]
    assert list(grainwise.starmap(pow, zip(range(3), [2] * 3))) == [0, 1, 4]
    assert list(grainwise.starmap(max, [[1, -5, 2], [7, 8]], key=abs)) == [-5, 8]
    assert list(grainwise.starmap(lambda *args: len(args), [(), (1,), (1, [2]), "abc"])) == [0, 1, 2, 3]
    assert list(grainwise.starmap(lambda *args: args, (("a", [i]) for i in range(3)))) == [
        ("a", [0]), ("a", [1]), ("a", [2]),
    ]  # fmt: skip


def test_shared_arguments_go_with_every_call() -> None:
    def combine(x: int, *, table: dict[int, str], suffix: str = "") -> str:
        return table[x % 2] + suffix

    results = grainwise.map(combine, range(4), table={0: "even", 1: "odd"}, suffix="!")
    assert list(results) == ["even!", "odd!", "even!", "odd!"]
    assert list(grainwise.map(int, ["ff", "10"], base=16)) == [255, 16]


def test_a_shared_argument_may_have_the_name_of_the_first_parameters() -> None:
    def call(x: int, function: int, iterable: int, name: int = 0) -> int:
        return x + function + iterable + name

    assert list(grainwise.map(call, range(2), function=10, iterable=100, name=1000)) == [1110, 1111]


# --- laziness, and what is returned -------------------------------------------------------------------------


def test_nothing_is_read_and_nothing_runs_before_the_first_result_is_asked_for(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    read = []

    def items() -> Iterator[int]:
        for i in range(3):
            read.append(i)
            yield i

    results = grainwise.map(log.note, items())
    iterator = iter(results)
    assert_pool_is_full(tmp_path)
    assert (read, log.runs()) == ([], [])
    assert list(iterator) == [None] * 3
    assert log.runs() == ["0", "1", "2"] or sorted(log.runs()) == ["0", "1", "2"]


def test_the_results_are_an_iterator_and_a_context_manager() -> None:
    results = grainwise.map(double, range(10))
    assert iter(results) is iter(results)
    assert operator.length_hint(results) == 10
    assert repr(results) == "<map of double: 0 results taken>"
    with results as same:
        assert same is results
        assert [next(results), next(iter(results))] == [0, 2]
    with pytest.raises(StopIteration):
        next(results)
    assert list(results) == []
    results.close()
    assert operator.length_hint(grainwise.map(double, iter([]))) == 0


def test_results_that_were_all_taken_stay_taken() -> None:
    results = grainwise.map(double, range(3))
    assert list(results) == [0, 2, 4]
    assert list(results) == []


def test_a_map_without_items_needs_no_worker() -> None:
    for nothing in ([], (), "", range(0), iter([]), {}, range(5, 0)):
        assert list(grainwise.map(double, nothing)) == []
    assert list(grainwise.starmap(double, [])) == []


def test_map_starts_a_session_and_a_new_one_after_shutdown() -> None:
    grainwise.shutdown()
    assert list(grainwise.map(double, range(3), max_workers=1)) == [0, 2, 4]
    assert grainwise.is_initialized()


def test_a_map_of_an_earlier_session_says_so() -> None:
    results = grainwise.map(double, range(10_000))
    unused = grainwise.map(double, range(10))
    next(results)
    grainwise.shutdown()
    grainwise.init(num_cpus=1)
    with pytest.raises(EngineClosedError):
        list(results)
    with pytest.raises(EngineClosedError):
        list(unused)
    results.close()
    assert list(grainwise.map(double, range(3))) == [0, 2, 4]


# --- refusals -----------------------------------------------------------------------------------------------


async def coroutine(x: int) -> int:
    return x


def generator(x: int) -> Iterator[int]:
    yield x


spread, star = grainwise.map, grainwise.starmap
REFUSED = {
    "no input": (lambda: spread(double), TypeError, "map.. expected at least one iterable"),
    "no function": (lambda: spread(3, []), TypeError, "map.. expected a function, got int"),
    "async function": (lambda: spread(coroutine, []), TypeError, "got an async function, 'coroutine'"),
    "generator": (lambda: spread(generator, []), TypeError, "got a generator function, 'generator'"),
    "number": (lambda: spread(double, 3), TypeError, "map.. expected an iterable as its input, got int"),
    "second": (lambda: spread(double, [], 3), TypeError, "expected an iterable as input 1, got int"),
    "star": (lambda: star(double, None), TypeError, "starmap.. expected an iterable as its input"),
    "retries": (lambda: spread(double, [], retries=-1), ValueError, "retries=-1. expected at least 0"),
    "bool": (lambda: spread(double, [], retries=True), TypeError, "retries=....* expected an int, got bool"),
    "seed": (lambda: spread(double, [], seed=-1), ValueError, "seed=-1. expected at least 0"),
    "seed text": (lambda: spread(double, [], seed="1"), TypeError, "seed=....* expected an int, got str"),
    "workers": (lambda: spread(double, [], max_workers=0), ValueError, "max_workers=0. expected at least 1"),
    "timeout": (lambda: spread(double, [], timeout=0), ValueError, "timeout=0. expected more than 0"),
    "nan": (lambda: spread(double, [], timeout=float("nan")), ValueError, "expected more than 0 seconds"),
    "timeout text": (lambda: spread(double, [], timeout="1"), TypeError, "expected seconds or None, got str"),
    "setup": (lambda: spread(double, [], setup=3), TypeError, "setup=....* expected a function, got int"),
    "progress": (lambda: spread(double, [], progress=3), TypeError, "progress=....* expected True, False"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_at_the_call(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        call()


def test_a_function_that_cannot_be_pickled_is_named_at_the_call() -> None:
    lock = threading.Lock()
    with pytest.raises(grainwise.errors.SerializationError, match="lock"):
        grainwise.map(lambda x: (lock, x), range(3))
    with pytest.raises(grainwise.errors.SerializationError, match="lock"):
        grainwise.map(double, range(3), shared=lock)
    with pytest.raises(grainwise.errors.SerializationError, match="lock"):
        grainwise.map(double, range(3), setup=lambda: lock)


# --- asynchronous -------------------------------------------------------------------------------------------


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


async def take_all(results: Any, into: list[Any]) -> None:
    async for result in results:
        into.append(result)


async def count_to(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


def test_async_for_over_any_input() -> None:
    assert asyncio.run(collect(grainwise.map(double, range(1000)))) == list(range(0, 2000, 2))
    assert asyncio.run(collect(grainwise.map(lambda x: [x], iter(range(50))))) == [[i] for i in range(50)]
    assert sorted(asyncio.run(collect(grainwise.map(double, range(9), ordered=False)))) == [*range(0, 18, 2)]
    assert asyncio.run(collect(grainwise.map(double, []))) == []


def test_an_asynchronous_input_is_read_by_async_for() -> None:
    assert asyncio.run(collect(grainwise.map(double, count_to(300)))) == list(range(0, 600, 2))
    rows = ((i, [i]) async for i in count_to(5))
    assert asyncio.run(collect(grainwise.starmap(lambda i, row: (i, row), rows))) == [
        (i, [i]) for i in range(5)
    ]
    assert asyncio.run(collect(grainwise.map(double, count_to(0)))) == []


def test_an_object_with_aiter_is_an_asynchronous_input() -> None:
    class Stream:
        def __aiter__(self) -> AsyncIterator[int]:
            return count_to(4)

    assert asyncio.run(collect(grainwise.map(double, Stream()))) == [0, 2, 4, 6]


def test_an_asynchronous_input_needs_async_for() -> None:
    with pytest.raises(TypeError, match="asynchronous - expected `async for` over its results"):
        list(grainwise.map(double, count_to(3)))
    with pytest.raises(TypeError, match="got an asynchronous iterable as input 1 - expected it alone"):
        grainwise.map(pow, range(3), count_to(3))


def test_an_endless_asynchronous_input_is_read_no_further_than_needed() -> None:
    num_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_read
        while True:
            num_read += 1
            yield bytes(8 << 20)

    async def take(count: int) -> int:
        taken = 0
        async for size in grainwise.map(len, endless()):
            assert size == 8 << 20
            taken += 1
            if taken == count:
                break
        return taken

    assert asyncio.run(take(20)) == 20
    assert num_read <= 20 + 32 + 4  # as many as 256 MB hold


def test_an_asynchronous_input_that_waits_for_a_result() -> None:
    """The loop goes on while the input waits, and the input while results are waited for."""

    async def main() -> list[int]:
        answered: asyncio.Queue[int] = asyncio.Queue()

        async def items() -> AsyncIterator[int]:
            yield 1
            while (value := await answered.get()) < 100:
                yield value

        results = []
        async for result in grainwise.map(double, items()):
            results.append(result)
            answered.put_nowait(result)
        return results

    assert asyncio.run(asyncio.wait_for(main(), LIMIT_S)) == [2, 4, 8, 16, 32, 64, 128]


def test_an_asynchronous_input_that_raises() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise KeyError("in the input")

    async def main() -> list[int]:
        got: list[Any] = []
        with pytest.raises(KeyError, match="in the input"):
            await take_all(grainwise.map(double, items()), got)
        return got

    assert asyncio.run(main()) == [2, 4]


def test_results_can_be_iterated_over_in_one_way_only() -> None:
    results = grainwise.map(double, range(100_000))
    assert next(results) == 0
    with pytest.raises(RuntimeError, match=r"once - call map\(\) again"):
        asyncio.run(collect(results))
    assert next(results) == 2, "the first loop goes on"
    other = grainwise.map(double, range(3))
    assert asyncio.run(collect(other)) == [0, 2, 4]
    with pytest.raises(RuntimeError, match="once"):
        next(other)


# --- in the words of the signature --------------------------------------------------------------------------


def test_each_item_has_one_result_whatever_the_number_of_items_and_workers() -> None:
    for count in (1, 2, 3, 7, 100, 1023, 1024, 1025):
        for max_workers in (1, 2, 64):
            assert list(grainwise.map(double, range(count), max_workers=max_workers)) == [
                *range(0, 2 * count, 2)
            ]


def test_items_run_in_worker_processes_and_never_in_this_one() -> None:
    pids = set(grainwise.map(lambda _: os.getpid(), range(2000)))
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts on fork")
def test_a_setup_value_is_the_first_argument() -> None:
    results = grainwise.map(lambda model, x: model["w"] * x, range(4), setup=lambda: {"w": 10})
    assert list(results) == [0, 10, 20, 30]
    results = grainwise.map(lambda model, x, y, *, z: (model, x, y, z), "ab", "cd", setup=lambda: None, z=1)
    assert list(results) == [(None, "a", "c", 1), (None, "b", "d", 1)]
    results = grainwise.starmap(lambda model, x, y: model + x + y, [(1, 2), (3, 4)], setup=lambda: 100)
    assert list(results) == [103, 107]
