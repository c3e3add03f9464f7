"""What `map` can be given: every kind of input and of item, by value as of when it was read."""

from __future__ import annotations

import array
import collections
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise
from grainwise.errors import SerializationError, TaskError

from .full_pool import LIMIT_S
from .hostile_values import Explodes
from .mapped_functions import Config, Number, Pair, Row, Text, double
from .shared_memory import shared_bytes, wait_until


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    grainwise.init(num_cpus=2)
    yield
    grainwise.shutdown()


def described(x: Any) -> str:
    return f"{type(x).__name__} {x!r}"


def assert_arrives(*inputs: Any) -> None:
    """Fail unless workers see of each input what iterating over it yields here."""
    describe = lambda x: f"{type(x).__name__} {x!r}"  # noqa: E731 - so that workers need not import this
    for given in inputs:
        assert list(grainwise.map(describe, given)) == [described(x) for x in given], repr(given)[:200]


# --- plain Python -------------------------------------------------------------------------------------------


def test_ranges() -> None:
    assert_arrives(
        range(10),
        range(5, 50, 7),
        range(10, -10, -3),
        range(0),
        range(3, 3),
        range(5, 0),
        range(10**25, 10**25 + 3),
    )


def test_a_huge_range_is_an_endless_input() -> None:
    for given in (range(10**30), range(0, -(10**30), -7)):
        with grainwise.map(double, given) as results:
            assert [next(results) for _ in range(1000)] == [2 * i for i in given[:1000]]


def test_lists_tuples_and_all_other_iterables() -> None:
    assert_arrives(
        [], [1], [None] * 50, list(range(5000)), [True, 1, 1.5, "x", b"y", None], (1, 2), ((1, 2), (3,))
    )
    assert_arrives([()] * 3, [(), [], {}, set()], [[i] for i in range(300)], [{"a": i} for i in range(300)])
    assert_arrives(
        "abc", b"abc", {"k": 1, "l": 2}, {"k": 1}.values(), {"k": 1}.items(), {3, 4}, frozenset("ab")
    )
    assert_arrives(
        collections.deque([1, [2]]), collections.OrderedDict(a=1), array.array("d", [1, 2]), memoryview(b"ab")
    )
    assert_arrives(["x" * 5000, "x" * 4096, b"y" * 200_000], [float("inf"), -0.0, 10**4000, -1])


def test_subclasses_keep_their_class() -> None:
    assert_arrives(
        [Number(3), Number(4)], [Text("a"), "b"], [Pair((1, 2)), (3, 4)], [Row([1])], [Config(a=1)]
    )
    assert_arrives(Row([1, 2, 3]), Text("abc"), Pair((5, 6)), Config(a=1, b=2))
    assert list(grainwise.starmap(lambda a, b: a - b, [Pair((5, 6)), Row([9, 2])])) == [-1, 7]


def test_something_with_getitem_only() -> None:
    class Old:
        def __getitem__(self, i: int) -> int:
            if i == 4:
                raise IndexError
            return i * i

    assert list(grainwise.map(double, Old())) == [0, 2, 8, 18]


def test_an_input_whose_length_is_a_lie_or_an_error() -> None:
    class Wrapper:
        def __init__(self, length: Any) -> None:
            self.length = length

        def __len__(self) -> int:
            if isinstance(self.length, Exception):
                raise self.length
            return self.length

        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    for length in (0, 3, 100, TypeError("no length"), ValueError("no length"), None):
        assert list(grainwise.map(double, Wrapper(length))) == [0, 2, 4, 6, 8]
        assert list(grainwise.map(pow, Wrapper(length), [1] * 5)) == [0, 1, 2, 3, 4]


def test_a_file_is_a_line_iterator(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"line {i}\n" for i in range(3000)))
    with open(path) as file:
        assert list(grainwise.map(str.strip, file)) == [f"line {i}" for i in range(3000)]
    with open(path, "rb") as file:
        assert sum(grainwise.map(len, file)) == path.stat().st_size


def test_what_iterators_yield_is_taken_as_of_then() -> None:
    buffer = [0]
    block = bytearray(100_000)

    def reused() -> Iterator[list[int]]:
        for i in range(500):
            buffer[0] = i
            yield buffer

    def reused_block() -> Iterator[bytearray]:
        for i in range(20):
            block[-1] = i
            yield block

    assert list(grainwise.map(lambda b: b[0], reused())) == list(range(500))
    assert list(grainwise.map(lambda b: b[-1], reused_block())) == list(range(20))
    assert list(grainwise.map(lambda b, i: b[0] - i, reused(), range(500))) == [0] * 500
    assert list(grainwise.starmap(lambda b, i: b[0] - i, ((b, b[0]) for b in reused()))) == [0] * 500


