"""Actors with `async def` methods: all calls run together on one event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from .backend import exceptions, make_gate, ray, until


def test_calls_run_together_on_one_loop() -> None:
    @ray.remote
    class Meeting:
        def __init__(self) -> None:
            self.num_here = 0
            self.all_here = asyncio.Event()

        async def meet(self, count: int) -> Any:
            self.num_here += 1
            if self.num_here == count:
                self.all_here.set()
            await self.all_here.wait()
            return id(asyncio.get_running_loop()), threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(ray.get([meeting.meet.remote(20) for _ in range(20)]))) == 1


def test_methods_of_both_kinds() -> None:
    @ray.remote
    class Mixed:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def plain(self) -> int:
            self.lines.append("plain")
            return 1

        async def waiting(self) -> int:
            await asyncio.sleep(0)
            self.lines.append("async")
            return 2

        async def read(self) -> list[str]:
            return sorted(self.lines)

    mixed = Mixed.remote()
    assert ray.get([mixed.plain.remote(), mixed.waiting.remote()]) == [1, 2]
    assert ray.get(mixed.read.remote()) == ["async", "plain"]


def test_refs_are_awaited_in_methods() -> None:
    gate = make_gate()

    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    @ray.remote
    class Awaiting:
        async def one(self, refs: list[Any]) -> Any:
            return await refs[0]

        async def all(self, refs: list[Any]) -> Any:
            return await asyncio.gather(*refs)

        async def submit(self, x: int) -> Any:
            return await double.remote(x)

        async def alive(self) -> str:
            return "alive"

    actor = Awaiting.remote()
    held = gate.wait.remote()
    waiting = actor.one.remote([held])
    assert ray.get(actor.alive.remote()) == "alive"
    assert ray.get(actor.all.remote([ray.put(1), double.remote(2)])) == [1, 4]
    assert ray.get(actor.submit.remote(3)) == 6
    ray.get(gate.open.remote())
    assert ray.get(waiting) == "open"


def test_errors_of_methods_and_of_awaited_refs() -> None:
    @ray.remote
    def fail() -> None:
        raise KeyError("of a task")

    @ray.remote
    class Failing:
        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise ValueError("of a method")

        async def pass_on(self) -> Any:
            return await fail.remote()

        async def catch(self) -> str:
            try:
                await fail.remote()
            except KeyError:
                return "caught"
            return "nothing"

    failing = Failing.remote()
    with pytest.raises(ValueError, match="of a method"):
        ray.get(failing.fail.remote())
    with pytest.raises(KeyError):
        ray.get(failing.pass_on.remote())
    assert ray.get(failing.catch.remote()) == "caught"


def test_max_concurrency() -> None:
    @ray.remote(max_concurrency=2)
    class Limited:
        def __init__(self) -> None:
            self.num_running = self.most = 0

        async def run(self) -> None:
            self.num_running += 1
            self.most = max(self.most, self.num_running)
            for _ in range(5):
                await asyncio.sleep(0)
            self.num_running -= 1

        async def seen(self) -> int:
            return self.most

    limited = Limited.remote()
    ray.get([limited.run.remote() for _ in range(20)])
    assert ray.get(limited.seen.remote()) <= 2


def test_concurrency_groups() -> None:
    @ray.remote(concurrency_groups={"io": 1, "other": 2})
    class Grouped:
        def __init__(self) -> None:
            self.is_fired = False  # no event: each group may have a loop of its own

        @ray.method(concurrency_group="io")
        async def wait(self) -> str:
            while not self.is_fired:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            return "fired"

        @ray.method(concurrency_group="other")
        async def fire(self) -> None:
            self.is_fired = True

        async def plain(self) -> str:
            return "plain"

    grouped = Grouped.remote()
    refs = [grouped.wait.remote(), grouped.wait.remote()]
    assert ray.get(grouped.plain.remote()) == "plain"
    ray.get(grouped.fire.remote())
    assert ray.get(refs) == ["fired", "fired"]


def test_methods_have_groups_that_the_actor_has() -> None:
    class Mistaken:
        @ray.method(concurrency_group="io")
        async def read(self) -> int:
            return 1

    with pytest.raises((AssertionError, ValueError)):
        ray.remote(Mistaken).remote()
    found = ray.remote(concurrency_groups={"io": 1})(Mistaken).remote()
    assert ray.get(found.read.remote()) == 1


def test_a_running_call_is_cancelled() -> None:
    @ray.remote
    class Sleeper:
        def __init__(self) -> None:
            self.began = asyncio.Event()
            self.was_cancelled = False

        async def sleep(self) -> None:
            self.began.set()
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise

        async def has_begun(self) -> bool:
            return await self.began.wait()

        async def saw_it(self) -> bool:
            return self.was_cancelled

    sleeper = Sleeper.remote()
    ref = sleeper.sleep.remote()
    ray.get(sleeper.has_begun.remote())
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    until(lambda: ray.get(sleeper.saw_it.remote()))


def test_a_call_that_swallows_its_cancellation_counts_as_cancelled() -> None:
    @ray.remote
    class Stubborn:
        def __init__(self) -> None:
            self.began = asyncio.Event()

        async def sleep(self) -> str:
            self.began.set()
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass
            return "went on"

        async def has_begun(self) -> bool:
            return await self.began.wait()

    stubborn = Stubborn.remote()
    ref = stubborn.sleep.remote()
    ray.get(stubborn.has_begun.remote())
    ray.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


def test_what_a_call_awaits_is_cancelled_with_it() -> None:
    gate = make_gate()

    @ray.remote
    class Nested:
        async def wait(self, handle: Any) -> Any:
            return await handle.wait.remote()

    nested = Nested.remote()
    ref = nested.wait.remote(gate)
    ray.get(gate.waiting.remote(1))
    ray.cancel(ref, recursive=True)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


def test_exit_actor() -> None:
    @ray.remote
    class Leaver:
        async def leave(self) -> None:
            ray.actor.exit_actor()

        async def one(self) -> int:
            return 1

    leaver = Leaver.remote()
    assert ray.get(leaver.one.remote()) == 1
    with pytest.raises(exceptions.RayActorError):
        ray.get(leaver.leave.remote())
    with pytest.raises(exceptions.RayActorError):
        ray.get(leaver.one.remote())


def test_the_context_of_each_call() -> None:
    @ray.remote
    class Contextual:
        def __init__(self) -> None:
            self.event = asyncio.Event()

        async def around(self) -> Any:
            context = ray.get_runtime_context()
            before = context.get_task_id(), context.get_task_name()
            await self.event.wait()
            return before, (context.get_task_id(), context.get_task_name())

        async def fire(self) -> Any:
            self.event.set()
            return ray.get_runtime_context().get_actor_id(), ray.get_runtime_context().current_actor

    actor = Contextual.remote()
    refs = [actor.around.remote(), actor.around.remote()]
    identity, handle = ray.get(actor.fire.remote())
    (one, one_after), (two, two_after) = ray.get(refs)
    assert one == one_after
    assert two == two_after
    assert one[0] != two[0]
    assert "around" in one[1]
    assert identity == actor._actor_id.hex()
    assert handle == actor


def test_an_asynchronous_program() -> None:
    @ray.remote
    class Doubler:
        async def double(self, x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

    async def program() -> Any:
        doubler = Doubler.remote()
        tasks = [asyncio.create_task(wrapped(doubler.double.remote(i))) for i in range(5)]
        done, pending = await asyncio.wait(tasks)
        assert not pending
        return sorted(task.result() for task in done), await doubler.double.remote(10)

    async def wrapped(ref: Any) -> Any:
        return await ref

    assert asyncio.run(program()) == ([0, 2, 4, 6, 8], 20)
