"""`Executor` does what the standard library's executors promise, with the engine's workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import multiprocessing
import operator
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.adapters.futures.future import unfinished
from grainwise.adapters.futures.mapping import open_maps
from grainwise.errors import SerializationError, TaskError, WorkerCrashedError

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S, RunLog
from .signposts import Sign


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    grainwise.init(num_cpus=2)
    yield
    grainwise.shutdown()
    assert not unfinished
    assert not open_maps


@pytest.fixture
def executor() -> Iterator[grainwise.Executor]:
    with grainwise.Executor() as made:
        yield made


def square(x: int) -> int:
    return x * x


def fail(x: int) -> None:
    raise ValueError(f"number {x}")


class Gates:
    """Tasks that begin, say so, and stay until their gate is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signs: list[tuple[Sign, Sign]] = []

    def hold(self, executor: grainwise.Executor, count: int = 2) -> list[Any]:
        """Occupy so many workers; return the futures once the tasks have begun."""
        futures = []
        begun = []
        for _ in range(count):
            number = len(self.signs)
            here, gate = Sign(self.folder / f"begun-{number}"), Sign(self.folder / f"gate-{number}")
            self.signs.append((here, gate))
            futures.append(executor.submit(stay, here, gate))
            begun.append(here)
        for here in begun:
            here.wait()
        return futures

    def open(self) -> None:
        for _, gate in self.signs:
            gate.put_up("open")


def stay(here: Sign, gate: Sign) -> str:
    here.put_up()
    return gate.wait()


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


# --- submit -------------------------------------------------------------------------------------------------


