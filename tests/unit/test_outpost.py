"""A worker's side of the store: its own arenas, what it borrows, and what it gives back."""

from __future__ import annotations

import gc
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grainwise.errors import ObjectStoreFullError, OutOfDiskError
from grainwise.objects import store as store_module
from grainwise.objects.arena import Arena
from grainwise.objects.codec import Packed, pack, unpack
from grainwise.objects.outpost import Outpost, OwnBlob
from tests.unit.small_store import MIB, OTHER_WORD, FakeUsage, SmallStore

MEMORY, DISK = 42, 43


class SmallOutpost(Outpost):
    """An outpost that notes what it announces, and is given the arenas of a store."""

    def __init__(self, capacity_bytes: int = 8 * MIB, spill: Path | None = None) -> None:
        self.usage = FakeUsage(OTHER_WORD)
        self.announced: list[tuple[int, int]] = []
        self.store: SmallStore | None = None
        self.num_obtained = 0
        super().__init__(
            MEMORY,
            capacity_bytes,
            None if spill is None else str(spill),
            self.usage,
            lambda arena_id, fd, capacity: self.announced.append((arena_id, capacity)),
            self._obtain_from_store,
        )

    def _obtain_from_store(self, arena_id: int) -> tuple[int, int]:
        assert self.store is not None
        self.num_obtained += 1
        fd, capacity = self.store.arena_fd(arena_id)
        return os.dup(fd), capacity

    @property
    def written_bytes(self) -> int:
        return self.usage.words[OTHER_WORD]

    def arena(self, arena_id: int = MEMORY) -> Arena:
        return self._own[arena_id]

    def close(self) -> None:
        for arena in self._own.values():
            arena.validate()
            arena.close()
        for reader in self._readers.values():
            reader.close()


