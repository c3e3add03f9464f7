"""Many threads and event loops at once: submitting, waiting, cancelling, and waiting inside callbacks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import GetTimeoutError, SerializationError, TaskCancelledError

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S, assert_pool_is_full
from .signposts import Sign


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
def fail(x: int) -> None:
    raise ValueError(f"number {x}")


@ray.remote
def wait_for(gate: Sign) -> str:
    return gate.wait()


@ray.remote
def parent(x: int) -> int:
    return sum(ray.get([square.remote(i) for i in range(x)]))


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)` to `work(count - 1)` at the same time; return the results, raise the first error."""
    barrier = threading.Barrier(count)

    def start(number: int) -> Any:
        barrier.wait()
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        return [future.result(LIMIT_S) for future in [threads.submit(start, n) for n in range(count)]]


# --- threads ------------------------------------------------------------------------------------------------


def test_sixteen_threads_each_get_their_own_results() -> None:
    def work(number: int) -> bool:
        for _ in range(3):
            refs = [square.remote(1_000 * number + i) for i in range(200)]
            if ray.get(refs, timeout=LIMIT_S) != [(1_000 * number + i) ** 2 for i in range(200)]:
                return False
        return True

    assert in_threads(16, work) == [True] * 16


def test_threads_mix_all_the_words(tmp_path: Path) -> None:
    """Values, errors, timeouts, cancellations, large arguments and nested tasks at the same time."""
    shared = ray.put(bytes(200_000))
    size = ray.remote(len)

    def words(number: int) -> str:
        for turn in range(8):
            x = 100 * number + turn
            kind = (number + turn) % 6
            if kind == 0:
                assert ray.get([square.remote(x)], timeout=LIMIT_S) == [x * x]
            elif kind == 1:
                with pytest.raises(ValueError, match=f"number {x}"):
                    ray.get(fail.remote(x), timeout=LIMIT_S)
            elif kind == 2:
                ready, rest = ray.wait([square.remote(i) for i in range(20)], num_returns=20, timeout=LIMIT_S)
                assert (len(ready), rest) == (20, [])
            elif kind == 3:
                ref = square.remote(x)
                ray.cancel(ref)
                try:
                    assert ray.get(ref, timeout=LIMIT_S) == x * x
                except TaskCancelledError:
                    pass
            elif kind == 4:
                assert ray.get(size.remote(shared), timeout=LIMIT_S) == 200_000
                assert ray.get(size.remote(bytes(100_000 + x)), timeout=LIMIT_S) == 100_000 + x
            else:
                assert ray.get(parent.remote(6), timeout=LIMIT_S) == 55
        return "fine"

    assert in_threads(12, words) == ["fine"] * 12
    assert_pool_is_full(tmp_path)


