"""`util.multiprocessing.Pool`: what `multiprocessing.Pool` promises, kept by the session's workers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.errors import TaskCancelledError, TaskError, WorkerCrashedError
from grainwise.util.multiprocessing import Pool, TimeoutError

from ..leaks import assert_nothing_left, run_script
from .light_functions import square
from .signposts import Sign

WAIT_S = 30


@pytest.fixture(autouse=True)
def _session() -> Iterator[None]:
    yield
    grainwise.shutdown()


@pytest.fixture
def pool() -> Iterator[Pool]:
    grainwise.init(num_cpus=2)
    with Pool(2) as made:
        yield made


# --- results ------------------------------------------------------------------------------------------------


def test_every_way_of_calling_gives_what_a_loop_would(pool: Pool) -> None:
    items = range(20)
    expected = [square(item) for item in items]
    assert pool.map(square, items) == expected
    assert pool.map(square, items, chunksize=7) == expected
    assert pool.map_async(square, iter(items)).get(WAIT_S) == expected
    assert list(pool.imap(square, items)) == expected
    assert list(pool.imap(square, iter(items), chunksize=3)) == expected
    assert sorted(pool.imap_unordered(square, items)) == expected
    pairs = [(item, 2) for item in items]
    assert pool.starmap(pow, pairs) == expected
    assert pool.starmap_async(pow, pairs).get(WAIT_S) == expected
    assert pool.apply(pow, (5, 2)) == 25
    assert pool.apply(int, ("ff",), {"base": 16}) == 255
    assert pool.apply_async(int, ("ff",), kwds={"base": 16}).get(WAIT_S) == 255
    assert [result.get(WAIT_S) for result in [pool.apply_async(square, (i,)) for i in items]] == expected
    assert pool.map(square, []) == []


def test_functions_of_any_kind_will_do(pool: Pool) -> None:
    base = [10]
    assert pool.map(lambda item: item + base[0], [1, 2]) == [11, 12]
    assert pool.apply(lambda: base) == [10]
    assert pool.apply(grainwise.remote(lambda: 3)) == 3


def test_calls_run_in_workers_and_no_more_at_once_than_processes() -> None:
    grainwise.init(num_cpus=2)
    with Pool(1) as pool:
        pids = {result.get(WAIT_S) for result in [pool.apply_async(os.getpid) for _ in range(4)]}
        assert os.getpid() not in pids
        assert len(set(pool.map(lambda _: os.getpid(), range(4)))) == 1


def test_imap_reads_no_further_than_needed(pool: Pool) -> None:
    results = pool.imap(lambda item: item, itertools.count())
    assert list(itertools.islice(results, 100)) == list(range(100))


# --- errors -------------------------------------------------------------------------------------------------


def test_errors_are_what_the_calls_raised(pool: Pool) -> None:
    def inverse(item: int) -> float:
        return 1 / item

    with pytest.raises(ZeroDivisionError):
        pool.map(inverse, [1, 0, 2])
    with pytest.raises(ZeroDivisionError):
        pool.apply(inverse, (0,))
    failed = pool.map_async(inverse, [1, 0])
    failed.wait(WAIT_S)
    assert failed.ready()
    assert not failed.successful()
    with pytest.raises(TaskError):
        failed.get()


def test_imap_raises_in_place_and_goes_on(pool: Pool) -> None:
    results = pool.imap(lambda item: 1 / item, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results) == 0.5
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(StopIteration):
        results.next(timeout=0)


def test_an_input_that_raises_ends_imap_with_its_error(pool: Pool) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("input")

    results = pool.imap(square, items())
    assert next(results) == 1
    with pytest.raises(KeyError, match="input"):
        next(results)


def test_a_worker_that_dies_fails_its_call_only(pool: Pool) -> None:
    died = pool.apply_async(os._exit, (3,))
    with pytest.raises(WorkerCrashedError):
        died.get(WAIT_S)
    assert pool.apply(square, (4,)) == 16


# --- waiting ------------------------------------------------------------------------------------------------


def test_timeouts_and_states_of_a_result(pool: Pool, tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    result = pool.apply_async(gate.wait)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    result.wait(0.01)
    iterator = pool.imap(lambda item: gate.wait(), [0])
    with pytest.raises(TimeoutError):
        iterator.next(timeout=0.01)
    gate.put_up()
    result.get(WAIT_S)
    iterator.next(timeout=WAIT_S)
    assert result.ready()
    assert result.successful()


def test_callbacks_come_before_whoever_waits(pool: Pool) -> None:
    got: list[Any] = []
    pool.apply_async(square, (3,), callback=got.append).wait(WAIT_S)
    pool.map_async(square, [1, 2], callback=got.append, error_callback=got.append).wait(WAIT_S)
    pool.starmap_async(pow, [(2, 3)], callback=got.append).wait(WAIT_S)
    assert got == [9, [1, 4], [8]]
    pool.apply_async(divmod, (1, 0), callback=got.append, error_callback=got.append).wait(WAIT_S)
    assert isinstance(got[-1], ZeroDivisionError)
    assert len(got) == 4


def test_a_callback_needs_nobody_who_waits(pool: Pool) -> None:
    is_done = threading.Event()
    pool.apply_async(square, (3,), callback=lambda _: is_done.set())
    assert is_done.wait(WAIT_S)


# --- initializers -------------------------------------------------------------------------------------------


def test_an_initializer_runs_once_in_each_worker(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def note(text: str) -> None:
        global _word
        _word = text  # type: ignore[name-defined]
        with open(os.path.join(folder, str(os.getpid())), "a") as file:
            file.write(text)

    grainwise.init(num_cpus=2)
    with Pool(2, initializer=note, initargs=("x",)) as pool:
        assert len(pool.map(lambda item: item, range(50))) == 50
        pool.map(lambda item: item, range(50))
    counts = [len(path.read_text()) for path in tmp_path.iterdir()]
    assert 1 <= len(counts) <= 2


def test_what_an_initializer_sets_is_there_for_the_functions_of_the_script() -> None:
    program = """
