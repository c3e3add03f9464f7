"""A worker's side of the store: its own arenas, what it borrows, and what it gives back."""

from __future__ import annotations

import ctypes
import gc
import os
import types
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainwise.errors import ObjectStoreFullError, OutOfDiskError
from grainwise.objects import disk as disk_module
from grainwise.objects.arena import Arena
from grainwise.objects.blob import Blob
from grainwise.objects.codec import Packed, pack, unpack
from grainwise.objects.outpost import BorrowedBlob, Outpost, OwnBlob
from tests.unit.small_store import MIB, OTHER_WORD, FakeUsage, SmallStore

MEMORY, DISK = 42, 43
Wire = tuple[int, int, int, int]


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
    return outpost.write([memoryview(bytes([fill]) * nbytes)], nbytes)


def intern(outpost: SmallOutpost, content: Any) -> OwnBlob | BorrowedBlob:
    return outpost.intern([PickleBuffer(content).raw()], content)[0]


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
    outpost.free([(arena_id, offset, 1)])
    assert outpost.arena().allocated_bytes == MIB
    assert write(outpost).offset == offset


def test_what_was_never_sent_frees_itself(outpost: SmallOutpost) -> None:
    """A later part of the same result could not be pickled."""
    first = write(outpost)
    offset = first.offset
    del first
    assert write(outpost).offset == offset
    write(outpost, 1).lend()
    assert outpost.written_bytes == 1


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
    write(outpost, 1).lend()
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
    monkeypatch.setattr(disk_module.os, "statvfs", lambda path: room)
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


# -- the same argument again ---------------------------------------------------------------------------------


class Border:
    """The two sockets between an outpost and a driver's store: each message arrives when the test says so."""

    def __init__(self, outpost: SmallOutpost, store: SmallStore) -> None:
        self.outpost, self.store = outpost, store
        self.sent: deque[Wire] = deque()
        self.freed: deque[tuple[int, int, int]] = deque()
        store._release_remote = self._release  # type: ignore[method-assign]

    def _release(self, arena_id: int, offset: int, nbytes: int, adoptions: int) -> None:
        self.outpost.usage.words[OTHER_WORD + 1] += nbytes
        self.freed.append((arena_id, offset, adoptions))

    def send(self, content: Any) -> Wire:
        """In the worker: pass an argument on; the frame stays on the way."""
        wire = intern(self.outpost, content).lend()
        self.sent.append(wire)
        return wire

    def arrive(self) -> Blob:
        """In the driver: read the next frame."""
        _, arena_id, offset, nbytes = self.sent.popleft()
        if arena_id not in self.store._readers:
            self.store.add_reader(arena_id, *self._fd(arena_id))
        return self.store.adopt(arena_id, offset, nbytes)

    def _fd(self, arena_id: int) -> tuple[int, int]:
        arena = self.outpost.arena(arena_id)
        return os.dup(arena.fd), arena.capacity_bytes

    def free(self) -> None:
        """In the worker: hear of one range that the driver has let go of."""
        self.outpost.free([self.freed.popleft()])

    def live_bytes(self) -> int:
        return self.outpost.arena().allocated_bytes

    def counted_bytes(self) -> int:
        """Return what everybody believes that the worker holds."""
        words = self.outpost.usage.words
        return words[OTHER_WORD] - words[OTHER_WORD + 1]


@pytest.fixture
def border(outpost: SmallOutpost, store: SmallStore) -> Border:
    return Border(outpost, store)


def content_of(blob: Blob) -> bytes:
    return bytes(blob.view(0, blob.nbytes))


def test_an_equal_argument_is_the_same_range(border: Border) -> None:
    array = np.arange(MIB, dtype=np.uint8)
    wires = {border.send(value) for value in (array, array, array.copy(), [array][0])}
    assert len(wires) == 1
    blobs = {border.arrive() for _ in range(4)}
    assert len(blobs) == 1
    assert border.live_bytes() == border.counted_bytes() == MIB
    blobs.clear()
    border.store.collect()
    assert list(border.freed) == [(MEMORY, 0, 4)]
    border.free()
    assert border.live_bytes() == border.counted_bytes() == 0


