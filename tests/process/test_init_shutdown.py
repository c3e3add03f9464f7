"""Sessions: begun and ended many times, ended twice, used afterwards, ended by several threads at once."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current
from grainwise.errors import EngineClosedError
from tests.leaks import find_leaks, take_snapshot

from .full_pool import LIMIT_S, assert_pool_is_full, find_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def _no_session_stays() -> Iterator[None]:
    yield
    ray.shutdown()


def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What a session holds must go by itself, not when the cyclic collector happens to come by."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def run_session(num_tasks: int) -> None:
    ray.init(num_cpus=2)
    refs = [ray.remote(double).remote(i) for i in range(num_tasks)]
    stored = ray.put(bytes(1 << 20))
    assert ray.get(refs, timeout=LIMIT_S) == [2 * i for i in range(num_tasks)]
    assert len(ray.get(stored)) == 1 << 20
    ray.shutdown()


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_sessions_leave_nothing(count: int, no_collection: None) -> None:
    run_session(10)  # whatever is loaded once
    before = take_snapshot()
    for _ in range(count):
        run_session(10)
    assert find_leaks(before) == []


def test_fifty_unused_sessions_leave_nothing(no_collection: None) -> None:
    ray.init(num_cpus=2)
    ray.shutdown()
    before = take_snapshot()
    for _ in range(50):
        ray.init(num_cpus=2)
        ray.shutdown()
    assert find_leaks(before) == []


def test_sessions_that_start_by_themselves_and_end_with_work_in_flight(tmp_path: Path) -> None:
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    before = take_snapshot()
    for _ in range(10):
        block = ray.remote(lambda: Path(fifo).read_text())
        ref = block.remote()
        future = ref.future()
        ray.shutdown()
        with pytest.raises(EngineClosedError):
            future.result(timeout=LIMIT_S)
        del ref, future
    gc.collect()
    assert find_leaks(before) == []


def test_shutdown_twice_and_without_a_session() -> None:
    ray.shutdown()
    ray.init(num_cpus=2)
    assert ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()
    ray.shutdown()
    assert not ray.is_initialized()


def test_init_twice(tmp_path: Path) -> None:
    ray.init(num_cpus=2)
    with pytest.raises(RuntimeError, match="init"):
        ray.init(num_cpus=2)
    ray.init(num_cpus=4, ignore_reinit_error=True)
    assert_pool_is_full(tmp_path)


def test_a_function_outlives_the_session(tmp_path: Path) -> None:
    """Decorated once, used in session after session; the first use starts one by itself."""
    task = ray.remote(double)
    bound = task.remote
    for _ in range(3):
        assert ray.get([bound(i) for i in range(10)], timeout=LIMIT_S) == [2 * i for i in range(10)]
        assert ray.get(task.options(num_returns=1).remote(4), timeout=LIMIT_S) == 8
        ray.shutdown()
    ray.init(num_cpus=2)
    assert_pool_is_full(tmp_path)


def test_unfinished_refs_fail_with_their_session(tmp_path: Path) -> None:
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    ray.init(num_cpus=2)
    block = ray.remote(lambda x: Path(fifo).read_text())
    use = ray.remote(lambda *args: None)
    running = [block.remote(i) for i in range(2)]
    queued = [block.remote(i) for i in range(500)]
    waiting = [use.remote(running[0]), use.remote(queued[-1], running[1])]
    several = use.options(num_returns=3).remote(running[0])
    ray.shutdown()
    for again in range(2):  # without a session, and within the next
        for ref in [*running, *queued[::100], *waiting, *several]:
            with pytest.raises(EngineClosedError):
                ray.get(ref, timeout=LIMIT_S)
        assert ray.wait(running, num_returns=2, timeout=LIMIT_S) == (running, [])
        if not again:
            ray.shutdown()
            ray.init(num_cpus=2)


def test_an_unfinished_ref_of_an_ended_session_as_an_argument(tmp_path: Path) -> None:
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    ray.init(num_cpus=2)
    old = ray.remote(lambda: Path(fifo).read_text()).remote()
    ray.shutdown()
    ray.init(num_cpus=2)
    with pytest.raises(EngineClosedError):
        ray.get(ray.remote(double).remote(old), timeout=LIMIT_S)
    ray.cancel(old)


def test_values_read_from_a_session_outlive_it() -> None:
    np = pytest.importorskip("numpy")
    ray.init(num_cpus=2)
    make = ray.remote(lambda i: np.full(300_000, i))
    arrays = ray.get([make.remote(i) for i in range(4)], timeout=LIMIT_S)
    ray.shutdown()
    ray.init(num_cpus=2)
    more = ray.get([make.remote(-i) for i in range(4)], timeout=LIMIT_S)
    for i in range(4):
        assert (arrays[i] == i).all()
        assert (more[i] == -i).all()
    del arrays, more


def test_a_finished_ref_of_an_ended_session() -> None:
    """A value or a clear error; never a hang, a crash or the wrong value."""
    ray.init(num_cpus=2)
    small, large = ray.put(1), ray.put(bytes([7]) * (1 << 20))
    ray.shutdown()
    ray.init(num_cpus=2)
    ray.put(bytes([8]) * (1 << 20))
    for ref, expected in ((small, 1), (large, bytes([7]) * (1 << 20))):
        with contextlib.suppress(EngineClosedError, ray.errors.ObjectLostError):
            assert ray.get(ref, timeout=LIMIT_S) == expected


def test_cpus_of_the_next_session_are_its_own(tmp_path: Path) -> None:
    ray.init(num_cpus=1)
    greedy = ray.remote(num_cpus=2)(double)
    with pytest.raises(ray.errors.InfeasibleTaskError):
        greedy.remote(1)
    ray.shutdown()
    ray.init(num_cpus=2)
    assert ray.get(greedy.remote(1), timeout=LIMIT_S) == 2


def test_shutdown_while_other_threads_wait(tmp_path: Path) -> None:
    """Each of them gets an error at once."""
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    ray.init(num_cpus=2)
    block = ray.remote(lambda: Path(fifo).read_text())
    refs = [block.remote() for _ in range(4)]
    waits = (
        lambda: ray.get(refs),
        lambda: ray.get(refs[0], timeout=10 * LIMIT_S),
        lambda: ray.get(ray.wait(refs, num_returns=4)[0]),
        lambda: refs[1].future().result(),
    )
    ends: list[BaseException] = []

    def wait(how: object) -> None:
        assert callable(how)
        started.release()
        try:
            how()
        except BaseException as error:
            ends.append(error)

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=wait, args=(how,)) for how in waits]
    for thread in threads:
        thread.start()
        started.acquire()
    ray.shutdown()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert len(ends) == len(waits)
    assert all(isinstance(end, EngineClosedError) for end in ends), ends


def test_shutdown_by_several_threads_at_once() -> None:
    for _ in range(5):
        ray.init(num_cpus=2)
        ref = ray.remote(double).remote(1)
        barrier = threading.Barrier(4)
        errors: list[BaseException] = []

        def end(barrier: threading.Barrier = barrier, errors: list[BaseException] = errors) -> None:
            barrier.wait()
            try:
                ray.shutdown()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert errors == []
        assert not ray.is_initialized()
        del ref


def test_shutdown_while_other_threads_submit() -> None:
    """They get results, an error that says why, or a new session; nothing else, and nothing is left."""
    task = ray.remote(double)
    for _ in range(5):
        ray.init(num_cpus=2)
        ends: list[object] = []
        has_begun, is_over = threading.Event(), threading.Event()

        def submit(
            ends: list[object] = ends,
            has_begun: threading.Event = has_begun,
            is_over: threading.Event = is_over,
        ) -> None:
            while not is_over.is_set():
                try:
                    values = ray.get([task.remote(i) for i in range(200)], timeout=LIMIT_S)
                    ends.append(values == [2 * i for i in range(200)])
                    has_begun.set()
                except EngineClosedError:
                    pass
                except BaseException as error:
                    ends.append(error)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        has_begun.wait(LIMIT_S)
        ray.shutdown()
        is_over.set()
        for thread in threads:
            thread.join(2 * LIMIT_S)
            assert not thread.is_alive()
        assert set(ends) == {True}
        ray.shutdown()


class LateTurn:
    """Takes the place of an engine's turn, and keeps one thread waiting for it until told."""

    def __init__(self, turn: Any) -> None:
        self.turn = turn
        self.late = 0  # the thread's ident
        self.has_come, self.may_go = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        if threading.get_ident() == self.late and not self.has_come.is_set():
            self.has_come.set()
            self.may_go.wait(LIMIT_S)
        self.turn.__enter__()

    def __exit__(self, *exc: object) -> None:
        self.turn.__exit__(*exc)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.turn, name)