from grainwise.util.multiprocessing import Pool

def prepare(value):
    global shared
    shared = value

def add(item):
    return item + shared

def subtract(item):
    return item - shared

with Pool(2, prepare, (5,)) as pool:
    assert pool.map(add, range(3)) == [5, 6, 7]
    assert pool.map(subtract, range(3)) == [-5, -4, -3]
    assert pool.apply(add, (1,)) == 6
    assert list(pool.imap(subtract, [5])) == [0]
"""
    result = run_script(program, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert_nothing_left(result.mark)


def test_an_initializer_that_raises_fails_the_calls() -> None:
    grainwise.init(num_cpus=1)
    with Pool(1, initializer=divmod, initargs=(1, 0)) as pool, pytest.raises(ZeroDivisionError):
        pool.apply(square, (1,))


# --- its life -----------------------------------------------------------------------------------------------


def test_a_closed_pool_takes_no_more_and_ends_what_it_has(pool: Pool) -> None:
    results = pool.map_async(square, range(10))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    for call in (
        lambda: pool.apply(square, (1,)),
        lambda: pool.map(square, [1]),
        lambda: pool.imap(square, [1]),
        lambda: pool.starmap_async(pow, [(1, 2)]),
        pool.__enter__,
    ):
        with pytest.raises(ValueError, match="not running"):
            call()
    pool.join()
    assert results.ready()
    assert results.get() == [item * item for item in range(10)]
    assert grainwise.is_initialized()


def test_terminate_cancels_what_runs_and_what_waits(tmp_path: Path) -> None:
    grainwise.init(num_cpus=2)
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")

    def hold() -> None:
        begun.put_up()
        gate.wait()

    pool = Pool(1)
    results = [pool.apply_async(hold) for _ in range(3)]
    begun.wait()
    pool.terminate()
    pool.join()
    for result in results:
        with pytest.raises(TaskCancelledError):
            result.get(WAIT_S)
    with Pool(2) as again:
        assert again.map(square, [3]) == [9]


def test_it_starts_a_session_of_so_many_cpus() -> None:
    with Pool(3):
        assert grainwise.cluster_resources()["CPU"] == 3
        with pytest.raises(ValueError, match="session of 3 CPUs"):
            Pool(4)


def test_a_pool_inside_a_task_has_the_same_workers() -> None:
    grainwise.init(num_cpus=2)

    @grainwise.remote
    def outer() -> list[int]:
        from grainwise.util.multiprocessing import Pool

        with Pool(2) as pool:
            return [*pool.map(abs, [-1, -2]), pool.apply(abs, (-3,))]

    assert grainwise.get(outer.remote()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": 1.5}, TypeError),
        ({"initializer": 3}, TypeError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"ray_address": "auto"}, NotImplementedError),
        ({"ray_remote_args": {"num_gpus": 1.5}}, ValueError),
        ({"ray_remote_args": {"no_such": 1}}, TypeError),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Pool(**arguments)


def test_what_has_no_effect_is_taken(pool: Pool) -> None:
    with Pool(2, maxtasksperchild=1, context=multiprocessing.get_context("spawn")) as other:
        assert other.map(square, [2]) == [4]
    with Pool(ray_remote_args={"num_cpus": 2}) as wide:
        assert wide.map(square, [2]) == [4]
    assert "open" in repr(pool)
