"""Refs: a slot with an identity once it leaves the process, and nothing else."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from grainwise.errors import EngineClosedError
from grainwise.objects.ref import FAILED, PACKED, READY, ObjectRef, hooks


def new_ref(state: Any = READY, value: Any = None) -> ObjectRef[Any]:
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    ref._state, ref._value = state, value
    return ref


@pytest.fixture
def no_engine() -> Iterator[None]:
    names = ("identify", "restore", "future")
    before = [getattr(hooks, name) for name in names]
    for name in names:
        setattr(hooks, name, None)
    yield
    for name, hook in zip(names, before, strict=True):
        setattr(hooks, name, hook)


@pytest.fixture
def engine(no_engine: None) -> dict[int, ObjectRef[Any]]:
    """What an engine answers: identities from 1000 up, and futures that are there already."""
    known: dict[int, ObjectRef[Any]] = {}

    def identify(ref: ObjectRef[Any]) -> int:
        ref._id = 1000 + len(known)
        known[ref._id] = ref
        return ref._id

    def future(ref: ObjectRef[Any]) -> Future[Any]:
        made: Future[Any] = Future()
        made.set_result(ref._value)
        return made

    hooks.identify, hooks.restore, hooks.future = identify, known.__getitem__, future
    return known


@pytest.mark.parametrize(
    ("state", "is_resolved", "word"),
    [(READY, True, "ready"), (PACKED, True, "ready"), (FAILED, True, "failed"), (object(), False, "pending")],
)
def test_states(state: Any, is_resolved: bool, word: str) -> None:
    ref = new_ref(state)
    assert ref.is_resolved() is is_resolved
    assert repr(ref) == f"<ObjectRef {word} at {id(ref):#x}>"


def test_an_identity_is_given_once_and_only_when_asked_for(engine: dict[int, Any]) -> None:
    ref = new_ref()
    assert not hasattr(ref, "_id")
    assert ref.binary() == (1000).to_bytes(20, "little") + bytes([1, 0, 0, 0, 1, 0, 0, 0])
    assert ref.hex() == ref.binary().hex()
    assert ref.task_id().binary() == ref.binary()[:24]
    assert new_ref().binary()[:2] == (1001).to_bytes(2, "little")


def test_a_ref_comes_back_from_a_pickle_as_itself(engine: dict[int, Any]) -> None:
    ref = new_ref()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps([ref, ref], protocol)) == [ref, ref]


def test_whoever_pickles_is_told_of_each_ref(engine: dict[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(hooks, "packing", told.append)
    one, other = new_ref(), new_ref()
    pickle.dumps([one, other, one])
    assert told == [one, other]


def test_copies_are_the_ref_itself() -> None:
    ref = new_ref(value=[1])
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref


def test_refs_are_equal_only_to_themselves() -> None:
    one, other = new_ref(value=1), new_ref(value=1)
    assert one != other
    assert len({one, other, one}) == 2


def test_a_ref_can_be_awaited(engine: dict[int, Any]) -> None:
    async def use() -> Any:
        return await new_ref(value=7)

    assert asyncio.run(use()) == 7
    assert new_ref(value=8).future().result() == 8


@pytest.mark.parametrize(
    "use",
    [lambda ref: ref.hex(), lambda ref: ref.binary(), pickle.dumps, lambda ref: ref.future()],
    ids=["hex", "binary", "pickle", "future"],
)
def test_without_an_engine_it_is_said(no_engine: None, use: Any) -> None:
    with pytest.raises(EngineClosedError, match=r"grainwise.init\(\)"):
        use(new_ref())


def test_a_pickled_ref_without_an_engine_is_said(engine: dict[int, Any]) -> None:
    stream = pickle.dumps(new_ref())
    hooks.restore = None
    with pytest.raises(EngineClosedError, match="unpickling an ObjectRef"):
        pickle.loads(stream)


def test_a_ref_is_small() -> None:
    """A million outstanding calls are a million of these: no dict, no finalizer, no weak references."""
    assert sys.getsizeof(new_ref()) + (16 if gc.is_tracked(new_ref()) else 0) <= 72
    assert not hasattr(new_ref(), "__dict__")
    assert not hasattr(ObjectRef, "__del__")
    with pytest.raises(AttributeError):
        new_ref().anything = 1  # type: ignore[attr-defined]


def test_dropping_a_ref_frees_its_value_at_once() -> None:
    class Value:
        freed = 0

        def __del__(self) -> None:
            Value.freed += 1

    gc.disable()
    try:
        ref = new_ref(value=Value())
        del ref
        assert Value.freed == 1
    finally:
        gc.enable()


def test_it_can_be_subscribed_in_annotations() -> None:
    assert ObjectRef[int].__args__ == (int,)  # type: ignore[attr-defined]
    assert ObjectRef.__module__ == "grainwise"