@pytest.mark.parametrize("form", ["list", "generator", "rows", "zip"])
def test_an_object_that_comes_again_and_again_is_another_each_time(form: str) -> None:
    same: list[int] = []

    def grow(x: list[int], *_: object) -> int:
        x.append(1)
        return len(x)

    if form == "list":
        assert list(grainwise.map(grow, [same] * 300)) == [1] * 300
    elif form == "generator":
        assert list(grainwise.map(grow, (same for _ in range(300)))) == [1] * 300
    elif form == "rows":
        assert list(grainwise.starmap(grow, [(same, i) for i in range(300)])) == [1] * 300
    else:
        assert list(grainwise.map(grow, [same] * 300, range(300))) == [1] * 300
    assert same == []


def test_refs_stand_for_their_values_wherever_an_item_may_be() -> None:
    refs = [grainwise.put([i]) for i in range(5)]
    late = grainwise.remote(double).remote(21)
    head = lambda x: x if isinstance(x, int) else x[0]  # noqa: E731
    assert list(grainwise.map(head, refs)) == [0, 1, 2, 3, 4]
    assert list(grainwise.map(head, iter(refs))) == [0, 1, 2, 3, 4]
    assert list(grainwise.map(head, [7, late, refs[3]])) == [7, 42, 3]
    assert list(grainwise.map(lambda x, y: x[0] + y, refs, range(5))) == [0, 2, 4, 6, 8]
    assert list(grainwise.starmap(lambda x, y: x[0] + y, [(refs[4], late), (refs[1], 2)])) == [46, 3]
    assert list(grainwise.starmap(lambda x: head(x), ((ref,) for ref in refs))) == [0, 1, 2, 3, 4]
    nested = list(grainwise.map(lambda refs: grainwise.get(refs), [refs[:2], refs[2:]]))
    assert nested == [[[0], [1]], [[2], [3], [4]]]


def test_exceptions_and_classes_are_items_like_others() -> None:
    describe = lambda x: repr(x)  # noqa: E731
    items = [ValueError("a"), KeyError, StopIteration(3), GeneratorExit(), NotImplemented, ...]
    assert list(grainwise.map(describe, items)) == [repr(item) for item in items]
    assert list(map(repr, grainwise.map(lambda x: x, items))) == [repr(item) for item in items]


def test_large_items() -> None:
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(200_000, i) for i in range(12)]
    assert list(grainwise.map(lambda a: int(a.sum()), arrays)) == [200_000 * i for i in range(12)]
    assert list(grainwise.map(lambda a: int(a.sum()), iter(arrays))) == [200_000 * i for i in range(12)]
    texts = [str(i % 10) * 1_000_000 for i in range(12)]
    assert list(grainwise.map(len, texts)) == [1_000_000] * 12
    backs = grainwise.map(lambda a: a + 1, arrays)
    assert [int(back[0]) for back in backs] == list(range(1, 13))


# --- iterators with a mind of their own ---------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 2, 100, 5000])
def test_an_iterator_that_raises_ends_the_map_behind_what_it_had_yielded(position: int) -> None:
    def items() -> Iterator[int]:
        yield from range(position)
        raise KeyError("in the input")

    got: list[Any] = []
    with pytest.raises(KeyError, match="in the input"):
        got.extend(grainwise.map(double, items(), return_exceptions=True))
    assert got == list(range(0, 2 * position, 2))
    unordered = grainwise.map(double, items(), ordered=False)
    got: list[Any] = []
    with pytest.raises(KeyError, match="in the input"):
        got.extend(unordered)
    assert sorted(got) == list(range(0, 2 * position, 2))


def test_an_iterator_that_calls_the_library() -> None:
    remote = grainwise.remote(double)

    def items() -> Iterator[int]:
        for i in range(50):
            yield grainwise.get(remote.remote(i), timeout=LIMIT_S)
        yield from grainwise.map(double, range(50))
        yield sum(grainwise.map(double, range(1000)))

    wanted = [2 * i for i in range(50)] * 2 + [999_000]
    assert list(grainwise.map(lambda x: x, items())) == wanted