@pytest.fixture
def outpost(tmp_path: Path) -> Iterator[SmallOutpost]:
    made = SmallOutpost(spill=tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(outpost: SmallOutpost) -> Iterator[SmallStore]:
    """The driver's store, whose arenas the outpost can obtain."""
    made = outpost.store = SmallStore()
    yield made
    made.close()


def write(outpost: SmallOutpost, nbytes: int = MIB, fill: int = 1) -> OwnBlob:
    return outpost.intern([memoryview(bytes([fill]) * nbytes)], None)[0]


def borrowed(outpost: SmallOutpost, store: SmallStore, packed: Packed) -> Packed:
    """Return what a worker makes of a value that the driver sends it."""
    blobs = tuple(outpost.borrow(store.lend(blob)) for blob in packed.blobs)
    return Packed(packed.stream, packed.pieces, blobs, packed.refs)


# -- writing -------------------------------------------------------------------------------------------------


def test_results_are_written_to_its_own_arena_which_is_announced_once(outpost: SmallOutpost) -> None:
    array = np.arange(100_000)
    packed = pack({"a": array}, outpost)
    assert (unpack(packed)["a"] == array).all()
    assert outpost.announced == [(MEMORY, 12 * MIB)]
    assert packed.blobs[0].lend() == (0, MEMORY, packed.blobs[0].offset, array.nbytes)
    blobs = [write(outpost), write(outpost)]
    assert len(outpost.announced) == 1
    assert blobs[0].offset != blobs[1].offset


def test_the_bytes_that_were_written_are_published(outpost: SmallOutpost) -> None:
    blobs = [write(outpost, 3 * MIB), write(outpost, MIB)]
    assert outpost.written_bytes == 4 * MIB
    assert [outpost.arena().view(blob.offset, 1)[0] for blob in blobs] == [1, 1]


def test_what_was_sent_belongs_to_the_driver(outpost: SmallOutpost) -> None:
    blob = write(outpost)
    _, arena_id, offset, _ = blob.lend()
    del blob
    write(outpost).lend()
    assert outpost.arena().allocated_bytes == 2 * MIB
    outpost.free([(arena_id, offset)])
    assert outpost.arena().allocated_bytes == MIB
    assert write(outpost).offset == offset


def test_what_was_never_sent_frees_itself(outpost: SmallOutpost) -> None:
    """A later part of the same result could not be pickled."""
    first = write(outpost)
    offset = first.offset
    del first
    assert write(outpost).offset == offset
    outpost.intern([memoryview(b"x")], None)
    assert outpost.written_bytes <= MIB + 64


def test_a_view_keeps_what_was_not_sent(outpost: SmallOutpost) -> None:
    blob = write(outpost, fill=5)
    view = blob.view(10, 20)
    del blob
    write(outpost, fill=6).lend()
    assert bytes(view) == b"\x05" * 20
    del view
    write(outpost).lend()
    assert outpost.arena().allocated_bytes == 2 * MIB


def test_a_result_that_fails_half_way_leaves_no_bytes(outpost: SmallOutpost) -> None:
    class Fails:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError

    for _ in range(5):
        packs = [pack(np.arange(MIB // 8), outpost)]
        with pytest.raises(ZeroDivisionError):
            pack([np.arange(100_000), Fails()], outpost)
        del packs
    outpost.intern([memoryview(b"x")], None)
    assert outpost.arena().allocated_bytes == 64


# -- a full store --------------------------------------------------------------------------------------------


def test_when_the_store_is_full_results_go_to_its_own_disk_arena(outpost: SmallOutpost) -> None:
    blobs = [write(outpost, 4 * MIB, fill) for fill in (1, 2, 3)]
    assert [blob.lend()[1] for blob in blobs] == [MEMORY, MEMORY, DISK]
    assert bytes(outpost.arena(DISK).view(blobs[2].offset, 5)) == b"\x03" * 5
    assert [arena_id for arena_id, _ in outpost.announced] == [MEMORY, DISK]
    assert outpost.written_bytes == 8 * MIB


def test_what_others_hold_counts_and_what_the_driver_let_go_of_does_not(outpost: SmallOutpost) -> None:
    outpost.usage.words[2] = 7 * MIB
    assert write(outpost, 2 * MIB).arena_id == DISK
    outpost.usage.words[3] = 6 * MIB
    assert write(outpost, 2 * MIB).arena_id == MEMORY


def test_without_spilling_a_full_store_is_an_error_with_its_sizes() -> None:
    outpost = SmallOutpost()
    kept = write(outpost, 6 * MIB)
    with pytest.raises(ObjectStoreFullError) as caught:
        write(outpost, 3 * MIB)
    error = caught.value
    assert (error.requested_bytes, error.capacity_bytes, error.used_bytes) == (3 * MIB, 8 * MIB, 6 * MIB)
    kept.lend()
    write(outpost, MIB).lend()
    outpost.close()


@pytest.mark.parametrize("spill", [False, True])
def test_a_write_that_fails_goes_to_disk_or_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spill: bool
) -> None:
    outpost = SmallOutpost(spill=tmp_path if spill else None)
    real = Arena.write

    def fail(arena: Arena, offset: int, parts: Any) -> None:
        if not arena.is_disk:
            raise OSError("no memory")
        real(arena, offset, parts)

    monkeypatch.setattr(Arena, "write", fail)
    if spill:
        assert write(outpost).arena_id == DISK
    else:
        with pytest.raises(ObjectStoreFullError):
            write(outpost)
    assert outpost.arena().allocated_bytes == 0
    assert outpost.written_bytes == 0
    outpost.close()


def test_a_full_disk_is_named(outpost: SmallOutpost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = types.SimpleNamespace(f_bavail=256, f_frsize=4096)
    monkeypatch.setattr(store_module.os, "statvfs", lambda path: room)
    outpost.usage.words[2] = 8 * MIB
    write(outpost, MIB // 2).lend()
    with pytest.raises(OutOfDiskError) as caught:
        write(outpost, MIB)
    assert str(tmp_path) in str(caught.value)
    assert f"{MIB:,}" in str(caught.value)


# -- borrowing -----------------------------------------------------------------------------------------------


def test_what_is_borrowed_is_read_in_place(outpost: SmallOutpost, store: SmallStore) -> None:
    array = np.arange(MIB)
    packed = pack(array, store)
    again = unpack(borrowed(outpost, store, packed))
    assert (again == array).all()
    assert not again.flags.writeable
    unpack(borrowed(outpost, store, packed))
    assert outpost.num_obtained == 1


def test_a_loan_is_given_back_when_its_last_use_is_gone(outpost: SmallOutpost, store: SmallStore) -> None:
    packed = pack(np.arange(MIB), store)
    identity = packed.blobs[0].id
    loan = borrowed(outpost, store, packed)
    array = unpack(loan)
    part = array[5:10].reshape(5, 1)
    del loan, array
    assert not outpost.returned
    del part
    assert list(outpost.returned) == [(identity, 1)]


def test_each_arrival_of_a_descriptor_is_a_loan(outpost: SmallOutpost, store: SmallStore) -> None:
    packed = pack(np.arange(MIB), store)
    blob = packed.blobs[0]
    loans = [borrowed(outpost, store, packed) for _ in range(3)]
    assert len({id(loan.blobs[0]) for loan in loans}) == 1
    loans.clear()
    assert list(outpost.returned) == [(blob.id, 3)]
    assert blob.lent == 3
    outpost.returned.clear()
    del loans[:]
    again = borrowed(outpost, store, packed)
    del again
    assert list(outpost.returned) == [(blob.id, 1)]


def test_a_loan_in_a_cycle_comes_back_with_the_collection(outpost: SmallOutpost, store: SmallStore) -> None:
    class Holder:
        me: Any = None
        loan: Any = None

    holder = Holder()
    holder.me, holder.loan = holder, borrowed(outpost, store, pack(np.arange(MIB), store))
    del holder
    gc.collect()
    assert len(outpost.returned) == 1


def test_its_own_result_may_come_back_as_an_argument(outpost: SmallOutpost, store: SmallStore) -> None:
    """The driver has adopted it and lends it to the very worker that wrote it: no descriptor is asked for."""
    array = np.arange(MIB)
    packed = pack(array, outpost)
    _, arena_id, offset, nbytes = packed.blobs[0].lend()
    loan = outpost.borrow((77, arena_id, offset, nbytes))
    again = unpack(Packed(packed.stream, packed.pieces, (loan,), ()))
    assert (again == array).all()
    assert outpost.num_obtained == 0
    del loan, again
    assert list(outpost.returned) == [(77, 1)]


def test_what_moved_to_disk_between_two_loans_is_read_from_there(
    outpost: SmallOutpost, tmp_path: Path
) -> None:
    store = outpost.store = SmallStore(4 * MIB, tmp_path)
    packed = pack(np.full(3 * MIB, 5, dtype=np.uint8), store)
    loan = borrowed(outpost, store, packed)
    assert unpack(loan)[-1] == 5
    del loan
    packed.blobs[0].lent -= outpost.returned.pop()[1]  # as the driver does when it hears of it
    filler = store.put([memoryview(bytes(3 * MIB))])
    assert packed.blobs[0].arena_id == 1
    assert unpack(borrowed(outpost, store, packed))[-1] == 5
    assert outpost.num_obtained == 2
    del filler
    store.close()


# -- memory --------------------------------------------------------------------------------------------------


def test_trimming_gives_pages_back(outpost: SmallOutpost) -> None:
    _, arena_id, offset, _ = write(outpost, 4 * MIB).lend()
    outpost.free([(arena_id, offset)])
    assert outpost.arena().footprint_bytes == 4 * MIB
    outpost.trim(keep_bytes=MIB)
    assert outpost.arena().footprint_bytes == MIB
    outpost.trim()
    assert outpost.arena().footprint_bytes == 0
