"""The driver's store with a fake usage: room, spilling, loans, leases, workers' arenas, ends."""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest

from grainwise.errors import EngineClosedError, ObjectStoreFullError, OutOfDiskError
from grainwise.objects import disk as disk_module
from grainwise.objects import store as store_module
from grainwise.objects.arena import Arena, create_memory
from grainwise.objects.blob import Blob
from grainwise.objects.store import DISK_ARENA, HIGH_WATER, MEMORY_ARENA
from tests.unit.small_store import MIB, SmallStore

WORKER_ARENA = 42
WORKER_DISK_ARENA = 43


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SmallStore]:
    """Eight MiB in memory, and a folder to spill to."""
    made = SmallStore(8 * MIB, tmp_path)
    yield made
    if not made.is_closed:
        made.validate()
        made.close()


@pytest.fixture
def full_at_8(store: SmallStore) -> Iterator[SmallStore]:
    """The same without spilling."""
    made = SmallStore(8 * MIB)
    yield made
    made.close()


def put(store: SmallStore, nbytes: int, fill: int = 1) -> Blob:
    return store.put([memoryview(bytes([fill]) * nbytes)])[0]


def content(blob: Blob) -> bytes:
    return bytes(blob.view(0, blob.nbytes))


def is_on_disk(blob: Blob) -> bool:
    return blob.arena_id == DISK_ARENA


class FakeWorker:
    """A worker that has written one object of a MiB into an arena of its own."""

    def __init__(self, store: SmallStore, arena_id: int = WORKER_ARENA) -> None:
        self.arena = Arena(create_memory(16 * MIB), 16 * MIB)
        store.add_reader(arena_id, os.dup(self.arena.fd), 16 * MIB)
        self.store, self.arena_id = store, arena_id

    def write(self, nbytes: int = MIB, fill: int = 7) -> Blob:
        offset = self.arena.allocate(nbytes)
        self.arena.write(offset, [bytes([fill]) * nbytes])
        self.store.usage.set_others(self.arena.allocated_bytes)
        return self.store.adopt(self.arena_id, offset, nbytes)


@pytest.fixture
def worker(store: SmallStore) -> Iterator[FakeWorker]:
    made = FakeWorker(store)
    yield made
    made.arena.close()


# -- putting and dropping ------------------------------------------------------------------------------------


def test_parts_stand_where_the_offsets_say(store: SmallStore) -> None:
    parts = [b"a" * 100, b"", b"b" * MIB, b"c"]
    blob, offsets = store.put([memoryview(part) for part in parts])
    assert [bytes(blob.view(at, len(part))) for at, part in zip(offsets, parts, strict=True)] == parts
    assert all(offset % 64 == 0 for offset in offsets)


def test_views_are_read_only_and_keep_the_blob(store: SmallStore) -> None:
    blob = put(store, 1000)
    view = blob.view(10, 20)
    reference = weakref.ref(blob)
    part = view[5:]
    assert blob.leases == 1
    with pytest.raises(TypeError):
        view[0] = 1
    del blob, view
    assert reference() is not None
    assert bytes(part) == b"\x01" * 15
    del part
    assert reference() is None


def test_dropping_the_last_reference_frees_without_a_collection(store: SmallStore) -> None:
    gc.disable()
    try:
        array = np.frombuffer(put(store, MIB).view(0, MIB), dtype=np.uint8)[5:].reshape(-1, 1)
        assert store.usage.mine == MIB
        del array
        store.collect()
        assert store.usage.mine == 0
    finally:
        gc.enable()


