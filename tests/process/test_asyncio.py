"""Event loops: `await` in the program and in tasks, beside threads; and tasks that wait by other means."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine import current
from grainwise.engine.driver import backstop

from .full_pool import LIMIT_S
from .signposts import Sign
from .test_threads import _two_workers, fail, in_threads, square, wait_for

__all__ = ["_two_workers"]  # a fixture


def test_await_gives_the_value_or_raises_the_error() -> None:
    async def main() -> None:
        assert await square.remote(3) == 9
        assert await ray.put({"a": [1]}) == {"a": [1]}
        ref = square.remote(4)
        assert (await ref, await ref) == (16, 16)
        with pytest.raises(ValueError, match="number 5"):
            await fail.remote(5)

    asyncio.run(main())


def test_thousands_of_awaits_at_once() -> None:
    async def one(x: int) -> int:
        return await square.remote(x)

    async def main() -> list[int]:
        return await asyncio.gather(*(one(x) for x in range(3_000)))

    assert asyncio.run(main()) == [x * x for x in range(3_000)]


def test_the_loop_runs_while_tasks_do(tmp_path: Path) -> None:
    """Waiting for a ref does not block the loop: here it is the loop that lets the task end."""
    gate = Sign(tmp_path / "gate")

    async def open_gate() -> None:
        await asyncio.sleep(0)
        gate.put_up("open")

    async def main() -> str:
        value, _ = await asyncio.gather(wait_for.remote(gate), open_gate())
        return value

    assert asyncio.run(main()) == "open"


def test_as_completed_wait_and_timeouts(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")

    async def get(ref: ray.ObjectRef[Any]) -> Any:
        return await ref

    async def main() -> None:
        slow = wait_for.remote(gate)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(get(slow), 0.01)
        first = [await each for each in asyncio.as_completed([get(square.remote(i)) for i in range(10)])]
        assert sorted(first) == [i * i for i in range(10)]
        waiting = asyncio.ensure_future(get(slow))
        quick = asyncio.ensure_future(get(square.remote(5)))
        done, pending = await asyncio.wait({waiting, quick}, return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({quick}, {waiting})
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.put_up("open")
        assert await slow == "open"  # whoever gave up took nothing with them

    asyncio.run(main())


def test_a_loop_that_closes_before_its_tasks_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Sign(tmp_path / "gate")
    ref = wait_for.remote(gate)

    async def main() -> None:
        async def get() -> str:
            return await ref

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(get(), 0.01)

    asyncio.run(main())
    gate.put_up("open")
    assert ray.get(ref, timeout=LIMIT_S) == "open"
    assert ray.get([square.remote(i) for i in range(10)], timeout=LIMIT_S) == [i * i for i in range(10)]
    assert caplog.records == []


def test_several_loops_in_threads_beside_plain_threads() -> None:
    async def chain(x: int) -> int:
        value = x
        for _ in range(5):
            value = await square.remote(value % 100)
        return value

    async def many(number: int) -> list[int]:
        return await asyncio.gather(*(chain(number + i) for i in range(20)))

    def expected(x: int) -> int:
        for _ in range(5):
            x = (x % 100) ** 2
        return x

    def work(number: int) -> bool:
        if number % 2:
            values = asyncio.run(many(number))
        else:
            values = [expected(number + i) for i in range(20)]
            got = ray.get([square.remote(i) for i in range(200)], timeout=LIMIT_S)
            assert got == [i * i for i in range(200)]
        return values == [expected(number + i) for i in range(20)]

    assert in_threads(8, work) == [True] * 8


def test_get_in_a_coroutine_blocks_but_works() -> None:
    async def main() -> int:
        return ray.get(square.remote(3), timeout=LIMIT_S) + await square.remote(4)

    assert asyncio.run(main()) == 25


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_await_inside_a_task(num_cpus: int) -> None:
    """The task's CPU is lent while its loop waits: its children need one."""
    ray.shutdown()
    ray.init(num_cpus=num_cpus)

    @ray.remote
    def with_loop(x: int) -> list[int]:
        async def main() -> list[int]:
            return await asyncio.gather(*(_get(square.remote(i)) for i in range(x)))

        return asyncio.run(main())

    results = ray.get([with_loop.remote(5) for _ in range(4)], timeout=LIMIT_S)
    assert results == [[0, 1, 4, 9, 16]] * 4


async def _get(ref: ray.ObjectRef[Any]) -> Any:
    return await ref


@pytest.mark.parametrize("num_cpus", [1, 2])
@pytest.mark.parametrize("word", ["get", "wait", "future"])
def test_threads_inside_a_task_wait_for_its_children(num_cpus: int, word: str) -> None:
    ray.shutdown()
    ray.init(num_cpus=num_cpus)

    @ray.remote
    def with_threads(x: int) -> list[int]:
        def work(number: int) -> int:
            ref = square.remote(number)
            if word == "future":
                return ref.future().result()
            if word == "wait":
                ray.wait([ref])
            return ray.get(ref)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            return list(threads.map(work, range(x)))

    results = ray.get([with_threads.remote(8) for _ in range(4)], timeout=LIMIT_S)
    assert results == [[i * i for i in range(8)]] * 4


def test_a_thread_that_a_task_leaves_behind_still_gets_its_answer(tmp_path: Path) -> None:
    """The task has ended and others run in its worker when the thread asks."""
    gate, answer = Sign(tmp_path / "gate"), Sign(tmp_path / "answer")

    @ray.remote
    def leave() -> int:
        def later() -> None:
            gate.wait()
            answer.put_up(str(ray.get(square.remote(5))))

        threading.Thread(target=later, daemon=True).start()
        return os.getpid()

    ray.get(leave.remote(), timeout=LIMIT_S)
    gate.put_up()
    while not answer.is_up():
        ray.get([square.remote(i) for i in range(20)], timeout=LIMIT_S)
    assert answer.wait() == "25"


def test_a_child_runs_while_its_parent_is_busy_otherwise(tmp_path: Path) -> None:
    """A parent that does not wait in `get`, but for what its child does."""
    sign = Sign(tmp_path / "sign")

    @ray.remote
    def busy_parent() -> str:
        ray.remote(sign.put_up).remote("from the child")
        return sign.wait()

    assert ray.get(busy_parent.remote(), timeout=LIMIT_S) == "from the child"


def test_tasks_that_meet_outside_the_engine(tmp_path: Path) -> None:
    """Two tasks of a function that has always been quick wait for each other: they must not share a batch."""
    first, second = Sign(tmp_path / "first"), Sign(tmp_path / "second")

    @ray.remote
    def mixed(mine: Sign | None, theirs: Sign | None) -> None:
        if mine is not None and theirs is not None:
            mine.put_up()
            theirs.wait()

    for _ in range(4):
        ray.get([mixed.remote(None, None) for _ in range(500)], timeout=LIMIT_S)
    ray.get([mixed.remote(first, second), mixed.remote(second, first)], timeout=LIMIT_S)


def test_a_future_made_shortly_after_the_last_work_does_not_wait_for_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backstop, "IDLE_TICK_S", 10 * LIMIT_S)  # a backstop that dozes wakes up for work only
    for x in range(3):
        assert ray.get(square.remote(x)) == x * x
        wait_until_it_dozes()
        assert square.remote(x).future().result(timeout=LIMIT_S) == x * x


def wait_until_it_dozes() -> None:
    """Wait until the backstop has seen that nothing is outstanding, and sleeps."""
    engine: Any = current.current()
    end = monotonic() + LIMIT_S
    while not engine.backstop._is_dozing and monotonic() < end:
        sleep(0.001)
    assert engine.backstop._is_dozing
