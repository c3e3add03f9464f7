"""Objects: what `put` stores, how values travel, and what a ref tells of itself."""

from __future__ import annotations

import asyncio
import collections
import copy
import datetime
import decimal
import enum
import os
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from .backend import exceptions, ray

# --- put and get --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(1 << 70), 1.5, float("inf"), 2j, "", "ä" * 1000, b"", b"x" * 200_000, (), (1, (2,)),
        [1, [2, None]], {"a": {1: 2}}, {1, 2}, frozenset({3}), range(5), slice(1, 2), Ellipsis,
        collections.OrderedDict(a=1), collections.deque([1, 2]),
        datetime.datetime(2020, 1, 2), decimal.Decimal("1.5"), ValueError("value"), int,
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:8]}",
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any) -> None:
    @ray.remote
    def same(x: Any) -> Any:
        return x

    for found in (ray.get(ray.put(value)), ray.get(same.remote(value))):
        assert type(found) is type(value)
        assert repr(found) == repr(value)


def test_an_exception_that_is_a_value_is_not_raised() -> None:
    @ray.remote
    def give() -> Exception:
        return ValueError("a value")

    assert isinstance(ray.get(give.remote()), ValueError)


def test_classes_and_functions_of_the_program_travel() -> None:
    class Color(enum.Enum):
        RED = 1

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self) -> Point:
            return Point(self.x + 1)

    @ray.remote
    def move(point: Point, times: Any) -> Any:
        return times(point.moved().x), Color.RED

    number, color = ray.get(move.remote(Point(1), lambda x: 10 * x))
    assert number == 20
    assert color.name == "RED"


def test_arrays_come_back_equal_and_read_only() -> None:
    array = np.arange(500_000, dtype=np.float64).reshape(1000, -1)
    ref = ray.put(array)
    found = ray.get(ref)
    np.testing.assert_array_equal(found, array)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
    nested = ray.get(ray.put({"a": [array, "x"]}))
    np.testing.assert_array_equal(nested["a"][0], array)
    array[0, 0] = 7.0
    assert ray.get(ref)[0, 0] == 0.0


def test_a_task_gets_arrays_without_asking() -> None:
    @ray.remote
    def total(array: Any, *more: Any) -> float:
        return float(array.sum() + sum(each.sum() for each in more))

    array = np.ones(200_000)
    ref = ray.put(array)
    assert ray.get(total.remote(ref, ref, array)) == 600_000.0


def test_a_ref_can_not_be_put_by_itself() -> None:
    ref = ray.put(1)
    with pytest.raises(TypeError, match="Calling 'put' on an"):
        ray.put(ref)
    (inner,) = ray.get(ray.put([ref]))
    assert inner == ref
    assert ray.get(inner) == 1


def test_an_owner_of_an_object_is_no_more() -> None:
    assert ray.get(ray.put(1, _owner=None)) == 1
    with pytest.raises(ValueError, match="_owner"):
        ray.put(1, _owner=2)


def test_each_get_gives_a_copy_of_its_own() -> None:
    ref = ray.put([1, 2])
    ray.get(ref).append(3)
    assert ray.get(ref) == [1, 2]


def test_an_object_outlives_its_own_ref_inside_another() -> None:
    outer = ray.put([ray.put("inner")])
    (inner,) = ray.get(outer)
    del outer
    assert ray.get(inner) == "inner"


def test_refs_travel_deep_and_back() -> None:
    @ray.remote
    def wrap(refs: list[Any]) -> Any:
        return {"same": refs[0], "new": ray.put("new")}

    ref = ray.put("old")
    found = ray.get(wrap.remote([ref]))
    assert found["same"] == ref
    assert ray.get(found["same"]) == "old"
    assert ray.get(found["new"]) == "new"


def test_what_can_not_be_pickled_is_a_type_error() -> None:
    lock = threading.Lock()

    @ray.remote
    def same(x: Any) -> Any:
        return x

    with pytest.raises(TypeError):
        ray.put(lock)
    with pytest.raises(TypeError):
        same.remote(lock)
    with pytest.raises(TypeError):
        ray.remote(lambda: lock).remote()


