"""Actors whose calls run at once: `async def`, threads, concurrency groups; and waits that never end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import ActorDeadlockError, ActorDiedError, ActorError, TaskCancelledError

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


@ray.remote
class Signal:
    """Wakes all who wait for it."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.num_waiting = 0

    async def wait(self) -> str:
        self.num_waiting += 1
        await self.event.wait()
        return "woken"

    async def send(self) -> None:
        self.event.set()

    def waiting(self) -> int:
        return self.num_waiting


class PlainCaller:
    def call(self) -> int:
        return ray.get(ray.remote(abs).remote(-1))  # type: ignore[no-any-return]


def test_a_call_on_a_thread_that_waits_lends_the_actors_cpus() -> None:
    caller: Any = ray.remote(PlainCaller).options(num_cpus=2, max_concurrency=2).remote()
    assert get([caller.call.remote() for _ in range(4)]) == [1, 1, 1, 1]
    assert "CPU" not in ray.available_resources()


# --- on an event loop ---------------------------------------------------------------------------------------


def test_async_methods_run_together_on_one_loop() -> None:
    signal: Any = Signal.remote()
    refs = [signal.wait.remote() for _ in range(100)]
    while get(signal.waiting.remote()) < 100:
        pass
    assert ray.wait(refs, timeout=0)[0] == []
    get(signal.send.remote())
    assert get(refs) == ["woken"] * 100


def test_max_concurrency_limits_and_the_rest_waits_in_order() -> None:
    class Narrow:
        def __init__(self) -> None:
            self.running = self.most = 0
            self.seen: list[int] = []

        async def call(self, x: int) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            self.seen.append(x)
            await asyncio.sleep(0)
            self.running -= 1

        async def result(self) -> tuple[int, list[int]]:
            return self.most, self.seen

    narrow: Any = ray.remote(Narrow).options(max_concurrency=3).remote()
    get([narrow.call.remote(i) for i in range(50)])
    assert get(narrow.result.remote()) == (3, list(range(50)))


def test_refs_are_awaited_inside() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    class Asker:
        async def ask(self, refs: list[Any]) -> list[int]:
            return [await ref for ref in refs]

        async def spread(self, n: int) -> list[int]:
            return list(await asyncio.gather(*(double.remote(i) for i in range(n))))  # type: ignore[call-overload]

        async def error(self) -> str:
            @ray.remote
            def fail() -> None:
                raise KeyError("k")

            try:
                await fail.remote()
            except KeyError as error:
                return repr(error.args)
            return ""

    asker: Any = ray.remote(Asker).remote()
    assert get(asker.ask.remote([double.remote(i) for i in range(10)])) == list(range(0, 20, 2))
    assert get(asker.spread.remote(200)) == list(range(0, 400, 2))
    assert "k" in get(asker.error.remote())


def test_async_actors_that_call_each_other() -> None:
    class Node:
        async def join(self, other: Any) -> None:
            self.other = other

        async def ping(self, depth: int) -> int:
            return depth if not depth else 1 + await self.other.ping.remote(depth - 1)

    left, right = (ray.remote(Node).remote() for _ in range(2))
    nodes: Any = (left, right)
    get([nodes[0].join.remote(nodes[1]), nodes[1].join.remote(nodes[0])])
    assert get(nodes[0].ping.remote(20)) == 20


def test_cancelling_an_async_call_interrupts_it() -> None:
    class Sleeper:
        def __init__(self) -> None:
            self.was_cancelled = False
            self.has_begun = False

        async def sleep(self) -> None:
            self.has_begun = True
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise

        async def state(self) -> tuple[bool, bool]:
            return self.has_begun, self.was_cancelled

    sleeper: Any = ray.remote(Sleeper).remote()
    ref = sleeper.sleep.remote()
    while not get(sleeper.state.remote())[0]:
        pass
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        get(ref)
    assert get(sleeper.state.remote()) == (True, True)


def test_errors_and_large_results_of_async_methods() -> None:
    import numpy as np

    class Maker:
        async def fail(self) -> None:
            raise ValueError("async")

        async def array(self, n: int) -> Any:
            return np.arange(n)

        async def lock(self) -> Any:
            return threading.Lock()

        async def pair(self) -> tuple[int, int]:
            return 1, 2

    maker: Any = ray.remote(Maker).remote()
    with pytest.raises(ValueError, match="async"):
        get(maker.fail.remote())
    assert int(get(maker.array.remote(200_000)).sum()) == 199_999 * 100_000
    with pytest.raises(TypeError, match="result"):
        get(maker.lock.remote())
    assert get(maker.pair.options(num_returns=2).remote()) == [1, 2]


def test_an_async_actor_dies_and_is_restarted() -> None:
    class Mortal:
        async def pid(self) -> int:
            return os.getpid()

        async def die(self) -> None:
            os._exit(1)

        async def leave(self) -> None:
            ray.exit_actor()

    mortal: Any = ray.remote(Mortal).options(max_restarts=1).remote()
    pid = get(mortal.pid.remote())
    with pytest.raises(ActorError):
        get(mortal.die.remote())
    assert get(mortal.pid.remote()) != pid
    with pytest.raises(ActorDiedError):
        get(mortal.leave.remote())


