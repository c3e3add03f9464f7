"""Actors: state, order, errors, handles wherever they travel, names, and every way in which one ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine import current
from grainwise.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorUnavailableError,
    EngineClosedError,
    GetTimeoutError,
    InfeasibleTaskError,
    SerializationError,
    TaskCancelledError,
    TaskError,
)

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


class PlainCounter:
    """Counts, and remembers in which order it was called."""

    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.seen: list[Any] = []

    def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def note(self, *values: Any) -> list[Any]:
        self.seen += values
        return self.seen

    def fail(self) -> None:
        raise ValueError("on purpose")

    def pid(self) -> int:
        return os.getpid()

    def pair(self) -> tuple[int, int]:
        return 1, 2

    def stop(self, status: int) -> None:
        os._exit(status)

    def wait_for(self, path: str) -> str:
        return Path(path).read_text()  # a fifo: until somebody writes

    def leave(self) -> None:
        ray.exit_actor()

    def sys_exit(self, status: int) -> None:
        sys.exit(status)


Counter: Any = ray.remote(PlainCounter)


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


def await_end(pid: int) -> None:
    """Wait until a process is gone; a zombie is not gone."""
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} is still there"
        threading.Event().wait(0.005)


# --- state and order ----------------------------------------------------------------------------------------


def test_an_actor_keeps_state_in_a_process_of_its_own() -> None:
    counter = Counter.remote(10)
    assert get(counter.incr.remote()) == 11
    assert get(counter.incr.remote(5)) == 16
    assert get(counter.incr.remote(by=-6)) == 10
    assert get(counter.pid.remote()) not in (os.getpid(), get(Counter.remote().pid.remote()))


def test_calls_of_one_caller_run_in_order_whatever_their_arguments() -> None:
    counter = Counter.remote()
    for i in range(0, 600, 3):
        counter.note.remote(i)
        counter.note.remote(i + 1, i + 2) if i % 2 else counter.note.remote([i + 1], "x" * 5000)
    seen = get(counter.note.remote())
    plain = [value for value in seen if isinstance(value, int)]
    assert plain == sorted(plain)
    assert len(seen) == 600


def test_ten_thousand_tiny_calls_are_batched_in_order() -> None:
    counter = Counter.remote()
    assert get([counter.incr.remote() for _ in range(10_000)]) == list(range(1, 10_001))
    engine: Any = current.current()
    assert engine.counters.batches < 2_000


def test_alternating_methods_keep_their_order() -> None:
    counter = Counter.remote()
    refs = [counter.note.remote(i) if i % 2 else counter.incr.remote(i) for i in range(400)]
    get(refs)
    assert get(counter.note.remote()) == list(range(1, 400, 2))


def test_a_call_that_waits_for_a_ref_is_not_overtaken(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    @ray.remote
    def late() -> str:
        return Path(fifo).read_text()

    counter = Counter.remote()
    first = counter.note.remote(late.remote())
    rest = [counter.note.remote(i) for i in range(3)]
    with pytest.raises(GetTimeoutError):
        ray.get(rest, timeout=0.05)
    Path(fifo).write_text("late")
    assert get(first) == ["late"]
    assert get(rest[-1]) == ["late", 0, 1, 2]


def test_refs_and_large_arguments_and_results() -> None:
    import numpy as np

    class Store:
        def set(self, array: Any) -> int:
            self.array = array
            return int(array.nbytes)

        def get(self) -> Any:
            return self.array

    store: Any = ray.remote(Store).remote()
    array = np.arange(300_000)
    ref = ray.put(array)
    assert get(store.set.remote(array)) == array.nbytes
    assert get(store.set.remote(ref)) == array.nbytes
    assert (get(store.get.remote()) == array).all()
    assert get(store.set.remote(store.get.remote())) == array.nbytes


def test_several_results_and_none() -> None:
    counter = Counter.remote()
    first, second = counter.pair.options(num_returns=2).remote()
    assert get([second, first]) == [2, 1]
    assert counter.incr.options(num_returns=0).remote() is None

    class Marked:
        @ray.method(num_returns=2)
        def two(self) -> tuple[str, str]:
            return "a", "b"

    one, two = ray.remote(Marked).remote().two.remote()
    assert get([one, two]) == ["a", "b"]


def test_arguments_go_by_value_as_of_the_call() -> None:
    counter = Counter.remote()
    value = [1]
    ref = counter.note.remote(value)
    value.append(2)
    assert get(ref) == [[1]]


def test_calls_from_many_threads() -> None:
    counter = Counter.remote()
    results: list[list[int]] = []

    def call() -> None:
        results.append(get([counter.incr.remote() for _ in range(200)]))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(n for result in results for n in result) == list(range(1, 1601))
    assert all(result == sorted(result) for result in results)


# --- errors -------------------------------------------------------------------------------------------------


def test_an_exception_is_the_calls_and_state_stays() -> None:
    counter = Counter.remote()
    counter.incr.remote()
    with pytest.raises(ValueError, match="on purpose") as info:
        get(counter.fail.remote())
    assert isinstance(info.value, TaskError)
    assert "fail" in info.value.task_name
    assert get(counter.incr.remote()) == 2


def test_a_constructor_that_fails_fails_every_call_and_says_why() -> None:
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no database")

        def ask(self) -> int:
            return 1

    broken: Any = ray.remote(Broken).remote()
    refs = [broken.ask.remote() for _ in range(3)]
    for ref in refs:
        with pytest.raises(ActorDiedError, match="no database") as info:
            get(ref)
        assert "Broken" in str(info.value)
        assert isinstance(info.value.__cause__, RuntimeError)
    with pytest.raises(ActorDiedError, match="no database"):
        get(broken.ask.remote())


def test_an_argument_that_cannot_be_pickled_names_itself() -> None:
    counter = Counter.remote()
    with pytest.raises(SerializationError):
        counter.note.remote(threading.Lock())
    with pytest.raises(SerializationError):
        Counter.remote(threading.Lock())
    assert get(counter.incr.remote()) == 1


def test_a_failed_argument_fails_the_call_and_only_that() -> None:
    @ray.remote
    def fail() -> None:
        raise KeyError("k")

    counter = Counter.remote()
    ref = counter.incr.remote(fail.remote())
    after = counter.incr.remote()
    with pytest.raises(KeyError):
        get(ref)
    assert get(after) == 1
    broken = Counter.remote(fail.remote())
    with pytest.raises(ActorDiedError):
        get(broken.incr.remote())


def test_wrong_uses_say_what_is_right() -> None:
    counter = Counter.remote()
    with pytest.raises(TypeError, match=r"Counter\.remote"):
        Counter()
    with pytest.raises(TypeError, match=r"incr\.remote"):
        counter.incr()
    with pytest.raises(AttributeError, match="no method 'decr'"):
        counter.decr.remote()
    with pytest.raises(TypeError, match="Invalid option keyword max_retries for actors"):
        Counter.options(max_retries=3)
    with pytest.raises(ValueError, match="lifetime"):
        Counter.options(lifetime="short")
    with pytest.raises(ValueError, match="0, -1 or a positive integer"):
        Counter.options(max_restarts=-2)
    with pytest.raises(InfeasibleTaskError):
        Counter.options(num_cpus=64).remote()
    with pytest.raises(TypeError, match="outside of an actor"):
        ray.exit_actor()
    with pytest.raises(ValueError, match="ActorHandle"):
        ray.kill(counter.incr.remote())


# --- handles ------------------------------------------------------------------------------------------------


def test_handles_travel_to_tasks_in_containers_and_closures() -> None:
    counter = Counter.remote()

    @ray.remote
    def direct(handle: Any) -> int:
        return get(handle.incr.remote())  # type: ignore[no-any-return]

    @ray.remote
    def packed(handles: dict[str, list[Any]]) -> int:
        return get(handles["a"][0].incr.remote())  # type: ignore[no-any-return]

    @ray.remote
    def captured() -> int:
        return get(counter.incr.remote())  # type: ignore[no-any-return]

    assert get(direct.remote(counter)) == 1
    assert get(packed.remote({"a": [counter]})) == 2
    assert get(captured.remote()) == 3
    stored = ray.put([counter])
    assert get(get(stored)[0].incr.remote()) == 4
    assert get(stored)[0] == counter


def test_calls_of_one_worker_keep_their_order() -> None:
    counter = Counter.remote()

    @ray.remote
    def count(handle: Any) -> list[int]:
        return get([handle.incr.remote() for _ in range(300)])  # type: ignore[no-any-return]

    for result in get([count.remote(counter) for _ in range(4)]):
        assert result == sorted(result)
    assert get(counter.incr.remote()) == 1201


def test_an_actor_made_by_a_task_lives_with_its_handle() -> None:
    @ray.remote
    def make() -> tuple[Any, int]:
        made = Counter.remote(100)
        return made, get(made.incr.remote())

    made, value = get(make.remote())
    assert value == 101
    assert get(made.incr.remote()) == 102


def test_actors_call_actors_and_tasks() -> None:
    class Parent:
        def __init__(self, depth: int) -> None:
            self.child: Any = ray.remote(Parent).remote(depth - 1) if depth else None

        def sum(self) -> int:
            if self.child is None:
                return 1
            return 1 + ray.get(self.child.sum.remote())  # type: ignore[no-any-return]

        def by_task(self) -> int:
            @ray.remote
            def ask(handle: Any) -> int:
                return ray.get(handle.sum.remote())  # type: ignore[no-any-return]

            return ray.get(ask.remote(self.child))

    parent: Any = ray.remote(Parent).remote(5)
    assert get(parent.sum.remote()) == 6
    assert get([parent.by_task.remote() for _ in range(3)]) == [5, 5, 5]


def test_two_actors_that_wait_for_tasks_lend_what_they_occupy() -> None:
    class Busy:
        def work(self) -> int:
            @ray.remote
            def one(x: int) -> int:
                return x + 1

            return sum(ray.get([one.remote(i) for i in range(10)]))

    actors: list[Any] = [ray.remote(num_cpus=1)(Busy).remote() for _ in range(2)]
    assert get([actor.work.remote() for actor in actors]) == [55, 55]


def test_the_last_handle_ends_the_process_behind_the_last_call() -> None:
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    last = [counter.incr.remote() for _ in range(100)]
    del counter
    gc.collect()
    assert get(last[-1]) == 100
    await_end(pid)


def test_a_call_on_a_handle_that_nobody_keeps() -> None:
    assert get(Counter.remote(4).incr.remote()) == 5
    assert get([Counter.remote(i).incr.remote() for i in range(5)]) == [1, 2, 3, 4, 5]


def test_a_task_that_still_holds_a_handle_keeps_the_actor(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    @ray.remote
    def late(handles: list[Any]) -> int:
        Path(fifo).read_text()
        return get(handles[0].incr.remote())  # type: ignore[no-any-return]

    counter = Counter.remote()
    pid = get(counter.pid.remote())
    ref = late.remote([counter])
    del counter
    gc.collect()
    Path(fifo).write_text("go")
    assert get(ref) == 1
    del ref
    await_end(pid)


# --- names --------------------------------------------------------------------------------------------------


def test_names() -> None:
    made = Counter.options(name="bob").remote(5)
    assert get(ray.get_actor("bob").incr.remote()) == 6
    assert ray.get_actor("bob") == made
    with pytest.raises(ActorAlreadyExistsError, match="exists already"):
        Counter.options(name="bob").remote()
    other = Counter.options(name="bob", namespace="elsewhere").remote()
    assert get(ray.get_actor("bob", "elsewhere").incr.remote()) == 1
    same = Counter.options(name="bob", get_if_exists=True).remote(1000)
    assert get(same.incr.remote()) == 7
    with pytest.raises(ValueError, match="nobody"):
        ray.get_actor("nobody")
    ray.kill(other)
    with pytest.raises(ValueError, match="elsewhere"):
        ray.get_actor("bob", namespace="elsewhere")


def test_names_in_tasks() -> None:
    @ray.remote
    def ask() -> int:
        return get(ray.get_actor("bob").incr.remote())  # type: ignore[no-any-return]

    @ray.remote
    def make() -> int:
        Counter.options(name="bob", lifetime="detached").remote()
        return get(ray.get_actor("bob").incr.remote())  # type: ignore[no-any-return]

    @ray.remote
    def fail() -> str:
        try:
            Counter.options(name="bob").remote()
        except ValueError as error:
            return str(error)
        return ""

    @ray.remote
    def share() -> int:
        return get(Counter.options(name="bob", get_if_exists=True).remote().incr.remote())  # type: ignore[no-any-return]

    assert get(make.remote()) == 1
    assert get(ask.remote()) == 2
    assert "exists already" in get(fail.remote())
    assert get(share.remote()) == 3
    ray.kill(ray.get_actor("bob"))


def test_a_name_goes_with_its_actor_unless_detached() -> None:
    kept = Counter.options(name="kept", lifetime="detached").remote()
    gone = Counter.options(name="gone").remote()
    pid = get(gone.pid.remote())
    del kept, gone
    gc.collect()
    await_end(pid)
    with pytest.raises(ValueError, match="gone"):
        ray.get_actor("gone")
    assert get(ray.get_actor("kept").incr.remote()) == 1


# --- ends ---------------------------------------------------------------------------------------------------


def check_dead(refs: list[Any], *words: str) -> None:
    for ref in refs:
        with pytest.raises(ActorDiedError) as info:
            get(ref)
        for word in words:
            assert word in str(info.value)


def test_results_before_a_death_stand_and_all_behind_fails() -> None:
    counter = Counter.remote()
    before = counter.incr.remote()
    dying, behind = counter.stop.remote(3), counter.incr.remote()
    assert get(before) == 1
    check_dead([dying, behind, counter.incr.remote()], "PlainCounter", "exit code 3")


def test_a_process_that_is_killed_from_outside() -> None:
    counter = Counter.remote()
    os.kill(get(counter.pid.remote()), signal.SIGKILL)
    check_dead([counter.incr.remote()], "signal 9")
    with pytest.raises(ActorError):
        get(counter.incr.remote())


def test_kill_fails_what_is_under_way_and_all_later_calls(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    counter = Counter.remote()
    pid = get(counter.pid.remote())
    refs = [counter.wait_for.remote(fifo), *(counter.incr.remote() for _ in range(100))]
    ray.kill(counter)
    check_dead([*refs, counter.incr.remote()], "kill")
    await_end(pid)
    ray.kill(counter)  # does nothing


def test_kill_in_a_task() -> None:
    counter = Counter.remote()

    @ray.remote
    def end(handle: Any) -> None:
        ray.kill(handle)

    get(end.remote(counter))
    check_dead([counter.incr.remote()])


def test_exit_actor_and_terminate() -> None:
    for end in ("leave", "__ray_terminate__"):
        counter = Counter.remote()
        before = counter.incr.remote()
        leaving, behind = getattr(counter, end).remote(), counter.incr.remote()
        assert get(before) == 1
        check_dead([leaving, behind, counter.incr.remote()], "exit_actor")


def test_sys_exit_ends_the_process() -> None:
    counter = Counter.remote()
    check_dead([counter.sys_exit.remote(4), counter.incr.remote()], "exit code 4")
    counter = Counter.options(max_restarts=1).remote()
    with pytest.raises(ActorUnavailableError):
        get(counter.sys_exit.remote(4))
    assert get(counter.incr.remote()) == 1
    counter = Counter.options(max_restarts=1).remote()
    check_dead([counter.sys_exit.remote(0), counter.incr.remote()], "sys.exit")  # meant to end


def test_ready_and_call() -> None:
    counter = Counter.remote(3)
    assert get(counter.__ray_ready__.remote())
    assert get(counter.__ray_call__.remote(lambda self, x: self.n + x, 4)) == 7


def test_exit_handlers_run_when_the_last_handle_goes(tmp_path: Path) -> None:
    class Tidy:
        def __init__(self, path: Path) -> None:
            import atexit

            atexit.register(path.write_text, "tidied")

        def pid(self) -> int:
            return os.getpid()

    actor: Any = ray.remote(Tidy).remote(tmp_path / "mark")
    pid = get(actor.pid.remote())
    del actor
    gc.collect()
    await_end(pid)
    assert (tmp_path / "mark").read_text() == "tidied"


def test_shutdown_ends_actors_and_their_handles() -> None:
    counter = Counter.options(lifetime="detached", name="x").remote()
    pid = get(counter.pid.remote())
    ray.shutdown()
    await_end(pid)
    with pytest.raises(EngineClosedError):
        get(counter.incr.remote())
    ray.init(num_cpus=2, ignore_reinit_error=True)
    with pytest.raises((EngineClosedError, ActorDiedError)):
        get(counter.pid.remote())
    assert get(Counter.remote().incr.remote()) == 1


# --- restarts -----------------------------------------------------------------------------------------------


def test_a_restart_makes_the_object_anew_and_counts() -> None:
    counter = Counter.options(max_restarts=2).remote(10)
    for _ in range(2):
        assert get(counter.incr.remote()) == 11
        pid = get(counter.pid.remote())
        with pytest.raises(ActorError):
            get(counter.stop.remote(1))
        assert get(counter.pid.remote()) != pid
    with pytest.raises(ActorDiedError):
        get(counter.stop.remote(1))
    check_dead([counter.incr.remote()], "max_restarts=2")


def test_what_had_not_begun_waits_for_the_restart() -> None:
    counter = Counter.options(max_restarts=1).remote()
    dying = counter.stop.remote(1)
    behind = [counter.incr.remote() for _ in range(50)]
    with pytest.raises(ActorError):
        get(dying)
    assert get(behind) == list(range(1, 51))


def test_a_call_is_retried_when_it_may_be(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Flaky:
        def once(self) -> str:
            if not mark.exists():
                mark.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
            return "done"

        def always(self) -> None:
            os._exit(1)

    actor: Any = ray.remote(Flaky).options(max_restarts=-1, max_task_retries=2).remote()
    assert get([actor.once.remote() for _ in range(3)]) == ["done"] * 3
    with pytest.raises(ActorError):
        get(actor.always.remote())
    assert get(actor.once.remote()) == "done"


def test_kill_without_no_restart_restarts() -> None:
    counter = Counter.options(max_restarts=1).remote()
    pid = get(counter.pid.remote())
    ray.kill(counter, no_restart=False)
    await_end(pid)
    assert get(counter.pid.remote()) != pid
    ray.kill(counter)
    check_dead([counter.incr.remote()])


def test_exit_actor_is_not_restarted() -> None:
    counter = Counter.options(max_restarts=-1).remote()
    check_dead([counter.leave.remote(), counter.incr.remote()])


def test_a_constructor_that_kills_its_process_is_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Late:
        def __init__(self) -> None:
            if not mark.exists():
                mark.write_text("")
                os._exit(1)

        def ask(self) -> int:
            return 1

    assert get(ray.remote(Late).options(max_restarts=1).remote().ask.remote()) == 1
    mark.unlink()
    check_dead([ray.remote(Late).remote().ask.remote()], "exit code 1")


def test_retries_of_exceptions(tmp_path: Path) -> None:
    class Flaky:
        def __init__(self) -> None:
            self.n = 0

        @ray.method(max_task_retries=3, retry_exceptions=[OSError])
        def ask(self) -> int:
            self.n += 1
            if self.n < 3:
                raise OSError("again")
            return self.n

    assert get(ray.remote(Flaky).remote().ask.remote()) == 3


# --- cancelling ---------------------------------------------------------------------------------------------


def test_a_call_that_has_not_begun_is_cancelled_and_order_stays(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    counter = Counter.remote()
    get(counter.note.remote())
    waiting = counter.wait_for.remote(fifo)
    refs = [counter.note.remote(i) for i in range(200)]
    with pytest.raises(GetTimeoutError):
        ray.get(waiting, timeout=0.05)  # sent
    for i in (0, 7, 150):
        ray.cancel(refs[i])
    Path(fifo).write_text("go")
    for i in (0, 7, 150):
        with pytest.raises(TaskCancelledError):
            get(refs[i])
    assert get(counter.note.remote()) == [i for i in range(200) if i not in (0, 7, 150)]


def test_cancelling_a_call_that_waits_lets_those_behind_it_pass(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    @ray.remote
    def late() -> str:
        return Path(fifo).read_text()

    counter = Counter.remote()
    origin = late.remote()
    waits, behind = counter.note.remote(origin), counter.note.remote(1)
    with pytest.raises(GetTimeoutError):
        ray.get(behind, timeout=0.05)
    ray.cancel(waits)
    assert get(behind) == [1]
    with pytest.raises(TaskCancelledError):
        get(waits)
    Path(fifo).write_text("x")
    assert get(origin) == "x"


def test_cancelling_a_running_call_cancels_what_it_waits_for(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    class Waiter:
        def __init__(self) -> None:
            self.seen = ""

        def last(self) -> str:
            return self.seen

        def ask(self) -> str:
            @ray.remote
            def late() -> str:
                Path(fifo).write_text("begun")
                return Path(fifo).read_text()

            try:
                return ray.get(late.remote())
            except TaskCancelledError:
                self.seen = "cancelled below"
                return "to nobody"

    waiter: Any = ray.remote(Waiter).remote()
    ref = waiter.ask.remote()
    assert Path(fifo).read_text() == "begun"
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        get(ref)
    assert get(waiter.last.remote()) == "cancelled below"  # it was not interrupted itself
    with pytest.raises(ValueError, match="kill"):
        ray.cancel(waiter.last.remote(), force=True)
