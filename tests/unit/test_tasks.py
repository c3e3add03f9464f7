"""What a submission is made of: wires, identities of functions, names for messages, sent batches."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from grainwise.engine.driver.batches import SentBatch
from grainwise.engine.wire import tasks
from grainwise.engine.wire.tasks import (
    Call,
    Function,
    TaskSpec,
    argument_name,
    function_identity,
    packed_wire,
)
from grainwise.objects.codec import CALL_WIRE, PACKED_WIRE, Packed, pack
from grainwise.objects.ref import FAILED, PACKED, READY, ObjectRef
from tests.unit.small_store import ListSink


def new_ref(state: Any, value: Any = None) -> ObjectRef[Any]:
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    ref._state, ref._value = state, value
    return ref


def new_spec(name: str = "f") -> TaskSpec:
    function = Function(b"id", pack(len, ListSink()), name, None)
    return TaskSpec(function, num_cpus=1.0, num_returns=1, max_retries=3, retry_exceptions=False, name=name)


def lend(packed: Packed) -> tuple[Any, ...]:
    return packed_wire(packed, ["lent"] * len(packed.blobs), [])


# -- calls ---------------------------------------------------------------------------------------------------


def test_a_call_is_its_values_on_the_wire() -> None:
    packed = pack([1, 2], ListSink())
    ready, stored = new_ref(READY, "there"), new_ref(PACKED, pack({"a": 1}, ListSink()))
    call = Call((1, packed, ready, stored, None), ("x", "y"), 10)
    assert call.dependencies() == [ready, stored]
    wire = call.wire(lend)
    assert wire[0] == CALL_WIRE
    assert wire[2] == ("x", "y")
    assert wire[1] == [1, lend(packed), "there", lend(stored._value), None]
    assert wire[1][1][0] == PACKED_WIRE


@pytest.mark.parametrize("state", [FAILED, new_spec()])
def test_a_call_whose_arguments_are_not_there_is_never_sent(state: Any) -> None:
    with pytest.raises(AssertionError, match="before its arguments were there"):
        Call((new_ref(state),), (), 0).wire(lend)


def test_a_packed_wire_holds_descriptors_and_identities() -> None:
    packed = pack({"a": np.arange(100_000)}, ListSink())
    assert packed_wire(packed, [(1, 2, 3, 4)], [7]) == (
        PACKED_WIRE,
        packed.stream,
        packed.pieces,
        [(1, 2, 3, 4)],
        [7],
    )


# -- functions -----------------------------------------------------------------------------------------------


def scaled(factor: Any) -> Any:
    return lambda value: value * factor


def identity_of(function: Any) -> bytes:
    return function_identity(pack(function, ListSink()))


def test_equal_functions_have_one_identity() -> None:
    assert identity_of(scaled(2)) == identity_of(scaled(2))
    assert len(identity_of(scaled(2))) == 16


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
def test_what_a_function_captures_is_part_of_its_identity(size: int) -> None:
    """Also an array that is stored out of band, and one element of it."""
    one, other = np.zeros(size), np.zeros(size)
    assert identity_of(scaled(one)) == identity_of(scaled(other))
    other[size // 2] = 1
    assert identity_of(scaled(one)) != identity_of(scaled(other))
    assert identity_of(scaled(1)) != identity_of(scaled(2))


def test_functions_are_told_to_be_gone() -> None:
    tasks.dead_functions.clear()
    Function(b"small", pack(scaled(2), ListSink()), "f", None)
    Function(b"large", pack(scaled(np.zeros(100_000)), ListSink()), "f", None)
    gc.collect()
    assert list(tasks.dead_functions) == [b"small", b"large"]
    tasks.dead_functions.clear()


def test_specs_have_numbers_of_their_own_and_tell_when_they_are_gone() -> None:
    tasks.dead_keys.clear()
    one, other = new_spec(), new_spec()
    numbers = [one.number, other.number]
    assert numbers[0] != numbers[1]
    del one
    assert list(tasks.dead_keys) == numbers[:1]
    del other
    assert list(tasks.dead_keys) == numbers
    tasks.dead_keys.clear()


# -- names for messages --------------------------------------------------------------------------------------


def sample(first: int, second: int = 0, *rest: int, third: int = 0, **more: int) -> None: ...


@pytest.mark.parametrize(
    ("position", "count", "names", "code", "expected"),
    [
        (0, 2, (), sample.__code__, "argument 'first'"),
        (1, 3, ("third",), sample.__code__, "argument 'second'"),
        (2, 3, ("third",), sample.__code__, "argument 'third'"),
        (3, 5, ("more",), sample.__code__, "argument 3"),  # among *rest
        (4, 5, ("more",), sample.__code__, "argument 'more'"),
        (1, 2, (), None, "argument 1"),
        (1, 2, ("x",), None, "argument 'x'"),
    ],
)
def test_arguments_are_called_by_their_names(
    position: int, count: int, names: tuple[str, ...], code: Any, expected: str
) -> None:
    assert argument_name(position, count, names, code) == expected


# -- batches -------------------------------------------------------------------------------------------------


def test_a_batch_begins_as_all_the_worker_s_and_nothing_back() -> None:
    spec = new_spec()
    refs = [new_ref(spec) for _ in range(3)]
    batch = SentBatch(7, refs, [(len(refs), spec)], tasks.EACH, len(refs))
    assert (batch.seq, batch.base, batch.stop, batch.flags) == (7, 0, 3, tasks.EACH)
    assert not batch.is_blocked
    assert batch.children is None