LATE_CALLS: dict[str, Callable[[Any, Any], object]] = {
    "remote": lambda task, ref: task.remote(1),
    "remote with a ref": lambda task, ref: task.remote(ref),
    "get": lambda task, ref: ray.get(ref, timeout=LIMIT_S),
    "wait": lambda task, ref: ray.get(ray.wait([ref], timeout=LIMIT_S)[0]),
    "future": lambda task, ref: ref.future().result(timeout=LIMIT_S),
    "cancel": lambda task, ref: ray.cancel(ref),
    "put": lambda task, ref: ray.put(bytes(1 << 20)),
}


@pytest.mark.parametrize("name", LATE_CALLS)
def test_a_call_that_begins_before_the_end_and_goes_on_after_it(name: str, tmp_path: Path) -> None:
    """It gets an error, or a ref that gets one; it starts no process for a session that is over."""
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    ray.init(num_cpus=2)
    ref = ray.remote(lambda: Path(fifo).read_text()).remote()
    task = ray.remote(double)
    ray.get(task.remote(0), timeout=LIMIT_S)
    engine: Any = current()
    turn = engine.turn = LateTurn(engine.turn)
    ends: list[object] = []

    def call() -> None:
        turn.late = threading.get_ident()
        try:
            late = LATE_CALLS[name](task, ref)
            if isinstance(late, ray.ObjectRef):
                ray.get(late, timeout=LIMIT_S)
            ends.append("fine")
        except BaseException as error:
            ends.append(error)
        turn.has_come.set()

    thread = threading.Thread(target=call)
    thread.start()
    assert turn.has_come.wait(LIMIT_S)
    ray.shutdown()
    turn.may_go.set()
    thread.join(2 * LIMIT_S)
    assert not thread.is_alive()
    if name == "remote":
        assert ends[0] == "fine", ends  # a session of its own took the call
    elif name not in ("cancel", "put"):
        assert isinstance(ends[0], EngineClosedError), ends
    else:
        assert ends[0] == "fine" or isinstance(ends[0], EngineClosedError), ends


