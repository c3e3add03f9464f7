"""Many threads at once: submitting, waiting, cancelling, ending; and futures whose callbacks wait, too."""

from __future__ import annotations

import concurrent.futures
import logging
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


@pytest.mark.xfail(
    reason="a finalizer inside our own code may still get an error that does not say so", strict=False
)
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


def test_daemon_threads_end_silently_with_the_program() -> None:
    """They are stopped where they are, in the middle of a `get`, as Python stops them anywhere else."""
    result = run_script(
        """
import threading
import grainwise as ray
ray.init(num_cpus=2)

@ray.remote
def double(x):
    return 2 * x

rounds = threading.Semaphore(0)

def work(get):
    while True:
        refs = [double.remote(i) for i in range(10)]
        if get:
            ray.get(refs)
        else:
            ray.wait(refs, num_returns=10)
        rounds.release()

for i in range(6):
    threading.Thread(target=work, args=(i % 2,), daemon=True).start()
for _ in range(30):
    rounds.acquire()
print("end")
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("end\n", "", 0)
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
