"""Arrays, frames and tables are read where they lie in shared memory: no copy, and nobody can write."""

from __future__ import annotations

import array as standard_array
import collections
import gc
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest

import grainwise as ray

from ..leaks import run_script
from .full_pool import LIMIT_S
from .shared_memory import address_of, is_in_shared_memory

N = 300_000
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks addresses up in /proc")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


class Kind(NamedTuple):
    """A kind of value; lambdas travel by value, so that workers need not import this module."""

    make: Callable[[], Any]
    find_array: Callable[[Any], Any]
    is_equal: Callable[[Any, Any], bool] = np.array_equal


KINDS = {
    "array": Kind(lambda: np.arange(N), lambda value: value),
    "matrix in Fortran's order": Kind(lambda: np.asfortranarray(np.ones((600, 500))), lambda value: value),
    "records": Kind(lambda: np.zeros(N, [("id", "i4"), ("x", "f8", (2,)), ("s", "S5")]), lambda value: value),
    "complex numbers": Kind(lambda: np.arange(N) * 1j, lambda value: value),
    "nested containers": Kind(
        lambda: {"deep": [1, ({"x": np.arange(N)}, "text")], "set": {1, 2}},
        lambda value: value["deep"][1][0]["x"],
        lambda a, b: np.array_equal(a["deep"][1][0]["x"], b["deep"][1][0]["x"]) and a["set"] == b["set"],
    ),
    "named tuple in a deque": Kind(
        lambda: collections.deque([collections.namedtuple("Point", "name data")("p", np.arange(N))]),
        lambda value: value[0].data,
        lambda a, b: np.array_equal(a[0].data, b[0].data) and type(b[0]).__name__ == "Point",
    ),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_put_and_get_share_the_memory(kind: Kind) -> None:
    value = kind.make()
    ref = ray.put(value)
    first, second = ray.get(ref), ray.get(ref)
    assert kind.is_equal(value, first)
    assert type(first).__name__ == type(value).__name__
    address = address_of(kind.find_array(first))
    assert address == address_of(kind.find_array(second))
    assert is_in_shared_memory(address)
    assert not is_in_shared_memory(address_of(kind.find_array(value)))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_task_reads_its_argument_in_place_and_its_result_is_read_in_place(kind: Kind) -> None:
    value = kind.make()
    look = ray.remote(lambda argument, find: is_in_shared_memory(address_of(find(argument))))
    assert ray.get(look.remote(value, kind.find_array), timeout=LIMIT_S)
    assert ray.get(look.remote(ray.put(value), kind.find_array), timeout=LIMIT_S)
    result = ray.get(ray.remote(lambda argument: argument).remote(value), timeout=LIMIT_S)
    assert kind.is_equal(value, result)
    assert is_in_shared_memory(address_of(kind.find_array(result)))


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


# In a program of its own: whatever this one has imported, the workers of all later tests would import.
FRAMES_AND_TABLES = """
import numpy as np, pandas, pyarrow
import grainwise as ray
from tests.process.shared_memory import address_of, is_in_shared_memory

N = 300_000
frame = pandas.DataFrame({"a": np.arange(N), "b": np.arange(N) * 0.5, "c": np.arange(N) % 7 == 0})
table = pyarrow.table({"a": np.arange(N), "b": pyarrow.array([str(i) for i in range(N)])})
kinds = {
    "frame": (frame, lambda frame: frame["b"].to_numpy()),
    "series": (frame["b"], lambda series: series.to_numpy()),
    "frames in a dict": ({"x": [frame]}, lambda inside: inside["x"][0]["a"].to_numpy()),
    "table": (table, lambda table: table.column("a").chunk(0).to_numpy()),
    "record batch": (table.to_batches()[0], lambda batch: batch.column(0).to_numpy()),
}
ray.init(num_cpus=2)
same = ray.remote(lambda argument: argument)
look = ray.remote(lambda argument, find: is_in_shared_memory(address_of(find(argument))))
for name, (value, find) in kinds.items():
    ref = ray.put(value)
    first, second = ray.get(ref), ray.get(ref)
    result = ray.get(same.remote(value), timeout=60)
    for arrived in (first, result):
        assert type(arrived) is type(value), name
        assert is_in_shared_memory(address_of(find(arrived))), name
        assert not find(arrived).flags.writeable, name
        if name != "frames in a dict":
            assert arrived.equals(value), name
    assert address_of(find(first)) == address_of(find(second)), name
    assert ray.get(look.remote(value, find), timeout=60), name
    assert ray.get(look.remote(ref, find), timeout=60), name

arrived = ray.get(ray.put(frame))
arrived["d"] = arrived["a"] * 2
assert arrived["d"].iloc[-1] == 2 * (N - 1)
assert arrived.groupby("c")["b"].sum().sum() == 0.5 * N * (N - 1) / 2
assert len(arrived.dropna()) == N
print("all in place")
"""


@pytest.mark.skipif(not (find_spec("pandas") and find_spec("pyarrow")), reason="needs pandas and pyarrow")
def test_frames_and_tables_are_read_in_place_and_can_be_worked_with() -> None:
    ray.shutdown()
    path = os.pathsep.join(filter(None, sys.path))
    result = run_script(FRAMES_AND_TABLES, timeout=100, env={"PYTHONPATH": path})
    assert result.stdout == "all in place\n", result.stderr


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
        np.arange(N).astype("datetime64[s]"),
        np.ma.masked_less(np.arange(N), 5),
        np.ones((600, 500))[::2, ::3],
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