def test_own_reduce_is_honoured() -> None:
    class Custom:
        def __init__(self, x: int) -> None:
            self.x = x

        def __reduce__(self) -> Any:
            return Custom, (self.x + 1,)

    assert ray.get(ray.put(Custom(1))).x >= 2


def test_registered_serializers() -> None:
    class Handle:
        def __init__(self, number: int) -> None:
            self.number = number
            self.lock = threading.Lock()

    ray.util.register_serializer(
        Handle, serializer=lambda handle: handle.number, deserializer=lambda number: Handle(number)
    )
    try:
        assert ray.get(ray.put(Handle(3))).number == 3

        @ray.remote
        def number(handle: Any) -> Any:
            return handle.number

        assert ray.get(number.remote(Handle(4))) == 4
    finally:
        ray.util.deregister_serializer(Handle)
    with pytest.raises(TypeError):
        ray.put(Handle(5))


# --- refs ---------------------------------------------------------------------------------------------------


def test_identities_of_refs() -> None:
    ref, other = ray.put(1), ray.put(1)
    assert ref != other
    assert ref == ref
    assert len({ref, other, ref}) == 2
    assert len(ref.binary()) == 28
    assert ref.hex() == ref.binary().hex()
    assert ref.hex() != other.hex()
    assert ref.size() == 28
    assert not ref.is_nil()
    assert ref.job_id().hex() == ray.get_runtime_context().get_job_id()
    assert len(ref.task_id().binary()) == 24
    assert ref.hex().startswith(ref.task_id().hex())


def test_refs_made_of_identities() -> None:
    assert ray.ObjectRef.nil().is_nil()
    random = ray.ObjectRef.from_random()
    assert not random.is_nil()
    assert random != ray.ObjectRef.from_random()
    binary = bytes(range(28))
    assert ray.ObjectRef(binary).binary() == binary
    assert ray.ObjectRef(binary) == ray.ObjectRef(binary)
    for wrong in (b"", binary + b"x"):
        with pytest.raises(ValueError, match="needs to have length"):
            ray.ObjectRef(wrong)
    with pytest.raises(TypeError):
        ray.ObjectRef(3)


def test_refs_have_no_order_and_are_no_texts() -> None:
    ref = ray.put(1)
    assert ref != ref.hex()
    with pytest.raises(TypeError):
        sorted([ref, ray.put(2)])


def test_futures_of_refs() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("it failed")

    assert ray.put(5).future().result(timeout=60) == 5
    assert isinstance(fail.remote().future().exception(timeout=60), ValueError)


def test_refs_can_be_awaited() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    @ray.remote
    def fail() -> None:
        raise ValueError("it failed")

    async def program() -> Any:
        found = [await double.remote(1), *await asyncio.gather(*(double.remote(i) for i in range(3)))]
        found.append(await asyncio.wait_for(double.remote(5).as_future(), 60))
        with pytest.raises(ValueError, match="it failed"):
            await fail.remote()
        return found

    assert asyncio.run(program()) == [2, 0, 2, 4, 10]


def test_the_kinds_of_identities() -> None:
    for name, size in {
        "ActorClassID": 28, "ActorID": 16, "FunctionID": 28, "JobID": 4, "NodeID": 28,
        "PlacementGroupID": 18, "TaskID": 24, "UniqueID": 28, "WorkerID": 28,
    }.items():  # fmt: skip
        kind = getattr(ray, name)
        one = kind(os.urandom(size))
        assert kind.size() == size
        assert len(one.binary()) == size
        assert kind(one.binary()) == one == pickle.loads(pickle.dumps(one))
        assert hash(kind(one.binary())) == hash(one)
        assert kind.nil().is_nil()
        assert not one.is_nil()
        assert repr(one) == f"{name}({one.hex()})"
        with pytest.raises(ValueError, match="needs to have length"):
            kind(b"x" * (size + 1))


def test_a_copy_of_a_ref_is_the_ref() -> None:
    ref = ray.put([1])
    assert copy.copy(ref) == ref
    assert copy.deepcopy([ref]) == [ref]


def test_a_lost_ref_does_not_hang() -> None:
    with pytest.raises(exceptions.RayError):
        ray.get(ray.ObjectRef.from_random(), timeout=0.2)
