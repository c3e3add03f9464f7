"""What a `map` keeps and bounds: setup, random streams, shared arguments, workers, progress, read-ahead."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.api import plan
from grainwise.engine.current import current
from grainwise.engine.driver.submissions import MAX_SET_UP

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .mapped_functions import double
from .shared_memory import shared_bytes
from .signposts import Sign

MB = 1 << 20


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    grainwise.init(num_cpus=2)
    yield
    grainwise.shutdown()


# --- setup --------------------------------------------------------------------------------------------------


def test_setup_runs_once_in_each_worker_that_takes_part(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def prepare() -> int:
        log.note("setup")
        return os.getpid()

    def task(pid: int, i: int) -> bool:
        return pid == os.getpid()

    for _ in range(2):  # kept for the second map
        assert all(grainwise.map(task, range(5000), setup=prepare))
    pids = log.pids()
    assert 1 <= len(pids) <= 2
    assert len(set(pids)) == len(pids)


def test_a_worker_that_is_new_sets_up_anew(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def task(_: object, i: int) -> int:
        if i == 500:
            os._exit(3)
        return i

    results = list(grainwise.map(task, range(1000), setup=log.note, return_exceptions=True))
    assert [i for i, result in enumerate(results) if result != i] == [500]
    assert len(set(log.pids())) == len(log.pids())


def test_each_item_sees_the_same_object_of_its_worker() -> None:
    def task(state: list[int], i: int) -> int:
        state.append(i)
        return len(state)

    assert list(grainwise.map(task, range(500), setup=list, max_workers=1))[-1] >= 250


def test_a_setup_that_fails_fails_its_items_and_may_be_tried_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def prepare() -> str:
        log.note()
        if len(log.runs()) == 1:
            raise OSError("no model yet")
        return "model"

    with pytest.raises(OSError, match="no model yet"):
        list(grainwise.map(lambda model, i: model, range(10), setup=prepare, max_workers=1))
    Path(log.path).write_text("")
    results = list(grainwise.map(lambda model, i: model, range(10), setup=prepare, max_workers=1, retries=1))
    assert results == ["model"] * 10


def test_workers_forget_what_maps_of_long_ago_have_set_up() -> None:
    for factor in range(12):
        results = grainwise.map(lambda _, x, factor=factor: x * factor, range(5), setup=lambda: bytearray(MB))
        assert list(results) == [x * factor for x in range(5)]
    assert list(grainwise.map(double, range(5)))[-1] == 8
    engine: Any = current()
    assert all(len(handle.functions) <= MAX_SET_UP + 1 for handle in engine.pool.workers.values())


# --- random streams -----------------------------------------------------------------------------------------


def test_streams_are_the_same_for_any_number_of_workers_input_and_order(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    draw = lambda x, rng: (x, float(rng.random()))  # noqa: E731
    wanted = [
        (i, float(np.random.default_rng(np.random.SeedSequence(11, spawn_key=(i,))).random()))
        for i in range(300)
    ]
    assert list(grainwise.map(draw, range(300), seed=11)) == wanted
    assert list(grainwise.map(draw, list(range(300)), seed=11, max_workers=1)) == wanted
    assert list(grainwise.map(draw, iter(range(300)), seed=11, timeout=LIMIT_S)) == wanted
    assert sorted(grainwise.map(draw, range(300), seed=11, ordered=False)) == wanted
    assert list(grainwise.starmap(draw, [(i,) for i in range(300)], seed=11)) == wanted
    assert list(grainwise.map(draw, range(300), seed=12)) != wanted
    for num_cpus in (1, 4):
        grainwise.shutdown()
        grainwise.init(num_cpus=num_cpus)
        assert list(grainwise.map(draw, range(300), seed=11)) == wanted


def test_streams_survive_retries_and_deaths(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    log = RunLog(tmp_path)

    def draw(i: int, rng: Any) -> float:
        first = float(rng.random())
        if i % 50 == 7 and (log.note(i) or log.runs().count(str(i)) == 1):
            if i == 57:
                os._exit(3)
            raise OSError("once")
        return first

    calm = list(grainwise.map(lambda i, rng: float(rng.random()), range(300), seed=3))
    assert list(grainwise.map(draw, range(300), seed=3, retries=2)) == calm


def test_functions_without_rng_draw_from_the_seeded_globals() -> None:
    np = pytest.importorskip("numpy")
    draw = lambda _: (random.random(), float(np.random.rand()))  # noqa: E731
    both = list(grainwise.map(draw, range(100), seed=5))
    assert both == list(grainwise.map(draw, range(100), seed=5, max_workers=1))
    assert len(set(both)) == 100


# --- shared arguments ---------------------------------------------------------------------------------------


def test_shared_arguments_are_stored_once() -> None:
    np = pytest.importorskip("numpy")
    table = np.arange(2 * MB, dtype="f8")
    before = shared_bytes()
    results = list(grainwise.map(lambda i, table: float(table[i]), range(5000), table=table))
    assert results == [float(i) for i in range(5000)]
    assert shared_bytes() - before < 1.5 * table.nbytes
    assert list(grainwise.map(lambda i, t: float(t[i]), range(9), t=table)) == results[:9]
    assert shared_bytes() - before < 1.5 * table.nbytes


# --- how many at once ---------------------------------------------------------------------------------------


class Gauge:
    """Measures how many tasks run at once: each holds a file while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def measure(self, i: int) -> int:
        path = f"{self.folder}/{os.getpid()}"
        open(path, "w").close()
        time.sleep(0.002)
        count = len(os.listdir(self.folder))
        os.unlink(path)
        return count


