"""A full object store: it spills to disk, or says so with sizes; it stays usable, and nobody gets SIGBUS."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import ObjectStoreFullError, OutOfDiskError, TaskError

from ..leaks import run_script
from .full_pool import LIMIT_S, assert_pool_is_full
from .shared_memory import shared_bytes, wait_until

MB = 1 << 20
STORE = 32 * MB
SIZE = 5 * MB


def _blob(i: int, size: int = SIZE) -> bytes:
    """Return bytes that are equal to no other's."""
    return i.to_bytes(8, "little") * (size // 8)


_make = ray.remote(lambda i, size: i.to_bytes(8, "little") * (size // 8))
_length = ray.remote(lambda value: len(value))


def _start(spill_dir: Path | str, store: int = STORE) -> None:
    ray.init(num_cpus=2, object_store_memory=store, spill_dir=str(spill_dir))


# --- with a disk --------------------------------------------------------------------------------------------


def test_what_does_not_fit_goes_to_disk_and_comes_back_whole(tmp_path: Path) -> None:
    _start(tmp_path)
    refs = [ray.put(_blob(i)) for i in range(30)]  # nearly five times the store
    assert shared_bytes() < 2 * STORE
    assert [ray.get(ref) == _blob(i) for i, ref in enumerate(refs)] == [True] * 30
    assert ray.get([_length.remote(ref) for ref in refs], timeout=2 * LIMIT_S) == [SIZE] * 30


def test_results_that_do_not_fit_go_to_disk(tmp_path: Path) -> None:
    _start(tmp_path)
    refs = [_make.remote(i, SIZE) for i in range(30)]
    ray.wait(refs, num_returns=30, timeout=2 * LIMIT_S)
    assert shared_bytes() < 3 * STORE
    assert all(ray.get(ref) == _blob(i) for i, ref in enumerate(refs))
    assert ray.get([_length.remote(ref) for ref in reversed(refs)], timeout=2 * LIMIT_S) == [SIZE] * 30


def test_arguments_by_value_that_do_not_fit_go_to_disk(tmp_path: Path) -> None:
    _start(tmp_path)
    refs = [_length.remote(_blob(i)) for i in range(30)]
    assert ray.get(refs, timeout=2 * LIMIT_S) == [SIZE] * 30


def test_an_object_larger_than_the_store_goes_straight_to_disk(tmp_path: Path) -> None:
    _start(tmp_path)
    small = ray.put(_blob(1))
    large = ray.put(_blob(2, 3 * STORE))
    result = _make.remote(3, 3 * STORE)
    assert ray.get(large) == _blob(2, 3 * STORE)
    assert ray.get(result, timeout=LIMIT_S) == _blob(3, 3 * STORE)
    assert ray.get(small) == _blob(1)
    assert ray.get(_length.remote(large), timeout=LIMIT_S) == 3 * STORE


def test_arrays_in_use_stay_valid_while_others_are_spilled(tmp_path: Path) -> None:
    import numpy as np

    _start(tmp_path)
    arrays = [ray.get(ray.put(np.full(SIZE, i, np.uint8))) for i in range(5)]
    more = [ray.put(_blob(i)) for i in range(30)]
    assert [int(array.min()) for array in arrays] == list(range(5))
    assert [int(array.max()) for array in arrays] == list(range(5))
    assert ray.get(more[3]) == _blob(3)


def test_spill_files_have_no_name_and_give_their_room_back(tmp_path: Path) -> None:
    _start(tmp_path)
    free_before = shutil.disk_usage(tmp_path).free
    refs = [ray.put(_blob(i, 20 * MB)) for i in range(10)]
    assert os.listdir(tmp_path) == []
    assert free_before - shutil.disk_usage(tmp_path).free > 100 * MB
    del refs
    assert ray.get(_length.remote(b"x"), timeout=LIMIT_S) == 1  # the engine looks around
    assert wait_until(lambda: free_before - shutil.disk_usage(tmp_path).free < 60 * MB, LIMIT_S)
    ray.shutdown()
    assert os.listdir(tmp_path) == []


# --- without a disk -----------------------------------------------------------------------------------------


def _sizes(error: ObjectStoreFullError) -> tuple[int, int]:
    assert error.used_bytes <= 1.5 * error.capacity_bytes
    return error.requested_bytes, error.capacity_bytes


def test_put_into_a_full_store_fails_with_sizes_and_the_store_stays_usable(tmp_path: Path) -> None:
    _start("off")
    refs = [ray.put(_blob(i)) for i in range(6)]
    with pytest.raises(ObjectStoreFullError, match=r"5.0 MiB .* 30.0 MiB of 32.0 MiB") as info:
        ray.put(_blob(6))
    assert _sizes(info.value) == (SIZE, STORE)
    assert info.value.used_bytes == 6 * SIZE
    assert ray.get(ray.put([1])) == [1]  # small values need no room
    assert all(ray.get(ref) == _blob(i) for i, ref in enumerate(refs))
    del refs[0]
    assert ray.get(ray.put(_blob(7))) == _blob(7)
    assert_pool_is_full(tmp_path)


def test_an_argument_that_does_not_fit_fails_at_the_call(tmp_path: Path) -> None:
    _start("off")
    kept = [ray.put(_blob(i)) for i in range(6)]
    with pytest.raises(ObjectStoreFullError) as info:
        _length.remote(_blob(6))
    assert _sizes(info.value) == (SIZE, STORE)
    assert ray.get(_length.remote(kept[0]), timeout=LIMIT_S) == SIZE
    kept.clear()
    assert ray.get(_length.remote(_blob(6)), timeout=LIMIT_S) == SIZE
    assert_pool_is_full(tmp_path)


def test_a_result_that_does_not_fit_is_the_tasks_error(tmp_path: Path) -> None:
    _start("off")
    with pytest.raises(ObjectStoreFullError) as info:
        ray.get(_make.remote(1, 2 * STORE), timeout=LIMIT_S)
    assert _sizes(info.value) == (2 * STORE, STORE)
    assert isinstance(info.value, TaskError)
    kept = [ray.put(_blob(i)) for i in range(6)]
    with pytest.raises(ObjectStoreFullError):
        ray.get(_make.remote(1, SIZE), timeout=LIMIT_S)
    with pytest.raises(ObjectStoreFullError):
        ray.get(ray.remote(lambda: len(ray.get(ray.put(bytes(5 << 20))))).remote(), timeout=LIMIT_S)
    kept.clear()
    assert wait_until(lambda: _fits(lambda: ray.get(_make.remote(1, SIZE), timeout=LIMIT_S)), LIMIT_S)
    assert_pool_is_full(tmp_path)


def _fits(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except ObjectStoreFullError:
        return False
    return True


def test_results_that_are_dropped_make_room_without_a_disk() -> None:
    _start("off")
    for i in range(60):
        assert ray.get(_make.remote(i, SIZE), timeout=LIMIT_S) == _blob(i)
    for i in range(60):
        assert ray.get(_length.remote(_blob(i)), timeout=LIMIT_S) == SIZE


# --- with a disk that fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "not writable"])
def test_a_spill_folder_that_fails_is_named_and_the_engine_lives_on(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    folder.mkdir()
    _start("/proc" if how == "not writable" else folder)
    folder.rmdir()
    refs: list[Any] = []
    with pytest.raises(OutOfDiskError, match="/proc" if how == "not writable" else "spill"):
        refs.extend(ray.put(_blob(i)) for i in range(30))
    assert len(refs) >= 5
    assert all(ray.get(ref) == _blob(i) for i, ref in enumerate(refs))
    # Nobody waits for these: the engine's own thread, which also spills ahead, must have survived.
    for x in range(3):
        assert _length.remote(bytes(x)).future().result(timeout=LIMIT_S) == x
    with pytest.raises(OutOfDiskError):
        ray.get(_make.remote(1, 2 * STORE), timeout=LIMIT_S)
    refs.clear()
    assert ray.get(_make.remote(1, SIZE), timeout=LIMIT_S) == _blob(1)
    assert_pool_is_full(tmp_path)


SMALL_DISK = """
import os, resource, sys, tempfile
import grainwise as ray
from grainwise.errors import ObjectStoreFullError, OutOfDiskError

MB = 1 << 20
spill = sys.argv[1]
ray.init(num_cpus=2, object_store_memory=20 * MB, spill_dir=spill)
blob = lambda i: i.to_bytes(8, "little") * (5 * MB // 8)
refs = []
try:
    for i in range(30):
        refs.append(ray.put(blob(i)))
except (OutOfDiskError, ObjectStoreFullError) as error:
    print(type(error).__name__, "MiB" in str(error) or "bytes" in str(error))
print(6 <= len(refs) < 30, all(ray.get(ref) == blob(i) for i, ref in enumerate(refs)))
print(ray.remote(lambda: 1).remote().future().result(timeout=30))
make = ray.remote(lambda size: bytes(size))
try:
    ray.get(make.remote(60 * MB), timeout=30)
except (OutOfDiskError, ObjectStoreFullError) as error:
    print("no room for a result")
refs.clear()
print(len(ray.get(ray.put(blob(1)))), len(ray.get(make.remote(5 * MB), timeout=30)))
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs to mount a small filesystem")
def test_a_disk_that_fills_up_is_an_error_with_sizes_and_what_was_there_stays(tmp_path: Path) -> None:
    """A filesystem of 24 MB, in a mount namespace of the program's own."""
    spill = tmp_path / "disk"
    spill.mkdir()
    probe = f"mount -t tmpfs -o size=24m tmpfs {spill} 2>/dev/null"
    if os.system(f"unshare -m sh -c '{probe}'") != 0:
        pytest.skip("may not mount here")
    program = tmp_path / "program.py"
    program.write_text(SMALL_DISK)
    starter = (
        "import os, sys\n"
        f'script = \'{probe} && exec "$0" "$@"\'\n'
        f"inside = ['sh', '-c', script, sys.executable, {str(program)!r}, {str(spill)!r}]\n"
        "os.execvp('unshare', ['unshare', '-m', *inside])\n"
    )
    result = run_script(starter, timeout=60, env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    lines = result.stdout.splitlines()
    assert lines[0] in ("OutOfDiskError True", "ObjectStoreFullError True"), result.stderr
    assert lines[1:] == ["True True", "1", "no room for a result", f"{SIZE} {SIZE}"], result.stderr
    assert result.returncode == 0
