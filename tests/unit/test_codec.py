"""Values to bytes and back: what travels inline, what is stored, and that everything comes back as it was."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import io
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainwise.objects import codec
from grainwise.objects.codec import (
    ALONE_BYTES,
    ATOM_LIMIT,
    INLINE_LIMIT_BYTES,
    MAX_ALONE,
    Packed,
    is_atom,
    pack,
    unpack,
)
from grainwise.objects.ref import READY, ObjectRef, hooks
from tests.unit.small_store import ListSink, SmallStore

LARGE = INLINE_LIMIT_BYTES


def round_trip(value: Any) -> Any:
    return unpack(pack(value, ListSink()))


@pytest.fixture
def refs() -> Iterator[dict[int, ObjectRef[Any]]]:
    """Refs with identities, as a running engine gives them."""
    known: dict[int, ObjectRef[Any]] = {}
    before = hooks.identify, hooks.restore

    def identify(ref: ObjectRef[Any]) -> int:
        ref._id = len(known) + 1
        known[ref._id] = ref
        return ref._id

    hooks.identify, hooks.restore = identify, lambda identity: codec.known_ref(identity) or known[identity]
    yield known
    hooks.identify, hooks.restore = before
    codec.forget_escaped()


def new_ref(value: object = None) -> ObjectRef[Any]:
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    ref._state, ref._value = READY, value
    return ref


# -- atoms ---------------------------------------------------------------------------------------------------


class LiesAboutItsClass:
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return int


@pytest.mark.parametrize(
    "value", [0, -1, 10**100, 1.5, True, None, "text", b"bytes", "x" * ATOM_LIMIT], ids=repr
)
def test_small_immutable_values_are_atoms(value: object) -> None:
    assert is_atom(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * (ATOM_LIMIT + 1), b"x" * (ATOM_LIMIT + 1), (), (1,), [], {}, 1j, np.int64(1), ...,
        np.float64(1.0), type("OwnInt", (int,), {})(1), type("OwnStr", (str,), {})("x"), bytearray(b"x"),
        LiesAboutItsClass(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_everything_else_is_none(value: object) -> None:
    assert not is_atom(value)


# -- what travels inline -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        (), (1, (2, (3,))), [1, [2]], {"a": {"b": [1]}}, {1, 2}, frozenset({1}), 3 + 4j, ..., range(5),
        slice(1, 2), "x" * 10_000, b"x" * 10_000, bytearray(b"abc"), decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc), collections.OrderedDict(a=1),
        collections.deque([1, 2], maxlen=3), collections.Counter("aab"), array.array("d", [1.5, 2.5]),
        ValueError("x").args, int, len, types.SimpleNamespace(a=1), np.float32(1.5),
        np.datetime64("2024-02-29"),
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_small_values_travel_inline(value: object) -> None:
    sink = ListSink()
    packed = pack(value, sink)
    assert not sink.blobs
    assert isinstance(packed.stream, bytes)
    again = unpack(packed)
    assert type(again) is type(value)
    assert again == value


def test_what_is_unpacked_twice_is_two_objects() -> None:
    packed = pack([1, {"a": [2]}], ListSink())
    first, second = unpack(packed), unpack(packed)
    first[1]["a"].append(3)
    assert second == [1, {"a": [2]}]


def test_shared_and_cyclic_parts_stay_so() -> None:
    shared = [1]
    value: list[Any] = [shared, shared]
    value.append(value)
    again = round_trip(value)
    assert again[0] is again[1]
    assert again[2] is again


# -- what is stored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_bytes_are_stored_from_the_limit_on(extra: int) -> None:
    value = bytes(LARGE + extra)
    sink = ListSink()
    packed = pack(value, sink)
    assert bool(sink.blobs) == (extra >= 0 or len(pickle.dumps(value, 5)) >= LARGE)
    again = unpack(packed)
    assert type(again) is bytes
    assert again == value
    if extra >= 0:
        assert packed.stream is None  # no pickle around it
        assert packed.nbytes() == len(value)


@pytest.mark.parametrize(
    "value",
    [
        list(range(100_000)),
        "ä" * LARGE,
        {str(i): i for i in range(20_000)},
        bytearray(LARGE),
        (b"x" * LARGE,),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_long_stream_is_stored(value: object) -> None:
    sink = ListSink()
    packed = pack(value, sink)
    assert len(sink.blobs) == 1
    assert not isinstance(packed.stream, bytes)
    assert packed.nbytes() >= LARGE
    again = unpack(packed)
    assert again == value
    assert type(again) is type(value)


def test_a_large_buffer_is_stored_alone_and_the_rest_travels() -> None:
    sink = ListSink()
    value = {"large": np.arange(LARGE, dtype=np.uint8), "small": np.arange(10), "text": "x"}
    packed = pack(value, sink)
    assert [blob.nbytes for blob in sink.blobs] == [LARGE]
    assert sink.values == [value]
    assert isinstance(packed.stream, bytes)
    assert sorted(isinstance(piece, bytes) for piece in packed.pieces) == [False, True]
    again = unpack(packed)
    assert (again["large"] == value["large"]).all()
    assert (again["small"] == value["small"]).all()


def test_many_small_buffers_that_are_large_together_share_a_blob_with_the_stream() -> None:
    sink = ListSink()
    value = [np.full(128, i) for i in range(1000)]
    packed = pack(value, sink)
    assert len(sink.blobs) == 1
    assert all((one == other).all() for one, other in zip(unpack(packed), value, strict=True))


def test_very_many_large_buffers_share_a_blob_but_huge_ones() -> None:
    sink = ListSink()
    value = [np.full(LARGE, i, dtype=np.uint8) for i in range(MAX_ALONE + 1)]
    value.append(np.zeros(ALONE_BYTES, dtype=np.uint8))
    packed = pack(value, sink)
    assert [blob.nbytes >= ALONE_BYTES for blob in sink.blobs] == [True, True]
    assert len(sink.blobs) == 2
    assert all((one == other).all() for one, other in zip(unpack(packed), value, strict=True))


def test_a_buffer_that_appears_twice_is_stored_once() -> None:
    sink = ListSink()
    large = np.arange(LARGE)
    one, other = unpack(pack([large, large], sink))
    assert len(sink.blobs) == 1
    assert one is other


# -- arrays --------------------------------------------------------------------------------------------------

RECORDS = np.dtype([("a", "i4"), ("b", "f8", (2,)), ("c", "U3")])


def masked(values: Any) -> Any:
    return np.ma.masked_array(values, mask=values % 2 == 0)


ARRAYS = {
    "ints": lambda n: np.arange(n),
    "Fortran order": lambda n: np.asfortranarray(np.arange(n * 2.0).reshape(2, n)),
    "every other": lambda n: np.arange(2 * n)[::2],
    "backwards": lambda n: np.arange(n)[::-1],
    "transposed part": lambda n: np.arange(n * 8).reshape(n, 8)[:, 2:5].T,
    "broadcast": lambda n: np.broadcast_to(np.arange(3), (n, 3)),
    "bools": lambda n: np.arange(n) % 2 == 0,
    "big-endian": lambda n: np.arange(n, dtype=">i4"),
    "complex": lambda n: np.arange(n) * 1j,
    "half": lambda n: np.arange(n).astype("f2"),
    "structured": lambda n: np.zeros(n, dtype=RECORDS),
    "times": lambda n: np.arange(n).astype("datetime64[s]"),
    "durations": lambda n: np.arange(n).astype("timedelta64[ns]"),
    "texts": lambda n: np.arange(n).astype("U9"),
    "bytes": lambda n: np.arange(n).astype("S9"),
    "objects": lambda n: np.array([{"i": i} for i in range(n)], dtype=object),
    "no rows": lambda n: np.zeros((0, n)),
    "no columns": lambda n: np.zeros((n, 0), dtype="f4"),
    "one number": lambda n: np.array(3.5),
    "records": lambda n: np.zeros(n, dtype=RECORDS).view(np.recarray),
    "masked": lambda n: masked(np.arange(n)),
    "read-only": lambda n: np.frombuffer(bytes(8 * n), dtype="i8"),
}


@pytest.mark.parametrize("count", [7, 20_000], ids=["small", "large"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_kind(name: str, count: int) -> None:
    value = ARRAYS[name](count)
    again = round_trip([value])[0]
    assert type(again) is type(value)
    assert again.dtype == value.dtype
    assert again.shape == value.shape
    np.testing.assert_array_equal(again, value)
    if value.ndim > 1 and value.size and value.flags.f_contiguous:
        assert again.flags.f_contiguous


@pytest.mark.parametrize("count", [7, 20_000], ids=["small", "large"])
@pytest.mark.parametrize("name", ["ints", "Fortran order", "bools", "structured", "texts", "big-endian"])
def test_arrays_arrive_read_only_whatever_their_size(name: str, count: int) -> None:
    again = round_trip(ARRAYS[name](count))
    assert not again.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        again[...] = again
    with pytest.raises(ValueError, match="WRITEABLE"):
        again.flags.writeable = True


@pytest.mark.parametrize(
    "name", ["every other", "backwards", "transposed part", "broadcast", "times", "objects"]
)
def test_arrays_that_numpy_pickles_in_band_are_alike_whatever_their_size(name: str) -> None:
    small, large = (round_trip(ARRAYS[name](count)) for count in (7, 20_000))
    assert small.flags.writeable == large.flags.writeable


def test_large_arrays_are_read_in_place() -> None:
    sink = ListSink()
    again = unpack(pack({"a": [np.arange(50_000.0)]}, sink))["a"][0]
    assert np.shares_memory(again, np.frombuffer(sink.blobs[0].data, dtype=np.uint8))


# -- frames and tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 30_000], ids=["small", "large"])
def test_frames(count: int) -> None:
    frame = pd.DataFrame(
        {
            "int": np.arange(count),
            "float": np.arange(count) / 3,
            "text": [f"row {i}" for i in range(count)],
            "time": pd.date_range("2024-01-01", periods=count, freq="min", tz="UTC"),
            "kind": pd.Categorical(["a", "b", "c"] * (count // 3) + ["a"] * (count % 3)),
            "maybe": pd.array([None, 1] * (count // 2) + [3] * (count % 2), dtype="Int64"),
        },
        index=pd.Index(np.arange(count)[::-1], name="row"),
    )
    again = round_trip(frame)
    pd.testing.assert_frame_equal(again, frame)
    again["int"] = again["int"] + 1  # a frame is the user's own; only the arrays that arrived are read-only
    again.loc[again.index[0], "int"] = -5
    assert again["int"].iloc[0] == -5
    assert frame["int"].iloc[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        again.loc[again.index[0], "float"] = -5.0
    pd.testing.assert_series_equal(round_trip(frame["float"]), frame["float"])
    pd.testing.assert_index_equal(round_trip(frame.index), frame.index)


def test_columns_of_a_frame_are_read_in_place() -> None:
    sink = ListSink()
    again = unpack(pack(pd.DataFrame({"a": np.arange(50_000.0)}), sink))
    stored = [np.frombuffer(blob.data, dtype=np.uint8) for blob in sink.blobs]
    assert any(np.shares_memory(again["a"].to_numpy(), each) for each in stored)


@pytest.mark.parametrize("count", [5, 30_000], ids=["small", "large"])
def test_tables(count: int) -> None:
    table = pa.table(
        {
            "int": pa.array(range(count)),
            "text": pa.array([None if i % 7 == 0 else f"row {i}" for i in range(count)]),
            "list": pa.array([[i, i + 1] for i in range(count)]),
        }
    )
    sink = ListSink()
    again = unpack(pack(table, sink))
    assert again.equals(table)
    assert again.schema == table.schema
    if count > 5:
        address = again["int"].chunk(0).buffers()[1].address
        blobs = [np.frombuffer(blob.data, dtype=np.uint8) for blob in sink.blobs]
        assert any(blob.ctypes.data <= address < blob.ctypes.data + blob.nbytes for blob in blobs)


# -- anything nested in anything -----------------------------------------------------------------------------

leaves = (
    st.none()
    | st.integers()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.integers(0, 20_000).map(lambda n: np.arange(n, dtype=np.uint16))
    | st.just("long " * 30_000)
)
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


@given(nested)
@settings(max_examples=60)
def test_nested_values_come_back(value: Any) -> None:
    assert_same(round_trip(value), value)
    store = SmallStore()
    packed = pack(value, store)
    assert_same(unpack(packed), value)
    del packed
    store.validate()
    store.close()


# -- what only this program knows ----------------------------------------------------------------------------


@pytest.fixture
def in_main() -> Iterator[Any]:
    """A class that the program itself defines: no worker could import it."""
    main = sys.modules["__main__"]
    code = """