def test_calls_in_the_last_moments_of_a_session(tmp_path: Path) -> None:
    """A thread goes on submitting while `shutdown` is about to return: no call is lost without a word."""
    ray.init(num_cpus=2)
    task = ray.remote(double)
    ray.get([task.remote(i) for i in range(1000)], timeout=LIMIT_S)
    engine: Any = current()
    turn = engine.turn = LateTurn(engine.turn)
    close = engine.output.close
    refs: list[tuple[int, ray.ObjectRef[int]]] = []
    refused: list[BaseException] = []

    def submit() -> None:
        turn.late = threading.get_ident()
        for i in range(200):
            try:
                refs.append((i, task.remote(i)))
            except BaseException as error:
                refused.append(error)

    thread = threading.Thread(target=submit)

    def close_late() -> None:
        turn.may_go.set()
        thread.join(LIMIT_S)
        close()

    engine.output.close = close_late
    thread.start()
    assert turn.has_come.wait(LIMIT_S)
    ray.shutdown()
    assert not thread.is_alive()
    assert all(isinstance(error, EngineClosedError) for error in refused), refused
    assert len(refs) + len(refused) == 200
    for i, ref in refs:
        with contextlib.suppress(EngineClosedError):  # else it is of a session that has begun by itself
            assert ray.get(ref, timeout=LIMIT_S) == 2 * i


def test_a_bound_remote_outlives_the_session() -> None:
    task = ray.remote(double)
    ray.get(task.remote(1), timeout=LIMIT_S)
    bound = task.remote
    ray.get(bound(1), timeout=LIMIT_S)
    ray.shutdown()
    ray.init(num_cpus=2)
    assert ray.get([bound(i) for i in range(10)], timeout=LIMIT_S) == [2 * i for i in range(10)]


def test_shutdown_in_a_task_does_nothing(tmp_path: Path) -> None:
    """The session is the program's."""
    ray.init(num_cpus=2)

    @ray.remote
    def task() -> bool:
        ray.shutdown()
        return ray.is_initialized()

    before = find_workers(tmp_path)
    assert ray.get(task.remote(), timeout=LIMIT_S) is True
    assert find_workers(tmp_path) == before


def test_shutdown_in_a_signal_handler_while_the_program_waits(tmp_path: Path) -> None:
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    previous = signal.signal(signal.SIGUSR1, lambda *_: ray.shutdown())
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        ray.init(num_cpus=2)
        ref = ray.remote(lambda: Path(fifo).read_text()).remote()
        timer.start()
        with pytest.raises(EngineClosedError):
            ray.get(ref, timeout=LIMIT_S)
        assert not ray.is_initialized()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)


def test_ctrl_c_is_as_before_after_a_session() -> None:
    handler = signal.getsignal(signal.SIGINT)
    run_session(1)
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_session_ends_while_its_workers_start() -> None:
    before = take_snapshot()
    for _ in range(10):
        ray.init(num_cpus=2)
        refs = [ray.remote(double).remote(i) for i in range(100)]
        ray.shutdown()
        with pytest.raises(EngineClosedError):
            ray.get(refs, timeout=LIMIT_S)  # which begins the next session by itself
        ray.shutdown()
    del refs
    gc.collect()
    assert find_leaks(before) == []