def test_an_iterator_that_blocks_until_another_thread_speaks() -> None:
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert gate.wait(LIMIT_S)
        yield 2

    results: list[int] = []
    thread = threading.Thread(target=lambda: results.extend(grainwise.map(double, items())))
    thread.start()
    assert list(grainwise.map(double, range(100))) == list(range(0, 200, 2)), "others go on meanwhile"
    gate.set()
    thread.join(LIMIT_S)
    assert results == [2, 4]


def test_a_lock_held_around_the_loop_and_in_the_iterator() -> None:
    lock = threading.RLock()

    def items() -> Iterator[int]:
        for i in range(200):
            with lock:
                yield i

    with lock:
        assert list(grainwise.map(double, items())) == list(range(0, 400, 2))


def test_a_dict_that_grows_meanwhile_says_so() -> None:
    given = dict.fromkeys(range(300_000))
    results = grainwise.map(double, given)
    assert next(results) == 0
    given[-1] = None
    with pytest.raises(RuntimeError, match="changed size"):
        list(results)


def test_endless_inputs() -> None:
    for given in (itertools.count(), itertools.cycle([0, 1]), iter(int, 1)):
        with grainwise.map(double, given) as results:
            assert len([next(results) for _ in range(3000)]) == 3000


# --- items that can't travel --------------------------------------------------------------------------------

POSITIONS = [(0,), (1,), (7,), (99,), (0, 1, 2, 98, 99)]