@pytest.mark.parametrize("max_workers", [1, 2, 3])
def test_so_many_items_run_at_once_and_no_more(max_workers: int, tmp_path: Path) -> None:
    grainwise.shutdown()
    grainwise.init(num_cpus=4)
    folder = tmp_path / "running"
    folder.mkdir()
    others = [grainwise.remote(double).remote(i) for i in range(3000)]
    counts = list(grainwise.map(Gauge(folder).measure, range(100), max_workers=max_workers))
    assert max(counts) <= max_workers
    assert grainwise.get(others, timeout=LIMIT_S) == [2 * i for i in range(3000)]


def test_max_workers_are_really_at_work_at_once(tmp_path: Path) -> None:
    """Two neighbours wait for each other, by the two ends of a fifo."""
    for name in range(20):
        os.mkfifo(tmp_path / f"{name}")
    folder = str(tmp_path)

    def meet(i: int) -> int:
        os.close(os.open(f"{folder}/{i // 2}", os.O_WRONLY if i % 2 else os.O_RDONLY))
        return i

    for first in range(0, 40, 2):
        pair = [first, first + 1]
        assert list(grainwise.map(meet, pair, max_workers=2 if first % 4 else None)) == pair


def test_a_remote_function_keeps_its_num_cpus(tmp_path: Path) -> None:
    folder = tmp_path / "running"
    folder.mkdir()
    gauge = Gauge(folder)
    measure = grainwise.remote(num_cpus=2)(gauge.measure)
    assert set(grainwise.map(measure, range(40))) == {1}


# --- progress -----------------------------------------------------------------------------------------------


def test_progress_is_called_with_what_is_done_and_the_total() -> None:
    for given, total in ((range(3000), 3000), (iter(range(3000)), None), ([[1]] * 300, 300)):
        calls: list[tuple[int, int | None]] = []
        results = list(grainwise.map(lambda x: 1, given, progress=lambda *call, to=calls: to.append(call)))
        assert calls[-1][0] == len(results)
        assert {each for _, each in calls} == {total}
        dones = [done for done, _ in calls]
        assert dones == sorted(dones)


def test_progress_of_a_map_that_is_left() -> None:
    calls: list[int] = []
    with grainwise.map(double, range(100_000), progress=lambda done, _: calls.append(done)) as results:
        next(results)
    assert calls
    assert calls[-1] <= 100_000


