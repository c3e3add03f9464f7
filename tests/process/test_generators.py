"""Generators: streams of refs, their ends, back-pressure, consumers everywhere, what dropped ones leave."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import pickle
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise import DynamicObjectRefGenerator, ObjectRefGenerator
from grainwise.engine import current
from grainwise.errors import (
    ActorDiedError,
    EngineClosedError,
    GetTimeoutError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from grainwise.exceptions import StreamingGeneratorReplayInconsistentError

LIMIT_S = 20.0
ARRAY_BYTES = 1 << 20


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


class Gate:
    """A fifo that one side waits at until the other opens it, and that says that somebody has come."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = folder / name
        os.mkfifo(self.path)

    def wait(self) -> None:
        """Wait here; in a task."""
        with open(self.path, "rb") as file:
            file.read()

    def open(self) -> None:
        """Let one through; waits until somebody is there."""
        with open(self.path, "wb"):
            pass


class Log:
    """A file that tasks write marks to."""

    def __init__(self, folder: Path, name: str = "log") -> None:
        self.path = folder / name

    def write(self, mark: object) -> None:
        with open(self.path, "a") as file:
            file.write(f"{mark}\n")

    def read(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []


@ray.remote
def count(n: int, fails_at: int = -1) -> Iterator[int]:
    for i in range(n):
        if i == fails_at:
            raise ValueError("on purpose")
        yield i


@ray.remote
def pairs(n: int) -> Iterator[list[int]]:
    for i in range(n):
        yield [i, i]


@ray.remote
def increment(x: int) -> int:
    return x + 1


@ray.remote
def logged(n: int, log: Log) -> Iterator[int]:
    try:
        for i in range(n):
            log.write(i)
            yield i
    finally:
        log.write("closed")


def values(generator: Any) -> list[Any]:
    """Return what a generator gives: values, and types of errors."""
    found: list[Any] = []
    for ref in generator:
        try:
            found.append(ray.get(ref, timeout=LIMIT_S))
        except Exception as error:
            kind = type(error)
            found.append(kind.__bases__[-1] if isinstance(error, TaskError) else kind)
    return found


def engine() -> Any:
    return current.current()


# -- streams -------------------------------------------------------------------------------------------


def test_a_generator_function_gives_a_generator_of_refs() -> None:
    generator = count.remote(3)
    assert isinstance(generator, ObjectRefGenerator)
    assert isinstance(generator, Generator)
    assert isinstance(generator, AsyncGenerator)
    assert iter(generator) is generator
    assert values(generator) == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(generator)
    assert values(count.remote(0)) == []
    assert values(count.options(num_returns="streaming").remote(2)) == [0, 1]
    assert values(count.options(num_returns=None).remote(2)) == [0, 1]


def test_order_and_number_hold_for_many() -> None:
    for n in (100, 20_000):
        assert values(count.remote(n)) == list(range(n))
    assert values(pairs.remote(3000)) == [[i, i] for i in range(3000)]


def test_the_first_values_are_there_while_the_rest_is_computed(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    @ray.remote
    def two_parts() -> Iterator[int]:
        yield 1
        yield 2  # within microseconds: it waits for the reporter, as nothing comes behind it
        gate.wait()
        yield 3

    generator = two_parts.remote()
    assert [ray.get(next(generator)), ray.get(next(generator))] == [1, 2]
    assert not generator.next_ready()
    assert not generator.is_finished()
    with pytest.raises(GetTimeoutError):
        ray.get(generator.completed(), timeout=0)
    gate.open()
    assert ray.get(next(generator)) == 3


def test_what_has_come_can_be_got_again_and_passed_on() -> None:
    generator = count.remote(3)
    refs = list(generator)
    assert ray.get(refs) == [0, 1, 2]
    assert ray.get(refs[1]) == 1
    assert ray.get([increment.remote(ref) for ref in refs]) == [1, 2, 3]
    nested = ray.put(refs)
    assert ray.get(ray.get(nested)) == [0, 1, 2]


def test_completed_and_is_finished() -> None:
    generator = count.remote(1)
    assert ray.get(generator.completed()) is None
    assert not generator.is_finished()
    assert generator.next_ready()
    next(generator)
    assert generator.is_finished()
    assert not generator.next_ready()

    @ray.remote
    def returns() -> Generator[int, None, int]:
        yield 1
        return 9

    generator = returns.remote()
    assert values(generator) == [1]
    assert ray.get(generator.completed()) is None


def test_a_ref_of_the_end_outlives_the_generator(tmp_path: Path) -> None:
    log = Log(tmp_path)
    completed = logged.remote(100, log).completed()
    assert ray.get(completed, timeout=LIMIT_S) is None
    assert log.read()[-1] == "closed"


def test_generators_take_all_kinds_of_arguments() -> None:
    @ray.remote
    def spell(text: str, *more: str, last: list[str]) -> Iterator[str]:
        yield from text
        yield from more
        yield from last

    first = ray.put("ab")
    assert values(spell.remote(first, "c", last=["d"])) == ["a", "b", "c", "d"]
    assert values(count.remote(increment.remote(1))) == [0, 1]


def test_lambdas_partials_and_async_generators() -> None:
    assert values(ray.remote(lambda: (yield 3)).remote()) == [3]
    partial: Any = ray.remote(functools.partial(count.__wrapped__, 2))
    assert values(partial.remote()) == [0, 1]

    @ray.remote
    async def slowly(n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    assert values(slowly.remote(3)) == [0, 1, 2]


def test_large_values_are_shared_and_go_back() -> None:
    np = pytest.importorskip("numpy")

    @ray.remote
    def arrays(n: int) -> Iterator[Any]:
        for i in range(n):
            yield np.full(ARRAY_BYTES, i, dtype=np.uint8)

    refs = list(arrays.remote(3))
    found = [ray.get(ref) for ref in refs]
    assert [int(array[-1]) for array in found] == [0, 1, 2]
    assert not found[0].flags.writeable
    assert ray.get(refs[0]).ctypes.data == found[0].ctypes.data  # the same pages
    del found, refs
    for ref in arrays.remote(40):  # far more than what is held at a time
        assert ray.get(ref).nbytes == ARRAY_BYTES
    del ref


# -- errors ----------------------------------------------------------------------------------------------


def test_an_error_is_the_last_ref() -> None:
    generator = count.remote(5, 2)
    refs = [next(generator) for _ in range(3)]
    assert ray.get(refs[:2]) == [0, 1]
    with pytest.raises(ValueError, match="on purpose") as caught:
        ray.get(refs[2])
    assert isinstance(caught.value, TaskError)
    with pytest.raises(StopIteration):
        next(generator)
    assert generator.is_finished()
    assert ray.get(generator.completed()) is None
    assert values(count.remote(5, 0)) == [ValueError]


def test_a_value_that_cannot_be_pickled_ends_the_stream(tmp_path: Path) -> None:
    log = Log(tmp_path)

    @ray.remote
    def odd() -> Iterator[Any]:
        try:
            yield 1
            yield threading.Lock()
            yield 3
        finally:
            log.write("closed")

    generator = odd.remote()
    assert ray.get(next(generator)) == 1
    with pytest.raises(SerializationError, match="value 1 that was yielded"):
        ray.get(next(generator))
    assert list(generator) == []
    assert log.read() == ["closed"]


def test_an_argument_that_failed_fails_the_stream() -> None:
    @ray.remote
    def fail() -> int:
        raise KeyError("gone")

    assert values(count.remote(fail.remote())) == [KeyError]


def test_a_generator_cannot_be_passed_or_sent_to() -> None:
    generator = count.remote(2)
    untyped: Any = generator
    with pytest.raises(TypeError, match="not allowed"):
        pickle.dumps(generator)
    with pytest.raises(TypeError, match="not allowed"):
        increment.remote(untyped)
    with pytest.raises(TypeError, match="not allowed"):
        ray.put([generator])
    for refuse in (lambda: generator.send(1), lambda: generator.throw(ValueError()), generator.close):
        with pytest.raises(NotImplementedError, match="not supported"):
            refuse()
    for coroutine in (generator.asend(1), generator.athrow(ValueError()), generator.aclose()):
        with pytest.raises(NotImplementedError, match="not supported"):
            asyncio.run(coroutine)
    assert ray.get(untyped) is generator
    with pytest.raises(TypeError, match="got ObjectRefGenerator at position 0"):
        ray.get([untyped])
    assert values(generator) == [0, 1]


def test_options_are_checked() -> None:
    plain: Any = increment
    for word in ("streaming", "dynamic"):
        with pytest.raises(ValueError, match="can only be used with generator functions"):
            plain.options(num_returns=word)
        with pytest.raises(ValueError, match="can only be used with generator functions"):
            ray.remote(num_returns=word)(plain.__wrapped__)
    with pytest.raises(ValueError, match='"streaming" or "dynamic"'):
        plain.options(num_returns="many")
    with pytest.raises(ValueError, match="_generator_backpressure_num_objects=0 is not allowed"):
        count.options(_generator_backpressure_num_objects=0)
    untyped: Any = count
    with pytest.raises(TypeError, match="expected an int, got str"):
        untyped.options(_generator_backpressure_num_objects="x")
    assert values(count.options(_generator_backpressure_num_objects=-1).remote(2)) == [0, 1]
    assert ray.get(plain.options(_generator_backpressure_num_objects=1).remote(1)) == 2
    with pytest.raises(ValueError, match="can only be used with generator functions"):

        class Odd:
            @ray.method(num_returns="streaming")
            def plain(self) -> int:
                return 1


# -- other numbers of results ----------------------------------------------------------------------------


def test_dynamic_gives_all_refs_at_the_end() -> None:
    dynamic = count.options(num_returns="dynamic")
    ref = dynamic.remote(3)
    found = ray.get(ref)
    assert isinstance(found, DynamicObjectRefGenerator)
    assert len(found) == 3
    assert values(found) == [0, 1, 2]
    assert len(found) == 0  # iterating takes them out
    assert values(ray.get(ref)) == [0, 1, 2]
    assert values(ray.get(dynamic.remote(0))) == []
    assert values(ray.get(dynamic.remote(3, 1))) == [0, ValueError]

    @ray.remote
    def read(refs: Any) -> list[Any]:
        return values(refs)

    assert ray.get(read.remote(dynamic.remote(3))) == [0, 1, 2]
    assert ray.get(read.remote(ray.get(dynamic.remote(2)))) == [0, 1]


def test_as_many_values_as_there_are_results() -> None:
    assert ray.get(count.options(num_returns=2).remote(2)) == [0, 1]
    assert ray.get(count.options(num_returns=2).remote(5)) == [0, 1]
    assert ray.get(count.options(num_returns=1).remote(1)) == 0
    assert ray.get(pairs.options(num_returns=1).remote(2)) == [0, 0]
    few = count.options(num_returns=3).remote(2)
    assert values(few) == [0, 1, ValueError]
    assert values(count.options(num_returns=3).remote(3, 1)) == [0, ValueError, ValueError]
    with pytest.raises(ValueError, match="yielded 0 values - expected 1"):
        ray.get(count.options(num_returns=1).remote(0))
    assert count.options(num_returns=0).remote(1) is None


def test_fixed_results_are_tried_again_as_a_whole(tmp_path: Path) -> None:
    log = Log(tmp_path)

    @ray.remote(num_returns=2, retry_exceptions=True)
    def flaky() -> Iterator[list[int]]:
        yield [1]
        log.write("run")
        if len(log.read()) == 1:
            raise ValueError
        yield [2]

    assert ray.get(flaky.remote()) == [[1], [2]]
    assert log.read() == ["run", "run"]


# -- back-pressure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_producer_waits_for_its_consumer(limit: int, tmp_path: Path) -> None:
    log = Log(tmp_path)
    generator = logged.options(_generator_backpressure_num_objects=limit).remote(12, log)
    for taken in range(12 - limit):
        assert ray.get(next(generator)) == taken
        assert len(log.read()) <= taken + 1 + limit
    assert values(generator) == list(range(12 - limit, 12))


def test_others_have_the_processor_of_a_producer_that_waits() -> None:
    ray.shutdown()
    ray.init(num_cpus=1)
    held = [count.options(_generator_backpressure_num_objects=1).remote(3) for _ in range(3)]
    assert [ray.get(next(each)) for each in held] == [0, 0, 0]
    assert ray.get(increment.remote(1), timeout=LIMIT_S) == 2
    assert [values(each) for each in held] == [[1, 2]] * 3


def test_waiting_for_a_value_takes_none(tmp_path: Path) -> None:
    log = Log(tmp_path)
    generator = logged.options(_generator_backpressure_num_objects=1).remote(3, log)
    for _ in range(3):
        assert ray.wait([generator], timeout=LIMIT_S) == ([generator], [])
    assert log.read() == ["0"]
    assert values(generator) == [0, 1, 2]


# -- wait, async -----------------------------------------------------------------------------------------


def test_wait_takes_generators_among_refs(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    @ray.remote
    def held() -> Iterator[int]:
        gate.wait()
        yield 1

    slow, quick, ref = held.remote(), count.remote(2), increment.remote(1)
    ready, rest = ray.wait([slow, quick, ref], num_returns=2, timeout=LIMIT_S)
    assert (ready, rest) == ([quick, ref], [slow])
    assert ray.wait([slow], timeout=0) == ([], [slow])
    gate.open()
    assert ray.wait([slow], timeout=LIMIT_S) == ([slow], [])
    assert values(slow) == [1]
    assert ray.wait([slow], timeout=LIMIT_S) == ([slow], [])  # there is nothing to wait for
    assert values(quick) == [0, 1]
    untyped: Any = quick
    with pytest.raises(ValueError, match="twice"):
        ray.wait([untyped, untyped])
    with pytest.raises(TypeError, match="got a single ObjectRefGenerator"):
        ray.wait(untyped)


def test_async_iteration() -> None:
    async def consume(n: int, fails_at: int = -1) -> list[Any]:
        found: list[Any] = []
        async for ref in count.remote(n, fails_at):
            try:
                found.append(await ref)
            except ValueError:
                found.append(ValueError)
        return found

    async def both() -> list[list[Any]]:
        return await asyncio.gather(consume(500), consume(3, 1))

    assert asyncio.run(both()) == [list(range(500)), [0, ValueError]]

    async def by_hand() -> None:
        generator = count.remote(1)
        assert await (await generator.__anext__()) == 0
        with pytest.raises(StopAsyncIteration):
            await generator.__anext__()
        assert generator.is_finished()
        assert await generator.completed() is None

    asyncio.run(by_hand())


def test_an_async_consumer_that_gives_up_loses_nothing(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    @ray.remote
    def held() -> Iterator[int]:
        gate.wait()
        yield from range(2)

    async def consume() -> list[int]:
        generator = held.remote()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(generator.__anext__(), 0)
        assert (await generator._next_async(timeout_s=0)).is_nil()
        gate.open()
        return [await ref async for ref in generator]

    assert asyncio.run(consume()) == [0, 1]


def test_next_with_a_time_limit(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    @ray.remote
    def held() -> Iterator[int]:
        gate.wait()
        yield 1

    generator = held.remote()
    assert generator._next_sync(timeout_s=0).is_nil()
    gate.open()
    ref = generator._next_sync(timeout_s=LIMIT_S)
    assert not ref.is_nil()
    assert ray.get(ref) == 1


def test_threads_share_a_generator() -> None:
    generator = count.remote(2000)
    found: list[list[int]] = [[], [], []]

    def consume(mine: list[int]) -> None:
        for ref in generator:
            mine.append(ray.get(ref))

    threads = [threading.Thread(target=consume, args=(each,)) for each in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(value for mine in found for value in mine) == list(range(2000))


# -- consumers and producers inside tasks ------------------------------------------------------------------


def test_a_task_consumes_a_generator() -> None:
    @ray.remote
    def total(n: int) -> int:
        return sum(ray.get(ref) for ref in count.remote(n))

    assert ray.get(total.remote(3000)) == sum(range(3000))
    assert ray.get(total.remote(0)) == 0

    @ray.remote
    def look() -> list[Any]:
        generator = count.remote(2)
        ray.get(generator.completed())
        seen: list[Any] = [generator.next_ready(), generator.is_finished()]
        seen += values(generator)
        seen += [generator.next_ready(), generator.is_finished()]
        failing = count.remote(2, 1)
        seen.append(ray.wait([failing], timeout=LIMIT_S) == ([failing], []))
        return seen + values(failing)

    assert ray.get(look.remote()) == [True, False, 0, 1, False, True, True, 0, ValueError]


def test_a_generator_of_a_generator() -> None:
    @ray.remote
    def times_ten(n: int) -> Iterator[int]:
        for ref in count.remote(n):
            yield 10 * ray.get(ref)

    @ray.remote
    def passes_refs_on(n: int) -> Iterator[Any]:
        yield from count.remote(n)

    assert values(times_ten.remote(4)) == [0, 10, 20, 30]
    assert [ray.get(ref) for ref in values(passes_refs_on.remote(3))] == [0, 1, 2]


def test_a_task_consumes_with_back_pressure(tmp_path: Path) -> None:
    log = Log(tmp_path)

    @ray.remote
    def consume() -> list[int]:
        sizes = []
        generator = logged.options(_generator_backpressure_num_objects=1).remote(4, log)
        for ref in generator:
            assert ray.get(ref) == len(sizes)
            sizes.append(len(log.read()))
        return sizes

    sizes = ray.get(consume.remote())
    assert all(size <= taken + 2 for taken, size in enumerate(sizes[:3]))
    assert len(sizes) == 4


def test_a_task_consumes_asynchronously_and_dynamically() -> None:
    @ray.remote
    def consume() -> list[int]:
        async def go() -> list[int]:
            return [await ref async for ref in count.remote(5)]

        return asyncio.run(go())

    @ray.remote
    def dynamic() -> list[int]:
        return values(ray.get(count.options(num_returns="dynamic").remote(3)))

    assert ray.get(consume.remote()) == [0, 1, 2, 3, 4]
    assert ray.get(dynamic.remote()) == [0, 1, 2]


# -- actors ------------------------------------------------------------------------------------------------


class Plain:
    """Yields, one call at a time."""

    def __init__(self) -> None:
        self.closed = 0

    def count(self, n: int, fails_at: int = -1) -> Iterator[int]:
        try:
            for i in range(n):
                if i == fails_at:
                    raise ValueError
                yield i
        finally:
            self.closed += 1

    def get_closed(self) -> int:
        return self.closed

    @ray.method(num_returns=2)
    def two(self) -> Iterator[int]:
        yield 1
        yield 2

    @ray.method(num_returns="dynamic")
    def dynamic(self) -> Iterator[int]:
        yield from range(3)

    @ray.method(_generator_backpressure_num_objects=1)
    def held(self, log: Log) -> Iterator[int]:
        for i in range(5):
            log.write(i)
            yield i

    def die(self) -> Iterator[int]:
        yield 1
        os._exit(1)


class Async(Plain):
    """The same on an event loop."""

    async def slowly(self, n: int, fails_at: int = -1) -> AsyncIterator[int]:
        try:
            for i in range(n):
                await asyncio.sleep(0)
                if i == fails_at:
                    raise ValueError
                yield i
        finally:
            self.closed += 1

    @ray.method(_generator_backpressure_num_objects=1)
    async def held_slowly(self, log: Log) -> AsyncIterator[int]:
        for i in range(5):
            log.write(i)
            yield i

    async def consume(self, n: int) -> list[int]:
        return [await ref async for ref in count.remote(n)]

    async def forever(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed += 1


@pytest.mark.parametrize("kind", ["plain", "threads", "loop"])
def test_methods_of_actors(kind: str, tmp_path: Path) -> None:
    cls: Any = ray.remote(Async if kind == "loop" else Plain)
    actor: Any = cls.options(max_concurrency=4).remote() if kind == "threads" else cls.remote()
    assert isinstance(actor.count.remote(1), ObjectRefGenerator)
    assert values(actor.count.remote(2000)) == list(range(2000))
    assert values(actor.count.remote(3, 1)) == [0, ValueError]
    assert ray.get(actor.get_closed.remote()) == 3
    assert ray.get(actor.two.remote()) == [1, 2]
    assert values(ray.get(actor.dynamic.remote())) == [0, 1, 2]
    assert ray.get(actor.count.options(num_returns=1).remote(2)) == 0
    assert values(actor.two.options(num_returns="streaming").remote()) == [1, 2]
    with pytest.raises(ValueError, match="can only be used with generator functions"):
        actor.get_closed.options(num_returns="streaming")

    log = Log(tmp_path)
    held = actor.held.remote(log)
    assert ray.get(next(held)) == 0
    assert ray.wait([held], timeout=LIMIT_S) == ([held], [])
    assert log.read() == ["0", "1"]
    assert values(held) == [1, 2, 3, 4]

    @ray.remote
    def consume(actor: Any) -> list[int]:
        return values(actor.count.remote(600))

    assert ray.get(consume.remote(actor)) == list(range(600))


def test_async_generators_of_actors(tmp_path: Path) -> None:
    actor: Any = ray.remote(Async).remote()
    assert values(actor.slowly.remote(1000)) == list(range(1000))
    assert values(actor.slowly.remote(3, 1)) == [0, ValueError]
    many = [actor.slowly.remote(5) for _ in range(10)]
    assert [values(each) for each in many] == [[0, 1, 2, 3, 4]] * 10
    log = Log(tmp_path)
    held = actor.held_slowly.remote(log)
    assert ray.get(next(held)) == 0
    assert ray.wait([held], timeout=LIMIT_S) == ([held], [])
    assert log.read() == ["0", "1"]
    assert ray.get(actor.get_closed.remote()) == 12  # the actor does other things meanwhile
    assert values(held) == [1, 2, 3, 4]
    assert ray.get(actor.consume.remote(300)) == list(range(300))


def test_cancelling_generators_of_actors(tmp_path: Path) -> None:
    actor: Any = ray.remote(Async).remote()
    forever = actor.forever.remote()
    assert ray.get(next(forever)) == 1
    ray.cancel(forever)
    assert values(forever) == [TaskCancelledError]
    assert ray.get(actor.get_closed.remote()) == 1
    for _ in range(20):  # it has hardly arrived
        early = actor.slowly.remote(10)
        ray.cancel(early)
        assert values(early)[-1:] in ([TaskCancelledError], [9])

    plain: Any = ray.remote(Plain).remote()
    log = Log(tmp_path)
    held = plain.held.remote(log)
    assert ray.get(next(held)) == 0
    ray.cancel(held)
    assert values(held)[-1] is TaskCancelledError
    endless = plain.count.remote(10**9)
    assert ray.get(next(endless)) == 0
    ray.cancel(endless)
    assert ray.get(plain.get_closed.remote(), timeout=LIMIT_S) == 1  # it was closed at a yield
    del endless


def test_options_of_a_method_keep_no_actor() -> None:
    actor: Any = ray.remote(Plain).remote()
    gc.disable()  # the end must not wait for the collector
    try:
        lazy = actor.count.options(_generator_backpressure_num_objects=2)
        assert values(lazy.remote(3)) == [0, 1, 2]
        del actor, lazy
        for _ in range(2000):
            if not engine().actors.by_id:
                break
            ray.get(increment.remote(1))
        assert not engine().actors.by_id
    finally:
        gc.enable()


def test_an_actor_that_dies_fails_its_stream() -> None:
    actor: Any = ray.remote(Plain).remote()
    generator = actor.die.remote()
    assert values(generator)[-1] is ActorDiedError
    with pytest.raises(ActorDiedError):
        ray.get(generator.completed())
    assert values(actor.count.remote(2)) == [ActorDiedError]


# -- deaths, retries, cancellation -------------------------------------------------------------------------


def test_a_generator_runs_again_and_gives_each_value_once(tmp_path: Path) -> None:
    log = Log(tmp_path)

    @ray.remote(max_retries=2)
    def dies() -> Iterator[tuple[int, int]]:
        log.write("run")
        attempt = len(log.read())
        for i in range(6):
            yield i, attempt
            if attempt == 1 and i == 2:
                wait_until_told()
                os._exit(1)

    gate = Gate(tmp_path)
    wait_until_told = gate.wait
    generator = dies.remote()
    first = [ray.get(next(generator)) for _ in range(3)]
    gate.open()
    rest = values(generator)
    assert [i for i, _ in first + rest] == [0, 1, 2, 3, 4, 5]
    assert {attempt for _, attempt in first} == {1}
    assert {attempt for _, attempt in rest} == {2}
    assert ray.get(generator.completed()) is None


def test_a_generator_that_may_not_run_again_says_so() -> None:
    @ray.remote(max_retries=0)
    def dies() -> Iterator[int]:
        yield 1
        yield 2
        os._exit(3)

    generator = dies.remote()
    assert values(generator) == [1, 2, WorkerCrashedError]
    with pytest.raises(WorkerCrashedError):
        ray.get(generator.completed())


def test_errors_that_are_worth_another_run(tmp_path: Path) -> None:
    log = Log(tmp_path)

    @ray.remote(retry_exceptions=[ValueError])
    def flaky(stop: int) -> Iterator[int]:
        log.write("run")
        is_first = len(log.read()) == 1
        for i in range(4 if is_first else stop):
            if is_first and i == 3:
                raise ValueError
            yield i

    assert values(flaky.remote(5)) == [0, 1, 2, 3, 4]
    log.path.unlink()
    assert values(flaky.remote(2)) == [0, 1, 2, StreamingGeneratorReplayInconsistentError]
    log.path.unlink()
    assert len(ray.get(flaky.options(num_returns="dynamic").remote(5))) == 5


def test_cancelling(tmp_path: Path) -> None:
    log = Log(tmp_path)
    running = logged.remote(10**9, log)
    assert ray.get(next(running)) == 0
    ray.cancel(running)
    found = list(running)
    with pytest.raises(TaskCancelledError):
        ray.get(found[-1])
    assert running.is_finished()
    with pytest.raises(TaskCancelledError):
        ray.get(running.completed())
    held = logged.options(_generator_backpressure_num_objects=1).remote(3, Log(tmp_path, "held"))
    assert ray.get(next(held)) == 0
    ray.cancel(held)
    assert values(held)[-1] is TaskCancelledError
    gate = Gate(tmp_path)

    @ray.remote(num_cpus=2)
    def occupy() -> None:
        gate.wait()

    occupied = occupy.remote()
    queued = count.remote(3)
    ray.cancel(queued)
    assert values(queued) == [TaskCancelledError]
    gate.open()
    ray.get(occupied)
    finished = count.remote(1)
    ray.get(finished.completed())
    ray.cancel(finished)
    assert values(finished) == [0]


def test_cancelling_by_force() -> None:
    @ray.remote
    def endless() -> Iterator[int]:
        while True:
            try:
                yield 1
            except BaseException:
                pass

    generator = endless.remote()
    next(generator)
    ray.cancel(generator, force=True)
    assert values(generator)[-1] is TaskCancelledError


# -- what is dropped ---------------------------------------------------------------------------------------


def test_a_producer_that_nobody_can_take_from_is_closed(tmp_path: Path) -> None:
    log, gate = Log(tmp_path), Gate(tmp_path)

    @ray.remote(_generator_backpressure_num_objects=1)
    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            log.write("closed")
            gate.wait()

    @ray.remote
    def consume() -> int:
        return ray.get(next(endless.remote()))

    for wanted in (1, 2):
        if wanted == 1:
            assert ray.get(next(endless.remote())) == 1
        else:
            assert ray.get(consume.remote()) == 1
        gate.open()  # it has come to its end
        assert log.read() == ["closed"] * wanted


def test_what_nobody_wants_is_freed(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    gate = Gate(tmp_path)

    @ray.remote
    def arrays() -> Iterator[Any]:
        yield np.ones(ARRAY_BYTES, dtype=np.uint8)
        gate.wait()
        for _ in range(5):
            yield np.ones(ARRAY_BYTES, dtype=np.uint8)

    generator = arrays.remote()
    completed = generator.completed()
    ref = next(generator)
    del generator
    gate.open()
    assert ray.get(completed, timeout=LIMIT_S) is None
    assert ray.get(ref).nbytes == ARRAY_BYTES
    del ref
    assert used_bytes() == 0


def test_a_task_that_drops_its_generator(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")

    @ray.remote
    def arrays() -> Iterator[Any]:
        for _ in range(5):
            yield np.ones(ARRAY_BYTES, dtype=np.uint8)

    @ray.remote
    def consume() -> Any:
        generator = arrays.remote()
        assert ray.get(next(generator)).nbytes == ARRAY_BYTES
        return [generator.completed()]

    (completed,) = ray.get(consume.remote())
    assert ray.get(completed) is None
    del completed
    assert used_bytes() == 0
    assert not engine().borders.refs


def used_bytes() -> int:
    """Return what is in the store once what is on its way out is gone."""
    gc.collect()
    running = engine()
    total = -1
    for _ in range(2000):
        ray.get(increment.remote(1))  # workers answer, and say what they have let go of
        running.store.collect()
        with running.turn:
            total = running.store._usage.total()
        if not total and not running.borders.refs:
            break
    return total


def test_the_end_of_the_session_ends_streams() -> None:
    generator = count.remote(10**9)
    ref = next(generator)
    ray.shutdown()
    assert ray.get(ref) == 0
    found = list(generator)
    with pytest.raises(EngineClosedError):
        ray.get(found[-1])
    assert generator.is_finished()