class Point:
    def __init__(self, x):
        self.x = x

    def twice(self):
        return 2 * self.x
"""
    exec(code, vars(main))
    yield main
    if hasattr(main, "Point"):
        del main.Point


def test_what_main_defines_travels_by_value(in_main: Any) -> None:
    assert b"__main__" in pickle.dumps(in_main.Point(3), 5)
    sink = ListSink()
    packed = pack([in_main.Point(21), in_main.Point], sink)
    point_class = in_main.Point
    del in_main.Point
    copyreg = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
    copyreg.pop(point_class, None)
    cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()
    instance, kind = unpack(packed)
    assert instance.twice() == 42
    assert kind is not point_class
    assert type(instance) is kind


def test_what_main_defines_has_its_buffers_stored_once(in_main: Any) -> None:
    """Plain pickle collects the buffers, finds that it will not do, and cloudpickle collects them again."""
    sink = ListSink()
    packed = pack(in_main.Point(np.arange(LARGE)), sink)
    assert len(sink.blobs) == 1
    assert len(packed.pieces) == 1
    assert (unpack(packed).x == np.arange(LARGE)).all()


def test_what_main_defines_holds_its_refs_once(in_main: Any, refs: dict[int, Any]) -> None:
    ref = new_ref()
    packed = pack(in_main.Point(ref), ListSink())
    assert packed.refs == (ref,)
    assert unpack(packed).x is ref


def test_functions_travel_with_what_they_capture() -> None:
    captured = np.arange(LARGE)
    sink = ListSink()
    packed = pack(lambda index: captured[index] + 1, sink)
    assert [blob.nbytes for blob in sink.blobs] == [captured.nbytes]
    function = unpack(packed)
    assert function(10) == 11
    assert not function.__closure__[0].cell_contents.flags.writeable


def test_a_module_that_the_user_sends_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("def f(x):\n    return x + 1", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    cloudpickle.register_pickle_by_value(module)
    try:
        packed = pack([module.f], ListSink())
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    monkeypatch.delitem(sys.modules, "only_here")
    assert unpack(packed)[0](1) == 2


# -- refs inside ---------------------------------------------------------------------------------------------


def test_refs_inside_are_held_and_found_again(refs: dict[int, Any]) -> None:
    one, other = new_ref(), new_ref()
    packed = pack({"a": [one, other], "b": one}, ListSink())
    assert packed.refs == (one, other)
    refs.clear()  # nobody but the value knows them
    again = unpack(packed)
    assert again["a"] == [one, other]
    assert again["b"] is one


def test_a_ref_is_not_the_same_in_another_context(refs: dict[int, Any]) -> None:
    packed = pack([new_ref()], ListSink())
    unpack(packed)
    assert codec.known_ref(1) is None


def test_a_ref_pickled_by_the_user_s_own_means_is_kept_for_good(refs: dict[int, Any]) -> None:
    ref = new_ref()
    stream = pickle.dumps(ref)
    assert codec.escaped_ref(ref._id) is ref
    assert pickle.loads(stream) is ref
    codec.forget_escaped()
    assert codec.escaped_ref(ref._id) is None


class PacksWhilePickled:
    """Submits something while it is being pickled."""

    def __init__(self, ref: ObjectRef[Any], own: list[Packed]) -> None:
        self.ref, self.own = ref, own

    def __reduce__(self) -> Any:
        self.own.append(pack([new_ref(), self.ref], ListSink()))
        return list, ((self.ref,),)


def test_packing_inside_of_packing_keeps_its_refs_apart(refs: dict[int, Any]) -> None:
    before, inside, after = new_ref(), new_ref(), new_ref()
    own: list[Packed] = []
    packed = pack([before, PacksWhilePickled(inside, own), after], ListSink())
    assert packed.refs == (before, inside, after)
    assert own[0].refs[1] is inside
    assert own[0].refs[0] not in packed.refs


INNER: list[Packed] = []


class UnpacksWhileUnpickled:
    def __reduce__(self) -> Any:
        return unpack_inner, ()


def unpack_inner() -> Any:
    return unpack(INNER[0])


def test_unpacking_inside_of_unpacking_keeps_its_refs_apart(refs: dict[int, Any]) -> None:
    inner_ref, outer_ref = new_ref(), new_ref()
    INNER[:] = [pack([inner_ref], ListSink())]
    packed = pack([UnpacksWhileUnpickled(), outer_ref], ListSink())
    refs.clear()
    assert unpack(packed) == [[inner_ref], outer_ref]
    INNER.clear()


def test_refs_of_two_threads_stay_apart(refs: dict[int, Any]) -> None:
    """One thread is in the middle of pickling while another pickles."""
    entered, leave = threading.Event(), threading.Event()

    class Waits:
        def __reduce__(self) -> Any:
            entered.set()
            assert leave.wait(30)
            return list, ()

    mine, theirs = new_ref(), new_ref()
    packed: list[Packed] = []
    thread = threading.Thread(target=lambda: packed.append(pack([theirs, Waits(), theirs], ListSink())))
    thread.start()
    assert entered.wait(30)
    assert pack([mine], ListSink()).refs == (mine,)
    leave.set()
    thread.join(30)
    assert set(packed[0].refs) == {theirs}


# -- what goes wrong -----------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not today")


def test_an_error_of_pickling_arrives_and_leaves_nothing_behind(refs: dict[int, Any]) -> None:
    with pytest.raises(ZeroDivisionError, match="not today"):
        pack([new_ref(), np.arange(LARGE), Unpicklable()], ListSink())
    assert codec._context.met is None
    ref = new_ref()
    assert pack([ref], ListSink()).refs == (ref,)


def test_an_error_of_unpickling_leaves_nothing_behind(refs: dict[int, Any]) -> None:
    INNER.clear()
    packed = pack([new_ref(), UnpacksWhileUnpickled()], ListSink())
    with pytest.raises(IndexError):
        unpack(packed)
    assert codec.known_ref(1) is None


@pytest.mark.parametrize("value", [threading.Lock(), io.StringIO().__enter__, (i for i in "x")], ids=str)
def test_what_cannot_be_pickled_is_an_error(value: object) -> None:
    if isinstance(value, types.BuiltinMethodType):
        value = sys._getframe()
    with pytest.raises(TypeError):
        pack([value], ListSink())


def test_nesting_beyond_all_bounds_is_a_recursion_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(RecursionError):
        pack(value, ListSink())
    while value:  # freeing it would recurse, too
        value = value.pop()


def test_a_sink_that_is_full_is_asked_once() -> None:
    class Full(ListSink):
        def intern(self, parts: Any, value: object) -> Any:
            raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        pack(np.arange(LARGE), Full())
    assert codec._context.met is None