def inputs_with(bad: Callable[[], Any], positions: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    def make(i: int) -> Any:
        return bad() if i in positions else [i] if i % 3 else i

    yield "list", [make(i) for i in range(100)]
    yield "tuple", tuple(make(i) for i in range(100))
    yield "generator", (make(i) for i in range(100))
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        objects = numpy.empty(100, object)
        objects[:] = [make(i) for i in range(100)]
        yield "array", objects
        yield "rows", objects.reshape(100, 1)


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_what_cannot_be_pickled_comes_back_in_its_place(positions: tuple[int, ...]) -> None:
    pytest.importorskip("numpy")
    for form, given in inputs_with(threading.Lock, positions):
        results = list(grainwise.map(lambda x: 1, given, return_exceptions=True))
        assert [i for i, result in enumerate(results) if result != 1] == list(positions), form
        assert len(results) == 100
        for position in positions:
            error: Any = results[position]
            assert isinstance(error, SerializationError), form
            assert error.index == position
            assert f"item {position} of task" in str(error)
            assert "lock" in error.item


def test_what_cannot_be_pickled_ends_the_map_behind_the_results_before_it() -> None:
    pytest.importorskip("numpy")
    for form, given in inputs_with(threading.Lock, (57,)):
        got: list[Any] = []
        with pytest.raises(SerializationError, match=r"item 57 of task.*lock") as info:
            got.extend(grainwise.map(lambda x: 1, given))
        assert got == [1] * 57, form
        assert info.value.index == 57  # type: ignore[attr-defined]
    assert list(grainwise.map(double, range(300))) == list(range(0, 600, 2))


def test_rows_of_arguments_that_cannot_be_pickled() -> None:
    rows: list[Any] = [(i, [i]) for i in range(20)]
    rows[5] = (5, threading.Lock())
    rows[11] = 7
    for given in (rows, iter(rows)):
        results: list[Any] = list(grainwise.starmap(lambda a, b: a, given, return_exceptions=True))
        assert [i for i, result in enumerate(results) if result != i] == [5, 11]
        assert "argument 1 of item 5" in str(results[5])
        assert str(results[11]) == "starmap() expected tuples of arguments, got int at item 11"
        assert isinstance(results[11], TypeError)
    results = list(grainwise.map(lambda a, b: a, range(3), [1, threading.Lock(), 3], return_exceptions=True))
    assert [type(result).__name__ for result in results] == ["int", "SerializationError", "int"]


def test_a_row_that_is_no_row_is_named() -> None:
    for given in ([(1, 2), (2, 3), 5, (3, 4)], iter([(1, 2), (2, 3), 5, (3, 4)])):
        got: list[Any] = []
        with pytest.raises(TypeError, match=r"starmap\(\) expected tuples of arguments, got int at item 2"):
            got.extend(grainwise.starmap(pow, given))
        assert got == [1, 8]


def test_the_task_behind_a_ref_has_failed() -> None:
    @grainwise.remote(max_retries=0)
    def fail() -> None:
        raise LookupError("no such thing")

    items = [1, fail.remote(), 3]
    for given in (items, iter(items)):
        results: list[Any] = list(grainwise.map(lambda x: x, given, return_exceptions=True))
        assert results[::2] == [1, 3]
        assert isinstance(results[1], LookupError)
        assert results[1].index == 1  # type: ignore[attr-defined]
        with pytest.raises(LookupError, match="no such thing"):
            list(grainwise.map(lambda x: x, items))


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_what_cannot_be_unpickled_fails_alone(positions: tuple[int, ...]) -> None:
    for form, given in inputs_with(lambda: Explodes("OSError('boom')"), positions):
        if form == "rows":
            continue  # an array of objects travels as a whole
        results = list(grainwise.map(lambda x: 1, given, return_exceptions=True))
        assert [i for i, result in enumerate(results) if result != 1] == list(positions), form
        for position in positions:
            error: Any = results[position]
            assert isinstance(error, SerializationError), form
            assert isinstance(error, TaskError), form
            assert error.index == position
            assert "boom" in str(error)


# --- NumPy --------------------------------------------------------------------------------------------------


def test_numpy_arrays_of_all_kinds() -> None:
    np = pytest.importorskip("numpy")
    plain = np.arange(24, dtype="i4")
    structured = np.array([(1, 2.5, "a"), (3, 4.5, "b")], dtype=[("i", "i4"), ("f", ">f8"), ("s", "U2")])
    assert_arrives(
        plain, plain.astype(">i8"), plain.astype("f2"), plain > 3, plain.astype("M8[D]"), np.arange(0)
    )
    assert_arrives(
        plain[::3], plain[::-1], plain.reshape(6, 4), plain.reshape(2, 3, 4), plain.reshape(4, 6).T
    )
    assert_arrives(
        np.asfortranarray(plain.reshape(6, 4)), np.broadcast_to(plain[:3], (5, 3)), plain.reshape(24, 1)
    )
    assert_arrives(
        structured, structured[::-1], np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.empty((3, 0))
    )
    assert_arrives(np.array([1, "a", None, [2]], dtype=object), np.ma.array([1, 2, 3], mask=[0, 1, 0]))
    assert_arrives(np.array([[1, "a"], [None, (2,)]], dtype=object), np.float64([1, 2]), plain.astype("c16"))


def test_large_arrays_lie_in_shared_memory_once_and_slices_of_them_travel() -> None:
    np = pytest.importorskip("numpy")
    rows = np.arange(400_000, dtype="f8").reshape(-1, 8)
    for given in (rows, rows.astype(">f8"), np.asfortranarray(rows), rows[::2], rows[:, ::2]):
        sums = list(grainwise.map(lambda row: float(row.sum()), given))
        assert sums == given.sum(1).tolist()


def test_a_row_can_be_written_to_by_nobody() -> None:
    """Whether an item can be written to must not depend on the size of the array."""
    np = pytest.importorskip("numpy")

    def is_writable(row: Any) -> bool:
        return bool(row.flags.writeable)

    small, large = np.zeros((4, 3)), np.zeros((50_000, 3))
    assert set(grainwise.map(is_writable, small)) == {False}
    assert set(grainwise.map(is_writable, large)) == {False}


def test_an_array_without_an_axis_is_refused() -> None:
    np = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match=r"map\(\) expected an iterable as its input, got ndarray"):
        grainwise.map(double, np.array(3))
    with pytest.raises(TypeError, match="expected an iterable as input 1, got float64"):
        grainwise.map(pow, [1], np.float64(3))


def test_a_memory_mapped_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    mapped = np.memmap(tmp_path / "mapped", "f8", "w+", shape=(20_000, 16))
    mapped[:] = np.arange(mapped.size).reshape(mapped.shape)
    results = grainwise.map(lambda row: (type(row).__name__, float(row.sum())), mapped)
    assert list(results) == [("ndarray", float(total)) for total in mapped.sum(1)]
    read_only = np.load(saved(np, tmp_path), mmap_mode="r")
    assert list(grainwise.map(float, read_only)) == [float(i) for i in range(1000)]


def saved(np: Any, folder: Path) -> Path:
    np.save(folder / "saved.npy", np.arange(1000.0))
    return folder / "saved.npy"


def test_an_array_that_is_changed_meanwhile_is_read_as_of_the_start() -> None:
    np = pytest.importorskip("numpy")
    large = np.zeros((20_000, 8))
    results = grainwise.map(lambda row: float(row[0]), large)
    first = next(results)
    large[:] = 1
    assert [first, *results] == [0.0] * 20_000


# --- tables -------------------------------------------------------------------------------------------------