@pytest.mark.parametrize("at", [0, MIB // 2 + 1, MIB - 1])
def test_an_argument_that_was_changed_is_stored_anew(border: Border, at: int) -> None:
    array = np.zeros(MIB, dtype=np.uint8)
    first = border.send(array)
    array[at] = 1
    second = border.send(array)
    array[at] = 0
    assert border.send(array) == first != second
    blobs = [border.arrive() for _ in range(3)]
    assert [content_of(blob)[at] for blob in blobs] == [0, 1, 0]


def test_results_do_not_look_for_equal_copies(outpost: SmallOutpost) -> None:
    array = np.arange(MIB, dtype=np.uint8)
    blobs = [pack(array, outpost.results).blobs[0] for _ in range(2)]
    assert blobs[0].offset != blobs[1].offset


def test_a_range_that_is_freed_while_it_is_on_its_way_again(border: Border) -> None:
    """The race: the driver has dropped the object, and its "free" crosses the descriptor."""
    array = np.full(MIB, 5, dtype=np.uint8)
    border.send(array)
    del_me = border.arrive()
    del del_me
    border.store.collect()  # "free" is on its way
    border.send(array)  # so is the descriptor
    border.free()
    assert border.live_bytes() == MIB
    assert border.counted_bytes() == MIB
    other = border.outpost.write([memoryview(b"\x09" * MIB)], MIB)  # what would overwrite it
    again = border.arrive()
    assert content_of(again) == array.tobytes()
    del again
    border.store.collect()
    border.free()
    assert border.live_bytes() == border.counted_bytes() == MIB  # the other one
    del other


def test_a_descriptor_that_arrives_before_the_free_is_sent(border: Border) -> None:
    """The other order: the driver has a new object at the place, and the end of the first is told late."""
    array = np.full(MIB, 5, dtype=np.uint8)
    border.send(array)
    first = border.arrive()
    border.send(array)
    del first
    second = border.arrive()
    border.store.collect()
    assert list(border.freed) == [(MEMORY, 0, 1)]
    border.free()
    assert content_of(second) == array.tobytes()
    assert border.live_bytes() == border.counted_bytes() == MIB
    del second
    border.store.collect()
    border.free()
    assert border.live_bytes() == border.counted_bytes() == 0


def test_a_range_that_was_found_and_is_freed_before_it_is_sent(border: Border) -> None:
    """A task has packed its argument, and before that is sent the driver lets go of the range."""
    array = np.full(MIB, 5, dtype=np.uint8)
    border.send(array)
    first = border.arrive()
    packed = pack(array, border.outpost)
    del first
    border.store.collect()
    border.free()
    assert border.live_bytes() == border.counted_bytes() == MIB
    border.outpost.write([memoryview(b"\x09" * MIB)], MIB).lend()
    border.sent.append(packed.blobs[0].lend())
    del packed
    second = border.arrive()
    assert content_of(second) == array.tobytes()
    del second
    border.store.collect()
    border.free()
    assert border.live_bytes() == border.counted_bytes() == MIB  # the other one


def test_a_range_that_was_found_freed_and_never_sent(border: Border) -> None:
    """As before, and then another argument of the same call can't be pickled."""
    array = np.full(MIB, 5, dtype=np.uint8)
    border.send(array)
    first = border.arrive()
    packed = pack(array, border.outpost)
    del first
    border.store.collect()
    border.free()
    del packed
    assert intern(border.outpost, array).offset == 0  # nothing was to be found: it is written again
    assert border.live_bytes() == border.counted_bytes() == MIB


def test_what_was_freed_is_not_found_any_more(border: Border) -> None:
    array = np.full(MIB, 5, dtype=np.uint8)
    border.send(array)
    del_me = border.arrive()
    del del_me
    border.store.collect()
    border.free()
    border.outpost.write([memoryview(b"\x09" * MIB)], MIB).lend()
    border.send(array)
    assert content_of(border.arrive()) == array.tobytes()


@given(
    st.lists(st.sampled_from(["send", "arrive", "drop", "collect", "free", "find"]), max_size=60), st.data()
)
@settings(deadline=None)
def test_no_order_of_messages_frees_what_is_used(steps: list[str], data: st.DataObject) -> None:
    """Three contents, sent, dropped and freed in any order; at the end everything is free and counted so."""
    outpost, store = SmallOutpost(64 * MIB), SmallStore(64 * MIB)
    border = Border(outpost, store)
    sizes = (70_000, 70_001, 140_000)
    contents = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    found: list[OwnBlob | BorrowedBlob] = []
    blobs: list[Blob] = []
    for step in (*steps, *["arrive"] * len(steps)):
        if step == "send":
            border.send(data.draw(st.sampled_from(contents)))
        elif step == "find":
            found.append(intern(outpost, data.draw(st.sampled_from(contents))))
            if len(found) > 2:
                border.sent.append(found.pop(0).lend())
        elif step == "arrive" and border.sent:
            blobs.append(border.arrive())
        elif step == "drop" and blobs:
            del blobs[data.draw(st.integers(0, len(blobs) - 1))]
        elif step == "collect":
            store.collect()
        elif step == "free" and border.freed:
            border.free()
        assert all(content_of(blob) in contents for blob in blobs)
        assert all(bytes(blob.view(0, blob.nbytes)) in contents for blob in found)
    blobs.clear()
    found.clear()
    store.collect()
    while border.freed:
        border.free()
    outpost.trim()
    if outpost.announced:
        assert (border.live_bytes(), border.counted_bytes()) == (0, 0)
    outpost.close()
    store.close()


# -- borrowed and sent back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", ["arguments", "results"])
def test_what_was_borrowed_goes_back_as_the_loan_itself(
    outpost: SmallOutpost, store: SmallStore, sink: str
) -> None:
    packed = pack(np.arange(MIB), store)
    array = unpack(borrowed(outpost, store, packed))
    again = pack({"a": array}, outpost if sink == "arguments" else outpost.results)
    assert outpost.announced == []  # nothing was written
    blob = packed.blobs[0]
    assert [loan.lend() for loan in again.blobs] == [blob.wire]
    del array
    assert not outpost.returned  # as long as what was packed is not sent
    del again
    assert list(outpost.returned) == [(blob.id, 1)]


def test_a_copy_of_what_was_borrowed_is_not_the_loan(outpost: SmallOutpost, store: SmallStore) -> None:
    array = unpack(borrowed(outpost, store, pack(np.arange(MIB), store)))
    assert isinstance(pack(array.copy(), outpost).blobs[0], OwnBlob)


def test_most_of_what_was_borrowed_goes_back_as_the_loan_and_a_small_part_does_not(
    outpost: SmallOutpost, store: SmallStore
) -> None:
    array = unpack(borrowed(outpost, store, pack(np.arange(MIB), store)))
    kinds = [type(pack(part, outpost).blobs[0]) for part in (array[: MIB // 2], array[: MIB // 3], array[8:])]
    assert kinds == [BorrowedBlob, OwnBlob, OwnBlob]
    half = pack(array[: MIB // 2], outpost)
    assert (unpack(half) == array[: MIB // 2]).all()


def test_an_object_of_its_own_that_came_back_goes_as_the_loan(
    outpost: SmallOutpost, store: SmallStore
) -> None:
    packed = pack(np.arange(MIB), outpost)
    _, arena_id, offset, nbytes = packed.blobs[0].lend()
    loan = outpost.borrow((77, arena_id, offset, nbytes))
    array = unpack(Packed(packed.stream, packed.pieces, (loan,), ()))
    assert [blob.lend() for blob in pack(array, outpost).blobs] == [(77, arena_id, offset, nbytes)]


def test_a_loan_that_was_given_back_is_not_found(outpost: SmallOutpost, store: SmallStore) -> None:
    """Its place may hold something else by now."""
    packed = pack(np.full(MIB, 1, dtype=np.uint8), store)
    loan = borrowed(outpost, store, packed)
    address = outpost.reader(0).address + packed.blobs[0].offset
    del loan
    part = memoryview((ctypes.c_char * MIB).from_address(address)).cast("B")
    assert outpost.find_loan([part]) is None
    loan = borrowed(outpost, store, packed)
    assert outpost.find_loan([part]) is loan.blobs[0]


def test_a_loan_that_comes_anew_while_the_last_one_ends(outpost: SmallOutpost, store: SmallStore) -> None:
    """What is ending is not found: the arrival makes a loan of its own, and each is given back once."""
    packed = pack(np.full(MIB, 1, dtype=np.uint8), store)
    blob = packed.blobs[0]
    again: list[BorrowedBlob] = []

    class Returned(deque[tuple[int, int]]):
        def append(self, item: tuple[int, int]) -> None:
            super().append(item)
            if not again:
                again.append(outpost.borrow(store.lend(blob)))

    outpost.returned = Returned()
    loan = borrowed(outpost, store, packed)
    del loan
    assert list(outpost.returned) == [(blob.id, 1)]
    assert outpost.borrow(store.lend(blob)) is again[0]
    assert outpost.find_loan([again[0].view(0, MIB)]) is again[0]
    again[1:] = [None]  # type: ignore[list-item]
    del again[0]
    assert list(outpost.returned) == [(blob.id, 1), (blob.id, 2)]


# -- memory --------------------------------------------------------------------------------------------------


def test_trimming_gives_pages_back(outpost: SmallOutpost) -> None:
    _, arena_id, offset, _ = write(outpost, 4 * MIB).lend()
    outpost.free([(arena_id, offset, 1)])
    assert outpost.arena().footprint_bytes == 4 * MIB
    outpost.trim(keep_bytes=MIB)
    assert outpost.arena().footprint_bytes == MIB
    outpost.trim()
    assert outpost.arena().footprint_bytes == 0
