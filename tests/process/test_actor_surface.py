"""What Ray's users touch beside calls: refusals, older spellings, listings, identities."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import ObjectLostError
from grainwise.exceptions import PendingCallsLimitExceeded
from grainwise.util import state

get: Any = ray.get


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """The session is the module's: what it leaves is looked for by other files."""


class PlainCounter:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def add(self, more: int = 1) -> int:
        self.n += more
        return self.n

    def wait(self, refs: list[Any]) -> Any:
        return get(refs[0])

    def me(self) -> Any:
        return ray.get_runtime_context().current_actor


class Gate:
    def __init__(self) -> None:
        import asyncio

        self.event = asyncio.Event()

    async def wait(self) -> None:
        await self.event.wait()

    async def open(self) -> None:
        self.event.set()


Counter: Any = ray.remote(PlainCounter)


# --- refusals -----------------------------------------------------------------------------------------------


def test_graphs_of_calls_are_refused() -> None:
    @ray.remote
    def one() -> int:
        return 1

    some: Any = one
    for bind in (some.bind, Counter.bind, Counter.remote().add.bind):
        with pytest.raises(NotImplementedError, match="graphs of calls are not offered"):
            bind(1)


def test_other_transports_and_unknown_groups_are_refused() -> None:
    any_method: Any = ray.method
    with pytest.raises(NotImplementedError, match="tensor_transport='nccl' is not offered"):
        any_method(tensor_transport="nccl")
    grouped: Any = ray.remote(concurrency_groups={"io": 1})(PlainCounter)
    with pytest.raises(ValueError, match="asks for the concurrency group 'none' - expected one of io"):
        get(grouped.remote().add.options(concurrency_group="none").remote())


# --- older spellings ----------------------------------------------------------------------------------------


def test_what_older_programs_say() -> None:
    @ray.remote
    def add(a: int, b: int = 1) -> int:
        return a + b

    some: Any = add
    assert get(some._remote(args=[1], kwargs={"b": 5}, num_cpus=1)) == 6
    counter = Counter._remote(args=[3])
    assert get(counter.add._remote(args=[2])) == 5
    assert Counter.__ray_metadata__.class_name == "PlainCounter"
    assert Counter.__ray_metadata__.modified_class is Counter.__ray_actor_class__ is PlainCounter
    assert repr(counter) == f"Actor(PlainCounter, {counter._ray_actor_id.hex()})"


# --- the actor itself ---------------------------------------------------------------------------------------


def test_an_actor_can_hand_itself_out_when_nobody_else_holds_it() -> None:
    gate: Any = ray.remote(Gate).remote()

    class PlainLast:
        def wait_and_tell(self, refs: list[Any]) -> Any:
            get(refs[0])
            return ray.get_runtime_context().current_actor

        def one(self) -> int:
            return 1

    last: Any = ray.remote(PlainLast).remote()
    get(last.one.remote())
    ref = last.wait_and_tell.remote([gate.wait.remote()])
    del last
    gate.open.remote()
    again = get(ref)
    assert get(again.one.remote()) == 1


def test_the_limit_of_pending_calls_holds_in_tasks() -> None:
    gate: Any = ray.remote(Gate).remote()
    counter = Counter.options(max_pending_calls=2).remote()

    @ray.remote
    def submit(handle: Any, held: list[Any]) -> list[Any]:
        refs = [handle.wait.remote(held), handle.add.remote()]
        with pytest.raises(PendingCallsLimitExceeded, match="max_pending_calls=2"):
            handle.add.remote()
        get(gate.open.remote())
        return [*get(refs), get(handle.add.remote())]

    assert get(submit.remote(counter, [gate.wait.remote()])) == [None, 1, 2]


# --- listings -----------------------------------------------------------------------------------------------


def test_listings_of_actors() -> None:
    counter = Counter.options(name="listed", namespace="space", lifetime="detached").remote()
    identity = counter._actor_id.hex()
    get(counter.add.remote())
    row: Any = state.get_actor(identity)
    assert (row.state, row.class_name, row.name, row.ray_namespace) == (
        "ALIVE", "PlainCounter", "listed", "space"
    )  # fmt: skip
    assert row.is_detached
    assert row.death_cause is None
    assert row in state.list_actors(filters=[("state", "=", "ALIVE")])
    ray.kill(counter)
    row = state.get_actor(identity)
    assert row.state == "DEAD"
    assert "killed" in str(row.death_cause)
    counts = state.summarize_actors()["cluster"]["summary"]["PlainCounter"]["state_counts"]
    assert counts["DEAD"] >= 1
    assert state.get_actor("ab" * 16) is None


def test_listings_of_calls() -> None:
    gate: Any = ray.remote(Gate).remote()
    counter = Counter.remote()
    held = gate.wait.remote()
    ref = counter.wait.remote([held])

    def running() -> Any:
        rows = state.list_tasks(filters=[("name", "=", "PlainCounter.wait")])
        return next((row for row in rows if row.state.startswith("RUNNING")), None)

    while running() is None:
        ray.wait([held], timeout=0.01)
    row = running()
    assert row.type == "ACTOR_TASK"
    assert row.actor_id == counter._actor_id.hex()
    gate.open.remote()
    get(ref)


# --- identities ---------------------------------------------------------------------------------------------


def test_a_ref_that_travels_is_found_by_its_identity() -> None:
    @ray.remote
    def found(within: list[Any]) -> Any:
        made = ray.ObjectRef.from_binary(within[0].binary())
        return get(made), made == within[0], ray.ObjectRef.from_hex(within[0].hex()) == made

    ref = ray.put("value")
    counter = Counter.remote()
    get(counter.add.remote())
    assert get(found.remote([ref])) == ("value", True, True)


def test_a_ref_to_nothing_says_so() -> None:
    nothing = ray.ObjectRef.from_random()
    with pytest.raises(ObjectLostError, match="is not known here"):
        ray.get(nothing)
    assert ray.wait([nothing]) == ([nothing], [])


def test_callbacks_of_refs() -> None:
    found: list[Any] = []
    done = threading.Event()

    def note(value: Any) -> None:
        found.append(value)
        done.set()

    ref: Any = ray.put(3)
    ref._on_completed(note)
    assert done.wait(60)
    done.clear()

    @ray.remote
    def fail() -> None:
        raise ValueError("later")

    failing: Any = fail.remote()
    failing._on_completed(note)
    assert done.wait(60)
    assert found[0] == 3
    assert isinstance(found[1], ValueError)