def test_pandas_frames_of_all_kinds() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"a": range(500), "b": [str(i) for i in range(500)], "c": [i / 2 for i in range(500)]}
    )
    odd = [
        frame,
        frame.set_index("b"),
        frame.set_index(["a", "b"]),
        frame.iloc[::-7],
        frame.sample(frac=0.1, random_state=0),
        frame[frame.a % 2 == 0],
        frame.assign(d=pd.Categorical(["x", "y"] * 250), e=pd.Timestamp("2020-01-01"), f=pd.NA),
        frame.assign(g=[[i] for i in range(500)]),
        frame.set_axis(["a", 7, ("t", 1)], axis=1),
        frame.iloc[:0],
        pd.DataFrame(index=range(3)),
        pd.DataFrame(columns=["a"]),
        pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("x", 1), ("x", 2)])),
        pd.DataFrame({"a": [None, 1]}, index=[float("nan"), float("nan")]),
    ]
    for given in odd:
        rows = list(grainwise.map(lambda row: row, given))
        assert repr(rows) == repr(given.to_dict("records"))


@pytest.mark.filterwarnings("ignore:DataFrame columns are not unique:UserWarning")
def test_columns_of_one_name() -> None:
    pd = pytest.importorskip("pandas")
    given = pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])
    assert list(grainwise.map(lambda row: row, given)) == given.to_dict("records")


def test_a_cell_that_cannot_be_pickled_is_named_by_its_row() -> None:
    pd = pytest.importorskip("pandas")
    cells: list[Any] = [[i] for i in range(50)]
    cells[31] = threading.Lock()
    given = pd.DataFrame({"a": range(50), "b": cells})
    results: list[Any] = list(grainwise.map(lambda row: row["a"], given, return_exceptions=True))
    assert [i for i, result in enumerate(results) if result != i] == [31]
    assert "item 31 of task" in str(results[31])
    with pytest.raises(SerializationError, match="item 31 of task"):
        list(grainwise.map(lambda row: 1, given))


def test_a_pandas_series_and_groups() -> None:
    pd = pytest.importorskip("pandas")
    assert list(grainwise.map(double, pd.Series([1, 2, 3], index=[5, 5, 5]))) == [2, 4, 6]
    frame = pd.DataFrame({"k": [1, 1, 2], "v": [1, 2, 3]})
    sums = grainwise.starmap(lambda key, group: (key, int(group.v.sum())), frame.groupby("k"))
    assert list(sums) == [(1, 3), (2, 3)]
    assert list(grainwise.starmap(lambda key, value: key * value, frame.itertuples(index=False))) == [1, 2, 6]


def test_arrow_tables_of_all_kinds() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": list(range(5000)), "b": [str(i) for i in range(5000)]})
    nested = pa.table(
        {
            "l": [[1], None, []],
            "s": [{"x": 1}, {"x": None}, None],
            "d": pa.array(["u", "v", "u"]).dictionary_encode(),
        }
    )
    given = [
        table,
        table.slice(17, 900),
        pa.concat_tables([table.slice(0, 10), table.slice(100, 10), table.slice(5, 3)]),
        nested,
        table.slice(0, 20).to_batches()[0],
        table.slice(0, 0),
        table.select([]).slice(0, 3),
        pa.table({"a": pa.chunked_array([[1, 2], [], [3]])}),
    ]
    for each in given:
        rows = list(grainwise.map(lambda row: row, each))
        assert repr(rows) == repr(each.to_pylist())


def test_polars_frames() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": range(500), "b": [[i] for i in range(500)]})
    assert list(grainwise.map(lambda row: row, frame)) == frame.to_dicts()
    assert list(grainwise.map(lambda row: row["a"], frame.filter(pl.col("a") > 490))) == list(range(491, 500))


# --- afterwards ---------------------------------------------------------------------------------------------


def test_a_large_input_is_gone_with_its_map() -> None:
    np = pytest.importorskip("numpy")
    large = np.zeros((1_000_000, 8))
    for _ in range(3):
        with grainwise.map(lambda row: float(row[0]), large) as results:
            next(results)
    nbytes = large.nbytes
    assert shared_bytes() >= nbytes
    items = [np.full(1_000_000, i) for i in range(10)]
    assert len(list(grainwise.map(len, items))) == 10
    del results, large, items  # as long as they live, a second map of them would find them stored
    gc.collect()
    assert wait_until(lambda: shared_bytes() < nbytes, LIMIT_S)