def capture(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_submit_takes_any_arguments(executor: grainwise.Executor) -> None:
    assert executor.submit(pow, 2, 8).result() == 256
    assert executor.submit(operator.mul, 2, 8).result(timeout=LIMIT_S) == 16
    assert executor.submit(capture, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        executor.submit(fn=capture, arg=1)  # type: ignore[call-arg]


def test_futures_are_the_standard_librarys(executor: grainwise.Executor) -> None:
    future = executor.submit(square, 3)
    assert isinstance(future, concurrent.futures.Future)
    assert (future.result(), future.exception()) == (9, None)
    assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (
        True,
        False,
        False,
        False,
    )


class Adder:
    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, x: int) -> int:
        return self.start + x

    def __call__(self, x: int) -> int:
        return self.start + x


def test_every_kind_of_callable(executor: grainwise.Executor) -> None:
    offset = 10
    data = [1, 2, 3]
    calls = [
        executor.submit(square, 5),
        executor.submit(lambda x: x + offset, 5),
        executor.submit(lambda x: x + len(data), 5),
        executor.submit(functools.partial(operator.add, 10), 5),
        executor.submit(Adder(10).add, 5),
        executor.submit(Adder(10), 5),
        executor.submit(grainwise.remote(square), 5),
        executor.submit(str, 5),
        executor.submit("-".join, ["a", "b"]),
    ]
    assert [each.result() for each in calls] == [25, 15, 8, 15, 15, 15, 25, "5", "a-b"]


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_by_value_as_of_submit(max_workers: int) -> None:
    """Arguments, the object of a method and what a closure holds: changes afterwards are not seen."""
    with grainwise.Executor(max_workers) as executor:
        values, adder, held = [0], Adder(0), [0]
        futures = []
        for i in range(20):
            values[0], adder.start, held[0] = i, i, i
            futures += [
                executor.submit(sum, values),
                executor.submit(adder.add, 0),
                executor.submit(lambda: held[0]),
                executor.submit(values.copy),
            ]
        values[0], adder.start, held[0] = -1, -1, -1
        assert [each.result() for each in futures] == [result for i in range(20) for result in (i, i, i, [i])]


@pytest.mark.parametrize("max_workers", [1, 2])
def test_what_cannot_be_pickled_fails_its_future(max_workers: int) -> None:
    with grainwise.Executor(max_workers) as executor:
        future = executor.submit(square, threading.Lock())  # type: ignore[arg-type]
        assert isinstance(future.exception(), SerializationError)
        result = executor.submit(threading.Lock)
        assert isinstance(result.exception(), SerializationError)
        assert executor.submit(square, 2).result() == 4


def test_thousands_of_calls_in_order(executor: grainwise.Executor) -> None:
    futures = [executor.submit(square, i) for i in range(5_000)]
    assert [each.result() for each in futures] == [i * i for i in range(5_000)]


def test_a_ref_is_replaced_by_its_value(executor: grainwise.Executor) -> None:
    assert executor.submit(sum, grainwise.put([1, 2, 3])).result() == 6


class Probe:
    def method(self) -> None: ...


def test_arguments_and_results_are_let_go(executor: grainwise.Executor) -> None:
    probe = Probe()
    alive = weakref.ref(probe)
    executor.submit(probe.method).result()
    del probe
    assert alive() is None
    for made in executor.map(lambda _: Probe(), range(10)):
        alive = weakref.ref(made)
        del made
        assert alive() is None


# --- errors -------------------------------------------------------------------------------------------------


def test_error_is_of_its_own_type_and_tells_where(executor: grainwise.Executor) -> None:
    future = executor.submit(fail, 5)
    with pytest.raises(ValueError, match="number 5") as caught:
        future.result()
    assert isinstance(caught.value, TaskError)
    assert 'raise ValueError(f"number {x}")' in "".join(traceback.format_exception(caught.value))
    assert isinstance(future.exception(), ValueError)


def die(log: RunLog) -> None:
    log.note()
    os._exit(3)


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_death_of_a_worker_costs_one_call(tmp_path: Path, max_workers: int) -> None:
    log = RunLog(tmp_path)
    with grainwise.Executor(max_workers) as executor:
        before = [executor.submit(square, i) for i in range(50)]
        dead = executor.submit(die, log)
        behind = [executor.submit(square, i) for i in range(50)]
        with pytest.raises(BrokenProcessPool, match="exit code 3") as caught:
            dead.result()
        assert isinstance(caught.value, WorkerCrashedError)
        assert caught.value.exit_code == 3
        assert isinstance(caught.value, concurrent.futures.BrokenExecutor)
        assert [each.result() for each in before + behind] == [i * i for i in range(50)] * 2
        assert executor.submit(square, 7).result() == 49
        results = executor.map(lambda x: os._exit(4) if x == 1 else x, range(3))
        assert next(results) == 0
        with pytest.raises(BrokenProcessPool):
            next(results)
    assert len(log.runs()) == 1  # no call is run twice


def test_retries_if_asked_for(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with grainwise.Executor(max_retries=1) as executor, pytest.raises(BrokenProcessPool):
        executor.submit(die, log).result()
    assert len(log.runs()) == 2


# --- cancelling ---------------------------------------------------------------------------------------------


def test_cancel_before_it_begins(executor: grainwise.Executor, gates: Gates, tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    held = gates.hold(executor)
    waiting = [executor.submit(log.note, i) for i in range(10)]
    called = []
    waiting[3].add_done_callback(called.append)
    assert all(future.running() and not future.done() for future in held)
    assert not any(future.running() or future.done() for future in waiting)
    assert waiting[3].cancel()
    assert waiting[3].cancel()
    assert waiting[3].cancelled()
    assert waiting[3].done()
    assert called == [waiting[3]]
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[3].result()
    done, _ = concurrent.futures.wait([*waiting, *held], return_when="FIRST_COMPLETED")
    assert done == {waiting[3]}
    assert not any(future.cancel() for future in held)
    gates.open()
    assert [future.result() for future in held] == ["open", "open"]
    concurrent.futures.wait(waiting)
    assert sorted(log.runs()) == [str(i) for i in range(10) if i != 3]


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_shutdown_cancels_what_has_not_begun(gates: Gates, tmp_path: Path, max_workers: int) -> None:
    log = RunLog(tmp_path)
    executor = grainwise.Executor(max_workers)
    held = gates.hold(executor, max_workers)
    waiting = [executor.submit(log.note) for _ in range(50)]
    results = executor.map(log.note, range(50))
    threading.Timer(0.05, gates.open).start()  # shutdown waits for those that have begun
    executor.shutdown(cancel_futures=True)
    assert [future.result(timeout=0) for future in held] == ["open"] * max_workers
    assert all(future.cancelled() for future in waiting)
    with pytest.raises((grainwise.errors.TaskCancelledError, concurrent.futures.CancelledError)):
        next(results)
    assert log.runs() == []


# --- wait, as_completed, callbacks --------------------------------------------------------------------------


def test_wait_and_as_completed(executor: grainwise.Executor, gates: Gates) -> None:
    (held,) = gates.hold(executor, 1)
    quick, failing = executor.submit(square, 3), executor.submit(fail, 1)
    done, rest = concurrent.futures.wait([held, quick], return_when="FIRST_COMPLETED")
    assert (done, rest) == ({quick}, {held})
    done, rest = concurrent.futures.wait([held, failing], return_when="FIRST_EXCEPTION")
    assert (done, rest) == ({failing}, {held})
    with pytest.raises(concurrent.futures.TimeoutError):
        list(concurrent.futures.as_completed([held, quick], timeout=0.01))
    done, rest = concurrent.futures.wait([held, quick], timeout=0)
    assert (done, rest) == ({quick}, {held})
    assert set(concurrent.futures.as_completed([quick, quick, failing])) == {quick, failing}
    gates.open()
    done, rest = concurrent.futures.wait([held, quick, failing])
    assert not rest


def test_result_waits_as_long_as_it_is_told(executor: grainwise.Executor, gates: Gates) -> None:
    (held,) = gates.hold(executor, 1)
    for timeout in (-1, 0, 0.01):
        with pytest.raises(concurrent.futures.TimeoutError):
            held.result(timeout=timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            held.exception(timeout=timeout)
    gates.open()
    assert held.result(timeout=LIMIT_S) == "open"


def test_callbacks_may_submit(executor: grainwise.Executor) -> None:
    end = threading.Event()
    results: list[int] = []

    def again(future: concurrent.futures.Future[int]) -> None:
        results.append(future.result())
        if len(results) == 20:
            end.set()
        else:
            executor.submit(square, len(results)).add_done_callback(again)

    executor.submit(square, 0).add_done_callback(again)
    assert end.wait(LIMIT_S)
    assert results == [i * i for i in range(20)]


def test_many_threads_share_one_executor(executor: grainwise.Executor) -> None:
    def work(number: int) -> bool:
        futures = [executor.submit(square, i) for i in range(200)]
        mapped = list(executor.map(square, range(200)))
        return [each.result() for each in futures] == mapped == [i * i for i in range(200)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [True] * 8


# --- map ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_map(max_workers: int) -> None:
    with grainwise.Executor(max_workers) as executor:
        expected = list(map(pow, range(40), range(40)))
        for options in ({}, {"chunksize": 6}, {"chunksize": 50}, {"buffersize": 1}, {"buffersize": 7}):
            assert list(executor.map(pow, range(40), range(40), **options)) == expected
        assert list(executor.map(square, [])) == []
        results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
        assert [next(results), next(results)] == [(0, 1), (0, 1)]
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def test_map_refuses_what_makes_no_sense(executor: grainwise.Executor) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(square, range(3), chunksize=-1)
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(square, range(3), buffersize=0)
    with pytest.raises(TypeError, match="buffersize"):
        executor.map(square, range(3), buffersize="2")  # type: ignore[arg-type]


@pytest.mark.parametrize("max_workers", [1, 2])
def test_buffersize_bounds_what_is_read_ahead(max_workers: int) -> None:
    read = []

    def source() -> Iterator[int]:
        for i in range(100):
            read.append(i)
            yield i

    with grainwise.Executor(max_workers) as executor:
        results = executor.map(square, source(), buffersize=3)
        assert len(read) == 3
        assert [next(results), next(results)] == [0, 1]
        assert len(read) == 5
        results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_workers", [1, 2])
def test_map_timeout(gates: Gates, max_workers: int) -> None:
    with grainwise.Executor(max_workers) as executor:
        here, gate = Sign(gates.folder / "here"), Sign(gates.folder / "gate")
        results = executor.map(stay, [here], [gate], timeout=0.01)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
        gate.put_up("open")
        assert list(executor.map(square, [1, 2], timeout=LIMIT_S)) == [1, 4]


@pytest.mark.parametrize("max_workers", [1, 2])
def test_a_map_that_nobody_reads_runs_to_its_end(tmp_path: Path, max_workers: int) -> None:
    log = RunLog(tmp_path)
    with grainwise.Executor(max_workers) as executor:
        executor.map(log.note, range(20))
        gc.collect()
    assert sorted(map(int, log.runs())) == list(range(20))


def test_a_map_that_is_left_early_does_not_run_on(
    executor: grainwise.Executor, gates: Gates, tmp_path: Path
) -> None:
    log = RunLog(tmp_path)
    gates.hold(executor)
    results = executor.map(lambda i: log.note(i), range(100))
    with pytest.raises(concurrent.futures.TimeoutError):
        next(executor.map(square, [1], timeout=0))
    threading.Timer(0.05, gates.open).start()
    next(results)
    results.close()  # type: ignore[attr-defined]
    executor.shutdown()
    assert len(log.runs()) <= 100


# --- the constructor ----------------------------------------------------------------------------------------


def test_one_worker_runs_one_call_at_a_time(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def begin_and_end(number: int) -> None:
        log.note(f"begin {number}")
        log.note(f"end {number}")

    with grainwise.Executor(1) as executor:
        for i in range(30):
            executor.submit(begin_and_end, i)
    assert log.runs() == [f"{word} {i}" for i in range(30) for word in ("begin", "end")]


def test_a_bounded_executor_leaves_the_other_workers_alone(gates: Gates) -> None:
    with grainwise.Executor(1) as bounded, grainwise.Executor() as other:
        (held,) = gates.hold(bounded, 1)
        waiting = bounded.submit(square, 3)
        assert other.submit(square, 4).result(timeout=LIMIT_S) == 16
        assert not waiting.done()
        gates.open()
        assert waiting.result() == 9
        assert held.result() == "open"


def test_more_workers_than_cpus(gates: Gates) -> None:
    with grainwise.Executor(4) as executor:
        held = gates.hold(executor, 4)
        gates.open()
        assert [each.result() for each in held] == ["open"] * 4


def prepare(log: RunLog, value: int) -> None:
    log.note(value)
    os.environ["PREPARED"] = str(value)


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_initializer_runs_once_in_each_worker(tmp_path: Path, max_workers: int) -> None:
    log = RunLog(tmp_path)
    with grainwise.Executor(max_workers, initializer=prepare, initargs=(log, 5)) as executor:
        futures = [executor.submit(os.getenv, "PREPARED") for _ in range(50)]
        held: list[str] = []
        futures.append(executor.submit(lambda: (held and "") or os.getenv("PREPARED")))
        assert [each.result() for each in futures] == ["5"] * 51
        pids = set(executor.map(lambda _: os.getpid(), range(50)))
    assert len(log.pids()) == len(set(log.pids()))
    assert pids <= set(log.pids())


def test_initializer_that_fails_breaks_the_executor() -> None:
    def broken() -> None:
        raise ValueError("no such file")

    with grainwise.Executor(initializer=broken) as executor:
        future = executor.submit(square, 1)
        with pytest.raises(BrokenProcessPool, match="no such file"):
            future.result()
        with pytest.raises(BrokenProcessPool, match="takes no more calls"):
            executor.submit(square, 1)
    with grainwise.Executor() as executor:
        assert executor.submit(square, 2).result() == 4


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": 1.5}, TypeError, "max_workers must be an int"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 3}, ValueError, "max_tasks_per_child must be None"),
        ({"mp_context": multiprocessing.get_context("fork")}, ValueError, "spawn or forkserver, got 'fork'"),
        ({"max_retries": -2}, ValueError, "max_retries"),
    ],
)
def test_options_that_cannot_be_offered(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        grainwise.Executor(**options)


def test_spawn_context_is_accepted() -> None:
    with grainwise.Executor(mp_context=multiprocessing.get_context("spawn")) as executor:
        assert executor.submit(square, 2).result() == 4


# --- the end ------------------------------------------------------------------------------------------------


def test_after_shutdown(executor: grainwise.Executor, gates: Gates) -> None:
    held = gates.hold(executor)
    executor.shutdown(wait=False)
    executor.shutdown(wait=False)
    for call in (lambda: executor.submit(square, 1), lambda: executor.map(square, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()
    gates.open()
    assert [each.result() for each in held] == ["open", "open"]


@pytest.mark.parametrize("max_workers", [1, 2, 4])
def test_context_manager_waits(gates: Gates, max_workers: int) -> None:
    with grainwise.Executor(max_workers) as executor:
        futures = [executor.submit(square, i) for i in range(30)]
        results = executor.map(square, range(30))
    assert all(each.done() for each in futures)
    assert list(results) == [i * i for i in range(30)]


END = """
import atexit, grainwise, os, sys, time
grainwise.init(num_cpus=2)

@atexit.register
def last():
    try:
        executor.submit(id, None)
    except RuntimeError as error:
        print(error)

def late(word):
    time.sleep(0.1)
    open(os.path.join(sys.argv[1], word), "w").close()

executor = grainwise.Executor(int(sys.argv[2]))
executor.submit(late, "apple")
executor.map(late, ["pear", "plum"])
executor.shutdown(wait=False)
executor = grainwise.Executor()
"""


@pytest.mark.parametrize("max_workers", [1, 2])
def test_the_end_of_the_program_waits(tmp_path: Path, max_workers: int) -> None:
    result = run_script(END, timeout=60, args=[str(tmp_path), str(max_workers)])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "cannot schedule new futures after interpreter shutdown\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple", "pear", "plum"]
    assert_nothing_left(result.mark)


def test_end_of_the_session_fails_futures(gates: Gates) -> None:
    executor = grainwise.Executor()
    held = gates.hold(executor)
    grainwise.shutdown()
    assert not grainwise.is_initialized()  # settling the futures has started no other
    for future in held:
        with pytest.raises(grainwise.errors.EngineClosedError):
            future.result()
    assert executor.submit(square, 3).result() == 9  # a new session
    executor.shutdown()


# --- event loops and tasks ----------------------------------------------------------------------------------


def test_run_in_executor(executor: grainwise.Executor, gates: Gates) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, square, 3) == 9
        many = await asyncio.gather(*(loop.run_in_executor(executor, square, i) for i in range(300)))
        assert many == [i * i for i in range(300)]
        with pytest.raises(ValueError, match="number 4"):
            await loop.run_in_executor(executor, fail, 4)
        gates.hold(executor)
        waiting = loop.run_in_executor(executor, square, 5)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gates.open()

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a warning before")
def test_python_takes_only_threads_as_default_executor(executor: grainwise.Executor) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="ThreadPoolExecutor"):
            asyncio.get_running_loop().set_default_executor(executor)  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("num_cpus", "word"),
    [(1, "result"), (1, "map"), (1, "wait"), (1, "as_completed"), (1, "callback"), (2, "as_completed")],
)
def test_inside_a_task(num_cpus: int, word: str) -> None:
    """The task's CPU is lent while it waits, by whichever means."""
    grainwise.shutdown()
    grainwise.init(num_cpus=num_cpus)

    def nested(count: int) -> list[int]:
        with grainwise.Executor() as inner:
            if word == "map":
                return list(inner.map(square, range(count)))
            futures = [inner.submit(square, i) for i in range(count)]
            if word == "wait":
                _, rest = concurrent.futures.wait(futures, timeout=LIMIT_S)
                assert not rest
            if word == "as_completed":
                return sorted(each.result() for each in concurrent.futures.as_completed(futures))
            if word == "callback":
                ends = [threading.Event() for _ in futures]
                for future, end in zip(futures, ends):
                    future.add_done_callback(lambda _, end=end: end.set())  # type: ignore[misc]
                assert all(end.wait(LIMIT_S) for end in ends)
            return [each.result() for each in futures]

    with grainwise.Executor() as executor:
        futures = [executor.submit(nested, 20) for _ in range(4)]
        assert [each.result(timeout=LIMIT_S) for each in futures] == [[i * i for i in range(20)]] * 4


def test_a_bounded_executor_inside_a_task() -> None:
    def nested() -> list[int]:
        with grainwise.Executor(1) as inner:
            return [each.result() for each in [inner.submit(square, i) for i in range(10)]]

    assert grainwise.Executor().submit(nested).result(timeout=LIMIT_S) == [i * i for i in range(10)]