def test_one_ref_is_awaited_by_many_threads(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    ref = wait_for.remote(gate)
    waiting = threading.Semaphore(0)

    def work(number: int) -> str:
        waiting.release()
        if number % 3 == 0:
            return ray.get(ref, timeout=LIMIT_S)
        if number % 3 == 1:
            assert ray.wait([ref], timeout=LIMIT_S) == ([ref], [])
            return ray.get(ref, timeout=0)
        return ref.future().result(LIMIT_S)

    def open_gate() -> None:
        for _ in range(12):
            waiting.acquire()
        gate.put_up("open")

    opener = threading.Thread(target=open_gate)
    opener.start()
    assert in_threads(12, work) == ["open"] * 12
    opener.join()


def test_a_thread_that_leads_and_leaves_lets_others_go_on(tmp_path: Path) -> None:
    """The thread that reads for all gives up after its timeout; those that followed still get theirs."""
    gate, other = Sign(tmp_path / "gate"), Sign(tmp_path / "other")
    first, second = wait_for.remote(gate), wait_for.remote(other)

    def impatient() -> None:
        for _ in range(20):
            with pytest.raises(GetTimeoutError):
                ray.get(first, timeout=0.005)

    leaders = [threading.Thread(target=impatient) for _ in range(3)]
    for leader in leaders:
        leader.start()
    threading.Timer(0.05, other.put_up, ("second",)).start()
    assert ray.get(second, timeout=LIMIT_S) == "second"
    for leader in leaders:
        leader.join()
    gate.put_up("first")
    assert ray.get(first, timeout=LIMIT_S) == "first"


def test_submitting_threads_and_a_thread_that_collects() -> None:
    """A pipeline: refs go through a queue from some threads to another."""
    refs: queue.Queue[ray.ObjectRef[int] | None] = queue.Queue()

    def submit(number: int) -> None:
        for i in range(500):
            refs.put(square.remote(number * 500 + i))
        refs.put(None)

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    total, ended = 0, 0
    while ended < 4:
        ref = refs.get(timeout=LIMIT_S)
        if ref is None:
            ended += 1
        else:
            total += ray.get(ref, timeout=LIMIT_S)
    for thread in threads:
        thread.join()
    assert total == sum(i * i for i in range(2_000))


def test_a_thousand_bad_submissions_do_no_harm(tmp_path: Path) -> None:
    """Arguments that cannot be pickled, from several threads, beside good ones; and an end in between."""

    def work(number: int) -> int:
        errors = 0
        for i in range(125):
            try:
                square.remote(threading.Lock() if number % 2 else iter(()))  # type: ignore[arg-type]
            except SerializationError:
                errors += 1
            if i % 25 == 0:
                assert ray.get(square.remote(i), timeout=LIMIT_S) == i * i
        return errors

    errors = in_threads(8, work)
    assert errors[1::2] == [125] * 4
    assert_pool_is_full(tmp_path)
    for _ in range(5):
        with pytest.raises(SerializationError):
            square.remote(threading.Lock())  # type: ignore[arg-type]
        ray.shutdown()
        ray.init(num_cpus=1)


def test_a_thread_shuts_down_while_others_work() -> None:
    """Whoever is in the middle of something is told; nobody hangs."""
    outcomes: list[str] = []
    begun = threading.Barrier(9)

    def work(_: int) -> None:
        begun.wait()
        try:
            while True:
                refs = [square.remote(i) for i in range(50)]
                assert ray.get(refs, timeout=LIMIT_S) == [i * i for i in range(50)]
                if not ray.is_initialized():
                    outcomes.append("saw the end")
                    return
        except ray.errors.EngineClosedError:
            outcomes.append("was told")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0)
    ray.shutdown()
    deadline = time.monotonic() + LIMIT_S
    while any(thread.is_alive() for thread in threads):
        # A thread that was between two calls starts a session of its own: end that one, too.
        ray.shutdown()
        assert time.monotonic() < deadline, "a thread hangs"
        for thread in threads:
            thread.join(0.01)
    assert len(outcomes) == 8


def test_refs_dropped_by_finalizers_and_other_threads(tmp_path: Path) -> None:
    """Objects that own refs go in a garbage collection, in any thread, at any moment."""
    import gc

    class Owner:
        def __init__(self) -> None:
            self.refs = [ray.put(bytes(70_000)), square.remote(3)]
            self.me = self

    before = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:

        def work(number: int) -> int:
            for _ in range(20):
                Owner()
                assert ray.get(square.remote(number), timeout=LIMIT_S) == number * number
            return number

        assert in_threads(6, work) == list(range(6))
    finally:
        gc.set_threshold(*before)
    assert_pool_is_full(tmp_path)


