"""Arguments go by value, results are isolated, and large ones are stored once all the same."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grainwise as ray

from ..leaks import run_script
from .full_pool import LIMIT_S
from .shared_memory import shared_bytes

LARGE = 4_000_000
"""Elements of a byte array that is stored in shared memory, and large enough to be watched for writes."""


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


_total = ray.remote(lambda array: int(array.sum(dtype=np.int64)))


# --- changes after the call ---------------------------------------------------------------------------------


def test_a_change_after_the_call_is_never_seen(tmp_path: Path) -> None:
    fifos = [str(tmp_path / f"gate-{i}") for i in range(2)]
    for fifo in fifos:
        os.mkfifo(fifo)
    hold = ray.remote(lambda path: Path(path).read_text())
    held = [hold.remote(fifo) for fifo in fifos]  # both workers are busy: what follows is queued

    small, large = np.ones(10, np.uint8), np.ones(LARGE, np.uint8)
    items: dict[str, list[int]] = {"items": [1, 2]}
    same = ray.remote(lambda value: value)
    early = [_total.remote(small), _total.remote(large), same.remote(items), same.remote([small, large])]
    small[:], large[:] = 7, 7
    items["items"].append(3)
    late = [_total.remote(small), _total.remote(large), same.remote(items)]
    for fifo in fifos:
        Path(fifo).write_text("")
    assert ray.get(early[:3], timeout=LIMIT_S) == [10, LARGE, {"items": [1, 2]}]
    arrays = ray.get(early[3], timeout=LIMIT_S)
    assert [int(array.max()) for array in arrays] == [1, 1]
    assert ray.get(late, timeout=LIMIT_S) == [70, 7 * LARGE, {"items": [1, 2, 3]}]
    assert ray.get(held, timeout=LIMIT_S) == ["", ""]


def test_put_keeps_the_value_of_its_moment() -> None:
    array, items = np.zeros(LARGE, np.uint8), [1]
    array_ref, items_ref = ray.put(array), ray.put(items)
    array[0], items[0] = 9, 9
    assert ray.get(array_ref)[0] == 0
    assert ray.get(items_ref) == [1]


def _write_item(array: Any) -> None:
    array[12_345] += 1


def _write_last(array: Any) -> None:
    array[-1] += 1


def _write_view(array: Any) -> None:
    array[::3][7] += 1


def _write_memoryview(array: Any) -> None:
    memoryview(array)[2_000_000] ^= 1


def _write_by_kernel(array: Any) -> None:
    read, write = os.pipe()
    os.write(write, bytes(array[1_000_001:1_000_004] + 1))
    assert os.readv(read, [memoryview(array)[1_000_001:1_000_004]]) == 3
    os.close(read)
    os.close(write)


def _write_by_c(array: Any) -> None:
    import ctypes

    ctypes.memset(array.ctypes.data + 3_000_000, int(array[3_000_000]) + 1, 5)


def _swap_two_items(array: Any) -> None:
    array[5], array[6] = array[6] + 3, array[5]


@pytest.mark.parametrize(
    "write",
    [
        _write_item,
        _write_last,
        _write_view,
        _write_memoryview,
        _write_by_kernel,
        _write_by_c,
        _swap_two_items,
    ],
)
def test_the_smallest_change_between_two_calls_is_seen(write: Callable[[Any], None]) -> None:
    """However often the array was passed unchanged: that is when the engine has cheap ways to tell."""
    array = np.arange(LARGE, dtype=np.uint8) % 199
    same = ray.remote(lambda value: bytes(value))
    for _ in range(3):
        before = array.tobytes()
        for _ in range(4):
            assert ray.get(same.remote(array), timeout=LIMIT_S) == before
        write(array)
        after = array.tobytes()
        assert after != before
        assert ray.get(same.remote(array), timeout=LIMIT_S) == after


def test_a_new_array_in_the_place_of_a_dropped_one_is_not_taken_for_it() -> None:
    for value in range(30):
        array = np.full(LARGE, 1, np.uint8)
        array[LARGE // 2 + 1] = value
        assert ray.get([_total.remote(array) for _ in range(3)], timeout=LIMIT_S) == [LARGE - 1 + value] * 3
        del array


def test_views_of_one_buffer_are_different_arguments() -> None:
    whole = np.arange(LARGE, dtype=np.int64)
    views = [
        whole,
        whole[1:],
        whole[:-1],
        whole[::2],
        whole[::-1],
        whole.reshape(-1, 2).T,
        whole.view(np.uint64),
    ]
    for _ in range(3):
        refs = [_total.remote(view) for view in views]
        assert ray.get(refs, timeout=LIMIT_S) == [int(view.sum(dtype=np.int64)) for view in views]


# --- isolation of results -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, LARGE])
def test_what_get_returns_cannot_change_what_others_get(size: int) -> None:
    ref = ray.remote(lambda n: {"array": np.zeros(n, np.uint8), "items": [1]}).remote(size)
    first, second = ray.get(ref, timeout=LIMIT_S), ray.get(ref)
    first["items"].append(2)
    with pytest.raises(ValueError, match="read-only"):
        first["array"][0] = 9
    with pytest.raises(ValueError, match="WRITEABLE"):
        first["array"].flags.writeable = True
    assert second["items"] == [1]
    assert ray.get(ref)["array"][0] == 0
    own = first["array"].copy()
    own[0] = 9
    assert (own[0], ray.get(ref)["array"][0]) == (9, 0)


@pytest.mark.parametrize("size", [10, LARGE])
def test_what_a_task_does_to_its_arguments_stays_in_the_task(size: int) -> None:
    @ray.remote
    def vandal(array: Any, items: list[int], given: Any) -> list[str]:
        texts = []
        for target in (array, given):
            try:
                target[0] = 9
            except ValueError as error:
                texts.append(str(error))
        items.append(9)
        return texts

    array, items = np.zeros(size, np.uint8), [1]
    ref = ray.put(array)
    for _ in range(3):
        texts = ray.get(vandal.remote(array, items, ref), timeout=LIMIT_S)
        assert all("read-only" in text for text in texts)
        assert len(texts) == 2
    assert (array[0], items, ray.get(ref)[0]) == (0, [1], 0)


def test_a_result_is_not_the_argument() -> None:
    items = [1, 2]
    same = ray.remote(lambda value: value)
    result = ray.get(same.remote(items), timeout=LIMIT_S)
    assert result == items
    assert result is not items


# --- stored once --------------------------------------------------------------------------------------------

ONE = 20_000_000


def _growth(submit: Callable[[], Any]) -> float:
    """Return by how many times `ONE` bytes the shared memory grew."""
    before = shared_bytes()
    kept = submit()
    grown = (shared_bytes() - before) / ONE
    del kept
    return grown


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="measures shared memory in /proc")


@linux_only
def test_a_large_argument_to_many_tasks_is_stored_once() -> None:
    array = np.random.default_rng(1).integers(0, 255, ONE, dtype=np.uint8)
    total = int(array.sum(dtype=np.int64))

    def submit() -> Any:
        refs = [_total.remote(array) for _ in range(20)]
        assert ray.get(refs, timeout=LIMIT_S) == [total] * 20
        return refs

    assert _growth(submit) < 1.5
    assert _growth(submit) < 0.5  # and found again by the next loop


@linux_only
def test_equal_content_is_stored_once_whatever_holds_it() -> None:
    array = np.random.default_rng(2).integers(0, 255, ONE, dtype=np.uint8)
    copy, text = array.copy(), array.tobytes()
    length = ray.remote(lambda *values, **named: len(values) + len(named))

    def submit() -> Any:
        refs = [length.remote(array, copy, x=text), length.remote([array], {"a": copy})]
        assert ray.get(refs, timeout=LIMIT_S) == [3, 2]
        return refs

    assert _growth(submit) < 1.5


@linux_only
def test_an_array_that_a_closure_captures_is_stored_once() -> None:
    array = np.random.default_rng(3).integers(0, 255, ONE, dtype=np.uint8)
    total = int(array.sum(dtype=np.int64))

    def submit() -> Any:
        functions = [ray.remote(lambda n=n: int(array.sum(dtype=np.int64)) + n) for n in range(5)]
        refs = [function.remote() for function in functions]
        assert ray.get(refs, timeout=LIMIT_S) == [total + n for n in range(5)]
        assert ray.get(_total.remote(array), timeout=LIMIT_S) == total
        return functions, refs

    assert _growth(submit) < 1.5


FITTED_MODEL = """
import pickle
import numpy as np
from sklearn.ensemble import RandomForestClassifier
import grainwise as ray
from tests.process.shared_memory import shared_bytes

