"""Arrays, frames and tables are read where they lie in shared memory: no copy, and nobody can write to them."""

from __future__ import annotations

import array as standard_array
import collections
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import grainwise as ray

from .full_pool import LIMIT_S

N = 300_000
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks addresses up in /proc")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def is_in_shared_memory(address: int) -> bool:
    """Say whether an address lies in a mapping of an arena, and nobody may write to it there."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            first, last = (int(part, 16) for part in fields[0].split("-"))
            if first <= address < last:
                return len(fields) > 5 and fields[5].startswith("/memfd:grainwise")
    return False


class Point(NamedTuple):
    name: str
    data: Any


def _frame() -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"a": np.arange(N), "b": np.arange(N) * 0.5, "c": np.arange(N) % 7 == 0})


def _table() -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.table({"a": np.arange(N), "b": pyarrow.array([str(i) for i in range(N)])})


def _arrow_address(table: Any) -> int:
    return table.column("a").chunk(0).buffers()[1].address


def _address(array: Any) -> int:
    return array.__array_interface__["data"][0]


def _dict_of_lists() -> Any:
    return {"deep": [1, ({"x": np.arange(N)}, "text")], "set": {1, 2}}


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], int], Callable[[Any, Any], bool]]] = {
    "array": (lambda: np.arange(N), _address, np.array_equal),
    "matrix in Fortran's order": (lambda: np.asfortranarray(np.ones((600, 500))), _address, np.array_equal),
    "records": (
        lambda: np.zeros(N, dtype=[("id", "i4"), ("x", "f8", (2,)), ("s", "S5")]), _address, np.array_equal
    ),
    "complex numbers": (lambda: np.arange(N) * 1j, _address, np.array_equal),
    "dates": (lambda: np.arange(N).astype("datetime64[s]"), _address, np.array_equal),
    "masked array": (
        lambda: np.ma.masked_less(np.arange(N), 5), lambda value: _address(value.data), np.ma.allequal
    ),
    "subclass": (lambda: np.ones((600, 500)).view(np.matrix), _address, np.array_equal),
    "frame": (_frame, lambda frame: _address(frame["b"].to_numpy()), lambda a, b: bool(a.equals(b))),
    "series": (
        lambda: _frame()["b"], lambda series: _address(series.to_numpy()), lambda a, b: bool(a.equals(b))
    ),
    "table": (_table, _arrow_address, lambda a, b: bool(a.equals(b))),
    "record batch": (
        lambda: _table().to_batches()[0], lambda batch: batch.column(0).buffers()[1].address,
        lambda a, b: bool(a.equals(b)),
    ),
    "nested containers": (
        _dict_of_lists, lambda value: _address(value["deep"][1][0]["x"]),
        lambda a, b: np.array_equal(a["deep"][1][0]["x"], b["deep"][1][0]["x"]) and a["set"] == b["set"],
    ),
    "named tuple in a deque": (
        lambda: collections.deque([Point("p", np.arange(N))]), lambda value: _address(value[0].data),
        lambda a, b: np.array_equal(a[0].data, b[0].data) and type(b[0]).__name__ == "Point",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_put_and_get_share_the_memory(kind: str) -> None:
    make, address, is_equal = KINDS[kind]
    value = make()
    ref = ray.put(value)
    first, second = ray.get(ref), ray.get(ref)
    assert is_equal(value, first)
    assert type(first) is type(value)
    assert address(first) == address(second)
    assert is_in_shared_memory(address(first))
    assert not is_in_shared_memory(address(value))


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_reads_its_argument_in_place_and_its_result_is_read_in_place(kind: str) -> None:
    make, address, is_equal = KINDS[kind]
    if kind == "named tuple in a deque":
        Point.__module__ = "__main__"  # by value: the worker need not import this module
    value = make()
    look = ray.remote(lambda argument, locate, shared: shared(locate(argument)))
    same = ray.remote(lambda argument: argument)
    assert ray.get(look.remote(value, address, is_in_shared_memory), timeout=LIMIT_S)
    assert ray.get(look.remote(ray.put(value), address, is_in_shared_memory), timeout=LIMIT_S)
    result = ray.get(same.remote(value), timeout=LIMIT_S)
    assert is_equal(value, result)
    assert is_in_shared_memory(address(result))


@pytest.mark.parametrize("size", [10, N])
def test_nobody_can_write_to_what_is_shared(size: int) -> None:
    array = ray.get(ray.put(np.arange(size)))
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array += 1
    with pytest.raises(ValueError, match="read-only"):
        array.sort()
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    view = memoryview(array)
    assert view.readonly
    own = array.copy()
    own += 1
    assert own[0] == 1


def test_a_frame_that_is_read_in_place_can_be_worked_with() -> None:
    frame = ray.get(ray.put(_frame()))
    frame["d"] = frame["a"] * 2
    assert frame["d"].iloc[-1] == 2 * (N - 1)
    assert frame.groupby("c")["b"].sum().sum() == pytest.approx(0.5 * N * (N - 1) / 2)
    assert len(frame.dropna()) == N


@pytest.mark.parametrize(
    "value",
    [
        bytes(range(256)) * 2000,
        bytearray(range(256)) * 2000,
        "é" * 200_000,
        standard_array.array("d", range(50_000)),
        list(range(50_000)),
        {i: str(i) for i in range(20_000)},
        [bytes([i % 256]) * 50_000 for i in range(20)],
        [np.full(5000, i) for i in range(50)],
        np.array(["text", None, 3], dtype=object),
        np.zeros((0, 5)),
        np.float64(1.5),
        2**300_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_large_values_of_other_kinds_arrive_equal(value: Any) -> None:
    same = ray.remote(lambda argument: argument)
    for result in (ray.get(ray.put(value)), ray.get(same.remote(value), timeout=LIMIT_S)):
        assert type(result) is type(value)
        if isinstance(value, np.ndarray):
            assert (result.dtype, result.shape) == (value.dtype, value.shape)
            assert (result == value).all()
        else:
            assert (
                all(np.array_equal(a, b) for a, b in zip(result, value))
                if isinstance(value, list)
                else result == value
            )


def test_an_array_outlives_its_ref_its_worker_and_the_session() -> None:
    ref = ray.remote(lambda: np.arange(N)).remote()
    array = ray.get(ref, timeout=LIMIT_S)
    part = array[5:7]
    del ref, array
    gc.collect()
    others = [ray.get(ray.put(np.full(N, -1))) for _ in range(5)]
    assert part.tolist() == [5, 6]
    ray.shutdown()
    assert part.tolist() == [5, 6]
    assert others[0][0] == -1
    del part, others
