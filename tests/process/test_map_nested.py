"""Maps inside tasks and maps, in threads, several at once, and under asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.errors import SerializationError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .mapped_functions import double
from .signposts import Sign


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    grainwise.init(num_cpus=2)
    yield
    grainwise.shutdown()


def doubles(n: int) -> list[int]:
    return list(range(0, 2 * n, 2))


# --- in tasks -----------------------------------------------------------------------------------------------


def test_a_child_on_top_of_a_tiny_item_is_published_as_any_task() -> None:
    """Else an interruption that comes late for it would hit the one behind it."""
    grainwise.shutdown()
    grainwise.init(num_cpus=1)  # the worker that waits runs them

    def look() -> tuple[int, int]:
        from grainwise.engine.current import current
        from grainwise.engine.wire import control

        words = current().worker.words  # type: ignore[union-attr]
        return words[control.SEQ], words[control.LOOSE]

    @grainwise.remote
    def child(_: list[int]) -> tuple[int, int]:
        return look()

    def task(i: int) -> Any:
        return i if i != 2900 else (look(), grainwise.get([child.remote([j]) for j in range(3)]))

    (seq, _), children = list(grainwise.map(task, range(3000)))[2900]
    assert not any(is_loose for own_seq, is_loose in children if own_seq != seq)


def test_a_map_in_a_task_is_like_one_outside() -> None:
    @grainwise.remote
    def inside() -> list[Any]:
        fail = lambda x: 1 // x  # noqa: E731
        errors: list[Any] = list(grainwise.map(fail, [1, 0, 1], return_exceptions=True))
        return [
            list(grainwise.map(double, range(1000))),
            sorted(grainwise.map(double, (i for i in range(300)), ordered=False)),
            list(grainwise.starmap(pow, [(2, 3), (3, 2)])),
            list(grainwise.map(pow, range(4), [2] * 9)),
            list(grainwise.map(int, ["ff"], base=16)),
            list(grainwise.map(lambda model, x: model + x, range(3), setup=lambda: 10)),
            list(grainwise.map(double, [])),
            list(grainwise.map(lambda x: x[0], [grainwise.put([5]), [6]])),
            [type(error).__name__ for error in errors],
            (errors[1].index, errors[1].item),
        ]

    assert grainwise.get(inside.remote(), timeout=LIMIT_S) == [
        doubles(1000), doubles(300), [8, 9], [0, 1, 4, 9], [255], [10, 11, 12], [], [5, 6],
        ["int", "TaskError(ZeroDivisionError)", "int"], (1, "0"),
    ]  # fmt: skip


def test_random_streams_in_a_task_are_those_outside() -> None:
    pytest.importorskip("numpy")
    draw = lambda x, rng: float(rng.random())  # noqa: E731
    outside = list(grainwise.map(draw, range(20), seed=7))
    inside = grainwise.remote(lambda: list(grainwise.map(draw, range(20), seed=7)))
    assert grainwise.get(inside.remote(), timeout=LIMIT_S) == outside


def test_an_item_that_cannot_be_pickled_in_a_task() -> None:
    @grainwise.remote
    def inside(is_safe: bool) -> Any:
        items = [1, 2, threading.Lock(), 4]
        got: list[Any] = []
        try:
            for result in grainwise.map(double, items, return_exceptions=is_safe):
                got.append(result if isinstance(result, int) else str(result))
        except SerializationError as error:
            got.append(str(error))
        return got

    safe, other = grainwise.get([inside.remote(True), inside.remote(False)], timeout=LIMIT_S)
    assert "item 2 of task 'double' cannot be pickled" in safe[2]
    assert safe[:2] + safe[3:] == [2, 4, 8]
    assert "item 2 of task 'double' cannot be pickled" in other[2]
    assert len(other) == 3


def test_an_input_that_raises_in_a_task() -> None:
    @grainwise.remote
    def inside() -> list[Any]:
        def items() -> Iterator[int]:
            yield 1
            yield 2
            raise LookupError("in the input")

        got: list[Any] = []
        try:
            got.extend(grainwise.map(double, items()))
        except LookupError as error:
            got.append(str(error))
        return got

    assert grainwise.get(inside.remote(), timeout=LIMIT_S) == [2, 4, "in the input"]


def test_leaving_a_map_early_in_a_task(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @grainwise.remote
    def inside() -> list[int]:
        def task(i: int) -> int:
            log.note(i)
            return i

        with grainwise.map(task, range(100_000)) as results:
            return [next(results) for _ in range(5)]

    assert grainwise.get(inside.remote(), timeout=LIMIT_S) == [0, 1, 2, 3, 4]
    assert_pool_is_full(tmp_path)
    assert len(log.runs()) < 1000


def test_maps_in_maps_in_maps() -> None:
    def outer(n: int) -> int:
        return sum(grainwise.map(lambda m: sum(grainwise.map(double, range(m))), range(n)))

    wanted = [sum(sum(doubles(m)) for m in range(n)) for n in range(12)]
    assert list(grainwise.map(outer, range(12))) == wanted
    assert sorted(grainwise.map(outer, range(12), ordered=False)) == sorted(wanted)


def test_items_that_submit_tasks_and_wait_for_them() -> None:
    remote = grainwise.remote(double)

    def task(i: int) -> int:
        refs = [remote.remote(j) for j in range(i % 5)]
        return sum(grainwise.get(refs)) + i

    assert list(grainwise.map(task, range(300))) == [sum(doubles(i % 5)) + i for i in range(300)]


def test_a_map_that_is_left_takes_the_tasks_of_its_items_with_it(tmp_path: Path) -> None:
    begun, log = Sign(tmp_path / "begun"), RunLog(tmp_path)

    def child(i: int) -> None:
        log.note(i)
        begun.put_up()
        time.sleep(1000)

    def task(i: int) -> int:
        if i:
            remote = grainwise.remote(child)
            grainwise.get([remote.remote(i) for _ in range(20)])
        return i

    with grainwise.map(task, range(10)) as results:
        assert next(results) == 0
        begun.wait()
    assert_pool_is_full(tmp_path)
    assert len(log.runs()) <= 4


# --- in threads ---------------------------------------------------------------------------------------------


def test_many_maps_in_threads_at_once() -> None:
    def one(n: int) -> list[int]:
        items: Any = [range(n), list(range(n)), iter(range(n)), [[i] for i in range(n)]][n % 4]
        return list(
            grainwise.map(lambda x: (x if isinstance(x, int) else x[0]) + n, items, ordered=n % 3 != 0)
        )

    with ThreadPoolExecutor(12) as threads:
        counts = [50 + 37 * i for i in range(36)]
        for n, results in zip(counts, threads.map(one, counts)):
            assert sorted(results) == [i + n for i in range(n)]


def test_one_map_among_several_threads_gives_each_result_once() -> None:
    results = grainwise.map(double, range(5000))
    lock, got = threading.Lock(), []

    def consume() -> None:
        while True:
            with lock:
                try:
                    got.append(next(results))
                except StopIteration:
                    return

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert got == doubles(5000)


def test_a_map_beside_tasks_that_wait(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    ref = grainwise.remote(gate.wait).remote()
    assert list(grainwise.map(double, range(2000))) == doubles(2000), "on the other worker"
    gate.put_up()
    grainwise.get(ref, timeout=LIMIT_S)


# --- several at once ----------------------------------------------------------------------------------------


def test_interleaved_and_chained() -> None:
    a, b = grainwise.map(double, range(3000)), grainwise.map(lambda x: -x, iter(range(3000)))
    assert [(x, y) for x, y in zip(a, b)] == [(2 * i, -i) for i in range(3000)]
    chained: Any = range(500)
    for _ in range(5):
        chained = grainwise.map(double, chained)
    assert list(chained) == [32 * i for i in range(500)]
    both = grainwise.map(
        lambda x, y: x + y, grainwise.map(double, range(200)), grainwise.map(double, range(300))
    )
    assert list(both) == [4 * i for i in range(200)]


def test_a_map_that_is_left_unfinished_does_not_hold_up_others() -> None:
    idle = grainwise.map(double, range(1_000_000))
    next(idle)
    for _ in range(3):
        assert list(grainwise.map(double, range(5000))) == doubles(5000)
    assert next(idle) == 2
    idle.close()


def test_an_error_in_a_chain_closes_all_of_it(tmp_path: Path) -> None:
    inner = grainwise.map(double, iter(range(100_000)))
    outer = grainwise.map(lambda x: 1 // (x - 200), inner)
    with pytest.raises(ZeroDivisionError):
        list(outer)
    inner.close()
    assert_pool_is_full(tmp_path)


# --- asyncio ------------------------------------------------------------------------------------------------


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


def test_several_at_once_in_one_loop() -> None:
    async def main() -> list[list[int]]:
        return await asyncio.gather(*(collect(grainwise.map(double, range(n))) for n in range(0, 400, 20)))

    assert asyncio.run(main()) == [doubles(n) for n in range(0, 400, 20)]


def test_the_loop_goes_on_while_items_run(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")

    async def main() -> list[str]:
        async def open_gate() -> None:
            await asyncio.sleep(0)
            gate.put_up("opened by the loop")

        results, _ = await asyncio.gather(
            collect(grainwise.map(lambda _: gate.wait(), range(2))), open_gate()
        )
        return results

    assert asyncio.run(main()) == ["opened by the loop"] * 2


@pytest.mark.parametrize("how", ["break", "cancel", "close", "raise"])
@pytest.mark.parametrize("is_fed", [False, True], ids=["range", "async input"])
def test_leaving_an_async_for_cancels_what_is_left(how: str, is_fed: bool, tmp_path: Path) -> None:
    log, begun = RunLog(tmp_path), Sign(tmp_path / "begun")

    def task(i: int) -> int:
        log.note(i)
        if i:
            begun.put_up()
            time.sleep(1000)
        return i

    async def count() -> AsyncIterator[int]:
        for i in range(1000):
            yield i

    async def main() -> None:
        results = grainwise.map(task, count() if is_fed else range(1000))

        async def consume() -> None:
            async for _ in results:
                if how == "cancel":
                    continue
                await asyncio.to_thread(begun.wait)
                if how == "break":
                    break
                if how == "raise":
                    raise LookupError
                results.close()

        consumer = asyncio.ensure_future(consume())
        if how == "cancel":
            await asyncio.to_thread(begun.wait)
            consumer.cancel()
        ends = await asyncio.gather(consumer, return_exceptions=True)
        wanted = {"cancel": asyncio.CancelledError, "raise": LookupError}.get(how, type(None))
        assert isinstance(ends[0], wanted)

    asyncio.run(main())
    gc.collect()
    assert_pool_is_full(tmp_path)
    assert len(log.runs()) <= 5


def test_errors_under_asyncio() -> None:
    async def main() -> Any:
        fail = lambda x: 1 // (x - 5)  # noqa: E731
        safe = await collect(grainwise.map(fail, range(10), return_exceptions=True))
        with pytest.raises(ZeroDivisionError) as info:
            await collect(grainwise.map(fail, range(10)))
        return safe, info.value

    safe, error = asyncio.run(main())
    assert [type(result).__name__ for result in safe].count("TaskError(ZeroDivisionError)") == 1
    assert error.index == safe[5].index == 5