def test_a_progress_function_that_raises_ends_the_map_and_nothing_else(tmp_path: Path) -> None:
    class FullError(Exception):
        pass

    def report(done: int, total: int | None) -> None:
        raise FullError

    for _ in range(3):
        with pytest.raises(FullError):
            list(grainwise.map(lambda i: time.sleep(1000) if i > 50 else i, range(200), progress=report))
    assert_pool_is_full(tmp_path)


def test_no_bar_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(list(grainwise.map(double, range(100), progress=True))) == 100
    assert len(list(grainwise.map(double, range(100)))) == 100
    assert capfd.readouterr() == ("", "")


# --- reading ahead ------------------------------------------------------------------------------------------


class Counted:
    """An endless input that knows how far it was read."""

    def __init__(self, make: Any = int) -> None:
        self.make = make
        self.num_read = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.num_read += 1
            yield self.make(self.num_read - 1)


def test_items_of_unknown_cost_are_read_a_few_ahead(tmp_path: Path) -> None:
    begun, gate, source = Sign(tmp_path / "begun"), Sign(tmp_path / "gate"), Counted()

    def task(i: int) -> int:
        begun.put_up()
        gate.wait()
        return i

    results = grainwise.map(task, source)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(next(results)))
    thread.start()
    begun.wait()
    assert source.num_read <= 8
    gate.put_up()
    thread.join(LIMIT_S)
    assert got == [0]
    results.close()


def test_slow_items_are_read_a_second_ahead() -> None:
    source = Counted()
    with grainwise.map(lambda i: time.sleep(0.02) or i, source) as results:
        assert [next(results) for _ in range(20)] == list(range(20))
    assert source.num_read <= 20 + 100 + 8


def test_nothing_is_read_while_nobody_takes_results() -> None:
    source = Counted()
    with grainwise.map(double, source) as results:
        assert next(results) == 0
        read = source.num_read
        assert list(grainwise.map(double, range(20_000)))[-1] == 39_998
        assert source.num_read == read
        assert next(results) == 2


def test_tiny_items_are_read_thousands_ahead_but_not_more() -> None:
    source = Counted()
    with grainwise.map(double, source) as results:
        taken = [next(results) for _ in range(5000)]
    assert taken == [2 * i for i in range(5000)]
    assert source.num_read <= 5000 + (1 << 17)


def test_large_items_are_bounded_by_their_bytes() -> None:
    np = pytest.importorskip("numpy")
    source = Counted(lambda i: np.full(MB, i))  # 8 MB each
    with grainwise.map(lambda a: int(a[0]), source) as results:
        assert [next(results) for _ in range(60)] == list(range(60))
        assert source.num_read <= 60 + 40
        assert shared_bytes() <= 400 * MB


def test_items_in_middle_size_are_bounded_by_their_bytes() -> None:
    source = Counted(lambda i: [i] * 5000)  # 10 kB and more when pickled
    with grainwise.map(len, source) as results:
        assert {next(results) for _ in range(2000)} == {5000}
        assert source.num_read <= 2000 + 4000


def test_results_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_RESULT_BYTES", 8 * MB)
    source = Counted()

    def task(i: int) -> tuple[int, bytes]:
        if i == 500:  # what is behind it waits for it
            time.sleep(0.5)
        return i, bytes(10_000)

    with grainwise.map(task, source) as results:
        for i in range(501):
            assert next(results)[0] == i
        assert 501 < source.num_read <= 501 + 2000


def test_results_that_nobody_takes_hold_up_the_reading() -> None:
    """One item is late: what is behind it waits, and the input is not read for ever."""
    source = Counted()
    with grainwise.map(
        lambda i: time.sleep(1000) if i == 1000 else i, source, timeout=0.5, retries=0
    ) as results:
        for wanted in range(1000):
            assert next(results) == wanted
        with pytest.raises(TimeoutError):
            next(results)
    assert source.num_read <= 1000 + (1 << 17)