rng = np.random.default_rng(4)
features, labels = rng.random((1500, 8)), rng.integers(0, 40, 1500)
model = RandomForestClassifier(n_estimators=20, random_state=0).fit(features, labels)
size = len(pickle.dumps(model, 5))
ray.init(num_cpus=2)
predict = ray.remote(lambda forest, rows: forest.predict(rows))
parts = [predict.remote(model, features[i : i + 100]) for i in range(0, 1500, 100)]
predicted = np.concatenate(ray.get(parts, timeout=60))
print(size > 1_000_000, (predicted == model.predict(features)).all(), shared_bytes() < 1.5 * size)
"""


@linux_only
@pytest.mark.skipif(not find_spec("sklearn"), reason="needs scikit-learn")
def test_a_fitted_model_is_stored_once_though_each_pickling_makes_fresh_arrays() -> None:
    """In a program of its own: what this one has imported, the workers of all later tests would import."""
    ray.shutdown()
    result = run_script(
        FITTED_MODEL, timeout=100, env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )
    assert result.stdout == "True True True\n", result.stderr


@linux_only
def test_a_large_argument_inside_a_task_is_found_again() -> None:
    """A task that hands its own argument on does not store it a second time."""
    array = np.random.default_rng(5).integers(0, 255, ONE, dtype=np.uint8)
    total = int(array.sum(dtype=np.int64))

    @ray.remote
    def parent(value: Any) -> list[int]:
        return ray.get([_total.remote(value) for _ in range(10)])

    def submit() -> Any:
        ref = parent.remote(array)
        assert ray.get(ref, timeout=LIMIT_S) == [total] * 10
        return ref

    assert _growth(submit) < 2.5


@linux_only
def test_a_result_that_is_an_argument_is_not_stored_again() -> None:
    array = np.random.default_rng(6).integers(0, 255, ONE, dtype=np.uint8)
    same = ray.remote(lambda value: value)

    def submit() -> Any:
        refs = [same.remote(array) for _ in range(10)]
        assert all((ray.get(ref, timeout=LIMIT_S) == array).all() for ref in refs)
        return refs

    assert _growth(submit) < 3.5


@linux_only
def test_what_a_task_makes_and_passes_to_many_is_stored_once() -> None:
    @ray.remote
    def parent(seed: int) -> bool:
        array = np.random.default_rng(seed).integers(0, 255, ONE, dtype=np.uint8)
        totals = ray.get([_total.remote(value) for value in [array, array.copy()] * 5])
        return bool(totals == [int(array.sum(dtype=np.int64))] * 10)

    def submit() -> Any:
        ref = parent.remote(7)
        assert ray.get(ref, timeout=LIMIT_S)
        return ref

    assert _growth(submit) < 1.5


def test_a_change_between_two_calls_inside_a_task_is_seen() -> None:
    @ray.remote
    def parent(given: Any) -> list[int]:
        array = given.copy()
        refs = []
        for i in range(6):
            refs += [_total.remote(array), _total.remote(given), _total.remote(array)]
            array[(i + 1) * 1000] = 0
        return ray.get(refs)

    expected = [total for i in range(6) for total in (LARGE - i, LARGE, LARGE - i)]
    for _ in range(3):
        assert ray.get(parent.remote(np.ones(LARGE, np.uint8)), timeout=LIMIT_S) == expected


@linux_only
def test_what_a_task_is_given_and_stores_is_not_stored_again() -> None:
    array = np.random.default_rng(8).integers(0, 255, ONE, dtype=np.uint8)
    share = ray.remote(lambda value: [ray.put(value), ray.put(value[: len(value) // 2 + 1])])

    def submit() -> Any:
        refs = [ref for refs in ray.get([share.remote(array) for _ in range(5)]) for ref in refs]
        whole, part = ray.get(refs[:2])
        assert (whole == array).all()
        assert (part == array[: len(part)]).all()
        return refs

    assert _growth(submit) < 1.5


def test_an_argument_that_came_back_outlives_its_argument_and_its_worker() -> None:
    def same(value: Any) -> Any:
        return os.getpid(), value

    ref = ray.remote(same).remote(np.arange(LARGE, dtype=np.uint8))
    pid, array = ray.get(ref, timeout=LIMIT_S)
    del ref
    os.kill(pid, signal.SIGKILL)
    fillers = [ray.put(np.full(LARGE, 9, np.uint8)) for _ in range(4)]
    assert ray.get(_total.remote(array), timeout=LIMIT_S) == int(
        np.arange(LARGE, dtype=np.uint8).sum(dtype=np.int64)
    )
    assert (array == np.arange(LARGE, dtype=np.uint8)).all()
    del fillers
