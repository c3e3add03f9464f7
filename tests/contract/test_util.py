"""`ray.util`: pools of actors, queues, pools of processes, and what else stands beside the core."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .backend import exceptions, make_gate, module, ray

# --- ActorPool ----------------------------------------------------------------------------------------------


def workers(count: int) -> list[Any]:
    class Worker:
        def double(self, x: int) -> int:
            return 2 * x

        def fail(self, x: int) -> int:
            if x == 1:
                raise ValueError("one")
            return x

        def wait(self, handle: Any) -> Any:
            return ray.get(handle.wait.remote())

    made = ray.remote(num_cpus=0)(Worker)
    return [made.remote() for _ in range(count)]


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def test_map_keeps_the_order() -> None:
    pool = ray.util.ActorPool(workers(2))
    assert list(pool.map(double, range(6))) == [0, 2, 4, 6, 8, 10]
    assert sorted(pool.map_unordered(double, range(6))) == [0, 2, 4, 6, 8, 10]
    assert list(pool.map(double, [])) == []


def test_map_submits_at_once() -> None:
    pool = ray.util.ActorPool(workers(1))
    results = pool.map(double, [1, 2])
    assert pool.has_next()
    assert not pool.has_free()
    assert next(results) == 2
    assert list(pool.map(double, [5, 6])) == [10, 12]


def test_submit_and_get_next() -> None:
    pool = ray.util.ActorPool(workers(2))
    assert not pool.has_next()
    assert pool.has_free()
    for value in range(5):
        pool.submit(double, value)
    assert pool.has_next()
    assert not pool.has_free()
    assert pool.pop_idle() is None
    assert [pool.get_next() for _ in range(5)] == [0, 2, 4, 6, 8]
    for get in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(StopIteration):
            get()


def test_get_next_unordered() -> None:
    pool = ray.util.ActorPool(workers(2))
    for value in range(5):
        pool.submit(double, value)
    found = []
    while pool.has_next():
        found.append(pool.get_next_unordered())
    assert sorted(found) == [0, 2, 4, 6, 8]


def test_timeouts_of_a_pool() -> None:
    gate = make_gate()
    pool = ray.util.ActorPool(workers(1))
    pool.submit(lambda actor, handle: actor.wait.remote(handle), gate)
    for get in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(TimeoutError, match="Timed out waiting for result"):
            get(timeout=0.01)
    ray.get(gate.open.remote())
    assert pool.get_next(timeout=60) == "open"
    other = make_gate()
    pool.submit(lambda actor, handle: actor.wait.remote(handle), other)
    with pytest.raises(TimeoutError, match="has been ignored"):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()
    ray.get(other.open.remote())


def test_an_error_frees_its_actor() -> None:
    pool = ray.util.ActorPool(workers(1))
    for value in (1, 2):
        pool.submit(lambda actor, value: actor.fail.remote(value), value)
    with pytest.raises(ValueError, match="one"):
        pool.get_next()
    assert pool.get_next() == 2
    assert pool.has_free()


def test_actors_come_and_go() -> None:
    first, second = workers(2)
    pool = ray.util.ActorPool([first])
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(first)
    pool.push(second)
    popped = pool.pop_idle()
    assert popped in (first, second)
    assert pool.pop_idle() in (first, second)
    assert pool.pop_idle() is None
    pool.submit(double, 4)
    assert not pool.has_next()
    pool.push(popped)
    assert pool.get_next() == 8


# --- Queue --------------------------------------------------------------------------------------------------

queue = module("util.queue")


def test_a_queue_in_one_process() -> None:
    made = queue.Queue()
    items = [1, "two", None, {"three": 3}]
    for item in items:
        made.put(item)
    assert (made.size(), made.qsize(), len(made)) == (4, 4, 4)
    assert not made.empty()
    assert not made.full()
    assert [made.get() for _ in items] == items
    assert made.empty()


def test_what_does_not_wait() -> None:
    made = queue.Queue(maxsize=1)
    made.put_nowait(1)
    assert made.full()
    for put in (
        lambda: made.put_nowait(2),
        lambda: made.put(2, block=False),
        lambda: made.put(2, timeout=0.01),
    ):
        with pytest.raises(queue.Full):
            put()
    assert made.get_nowait() == 1
    for get in (made.get_nowait, lambda: made.get(block=False), lambda: made.get(timeout=0.01)):
        with pytest.raises(queue.Empty):
            get()
    for wrong in (lambda: made.get(timeout=-1), lambda: made.put(1, timeout=-1)):
        with pytest.raises(ValueError, match="timeout"):
            wrong()


def test_batches() -> None:
    made = queue.Queue(maxsize=3)
    made.put_nowait_batch([1, 2])
    with pytest.raises(queue.Full):
        made.put_nowait_batch([3, 4])
    assert made.size() == 2
    with pytest.raises(queue.Empty):
        made.get_nowait_batch(3)
    assert made.get_nowait_batch(2) == [1, 2]
    assert made.get_nowait_batch(0) == []
    for wrong, kind in (("x", TypeError), (-1, ValueError)):
        with pytest.raises(kind):
            made.get_nowait_batch(wrong)
    with pytest.raises(TypeError):
        made.put_nowait_batch(3)


def test_a_queue_between_tasks() -> None:
    made = queue.Queue(maxsize=2)

    @ray.remote
    def produce(target: Any, count: int) -> None:
        for number in range(count):
            target.put(number)

    @ray.remote
    def consume(source: Any, count: int) -> list[int]:
        return [source.get() for _ in range(count)]

    found = consume.remote(made, 10)
    ray.get(produce.remote(made, 10))
    assert ray.get(found) == list(range(10))


def test_a_queue_in_an_event_loop() -> None:
    async def program() -> list[Any]:
        made = queue.Queue(maxsize=1)
        await made.put_async(1)
        for put in (made.put_async(2, block=False), made.put_async(2, timeout=0.01)):
            with pytest.raises(queue.Full):
                await put
        found = [await made.get_async()]
        for get in (made.get_async(block=False), made.get_async(timeout=0.01)):
            with pytest.raises(queue.Empty):
                await get
        waiting = asyncio.ensure_future(made.get_async())
        await made.put_async(2)
        return [*found, await waiting]

    assert asyncio.run(program()) == [1, 2]


def test_options_and_shutdown_of_a_queue() -> None:
    for force in (False, True):
        made = queue.Queue(actor_options={"name": f"queue {force}"})
        assert ray.get_actor(f"queue {force}") == made.actor
        actor = made.actor
        made.shutdown(force=force)
        assert made.actor is None
        with pytest.raises(exceptions.RayActorError):
            ray.get(actor.qsize.remote())


# --- Pool ---------------------------------------------------------------------------------------------------


def test_a_pool_of_processes() -> None:
    pool = module("util.multiprocessing").Pool(2)
    try:
        assert pool.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]
        assert pool.starmap(lambda a, b: a + b, [(1, 2), (3, 4)]) == [3, 7]
        assert pool.apply(lambda a, b=1: a + b, (1,), {"b": 2}) == 3
        assert pool.apply_async(lambda: 5).get(timeout=60) == 5
        assert list(pool.imap(lambda x: -x, range(3))) == [0, -1, -2]
        assert sorted(pool.imap_unordered(lambda x: -x, range(3))) == [-2, -1, 0]

        def fail(x: int) -> int:
            raise ValueError("in the pool")

        with pytest.raises(ValueError, match="in the pool"):
            pool.map(fail, [1])
    finally:
        pool.terminate()
        pool.join()


# --- the rest -----------------------------------------------------------------------------------------------


def test_inspect_serializability() -> None:
    import threading

    lock = threading.Lock()

    def uses_it() -> None:
        lock.acquire()

    assert ray.util.inspect_serializability(3, "number")[0]
    is_fine, found = ray.util.inspect_serializability(uses_it, "function")
    assert not is_fine
    assert found


def test_addresses() -> None:
    assert ray.util.get_node_ip_address().count(".") == 3


def test_named_actors_are_listed() -> None:
    class Named:
        pass

    actor = ray.remote(Named).options(name="listed").remote()
    ray.get(actor.__ray_ready__.remote())

    @ray.remote
    def inside() -> Any:
        return ray.util.list_named_actors()

    assert "listed" in ray.util.list_named_actors()
    assert "listed" in ray.get(inside.remote())
