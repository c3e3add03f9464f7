"""Items of a `map` that raise, die, hang or are not wanted any more: each has one result."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.engine.current import current
from grainwise.engine.driver.runs import Run
from grainwise.errors import EngineClosedError, TaskError, TaskTimeoutError, WorkerCrashedError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .mapped_functions import double
from .signposts import Sign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")
NEVER_S = 1000.0


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    grainwise.init(num_cpus=2)
    yield
    if grainwise.is_initialized():
        assert_nothing_is_under_way()
        grainwise.shutdown()


def assert_nothing_is_under_way() -> None:
    """Fail unless every run has left the engine: no batch, no time limit, nothing in a queue."""
    engine: Any = current()
    deadline = time.monotonic() + LIMIT_S
    while any(handle.batches for handle in engine.pool.workers.values()) or engine.dispatcher.active:
        assert time.monotonic() < deadline, "a batch is under way still"
        grainwise.get(grainwise.remote(double).remote(1), timeout=LIMIT_S)
    assert not engine.deadlines.runs
    assert engine.dispatcher.num_sent == 0


def assert_only(
    results: list[Any], failed: dict[int, type[BaseException]], wanted: Callable[[int], Any]
) -> None:
    """Fail unless these items have errors of these types and all others their results."""
    kinds = {i: type(result) for i, result in enumerate(results) if isinstance(result, BaseException)}
    assert set(kinds) == set(failed)
    for i, kind in failed.items():
        assert issubclass(kinds[i], kind), results[i]
        assert results[i].index == i
    assert [r for i, r in enumerate(results) if i not in failed] == [
        wanted(i) for i in range(len(results)) if i not in failed
    ]


# --- errors -------------------------------------------------------------------------------------------------

POSITIONS = {"first": [0], "last": [999], "some": [0, 1, 57, 500, 998], "half": list(range(0, 1000, 2))}
INPUTS: dict[str, Callable[[], Any]] = {
    "range": lambda: range(1000),
    "list": lambda: [[i] for i in range(1000)],
    "generator": lambda: iter(range(1000)),
}


def raises_at(positions: list[int]) -> Callable[[Any], int]:
    def function(item: Any) -> int:
        i: int = item if isinstance(item, int) else item[0]
        if i in positions:
            raise ValueError(f"no {i}")
        return i

    return function


@pytest.mark.parametrize("form", INPUTS)
@pytest.mark.parametrize("which", POSITIONS)
def test_errors_come_back_in_their_places(which: str, form: str) -> None:
    function, given = raises_at(POSITIONS[which]), INPUTS[form]
    results = list(grainwise.map(function, given(), return_exceptions=True))
    assert len(results) == 1000
    assert_only(results, dict.fromkeys(POSITIONS[which], ValueError), lambda i: i)
    assert {str(r) for r in results if isinstance(r, ValueError)} == {f"no {i}" for i in POSITIONS[which]}
    unordered = list(grainwise.map(function, given(), return_exceptions=True, ordered=False))
    errors = [r for r in unordered if isinstance(r, ValueError)]
    assert sorted(error.index for error in errors) == POSITIONS[which]  # type: ignore[attr-defined]
    assert sorted(r for r in unordered if isinstance(r, int)) == sorted(
        set(range(1000)) - set(POSITIONS[which])
    )


def test_an_error_names_item_and_index_behind_all_results_before_it() -> None:
    got: list[Any] = []
    with pytest.raises(ValueError, match=r"^no 57") as info:
        got.extend(grainwise.map(raises_at([57, 60]), range(1000)))
    assert got == list(range(57))
    error: Any = info.value
    assert isinstance(error, TaskError)
    assert (error.index, error.item) == (57, "57")
    text = "".join(getattr(error, "__notes__", ())) + str(error.__cause__)
    assert "in item 57 of the map: 57" in text


def test_long_and_hostile_items_are_named_in_short() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    def fail(_: object) -> None:
        raise KeyError("x")

    items = ["y" * 100_000, Hostile(), list(range(10_000)), {"k": "v" * 1000}, ValueError("v"), None]
    errors: list[Any] = list(grainwise.map(fail, items, return_exceptions=True))
    assert [error.index for error in errors] == [0, 1, 2, 3, 4, 5]
    assert max(len(error.item) for error in errors) <= 200
    rows: list[Any] = list(grainwise.starmap(lambda a, b: a / b, [(1, 0), (1, [2])], return_exceptions=True))
    assert [error.item for error in rows] == ["(1, 0)", "(1, [2])"]


def test_an_error_cancels_the_rest(tmp_path: Path) -> None:
    begun, log = Sign(tmp_path / "begun"), RunLog(tmp_path)

    def task(i: int) -> None:
        log.note(i)
        if i == 0:
            begun.wait()
            raise ValueError("first")
        begun.put_up()
        time.sleep(NEVER_S)

    with pytest.raises(ValueError, match="first"):
        list(grainwise.map(task, range(100)))
    assert_pool_is_full(tmp_path)
    assert len(log.runs()) <= 3


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_any_exception_is_the_items_result(error: str) -> None:
    def task(i: int) -> int:
        if i == 5:
            raise eval(error)
        return i

    results = list(grainwise.map(task, range(300), return_exceptions=True))
    assert isinstance(results[5], TaskError)
    assert results[:5] + results[6:] == [i for i in range(300) if i != 5]
    got: list[Any] = []
    with pytest.raises(TaskError):
        got.extend(grainwise.map(task, range(300)))
    assert got == [0, 1, 2, 3, 4]


def test_a_tiny_item_that_raises_stop_iteration() -> None:
    def task(i: int) -> int:
        if i == 15_000:
            raise StopIteration
        return i

    results = grainwise.map(task, range(20_000), return_exceptions=True)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(results))
    thread.start()
    thread.join(5.0)
    results.close()
    thread.join(LIMIT_S)
    assert_only(got, {15_000: TaskError}, lambda i: i)
    assert len(got) == 20_000


# --- retries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_an_item_runs_as_often_as_it_may(retries: int, tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def task(i: int) -> int:
        if i in (3, 70):
            log.note(i)
            raise OSError(f"no {i}")
        return i

    results = list(grainwise.map(task, range(100), retries=retries, return_exceptions=True))
    assert_only(results, {3: OSError, 70: OSError}, lambda i: i)
    assert sorted(log.runs()) == ["3"] * (1 + retries) + ["70"] * (1 + retries)


def test_an_item_that_succeeds_in_the_end_is_like_others(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def task(item: Any) -> int:
        i: int = item if isinstance(item, int) else item[0]
        if i % 10 == 0:
            log.note(i)
            runs = log.runs().count(str(i))
            if runs == 1:
                raise OSError("once")
            if runs == 2 and i == 50:
                os._exit(7)
        return i

    for given in (range(60), [[i] for i in range(60)]):
        Path(log.path).write_text("")
        assert list(grainwise.map(task, given, retries=2)) == list(range(60))
        assert log.runs().count("50") == 3
        assert log.runs().count("40") >= 2


# --- deaths -------------------------------------------------------------------------------------------------


def segfault() -> None:
    ctypes.string_at(0)


DEATHS: dict[str, Callable[[], None]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(5),
    "segfault": lambda: ctypes.string_at(0) and None,
    "abort": lambda: os.abort(),
}


def dies_at(positions: list[int], how: str) -> Callable[[Any], int]:
    death = DEATHS[how]

    def function(item: Any) -> int:
        i: int = item if isinstance(item, int) else item[0]
        if i in positions:
            death()
        return i

    return function


@pytest.mark.parametrize("form", INPUTS)
@pytest.mark.parametrize("how", DEATHS)
def test_a_tiny_item_that_kills_its_worker_is_found(how: str, form: str) -> None:
    list(grainwise.map(dies_at([], how), range(20_000)))
    bad = [0, 57, 58, 999] if how == "exit" else [700]
    results = list(grainwise.map(dies_at(bad, how), INPUTS[form](), return_exceptions=True))
    assert_only(results, dict.fromkeys(bad, WorkerCrashedError), lambda i: i)


def test_poison_far_inside_a_long_map_of_tiny_items(tmp_path: Path) -> None:
    """They run unpublished by the thousand: nobody is blamed until each has been looked at by itself."""
    bad = [40_000, 40_001, 77_777]
    results = list(grainwise.map(dies_at(bad, "exit"), range(100_000), return_exceptions=True))
    assert_only(results, dict.fromkeys(bad, WorkerCrashedError), lambda i: i)
    error: Any = results[40_000]
    assert error.exit_code == 5
    assert_pool_is_full(tmp_path)


def test_a_death_ends_the_map_and_is_named() -> None:
    got: list[Any] = []
    with pytest.raises(WorkerCrashedError) as info:
        got.extend(grainwise.map(dies_at([600], "SIGKILL"), range(50_000)))
    assert got == list(range(600))
    assert info.value.index == 600  # type: ignore[attr-defined]
    assert info.value.signal == signal.SIGKILL


def test_a_slow_item_that_kills_its_worker_takes_nobody_with_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def task(i: int) -> int:
        log.note(i)
        time.sleep(0.002)
        if i in (0, 20, 39):
            os._exit(5)
        return i

    results = list(grainwise.map(task, range(40), return_exceptions=True))
    assert_only(results, dict.fromkeys([0, 20, 39], WorkerCrashedError), lambda i: i)
    runs = log.runs()
    assert [runs.count(str(i)) for i in (0, 20, 39)] == [1, 1, 1], "no retries were wanted"


def test_workers_that_are_killed_from_outside(tmp_path: Path) -> None:
    """Like the kernel when memory runs out: whoever it hits, each item has one result."""
    begun = Sign(tmp_path / "begun")

    def task(i: int) -> int:
        if i == 100 and not begun.is_up():
            begun.put_up(str(os.getpid()))
            time.sleep(NEVER_S)
        return i

    killer = threading.Thread(target=lambda: os.kill(int(begun.wait()), signal.SIGKILL))
    killer.start()
    results = list(grainwise.map(task, range(3000), return_exceptions=True))
    killer.join(LIMIT_S)
    # Where items are tiny, nobody is to blame: they all run again.
    assert_only(
        results, {100: WorkerCrashedError} if isinstance(results[100], Exception) else {}, lambda i: i
    )


def test_deaths_with_retries_are_no_failures(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def task(i: int) -> int:
        if i % 100 == 50:
            log.note(i)
            if log.runs().count(str(i)) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return i

    assert list(grainwise.map(task, range(500), retries=1)) == list(range(500))
    assert sorted(set(log.runs()), key=int) == ["50", "150", "250", "350", "450"]


def test_a_setup_that_kills_its_worker() -> None:
    results = list(grainwise.map(lambda _, i: i, range(3), setup=lambda: os._exit(3), return_exceptions=True))
    assert [type(result) for result in results] == [WorkerCrashedError] * 3


# --- time limits --------------------------------------------------------------------------------------------


def hang_in_python() -> None:
    while True:
        pass


def hang_in_sleep() -> None:
    time.sleep(NEVER_S)


def hang_in_c() -> None:
    ctypes.PyDLL(None).sleep(1000)  # holds the GIL, too


def hang_in_defiance() -> None:
    while True:
        try:
            time.sleep(NEVER_S)
        except BaseException:
            pass


def hang_in_finally() -> None:
    try:
        time.sleep(NEVER_S)
    finally:
        time.sleep(NEVER_S)


def hang_with_signals_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    time.sleep(NEVER_S)


def hang_in_get() -> None:
    grainwise.get(grainwise.remote(lambda: time.sleep(1000)).remote())


def hang_in_a_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
    thread.start()
    thread.join()


HANGS = {
    function.__name__: function
    for function in (
        hang_in_python, hang_in_sleep, hang_in_c, hang_in_defiance, hang_in_finally,
        hang_with_signals_blocked, hang_in_get, hang_in_a_thread,
    )
}  # fmt: skip


@pytest.mark.parametrize("how", HANGS)
def test_an_item_is_stopped_wherever_it_hangs(how: str, tmp_path: Path) -> None:
    hang = HANGS[how]
    hang.__module__ = "__main__"  # by value: workers need not import this

    def task(item: Any) -> int:
        i: int = item if isinstance(item, int) else item[0]
        if i == 7:
            hang()
        return i

    for given in (range(30), [[i] for i in range(30)])[: 2 if how == "hang_in_sleep" else 1]:
        results = list(grainwise.map(task, given, timeout=0.2, return_exceptions=True))
        assert_only(results, {7: TaskTimeoutError}, lambda i: i)
        assert "0.2 s" in str(results[7])
    assert_pool_is_full(tmp_path)


def test_a_time_limit_without_return_exceptions_raises() -> None:
    with pytest.raises(TaskTimeoutError) as info:
        list(grainwise.map(lambda i: time.sleep(1000) if i == 2 else i, range(5), timeout=0.1))
    assert info.value.index == 2  # type: ignore[attr-defined]
    assert isinstance(info.value, TimeoutError)


def test_many_items_that_hang() -> None:
    def task(i: int) -> int:
        if i % 2:
            time.sleep(1000)
        return i

    results = list(grainwise.map(task, range(12), timeout=0.1, return_exceptions=True))
    assert_only(results, dict.fromkeys(range(1, 12, 2), TaskTimeoutError), lambda i: i)


def test_time_limits_with_retries(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def task(i: int) -> int:
        if i in (1, 5):
            log.note(i)
            if i == 5 or log.runs().count("1") == 1:
                time.sleep(1000)
        return i

    results = list(grainwise.map(task, range(10), timeout=0.1, retries=1, return_exceptions=True))
    assert_only(results, {5: TaskTimeoutError}, lambda i: i)
    assert sorted(log.runs()) == ["1", "1", "5", "5"]


def test_the_time_of_a_setup_does_not_count(tmp_path: Path) -> None:
    results = grainwise.map(lambda _, i: i, range(5), setup=lambda: time.sleep(0.5), timeout=0.2)
    assert list(results) == [0, 1, 2, 3, 4]


class _SlowToUnpickle:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        time.sleep(self.seconds)

    def __call__(self, x: int) -> int:
        return x


_SlowToUnpickle.__module__ = "__main__"  # by value: workers need not import this


def test_the_time_of_loading_the_function_does_not_count() -> None:
    assert list(grainwise.map(_SlowToUnpickle(1.0), range(5), timeout=0.2)) == [0, 1, 2, 3, 4]


def test_the_time_of_unpickling_many_items_at_once_does_not_count() -> None:
    items = [_SlowToUnpickle(0.05) for _ in range(40)]
    assert list(grainwise.map(lambda item: item.seconds, items, timeout=0.2)) == [0.05] * 40


def test_what_hangs_in_c_is_killed_though_the_map_is_over(tmp_path: Path) -> None:
    def task(i: int) -> None:
        if i == 1:
            time.sleep(0.25)  # so that item 2 is not late yet when item 0 ends the map
        else:
            hang()

    hang = hang_in_c
    hang.__module__ = "__main__"
    with pytest.raises(TaskTimeoutError):
        list(grainwise.map(task, range(3), timeout=0.3))
    assert_nothing_is_under_way()
    assert_pool_is_full(tmp_path)


def test_tiny_items_under_a_time_limit() -> None:
    assert list(grainwise.map(double, range(20_000), timeout=LIMIT_S)) == list(range(0, 40_000, 2))
    assert list(grainwise.map(double, range(100), timeout=float("inf"))) == list(range(0, 200, 2))


# --- Ctrl-C -------------------------------------------------------------------------------------------------


def interrupt_when(sign: Sign) -> threading.Thread:
    thread = threading.Thread(target=lambda: (sign.wait(), os.kill(os.getpid(), signal.SIGINT)))
    thread.start()
    return thread


@pytest.mark.parametrize("where", ["sleep", "tiny items", "python"])
def test_ctrl_c_ends_a_map_and_the_engine_lives_on(where: str, tmp_path: Path) -> None:
    begun = Sign(tmp_path / "begun")

    def task(i: int) -> int:
        if i == 50:
            begun.put_up()
            if where == "sleep":
                time.sleep(NEVER_S)
            while where == "python":
                pass
        return i

    thread = interrupt_when(begun)
    endless = iter(int, 1) if where == "tiny items" else range(1000)
    with pytest.raises(KeyboardInterrupt):
        for _ in grainwise.map(task, (i for i, _ in enumerate(endless))):
            pass
    thread.join(LIMIT_S)
    assert list(grainwise.map(double, range(100))) == list(range(0, 200, 2))
    assert_pool_is_full(tmp_path)


def test_ctrl_c_while_the_input_is_read(tmp_path: Path) -> None:
    begun = Sign(tmp_path / "begun")

    def items() -> Iterator[int]:
        yield from range(10)
        begun.put_up()
        time.sleep(NEVER_S)

    thread = interrupt_when(begun)
    with pytest.raises(KeyboardInterrupt):
        list(grainwise.map(double, items()))
    thread.join(LIMIT_S)
    assert_pool_is_full(tmp_path)


def test_ctrl_c_in_the_input_is_not_put_off_until_the_items_before_it_are_done() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(grainwise.map(lambda i: time.sleep(1000), items()))


def test_a_signal_handler_that_raises_ends_a_map_wherever_it_is(tmp_path: Path) -> None:
    """Also before anything was waited for: the engine's state must not be torn."""

    class EnoughError(Exception):
        pass

    def handler(*_: object) -> None:
        raise EnoughError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(30):
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0002 * (i + 1), 0.1)  # again, if a finalizer swallowed it
            try:
                for _ in grainwise.map(double, itertools.count()):
                    pass
            except EnoughError:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert_pool_is_full(tmp_path)