def test_dropping_in_another_thread_or_in_a_finalizer_is_safe(store: SmallStore) -> None:
    blobs = [put(store, 10_000) for _ in range(100)]
    threads = [threading.Thread(target=blobs.pop) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    class Cycle:
        def __init__(self, blob: Blob) -> None:
            self.blob, self.me = blob, self

        def __del__(self) -> None:
            put(store, 100)  # in the middle of a collection

    Cycle(blobs.pop())
    blobs.clear()
    gc.collect()
    store.validate()
    assert store.usage.mine == 0


def test_somebody_is_told_of_every_drop(tmp_path: Path) -> None:
    told = []
    store = SmallStore()
    store.on_drop = lambda: told.append(len(store.dropped))
    put(store, 100)
    blob = put(store, 100)
    assert told == [1]
    del blob
    assert len(told) == 2
    store.close()


def test_freed_room_is_used_again(store: SmallStore) -> None:
    for _ in range(50):
        blob = put(store, 3 * MIB)
        assert not is_on_disk(blob)
        del blob
    assert store.spilled_bytes == 0


def test_trimming_gives_pages_back(store: SmallStore) -> None:
    blob = put(store, 4 * MIB)
    assert store.trim() == 0
    del blob
    assert store.trim(keep_bytes=4 * MIB) == 0
    assert store.trim() == 4 * MIB


def test_an_argument_equal_to_what_was_put_is_found(store: SmallStore) -> None:
    array = np.arange(MIB)
    blob, _ = store.put([PickleBuffer(array).raw()])
    assert store.intern([PickleBuffer(array).raw()], array)[0] is blob


@pytest.mark.parametrize("writer", ["driver", "worker", "disk"])
def test_a_value_that_was_read_in_place_is_found_without_a_look_at_it(
    store: SmallStore, worker: FakeWorker, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = worker.write() if writer == "worker" else put(store, 9 * MIB if writer == "disk" else MIB)
    assert is_on_disk(blob) == (writer == "disk")
    view = blob.view(0, blob.nbytes)
    before = store.saved_bytes
    monkeypatch.setattr("grainwise.objects.store.fingerprint", None)
    assert store.intern([view], view) == (blob, [0])
    assert store.intern([view[: len(view) // 2]], view) == (blob, [0])
    assert store.saved_bytes == before + blob.nbytes + len(view) // 2


def test_a_small_part_of_what_was_read_in_place_is_stored_by_itself(store: SmallStore) -> None:
    blob = put(store, MIB)
    view = blob.view(0, MIB)
    for part in (view[: MIB // 2 - 1], view[1:], view[MIB // 4 : -MIB // 4]):
        own, offsets = store.intern([part], view)
        assert own is not blob
        assert bytes(own.view(offsets[0], len(part))) == bytes(part)


# -- spilling ------------------------------------------------------------------------------------------------


def test_the_least_recently_used_move_to_disk(store: SmallStore) -> None:
    blobs = [put(store, 2 * MIB, fill) for fill in range(4)]
    blobs[0].view(0, 1)  # used again
    newest = put(store, 2 * MIB, 9)
    assert [is_on_disk(blob) for blob in blobs] == [False, True, False, False]
    assert not is_on_disk(newest)
    assert [content(blob)[0] for blob in blobs] == [0, 1, 2, 3]
    assert store.spilled_bytes == 2 * MIB
    assert store.usage.mine == 8 * MIB


def test_only_as_much_moves_as_is_needed(store: SmallStore) -> None:
    blobs = [put(store, MIB, fill) for fill in range(8)]
    put_last = put(store, 2 * MIB + 1)
    assert [is_on_disk(blob) for blob in blobs] == [True] * 3 + [False] * 5
    assert not is_on_disk(put_last)


def test_what_others_hold_counts(store: SmallStore) -> None:
    store.usage.set_others(7 * MIB)
    first = put(store, MIB)
    second = put(store, MIB)
    assert is_on_disk(first)
    assert not is_on_disk(second)
    store.usage.set_others(
        7 * MIB, freed_bytes=6 * MIB
    )  # the driver has let go; the worker does not know yet
    assert not is_on_disk(put(store, 2 * MIB))
    assert not is_on_disk(second)


@pytest.mark.parametrize("by", ["lease", "loan"])
def test_what_somebody_reads_never_moves(store: SmallStore, by: str) -> None:
    blobs = [put(store, 2 * MIB, fill) for fill in range(4)]
    pins: list[Any] = [blob.view(0, 1) if by == "lease" else store.lend(blob) for blob in blobs]
    last = put(store, 2 * MIB)
    assert not any(map(is_on_disk, blobs))
    assert is_on_disk(last)  # somebody must
    if by == "lease":
        pins.clear()
    else:
        for blob in blobs:
            blob.lent -= 1
    assert not is_on_disk(put(store, 2 * MIB))
    assert is_on_disk(blobs[0])


def test_a_loan_is_counted_each_time(store: SmallStore) -> None:
    blob = put(store, 100)
    assert store.lend(blob) == store.lend(blob) == (blob.id, MEMORY_ARENA, blob.offset, 100)
    assert blob.lent == 2


def test_what_moved_is_lent_from_its_new_place(store: SmallStore) -> None:
    blob = put(store, 4 * MIB, 3)
    others = [put(store, 4 * MIB) for _ in range(2)]
    identity, arena_id, offset, nbytes = store.lend(blob)
    assert (identity, arena_id, nbytes) == (blob.id, DISK_ARENA, 4 * MIB)
    fd, _ = store.arena_fd(arena_id)
    assert os.pread(fd, 10, offset) == b"\x03" * 10
    del others


def test_a_spilled_blob_frees_its_place_on_disk(store: SmallStore) -> None:
    for fill in range(20):
        blobs = [put(store, 4 * MIB, fill) for _ in range(4)]
        assert sum(map(is_on_disk, blobs)) == 2
        del blobs
    store.collect()
    disk: Any = store.place(DISK_ARENA)
    assert disk.allocated_bytes == 0
    assert disk.footprint_bytes <= 16 * MIB


def test_an_object_larger_than_the_memory_goes_to_disk_and_moves_nobody(store: SmallStore) -> None:
    small = put(store, MIB)
    large = put(store, 9 * MIB, 5)
    assert is_on_disk(large)
    assert not is_on_disk(small)
    assert content(large)[-1] == 5


def test_copies_kept_for_their_sources_go_before_anything_moves(store: SmallStore) -> None:
    array = np.zeros(2 * MIB, dtype=np.uint8)
    kept = weakref.ref(store.intern([PickleBuffer(array).raw()], array)[0])
    blobs = [put(store, 2 * MIB) for _ in range(3)]
    assert kept() is not None
    blobs.append(put(store, 2 * MIB))
    assert kept() is None
    assert not any(map(is_on_disk, blobs))


def test_copies_in_use_do_not_shield_those_that_are_only_kept(full_at_8: SmallStore) -> None:
    arrays = [np.full(2 * MIB, fill, dtype=np.uint8) for fill in range(4)]
    in_use = full_at_8.intern([PickleBuffer(arrays[0]).raw()], arrays[0])[0]
    for array in arrays[1:]:
        full_at_8.intern([PickleBuffer(array).raw()], array)
    assert content(put(full_at_8, 2 * MIB, 9))[0] == 9
    assert content(in_use)[0] == 0


def test_room_is_made_ahead(store: SmallStore) -> None:
    blobs = [put(store, MIB) for _ in range(6)]
    store.make_room()
    assert not any(map(is_on_disk, blobs))
    blobs.append(put(store, MIB))
    store.make_room()
    assert store.usage.mine <= HIGH_WATER * store.capacity_bytes
    assert is_on_disk(blobs[0])


# -- no room -------------------------------------------------------------------------------------------------


def test_without_spilling_a_full_store_says_how_full(full_at_8: SmallStore) -> None:
    blobs = [put(full_at_8, 3 * MIB) for _ in range(2)]
    with pytest.raises(ObjectStoreFullError) as caught:
        put(full_at_8, 3 * MIB)
    error = caught.value
    assert (error.requested_bytes, error.capacity_bytes, error.used_bytes) == (3 * MIB, 8 * MIB, 6 * MIB)
    assert "3.0 MiB" in str(error)
    assert "6.0 MiB of 8.0 MiB" in str(error)
    blobs.pop()
    put(full_at_8, 3 * MIB)  # and goes on
    full_at_8.make_room()


def test_an_object_larger_than_the_store_is_refused_without_spilling(full_at_8: SmallStore) -> None:
    with pytest.raises(ObjectStoreFullError):
        put(full_at_8, 9 * MIB)
    put(full_at_8, 8 * MIB)


def disk_of(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    room = types.SimpleNamespace(f_bavail=nbytes // 4096, f_frsize=4096)
    monkeypatch.setattr(disk_module.os, "statvfs", lambda path: room)


@pytest.mark.parametrize("nbytes", [3 * MIB, 9 * MIB], ids=["one must move", "too large for memory"])
def test_a_full_disk_is_named_and_leaves_everything_readable(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nbytes: int
) -> None:
    disk_of(monkeypatch, 2 * MIB)
    blobs = [put(store, 4 * MIB, fill) for fill in (1, 2)]
    with pytest.raises(OutOfDiskError) as caught:
        put(store, nbytes)
    assert str(tmp_path) in str(caught.value)
    assert [content(blob)[-1] for blob in blobs] == [1, 2]
    del blobs[0], caught  # the traceback holds what was about to move
    assert content(put(store, 3 * MIB, 3))[0] == 3


def fail_on_disk(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = Arena.write

    def write(arena: Arena, offset: int, parts: Any) -> None:
        if arena.is_disk:
            raise OSError(code, os.strerror(code))
        real(arena, offset, parts)

    monkeypatch.setattr(Arena, "write", write)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("nbytes", [3 * MIB, 9 * MIB], ids=["one must move", "too large for memory"])
def test_a_disk_that_fails_is_named_with_the_reason(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch, code: int, nbytes: int
) -> None:
    fail_on_disk(monkeypatch, code)
    blobs = [put(store, 4 * MIB, fill) for fill in (1, 2)]
    with pytest.raises(OutOfDiskError, match=os.strerror(code)):
        put(store, nbytes)
    assert [content(blob)[-1] for blob in blobs] == [1, 2]
    monkeypatch.undo()
    assert is_on_disk(put(store, 9 * MIB))


def test_a_disk_that_fails_does_not_stop_who_makes_room_ahead(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(store_module, "monotonic", lambda: clock[0])
    fail_on_disk(monkeypatch, errno.ENOSPC)
    blobs = [put(store, 4 * MIB, fill) for fill in (1, 2)]
    store.make_room()
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "monotonic", lambda: clock[0])
    store.make_room()  # not again at once
    assert not any(map(is_on_disk, blobs))
    clock[0] += 10
    store.make_room()
    assert is_on_disk(blobs[0])


def test_a_spill_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    folder.mkdir()
    store = SmallStore(8 * MIB, folder)
    folder.rmdir()
    kept = put(store, 8 * MIB, 4)
    with pytest.raises(OutOfDiskError, match="spill"):
        put(store, MIB)
    assert content(kept)[0] == 4
    store.close()


@pytest.mark.parametrize("error", [MemoryError, OSError(errno.ENOMEM, "no memory")])
def test_a_write_to_memory_that_fails_takes_no_room(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Arena, "write", fail)
    with pytest.raises((MemoryError, ObjectStoreFullError)):
        put(store, MIB)
    monkeypatch.undo()
    blobs = [put(store, 4 * MIB) for _ in range(2)]
    assert not any(map(is_on_disk, blobs))


# -- what workers wrote --------------------------------------------------------------------------------------


def test_what_a_worker_wrote_is_read_in_place(store: SmallStore, worker: FakeWorker) -> None:
    blob = worker.write()
    assert content(blob) == b"\x07" * MIB
    assert store.arena_fd(WORKER_ARENA)[1] == 16 * MIB


def test_a_dropped_result_is_given_back_to_its_worker(store: SmallStore, worker: FakeWorker) -> None:
    blobs = [worker.write() for _ in range(3)]
    offset = blobs[1].offset
    del blobs[1]
    assert store.released == []
    store.collect()
    assert store.released == [(WORKER_ARENA, offset, MIB, 1)]


def test_results_of_workers_move_to_disk_too(store: SmallStore, worker: FakeWorker) -> None:
    result = worker.write(4 * MIB)
    offset = result.offset
    own = put(store, 4 * MIB)
    put(store, MIB)
    assert is_on_disk(result)
    assert not is_on_disk(own)
    assert store.released == [(WORKER_ARENA, offset, 4 * MIB, 1)]
    assert content(result) == b"\x07" * 4 * MIB


def test_what_a_worker_has_on_disk_stays_there(store: SmallStore) -> None:
    writer = FakeWorker(store, WORKER_DISK_ARENA)
    blob = writer.write(4 * MIB)
    own = put(store, 4 * MIB)
    put(store, 2 * MIB)
    assert blob.arena_id == WORKER_DISK_ARENA
    assert is_on_disk(own)
    writer.arena.close()


def test_an_arena_outlives_its_worker_as_long_as_something_in_it_is_used(
    store: SmallStore, worker: FakeWorker
) -> None:
    first, second = worker.write(), worker.write()
    worker.arena.close()
    store.orphan([WORKER_ARENA])
    del first
    store.collect()
    assert store.released == []  # nobody is there to free it
    assert content(second)[0] == 7
    assert store.place(WORKER_ARENA) is not None
    array = np.frombuffer(second.view(0, MIB), dtype=np.uint8)
    del second
    store.collect()
    assert store.place(WORKER_ARENA) is not None
    del array
    store.collect()
    assert store.place(WORKER_ARENA) is None


def test_a_range_that_comes_again_is_the_same_object(store: SmallStore, worker: FakeWorker) -> None:
    blob = worker.write()
    offset = blob.offset
    assert store.adopt(WORKER_ARENA, offset, MIB) is blob
    assert store.adopt(WORKER_ARENA, offset, MIB) is blob
    del blob
    store.collect()
    assert store.released == [(WORKER_ARENA, offset, MIB, 3)]  # as often as it came


@pytest.mark.parametrize("is_collected", [False, True])
def test_a_range_that_comes_again_after_its_object_was_dropped(
    store: SmallStore, worker: FakeWorker, is_collected: bool
) -> None:
    """A new object, whose end is told apart from that of the first; the worker adds them up."""
    first = worker.write(fill=7)
    offset = first.offset
    store.adopt(WORKER_ARENA, offset, MIB)
    del first
    if is_collected:
        store.collect()
    second = store.adopt(WORKER_ARENA, offset, MIB)
    store.collect()
    assert store.released == [(WORKER_ARENA, offset, MIB, 2)]
    assert content(second) == b"\x07" * MIB
    store.lend(second)
    del second
    store.collect()
    assert store.released[1:] == [(WORKER_ARENA, offset, MIB, 1)]


def test_a_range_that_comes_again_after_its_object_moved_to_disk(
    store: SmallStore, worker: FakeWorker
) -> None:
    moved = worker.write(4 * MIB)
    offset = moved.offset
    own = put(store, 4 * MIB)
    store.view(own, 0, 1)
    put(store, MIB)
    assert is_on_disk(moved)
    assert store.released == [(WORKER_ARENA, offset, 4 * MIB, 1)]
    again = store.adopt(WORKER_ARENA, offset, 4 * MIB)
    assert again is not moved
    assert content(again) == content(moved)
    del moved, again
    store.collect()
    assert store.released[1:] == [(WORKER_ARENA, offset, 4 * MIB, 1)]


def test_what_is_ending_is_not_handed_out_any_more(store: SmallStore) -> None:
    """An equal argument comes in the very moment in which the last reference to the stored copy goes."""
    content_ = random.Random(1).randbytes(MIB)
    found: list[Blob] = []

    def on_drop() -> None:
        if not found:
            found.append(store.intern([memoryview(content_)], None)[0])

    blob = store.put([memoryview(content_)])[0]
    store.on_drop = on_drop
    del blob
    store.validate()
    other = put(store, MIB, 9)
    assert content(found[0]) == content_
    assert content(other) == b"\x09" * MIB
    assert store.usage.mine == 2 * MIB
    store.on_drop = lambda: None


def test_what_an_orphan_has_counts_until_it_is_dropped(store: SmallStore, worker: FakeWorker) -> None:
    own, first, second = put(store, MIB), worker.write(2 * MIB), worker.write(MIB)
    store.usage.set_others(0)  # as when a worker is removed
    store.orphan([WORKER_ARENA])
    assert store.usage.mine == 4 * MIB
    del first
    store.collect()
    assert store.usage.mine == 2 * MIB
    del second
    store.collect()
    assert store.usage.mine == MIB
    del own


def test_what_an_orphan_has_on_disk_does_not_count_as_memory(store: SmallStore) -> None:
    writer = FakeWorker(store, WORKER_DISK_ARENA)
    blob = writer.write(2 * MIB)
    writer.arena.close()
    store.orphan([WORKER_DISK_ARENA])
    assert store.usage.mine == 0
    assert content(blob)[0] == 7
    del blob
    store.collect()
    assert store.place(WORKER_DISK_ARENA) is None


def test_orphans_move_to_disk_when_there_is_no_room(store: SmallStore, worker: FakeWorker) -> None:
    left = [worker.write(2 * MIB, fill) for fill in (1, 2, 3)]
    store.usage.set_others(0)
    store.orphan([WORKER_ARENA])
    own = put(store, 4 * MIB)
    assert not is_on_disk(own)
    assert [is_on_disk(blob) for blob in left] == [True, False, False]
    assert store.usage.mine == 8 * MIB
    assert [content(blob)[-1] for blob in left] == [1, 2, 3]


def test_the_pages_of_an_orphan_go_with_each_object(store: SmallStore, worker: FakeWorker) -> None:
    blobs = [worker.write(2 * MIB, fill) for fill in (1, 2, 3)]
    half_written = worker.arena.allocate(MIB)
    worker.arena.write(half_written, [bytes(MIB)])
    fd, _ = store.arena_fd(WORKER_ARENA)
    worker.arena.close()
    assert os.fstat(fd).st_blocks * 512 == 7 * MIB
    store.orphan([WORKER_ARENA])
    assert os.fstat(fd).st_blocks * 512 == 6 * MIB
    del blobs[1]
    store.collect()
    assert os.fstat(fd).st_blocks * 512 == 4 * MIB
    assert [content(blob) for blob in blobs] == [b"\x01" * 2 * MIB, b"\x03" * 2 * MIB]


def test_an_orphan_without_objects_goes_at_once(store: SmallStore, worker: FakeWorker) -> None:
    blob = worker.write()
    del blob
    fd, _ = store.arena_fd(WORKER_ARENA)
    store.orphan([WORKER_ARENA, 99])
    assert store.place(WORKER_ARENA) is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_the_last_object_of_an_orphan_may_move_to_disk(store: SmallStore, worker: FakeWorker) -> None:
    result = worker.write(4 * MIB)
    store.orphan([WORKER_ARENA])
    own = put(store, 4 * MIB)
    put(store, MIB)
    assert is_on_disk(result)
    assert store.place(WORKER_ARENA) is None
    assert content(result)[0] == 7
    del own


# -- the end -------------------------------------------------------------------------------------------------


def test_arrays_outlive_the_store(store: SmallStore, worker: FakeWorker) -> None:
    blobs = [put(store, 4 * MIB, 1), put(store, 4 * MIB, 2), put(store, MIB, 3), worker.write()]
    arrays = [np.frombuffer(blob.view(0, MIB), dtype=np.uint8) for blob in blobs]
    assert is_on_disk(blobs[0])
    store.close()
    assert [int(array[-1]) for array in arrays] == [1, 2, 3, 7]
    del blobs
    gc.collect()
    assert [int(array[0]) for array in arrays] == [1, 2, 3, 7]
    del arrays
    assert not store.dropped or store.collect() is None


def closed_and(store: SmallStore, blob: Blob) -> list[Callable[[], object]]:
    return [lambda: blob.view(0, 1), lambda: store.lend(blob), lambda: content(blob)]


def test_values_of_an_ended_session_are_named(store: SmallStore) -> None:
    blob = put(store, MIB)
    store.close()
    for use in closed_and(store, blob):
        with pytest.raises(EngineClosedError, match="shut down"):
            use()
    del blob
    store.make_room()
    store.collect()
    store.close()


def test_a_value_of_an_ended_session_cannot_be_lent_by_the_next(store: SmallStore) -> None:
    before = SmallStore()
    blob = put(before, 100)
    before.close()
    with pytest.raises(EngineClosedError, match="shut down"):
        store.lend(blob)


def test_threads_put_and_drop_at_once(store: SmallStore) -> None:
    errors: list[BaseException] = []

    def work(fill: int) -> None:
        try:
            for round_ in range(30):
                blobs = [put(store, 300_000, fill) for _ in range(4)]
                assert all(content(blob) == bytes([fill]) * 300_000 for blob in blobs)
                array = np.full(200_000, round_ * 7 + fill, dtype=np.uint8)
                kept = store.intern([PickleBuffer(array).raw()], array)[0]
                assert content(kept) == array.tobytes()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(fill,)) for fill in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    gc.collect()
    store.validate()
    assert store.usage.mine == 0
