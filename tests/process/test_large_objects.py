"""Objects beyond 2 and 4 GiB as arguments, through put and get, as results: their lengths don't fit 32 bits.

One object at a time, and as little else as possible: the store holds one copy and readers map it. All of it
stays below 11 GiB.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import grainwise as ray

from .shared_memory import resident_bytes, shared_bytes, wait_until

GB = 1 << 30
LIMIT_S = 100.0

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        sys.platform != "linux" or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 16 * GB,
        reason="needs 14 GiB of memory",
    ),
]


@pytest.fixture(autouse=True)
def _one_worker() -> Iterator[None]:
    gc.collect()
    ray.init(num_cpus=1, object_store_memory=10 * GB)
    yield
    ray.shutdown()
    gc.collect()


def _numbers(nbytes: int) -> np.ndarray:
    """Return an array that is different at every place that a length cut to 31 or 32 bits would lead to."""
    return np.arange(nbytes // 8, dtype=np.int64)


_marks = ray.remote(lambda array: (len(array), int(array[0]), int(array[len(array) // 2]), int(array[-1])))


def _marks_of(array: np.ndarray) -> tuple[int, int, int, int]:
    return len(array), int(array[0]), int(array[len(array) // 2]), int(array[-1])


SIZES = pytest.mark.parametrize(
    "nbytes",
    [
        pytest.param(5 * GB // 2, id="2.5 GiB", marks=pytest.mark.slow),
        pytest.param(4 * GB + 4096, id="just beyond 4 GiB"),
    ],
)


@SIZES
def test_an_array_as_argument_twice_is_one_copy(nbytes: int) -> None:
    array = _numbers(nbytes)
    for _ in range(2):
        assert ray.get(_marks.remote(array), timeout=LIMIT_S) == _marks_of(array)
    assert nbytes <= shared_bytes() < nbytes + GB
    if nbytes < 4 * GB:
        array[-1] = 17  # the last of more than 2**31 bytes: a comparison cut short would not see it
        assert ray.get(_marks.remote(array), timeout=LIMIT_S)[-1] == 17


@SIZES
def test_put_and_get_of_an_array(nbytes: int) -> None:
    array = _numbers(nbytes)
    expected = _marks_of(array)
    ref = ray.put(array)
    del array
    before = resident_bytes()
    assert _marks_of(ray.get(ref)) == expected
    assert resident_bytes() - before < GB, "get made a copy"
    assert ray.get(_marks.remote(ref), timeout=LIMIT_S) == expected
    assert nbytes <= shared_bytes() < nbytes + GB
    del ref
    assert ray.get(_marks.remote(np.arange(3)), timeout=LIMIT_S) == (3, 0, 1, 2)
    assert wait_until(lambda: shared_bytes() < GB, LIMIT_S)


@SIZES
def test_an_array_as_result(nbytes: int) -> None:
    make = ray.remote(lambda n: __import__("numpy").arange(n // 8, dtype="int64"))
    array = ray.get(make.remote(nbytes), timeout=LIMIT_S)
    count = nbytes // 8
    assert _marks_of(array) == (count, 0, count // 2, count - 1)


@pytest.mark.slow
def test_bytes_beyond_two_gibibytes_as_argument_and_result() -> None:
    size = 5 * GB // 2
    ends = ray.remote(lambda value: (len(value), value[:4], value[2**31 : 2**31 + 4], value[-4:]))
    expected = (size, b"0123", b"0123", b"cdef")
    assert ray.get(ends.remote(b"0123456789abcdef" * (size // 16)), timeout=LIMIT_S) == expected
    value = ray.get(ray.remote(lambda n: b"0123456789abcdef" * n).remote(size // 16), timeout=LIMIT_S)
    assert (len(value), value[:4], value[2**31 : 2**31 + 4], value[-4:]) == expected


@pytest.mark.slow
def test_a_pickle_stream_beyond_two_gibibytes() -> None:
    """What cannot travel out of band, such as a bytearray in a list, makes the stream itself that long."""
    size = 5 * GB // 2
    ends = ray.remote(lambda items: (len(items[1]), items[1][0], items[1][2**31], items[1][-1]))
    value = bytearray(size)
    value[0], value[2**31], value[-1] = 1, 2, 3
    assert ray.get(ends.remote(["x", value]), timeout=LIMIT_S) == (size, 1, 2, 3)


def test_many_arrays_that_are_beyond_four_gibibytes_together() -> None:
    """Offsets beyond 2**32 inside one blob's neighbours."""
    refs = [ray.put(np.full(GB // 2, i, np.uint8)) for i in range(10)]
    ends = ray.remote(lambda array: (len(array), int(array[0]), int(array[-1])))
    results = ray.get([ends.remote(ref) for ref in refs], timeout=LIMIT_S)
    assert results == [(GB // 2, i, i) for i in range(10)]