def test_a_signal_handler_that_closes_the_map_ends_its_loop(tmp_path: Path) -> None:
    log, begun = RunLog(tmp_path), Sign(tmp_path / "begun")
    results = grainwise.map(hold(log, begun), range(1000))
    before = signal.signal(signal.SIGUSR1, lambda *_: results.close())
    thread = threading.Thread(target=lambda: (begun.wait(), os.kill(os.getpid(), signal.SIGUSR1)))
    thread.start()
    try:
        assert list(results) in ([], [0])
    finally:
        thread.join(LIMIT_S)
        signal.signal(signal.SIGUSR1, before)
    assert_pool_is_full(tmp_path)


# --- not wanted any more ------------------------------------------------------------------------------------


def hold(log: RunLog, begun: Sign) -> Callable[[int], int]:
    def task(i: int) -> int:
        log.note(i)
        if i >= 1:
            begun.put_up()
            time.sleep(NEVER_S)
        return i

    return task


@pytest.mark.parametrize("how", ["break", "close", "with", "del", "raise", "generator"])
def test_leaving_early_cancels_what_is_left(how: str, tmp_path: Path) -> None:
    log, begun = RunLog(tmp_path), Sign(tmp_path / "begun")
    results: Any = grainwise.map(hold(log, begun), range(1000))
    if how == "break":
        for _ in results:
            begun.wait()
            break
        del results
    elif how == "raise":
        with pytest.raises(LookupError):
            consume_and_raise(results, begun)
        del results
    elif how == "generator":
        outer = (result for result in results)
        next(outer)
        begun.wait()
        outer.close()
        del outer, results
    else:
        next(results)
        begun.wait()
        if how == "close":
            results.close()
            assert list(results) == []
        elif how == "with":
            with results:
                pass
        del results
    gc.collect()
    assert_pool_is_full(tmp_path)
    assert len(log.runs()) <= 5


