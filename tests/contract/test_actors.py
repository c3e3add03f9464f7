"""Actors: state, order, handles, names, lives and ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from .backend import exceptions, is_alive, make_gate, ray, until


def make_counter() -> Any:
    class Counter:
        def __init__(self, start: int = 0, *, step: int = 1) -> None:
            self.n = start
            self.step = step

        def add(self, times: int = 1) -> int:
            self.n += times * self.step
            return self.n

        def value(self) -> int:
            return self.n

        def pid(self) -> int:
            return os.getpid()

        def die(self) -> None:
            os._exit(1)

        def echo(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    return ray.remote(Counter)


# --- methods and constructors -------------------------------------------------------------------------------


def test_state_stays_between_calls() -> None:
    counter = make_counter().remote(5, step=10)
    assert [ray.get(counter.add.remote()) for _ in range(3)] == [15, 25, 35]
    assert ray.get(counter.add.remote(times=2)) == 55


def test_actors_have_processes_of_their_own() -> None:
    made = make_counter()
    counters = [made.remote() for _ in range(3)]
    pids = ray.get([counter.pid.remote() for counter in counters])
    assert len({*pids, os.getpid()}) == 4
    assert ray.get(counters[0].pid.remote()) == pids[0]


def test_calls_run_in_the_order_of_their_submission() -> None:
    counter = make_counter().remote()
    assert ray.get([counter.add.remote() for _ in range(500)]) == list(range(1, 501))


def test_a_call_that_waits_for_its_argument_holds_back_later_ones() -> None:
    gate = make_gate()

    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.lines: list[Any] = []

        def write(self, line: Any) -> None:
            self.lines.append(line)

        def read(self) -> list[Any]:
            return self.lines

    log = Log.remote()
    held = gate.wait.remote()
    log.write.remote(held)
    log.write.remote("second")
    ray.get(gate.open.remote())
    assert ray.get(log.read.remote()) == ["open", "second"]


def test_refs_as_arguments_of_constructors_and_methods() -> None:
    counter = make_counter().remote(ray.put(5))
    assert ray.get(counter.add.remote(ray.put(2))) == 7
    args, kwargs = ray.get(counter.echo.remote(ray.put(1), [ray.put(2)], x=ray.put(3)))
    assert args[0] == 1
    assert ray.get(args[1][0]) == 2
    assert kwargs == {"x": 3}


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1, 2), {}, "too many positional arguments"),
        ((), {"wrong": 1}, "got an unexpected keyword argument 'wrong'"),
        ((1,), {"start": 1}, "multiple values for argument 'start'"),
    ],
)
def test_wrong_arguments_of_a_constructor_fail_at_once(args: Any, kwargs: Any, text: str) -> None:
    made = make_counter()
    for each in (made, made.options(num_cpus=0)):
        with pytest.raises(TypeError, match=text):
            each.remote(*args, **kwargs)


def test_wrong_arguments_of_a_method_fail_at_once() -> None:
    @ray.remote
    class Methods:
        def two(self, a: int, b: int) -> None: ...

        def named(self, *, a: int, b: int = 1) -> None: ...

    @ray.remote
    class Empty:
        pass

    methods = Methods.remote()
    for call, text in (
        (lambda: methods.two.remote(1), "missing a required argument: 'b'"),
        (lambda: methods.two.remote(1, 2, 3), "too many positional arguments"),
        (lambda: methods.two.remote(1, c=2), "'b'|'c'"),
        (lambda: methods.two.remote(1, a=2), "multiple values for argument 'a'"),
        (lambda: methods.named.remote(1), "too many positional arguments"),
        (lambda: methods.named.remote(b=1), "missing a required argument: 'a'|missing a required keyword"),
        (lambda: Empty.remote(1), "too many positional arguments"),
    ):
        with pytest.raises(TypeError, match=text):
            call()


def test_static_and_class_methods_inheritance_and_call() -> None:
    class Base:
        kind = "base"

        def own(self) -> str:
            return self.kind

        @staticmethod
        def static(x: int) -> int:
            return 2 * x

        @classmethod
        def of_class(cls, x: int) -> Any:
            return cls.kind, x

    class Derived(Base):
        kind = "derived"

        def __init__(self) -> None:
            super().__init__()
            self.hidden = 1

        def _private(self) -> int:
            return self.hidden

        def __call__(self, x: int) -> int:
            return x + 1

        def __len__(self) -> int:
            return 3

        @property
        def size(self) -> int:
            return 5

    actor = ray.remote(Derived).remote()
    assert ray.get(actor.own.remote()) == "derived"
    assert ray.get(actor.static.remote(4)) == 8
    assert ray.get(actor.of_class.remote(1)) == ("derived", 1)
    assert ray.get(actor._private.remote()) == 1
    assert ray.get(actor.__call__.remote(1)) == 2
    assert ray.get(actor.__len__.remote()) == 3
    for name in ("size", "hidden", "missing"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(actor, name)


def test_actor_classes_have_no_heirs() -> None:
    made = make_counter()
    with pytest.raises(TypeError, match="Inheriting from actor classes"):

        class Heir(made):  # type: ignore[misc]
            pass


def test_neither_classes_nor_methods_can_be_called() -> None:
    made = make_counter()
    with pytest.raises(TypeError, match="Actors cannot be instantiated directly"):
        made()
    counter = made.remote()
    with pytest.raises(TypeError, match="Actor methods cannot be called directly"):
        counter.add()


def test_several_results_of_a_method() -> None:
    @ray.remote
    class Pairs:
        @ray.method(num_returns=2)
        def pair(self) -> Any:
            return 1, 2

    pairs = Pairs.remote()
    first, second = pairs.pair.remote()
    assert ray.get([first, second]) == [1, 2]
    assert ray.get(pairs.pair.options(num_returns=1).remote()) == (1, 2)


@pytest.mark.parametrize(
    ("option", "value", "kind", "text"),
    [
        ("max_restarts", -2, ValueError, "The keyword 'max_restarts' only accepts"),
        ("max_restarts", "1", TypeError, "The type of keyword 'max_restarts' must be"),
        ("max_task_retries", -2, ValueError, "The keyword 'max_task_retries' only accepts"),
        ("max_concurrency", -1, ValueError, "The keyword 'max_concurrency' only accepts"),
        ("max_pending_calls", -2, ValueError, "The keyword 'max_pending_calls' only accepts"),
        ("num_cpus", -1, ValueError, "The quantity of resource num_cpus cannot be negative"),
        ("max_task_retries", 1.5, TypeError, r"<class 'int'>, <class 'NoneType'>\), but received type"),
        ("max_calls", 1, ValueError, "Invalid option keyword max_calls for actors"),
        ("lifetime", 3, TypeError, "The type of keyword 'lifetime' must be"),
        ("lifetime", "long", ValueError, "actor `lifetime` argument must be one of"),
        ("get_if_exists", 1, TypeError, "The type of keyword 'get_if_exists' must be"),
        ("name", 3, TypeError, "The type of keyword 'name' must be"),
        ("num_returns", 1, ValueError, "Invalid option keyword num_returns for actors"),
        ("max_retries", 1, ValueError, "Invalid option keyword max_retries for actors"),
    ],
)
def test_wrong_options(option: str, value: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make_counter().options(**{option: value})


def test_method_needs_no_options() -> None:
    @ray.remote
    class Plain:
        @ray.method
        def one(self) -> int:
            return 1

    assert ray.get(Plain.remote().one.remote()) == 1


def test_calls_may_overtake_each_other_if_that_is_allowed() -> None:
    plain = ray.remote(make_counter().__ray_metadata__.modified_class)
    counter = plain.options(allow_out_of_order_execution=True).remote()
    assert sorted(ray.get([counter.add.remote() for _ in range(5)])) == [1, 2, 3, 4, 5]


def test_wrong_options_of_methods() -> None:
    with pytest.raises(AssertionError):
        ray.method(wrong=1)
    with pytest.raises(AssertionError):
        ray.method(1)


# --- handles ------------------------------------------------------------------------------------------------


def test_handles_go_to_tasks_and_actors_in_any_form() -> None:
    counter = make_counter().remote()

    @ray.remote
    def add(within: Any) -> int:
        return int(ray.get(within["deep"][0].add.remote()))

    @ray.remote
    def captured() -> int:
        return int(ray.get(counter.add.remote()))

    @ray.remote
    class Other:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def add(self) -> int:
            return int(ray.get(self.handle.add.remote()))

    assert ray.get(add.remote({"deep": [counter]})) == 1
    assert ray.get(captured.remote()) == 2
    assert ray.get(Other.remote(counter).add.remote()) == 3
    assert ray.get(ray.get(ray.put(counter)).add.remote()) == 4


def test_handles_are_equal_if_their_actors_are() -> None:
    made = make_counter()
    counter, other = made.remote(), made.remote()

    @ray.remote
    def same(x: Any) -> Any:
        return x[0]

    copy = ray.get(same.remote([counter]))
    assert copy == counter != other
    assert hash(copy) == hash(counter)
    assert len(counter._actor_id.hex()) == 32
    assert copy._actor_id == counter._actor_id
    assert isinstance(counter, ray.actor.ActorHandle)


def test_actors_made_in_tasks_and_actors() -> None:
    made = make_counter()

    @ray.remote
    def make() -> Any:
        counter = made.remote(10)
        ray.get(counter.add.remote())
        return counter

    @ray.remote
    class Maker:
        def make(self) -> Any:
            self.counter = made.remote(20)
            return self.counter

        def add(self) -> int:
            return int(ray.get(self.counter.add.remote()))

    assert ray.get(ray.get(make.remote()).add.remote()) == 12
    maker = Maker.remote()
    counter = ray.get(maker.make.remote())
    assert ray.get(maker.add.remote()) == 21
    assert ray.get(counter.add.remote()) == 22


def test_an_actor_that_makes_its_like() -> None:
    @ray.remote
    class Tree:
        def depth(self, left: int) -> int:
            if not left:
                return 0
            child = Tree.remote()
            return 1 + int(ray.get(child.depth.remote(left - 1)))

    assert ray.get(Tree.remote().depth.remote(3)) == 3


def test_an_actor_that_knows_itself() -> None:
    @ray.remote
    class Self:
        def me(self) -> Any:
            return ray.get_runtime_context().current_actor

        def one(self) -> int:
            return 1

        def later(self) -> Any:
            return [ray.get_runtime_context().current_actor.one.remote()]

    actor = Self.remote()
    assert ray.get(actor.me.remote()) == actor
    assert ray.get(ray.get(actor.later.remote())[0]) == 1


# --- names --------------------------------------------------------------------------------------------------


def test_a_named_actor_is_found() -> None:
    counter = make_counter().options(name="found").remote()
    assert ray.get_actor("found") == counter

    @ray.remote
    def add() -> int:
        return int(ray.get(ray.get_actor("found").add.remote()))

    assert ray.get(add.remote()) == 1
    assert "found" in ray.util.list_named_actors()


def test_a_name_is_taken_once() -> None:
    made = make_counter()
    counter = made.options(name="taken").remote()
    with pytest.raises(ValueError, match="taken"):
        made.options(name="taken").remote()
    with pytest.raises(exceptions.ActorAlreadyExistsError):
        made.options(name="taken").remote()
    assert made.options(name="taken", get_if_exists=True).remote() == counter
    assert made.options(name="new one", get_if_exists=True).remote() != counter
    with pytest.raises(ValueError, match="name must be specified"):
        made.options(get_if_exists=True).remote()


def test_names_in_namespaces() -> None:
    made = make_counter()
    one = made.options(name="spaced", namespace="space").remote()
    with pytest.raises(ValueError, match="Failed to look up actor with name 'spaced'"):
        ray.get_actor("spaced")
    assert ray.get_actor("spaced", namespace="space") == one
    two = made.options(name="spaced").remote()
    assert ray.get_actor("spaced") == two != one
    known = ray.util.list_named_actors(all_namespaces=True)
    assert {"name": "spaced", "namespace": "space"} in known
    own = ray.get_runtime_context().namespace
    assert {"name": "spaced", "namespace": own} in known
    assert ray.get_actor("spaced", namespace=own) == two


def test_wrong_names() -> None:
    for wrong in ("", None):
        with pytest.raises(ValueError, match="non-empty"):
            ray.get_actor(wrong)
    with pytest.raises(ValueError, match="is not a valid namespace"):
        ray.get_actor("x", namespace="")
    with pytest.raises(TypeError):
        ray.get_actor("x", namespace=3)
    with pytest.raises(TypeError):
        ray.get_actor(3)
    made = make_counter()
    with pytest.raises(ValueError, match="empty"):
        made.options(name="").remote()


def test_a_name_is_free_when_its_actor_is_dead() -> None:
    made = make_counter()
    counter = made.options(name="again").remote()
    ray.get(counter.add.remote())
    ray.kill(counter)

    def make() -> Any:
        try:
            return made.options(name="again").remote()
        except ValueError:
            return None

    assert ray.get(until(make).value.remote()) == 0


def test_a_detached_actor_needs_no_handle() -> None:
    made = make_counter()

    @ray.remote
    def make() -> int:
        return int(ray.get(made.options(name="detached", lifetime="detached").remote().pid.remote()))

    pid = ray.get(make.remote())
    assert ray.get(ray.get_actor("detached").pid.remote()) == pid
    ray.kill(ray.get_actor("detached"))
    until(lambda: not is_alive(pid))


# --- ends ---------------------------------------------------------------------------------------------------


def test_an_actor_ends_with_its_last_handle() -> None:
    made = make_counter()
    counter = made.remote()
    pid = ray.get(counter.pid.remote())
    copies = [counter]
    del counter
    assert is_alive(pid)
    copies.clear()
    until(lambda: not is_alive(pid))


def test_calls_that_were_submitted_run_before_the_end() -> None:
    made = make_counter()
    counter = made.remote()
    refs = [counter.add.remote() for _ in range(20)]
    del counter
    assert ray.get(refs) == list(range(1, 21))
    assert ray.get(made.remote(1).add.remote()) == 2


def test_kill() -> None:
    counter = make_counter().remote()
    pid = ray.get(counter.pid.remote())
    ray.kill(counter)
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.add.remote())
    until(lambda: not is_alive(pid))
    ray.kill(counter)
    for wrong in (1, "x", None, counter.add, ray.put(1)):
        with pytest.raises(ValueError, match="only supported for actors"):
            ray.kill(wrong)


def test_exit_actor() -> None:
    @ray.remote(max_restarts=3)
    class Leaver:
        def leave(self) -> None:
            ray.actor.exit_actor()

        def caught(self) -> None:
            try:
                ray.actor.exit_actor()
            except Exception:
                pass

        def one(self) -> int:
            return 1

    for name in ("leave", "caught"):
        leaver = Leaver.remote()
        assert ray.get(leaver.one.remote()) == 1
        with pytest.raises(exceptions.RayActorError):
            ray.get(getattr(leaver, name).remote())
        with pytest.raises(exceptions.RayActorError):
            ray.get(leaver.one.remote())
    with pytest.raises(TypeError):
        ray.actor.exit_actor()


def test_the_methods_that_every_actor_has() -> None:
    counter = make_counter().remote(5)
    assert ray.get(counter.__ray_ready__.remote())
    assert ray.get(counter.__ray_call__.remote(lambda self, x, y=0: self.n + x + y, 1, y=2)) == 8
    pid = ray.get(counter.pid.remote())
    counter.__ray_terminate__.remote()
    until(lambda: not is_alive(pid))
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.add.remote())


def test_shutdown_hook(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    @ray.remote
    class Closing:
        def __ray_shutdown__(self) -> None:
            mark.touch()

        def one(self) -> int:
            return 1

    closing = Closing.remote()
    assert ray.get(closing.one.remote()) == 1
    closing.__ray_terminate__.remote()
    until(mark.exists)


def test_restarts() -> None:
    made = make_counter().options(max_restarts=1)
    counter = made.remote(100)
    first = ray.get(counter.pid.remote())
    assert ray.get(counter.add.remote()) == 101
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.die.remote())

    def again() -> Any:
        try:
            return ray.get(counter.pid.remote())
        except exceptions.ActorUnavailableError:
            return 0

    assert until(again) != first
    assert ray.get(counter.add.remote()) == 101
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.die.remote())
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(counter.add.remote())


def test_calls_are_repeated_if_they_may(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")

    @ray.remote(max_restarts=1, max_task_retries=1)
    class Once:
        def die_once(self) -> bool:
            if not os.path.exists(mark):
                open(mark, "w").close()
                os._exit(1)
            return bool(ray.get_runtime_context().was_current_actor_reconstructed)

        def again(self) -> bool:
            return bool(ray.get_runtime_context().was_current_actor_reconstructed)

    once = Once.remote()
    assert ray.get(once.again.remote()) is False
    assert ray.get(once.die_once.remote()) is True


def test_kill_with_restart() -> None:
    counter = make_counter().options(max_restarts=1, max_task_retries=-1).remote()
    first = ray.get(counter.pid.remote())
    ray.kill(counter, no_restart=False)
    until(lambda: not is_alive(first))
    assert ray.get(counter.pid.remote()) != first
    ray.kill(counter)
    with pytest.raises(exceptions.RayActorError):
        ray.get(counter.pid.remote())


# --- limits, threads and cancelling -------------------------------------------------------------------------


def test_max_pending_calls() -> None:
    gate = make_gate()

    @ray.remote
    class Waiting:
        def wait(self, handle: Any) -> Any:
            return ray.get(handle.wait.remote())

        def one(self) -> int:
            return 1

    actor = Waiting.options(max_pending_calls=2).remote()
    ray.get(actor.one.remote())
    refs = [actor.wait.remote(gate), actor.one.remote()]
    with pytest.raises(exceptions.PendingCallsLimitExceeded):
        actor.one.remote()
    ray.get(gate.open.remote())
    assert ray.get(refs) == ["open", 1]
    assert ray.get(actor.one.remote()) == 1


def test_threads() -> None:
    @ray.remote(max_concurrency=3)
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3)

        def meet(self) -> int:
            self.barrier.wait(60)
            return threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(ray.get([meeting.meet.remote() for _ in range(3)]))) == 3


def test_concurrency_groups_of_threads() -> None:
    @ray.remote(concurrency_groups={"io": 2, "compute": 1})
    class Grouped:
        def __init__(self) -> None:
            self.event = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self) -> bool:
            return self.event.wait(60)

        @ray.method(concurrency_group="compute")
        def fire(self) -> None:
            self.event.set()

        def plain(self) -> str:
            return "plain"

    grouped = Grouped.remote()
    refs = [grouped.wait.remote(), grouped.wait.remote()]
    assert ray.get(grouped.plain.remote()) == "plain"
    assert ray.get(grouped.plain.options(concurrency_group="compute").remote()) == "plain"
    ray.get(grouped.fire.remote())
    assert ray.get(refs) == [True, True]


def test_a_queued_call_can_be_cancelled() -> None:
    gate = make_gate()

    @ray.remote
    class Waiting:
        def wait(self, handle: Any) -> Any:
            return ray.get(handle.wait.remote())

        def one(self) -> int:
            return 1

    actor = Waiting.remote()
    first = actor.wait.remote(gate)
    ray.get(gate.waiting.remote(1))
    second = actor.one.remote()
    ray.cancel(second)
    ray.get(gate.open.remote())
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(second)
    assert ray.get(first) == "open"


def test_a_running_call_is_told_that_it_is_cancelled() -> None:
    gate = make_gate()

    @ray.remote
    class Polling:
        def __init__(self) -> None:
            self.was_told = False

        def poll(self, handle: Any) -> None:
            handle.wait.remote()
            while not ray.get_runtime_context().is_canceled():
                time.sleep(0.005)
            self.was_told = True

        def told(self) -> bool:
            return self.was_told

    actor = Polling.remote()
    ref = actor.poll.remote(gate)
    ray.get(gate.waiting.remote(1))
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    assert ray.get(actor.told.remote())


def test_a_call_can_not_be_cancelled_by_force() -> None:
    counter = make_counter().remote()
    ref = counter.add.remote()
    with pytest.raises(ValueError, match="force=True is not supported for actor tasks"):
        ray.cancel(ref, force=True)
    assert ray.get(ref) == 1