def test_a_finalizer_that_uses_the_engine_never_hangs() -> None:
    """It may strike in the middle of ours: then it is told so (and Python shows what it raises)."""
    result = run_script(
        """
import gc, sys
import grainwise as ray
gc.set_threshold(20, 2, 2)
ray.init(num_cpus=2)
sys.unraisablehook = lambda unraisable: raised.append(unraisable.exc_value)
raised, got = [], []

@ray.remote
def double(x):
    return 2 * x

class Talkative:
    def __init__(self):
        self.me = self
    def __del__(self):
        got.append(ray.get(double.remote(4)))

for _ in range(100):
    Talkative()
    assert ray.get([double.remote([i]) for i in range(20)], timeout=60) == [[i, i] for i in range(20)]
assert set(got) <= {8}
assert len(got) + len(raised) >= 90, (len(got), len(raised))
assert all("finalizer" in str(error) for error in raised), raised[:3]
print("fine")
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)
    assert_nothing_left(result.mark)


# --- futures and their callbacks ----------------------------------------------------------------------------


def test_futures_have_what_get_has(tmp_path: Path) -> None:
    futures = [square.remote(i).future() for i in range(100)]
    assert [future.result(LIMIT_S) for future in futures] == [i * i for i in range(100)]
    with pytest.raises(ValueError, match="number 3"):
        fail.remote(3).future().result(LIMIT_S)
    assert isinstance(fail.remote(3).future().exception(LIMIT_S), ValueError)
    assert ray.put([1, 2]).future().result(LIMIT_S) == [1, 2]
    done, _ = concurrent.futures.wait([square.remote(i).future() for i in range(10)], timeout=LIMIT_S)
    assert sorted(future.result() for future in done) == [i * i for i in range(10)]
    for future in concurrent.futures.as_completed([square.remote(2).future()], timeout=LIMIT_S):
        assert future.result() == 4


def test_a_future_resolves_while_nobody_waits(tmp_path: Path) -> None:
    done = threading.Event()
    square.remote(7).future().add_done_callback(lambda future: done.set())
    assert done.wait(LIMIT_S)


@pytest.mark.parametrize("waits", [True, False], ids=["the program waits", "nobody waits"])
def test_a_callback_may_submit_and_wait(tmp_path: Path, waits: bool) -> None:
    """Fork and join, three levels deep, each inside the callback of the one before."""
    gate = Sign(tmp_path / "gate")
    answers: queue.Queue[object] = queue.Queue()

    def on_done(depth: int, future: concurrent.futures.Future[Any]) -> None:
        try:
            total = sum(ray.get([square.remote(i) for i in range(5)], timeout=LIMIT_S))
            if depth:
                square.remote(depth).future().add_done_callback(lambda f: on_done(depth - 1, f))
            else:
                answers.put(total)
        except BaseException as error:
            answers.put(error)

    first = wait_for.remote(gate)
    first.future().add_done_callback(lambda future: on_done(3, future))
    gate.put_up("open")
    if waits:
        assert ray.get(first, timeout=LIMIT_S) == "open"
        assert ray.get([square.remote(i) for i in range(500)], timeout=LIMIT_S) == [i * i for i in range(500)]
    assert answers.get(timeout=LIMIT_S) == 30


def test_a_callback_may_end_the_session(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    ended = threading.Event()

    def end(_: object) -> None:
        ray.shutdown()
        ended.set()

    ref, never = wait_for.remote(gate), wait_for.remote(Sign(tmp_path / "never"))
    ref.future().add_done_callback(end)
    gate.put_up()
    with pytest.raises(ray.errors.EngineClosedError):
        ray.get(never, timeout=LIMIT_S)
    assert ended.wait(LIMIT_S)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_harms_nobody_else(
    tmp_path: Path, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Sign(tmp_path / "gate")
    called = threading.Event()

    def raises(_: object) -> None:
        called.set()
        raise error("from a callback")

    caplog.set_level(logging.CRITICAL, logger="concurrent.futures")  # it logs what callbacks raise
    first = wait_for.remote(gate).future()
    first.add_done_callback(raises)
    second = wait_for.remote(gate).future()
    threads = _without_thread_noise()
    gate.put_up("open")
    assert called.wait(LIMIT_S)
    assert second.result(LIMIT_S) == "open"
    assert first.result(LIMIT_S) == "open"
    assert square.remote(4).future().result(LIMIT_S) == 16
    assert ray.get([square.remote(i) for i in range(100)], timeout=LIMIT_S) == [i * i for i in range(100)]
    threads()


def _without_thread_noise() -> Callable[[], None]:
    """Have errors that end a thread, or are unraisable, go nowhere; return what undoes it."""
    import sys

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda *_: None
    sys.unraisablehook = lambda *_: None

    def undo() -> None:
        threading.excepthook, sys.unraisablehook = before

    return undo


def test_a_future_does_not_keep_a_value_that_nobody_wants() -> None:
    """Nor does the engine keep the future: a million may pass through."""
    ref = square.remote(3)
    future = ref.future()
    assert future.result(LIMIT_S) == 9
    watched = weakref.ref(future)
    del future, ref
    deadline = time.monotonic() + LIMIT_S
    while watched() is not None:
        assert time.monotonic() < deadline, "somebody holds the future"
        time.sleep(0.005)


# --- asyncio ------------------------------------------------------------------------------------------------


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