def test_a_cancelled_call_that_waits_for_its_turn_is_told_at_once() -> None:
    signal: Any = Signal.options(max_concurrency=1).remote()
    assert get(signal.waiting.remote()) == 0
    first, second = signal.wait.remote(), signal.wait.remote()
    ray.cancel(second)
    with pytest.raises(TaskCancelledError):
        get(second)
    third = signal.waiting.remote()
    ray.cancel(first)
    assert get(third) in (0, 1)


# --- on threads ---------------------------------------------------------------------------------------------


def test_calls_meet_on_threads() -> None:
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def meet(self, x: int) -> tuple[int, int]:
            self.barrier.wait(LIMIT_S)
            return x, threading.get_ident()

    meeting: Any = ray.remote(max_concurrency=4)(Meeting).remote()
    results = get([meeting.meet.remote(i) for i in range(8)])
    assert [x for x, _ in results] == list(range(8))
    assert len({ident for _, ident in results}) == 4


def test_threads_wait_for_tasks_and_other_actors() -> None:
    class Asker:
        def ask(self, n: int) -> int:
            @ray.remote
            def one(x: int) -> int:
                return x + 1

            return sum(ray.get([one.remote(i) for i in range(n)]))

    asker: Any = ray.remote(max_concurrency=3)(Asker).remote()
    assert get([asker.ask.remote(10) for _ in range(9)]) == [55] * 9


def test_a_call_that_waits_for_its_arguments_is_passed() -> None:
    signal: Any = Signal.remote()

    class Any2:
        def call(self, x: Any) -> Any:
            return x

    actor: Any = ray.remote(max_concurrency=2)(Any2).remote()
    late = actor.call.remote(signal.wait.remote())
    assert get([actor.call.remote(i) for i in range(5)]) == list(range(5))
    get(signal.send.remote())
    assert get(late) == "woken"


def test_groups_have_limits_of_their_own() -> None:
    class Grouped:
        def __init__(self) -> None:
            self.gate = threading.Event()

        @ray.method(concurrency_group="slow")
        def block(self) -> str:
            self.gate.wait(LIMIT_S)
            return "through"

        def open(self) -> None:
            self.gate.set()

    grouped: Any = ray.remote(concurrency_groups={"slow": 1, "quick": 1})(Grouped).remote()
    blocked = [grouped.block.remote() for _ in range(3)]
    get(grouped.open.options(concurrency_group="quick").remote())
    assert get(blocked) == ["through"] * 3
    with pytest.raises(ValueError, match="expected one of"):
        get(grouped.open.options(concurrency_group="none").remote())


def test_a_fork_in_a_thread_ends_where_it_came_from() -> None:
    class Forker:
        def fork(self) -> int:
            pid = os.fork()
            if not pid:
                return 0  # and comes back as the result of nobody
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    if sys.version_info >= (3, 12):
        pytest.skip("forking in a thread warns")
    assert get(ray.remote(max_concurrency=2)(Forker).remote().fork.remote()) == 0


# --- waits that never end -----------------------------------------------------------------------------------


class PlainNode:
    """Calls itself or others, and waits."""

    def __init__(self, other: Any = None) -> None:
        self.other = other

    def join(self, other: Any) -> None:
        self.other = other

    def leaf(self) -> int:
        return 1

    def ask(self) -> int:
        return ray.get(self.other.leaf.remote())  # type: ignore[no-any-return]

    def ask_to_ask(self) -> int:
        return ray.get(self.other.ask.remote())  # type: ignore[no-any-return]

    def ask_behind(self, relay: Any) -> int:
        relay.give.remote(self.other.leaf.remote())
        return ray.get(relay.give.remote(1))  # type: ignore[no-any-return]

    def give(self, value: int) -> int:
        return value

    def by_task(self) -> int:
        other = self.other

        @ray.remote
        def ask() -> int:
            return ray.get(other.leaf.remote())  # type: ignore[no-any-return]

        return ray.get(ask.remote())


Node: Any = ray.remote(PlainNode)


def test_an_actor_that_waits_for_itself_is_told() -> None:
    node = Node.remote()
    get(node.join.remote(node))
    for call in (node.ask, node.by_task):
        with pytest.raises(ActorDeadlockError, match=r"PlainNode\.leaf"):
            get(call.remote())
    assert get(node.leaf.remote()) == 1


def test_a_wait_behind_a_call_that_waits_for_the_waiting_one_is_told() -> None:
    node, relay = Node.remote(), Node.remote()
    get(node.join.remote(node))
    assert get(relay.give.remote(0)) == 0
    for each in (relay, Node.remote()):  # the other one has hardly begun to live
        with pytest.raises(ActorDeadlockError, match=r"PlainNode\.leaf"):
            get(node.ask_behind.remote(each))
    assert get([node.leaf.remote(), relay.give.remote(2)]) == [1, 2]


def test_two_actors_that_wait_for_each_other_are_told() -> None:
    left, right = Node.remote(), Node.remote()
    get([left.join.remote(right), right.join.remote(left)])
    with pytest.raises(ActorDeadlockError, match=r"PlainNode\.leaf"):
        get(left.ask_to_ask.remote())
    assert get([left.ask.remote()]) == [1]
    assert get([right.ask.remote()]) == [1]