def consume_and_raise(results: Any, begun: Sign) -> None:
    with results:
        for _ in results:
            begun.wait()
            raise LookupError


def test_loops_that_the_collector_ends_in_the_midst_of_others() -> None:
    """Their generators are closed wherever an allocation happens to be: also inside the engine."""
    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(30):
            cycle: list[Any] = [grainwise.map(double, range(100_000))]
            next(cycle[0])
            cycle.append(cycle)
            del cycle
            results = list(grainwise.map(lambda x: [x], [[i] for i in range(500)]))
            assert results == [[[i]] for i in range(500)]
    finally:
        gc.set_threshold(*threshold)


def test_a_map_dropped_by_a_thread_that_holds_what_the_engine_waits_for() -> None:
    """A collection of garbage may come while the thread is in the store, and another in the engine."""
    engine: Any = current()
    results = grainwise.map(double, itertools.count())
    next(results)
    is_inside, is_in_store = threading.Event(), threading.Event()

    def wait_for_the_store() -> None:
        with engine.turn:
            is_inside.set()
            is_in_store.wait(LIMIT_S)
            with engine.store._lock:
                pass

    thread = threading.Thread(target=wait_for_the_store)
    thread.start()
    is_inside.wait(LIMIT_S)
    with engine.store._lock:
        is_in_store.set()
        results.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_map_that_has_ended_needs_no_collector_of_garbage() -> None:
    """What its function holds is let go of at once."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert len(list(grainwise.map(double, range(1000)))) == 1000
        with grainwise.map(double, itertools.count()) as results:
            next(results)
        assert_nothing_is_under_way()
        del results
        assert not [each for each in gc.get_objects() if type(each) is Run]
    finally:
        gc.enable()


def test_results_that_nobody_asks_for_cost_nothing() -> None:
    engine: Any = current()
    before = engine.counters.tasks
    for _ in range(50):
        grainwise.map(double, range(1000))
        grainwise.map(double, iter(range(1000)), timeout=1.0).close()
    gc.collect()
    assert engine.counters.tasks == before


def test_a_map_is_closed_while_another_thread_waits_for_it(tmp_path: Path) -> None:
    log, begun = RunLog(tmp_path), Sign(tmp_path / "begun")
    results = grainwise.map(hold(log, begun), range(1000))
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(results))
    thread.start()
    begun.wait()
    results.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert got in ([], [0])
    assert_pool_is_full(tmp_path)


def test_shutdown_in_the_middle(tmp_path: Path) -> None:
    log, begun = RunLog(tmp_path), Sign(tmp_path / "begun")
    results = grainwise.map(hold(log, begun), range(1000))
    ends: list[BaseException] = []

    def consume() -> None:
        try:
            list(results)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    begun.wait()
    grainwise.shutdown()
    thread.join(LIMIT_S)
    assert [type(error) for error in ends] == [EngineClosedError]


def test_shutdown_by_the_consumer_itself() -> None:
    got: list[int] = []
    results = grainwise.map(double, range(1_000_000))
    got += [next(results) for _ in range(10)]
    grainwise.shutdown()
    with pytest.raises(EngineClosedError):
        got.extend(results)
    assert got == list(range(0, 2 * len(got), 2))


def test_a_forked_child_can_not_go_on_with_it_and_does_no_harm(tmp_path: Path) -> None:
    results = grainwise.map(double, range(300_000))
    first = next(results)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            list(results)
        except EngineClosedError:
            status = 0
        except BaseException:
            status = 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [first, *results] == list(range(0, 600_000, 2))
    assert_pool_is_full(tmp_path)


def test_an_item_that_forks() -> None:
    def task(i: int) -> int:
        if i % 50 == 0:
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        return i

    assert list(grainwise.map(task, range(300))) == list(range(300))
