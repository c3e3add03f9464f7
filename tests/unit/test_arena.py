"""Arenas: the allocator against a model, content, page states, leases and comparison."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleBuffer

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grainwise.objects import arena as arena_module
from grainwise.objects.arena import (
    ALIGN,
    Arena,
    ArenaFull,
    ArenaReader,
    compare,
    create_disk,
    create_memory,
    layout,
)

MIB = 1 << 20
GIB = 1 << 30
PAGE = os.sysconf("SC_PAGESIZE")
linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="holes are punched on Linux only"
)


def resident_bytes(arena: Arena) -> int:
    return os.fstat(arena.fd).st_blocks * 512


@pytest.fixture(params=["memory", "disk"])
def arena(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Arena]:
    if request.param == "memory":
        made = Arena(create_memory(64 * MIB), 64 * MIB)
    else:
        made = Arena(create_disk(64 * MIB, str(tmp_path)), 64 * MIB, is_disk=True)
    yield made
    made.validate()
    made.close()


def put(arena: Arena, *parts: bytes) -> int:
    offset = arena.allocate(layout([len(part) for part in parts])[1])
    arena.write(offset, parts)
    return offset


# -- layout and allocation -----------------------------------------------------------------------------


def test_layout_aligns_each_part() -> None:
    assert layout([]) == ([], 0)
    assert layout([0, 1, 64, 65, 0]) == ([0, 0, 64, 128, 256], 256)


def test_parts_are_read_back_where_layout_says(arena: Arena) -> None:
    parts = [b"a" * 10, b"", b"b" * 200_000, memoryview(np.arange(7)), memoryview(np.zeros((0, 3)))]
    starts, total = layout([memoryview(part).nbytes for part in parts])
    offset = arena.allocate(total)
    arena.write(offset, parts)
    view = arena.view(offset, total)
    for start, part in zip(starts, parts, strict=True):
        raw = PickleBuffer(part).raw()
        assert view[start : start + raw.nbytes] == raw


def test_buffers_of_any_format_and_dimension_are_written(arena: Arena) -> None:
    for array in (
        np.zeros(5, dtype=[("a", "i4"), ("b", "f8")]),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.float64(3.5).reshape(()),
        np.arange(6, dtype=">i2"),
    ):
        offset = arena.allocate(array.nbytes)
        arena.write(offset, [memoryview(array)])
        assert arena.view(offset, array.nbytes) == array.tobytes(order="A")


def test_offsets_are_aligned_and_large_objects_start_at_a_page(arena: Arena) -> None:
    small = [arena.allocate(size) for size in (0, 0, 1, 63, 64, 65)]
    assert len(set(small)) == 6
    assert all(offset % ALIGN == 0 for offset in small)
    assert arena.allocate(MIB) % PAGE == 0
    assert arena.allocated_bytes == 5 * 64 + 128 + MIB


def test_full_arena_names_its_numbers_and_frees_in_one_piece(arena: Arena) -> None:
    offsets = [arena.allocate(16 * MIB) for _ in range(4)]
    with pytest.raises(ArenaFull) as caught:
        arena.allocate(1)
    assert (caught.value.requested, caught.value.free, caught.value.capacity) == (1, 0, 64 * MIB)
    for offset in random.Random(1).sample(offsets, 4):
        arena.free(offset)
    assert arena.allocated_bytes == 0
    assert arena.allocate(64 * MIB) == 0


def test_no_fit_is_missed_however_many_free_ranges_there_are(arena: Arena) -> None:
    """The search looks at a few ranges per size class; before it gives up it looks at all."""
    sizes = [32 * 1024 + (0 if i == 150 else -64 * (1 + i % 3)) for i in range(300)]
    offsets = []
    for size in sizes:
        offsets.append(arena.allocate(size))
        arena.allocate(64)
    arena.allocate(64 * MIB - arena.allocated_bytes - PAGE)
    # The fitting one is freed first, so that every newer one stands before it.
    order = [150, *(i for i in range(300) if i != 150)]
    for i in order:
        arena.free(offsets[i])
    assert arena.allocate(32 * 1024) == offsets[150]


def test_bad_frees_and_writes_are_refused(arena: Arena) -> None:
    offset = arena.allocate(100)
    with pytest.raises(ValueError, match="no live range"):
        arena.free(offset + 64)
    with pytest.raises(ValueError, match="do not fit"):
        arena.write(offset, [bytes(64), bytes(65)])
    with pytest.raises(ValueError, match="cannot allocate"):
        arena.allocate(-1)
    with pytest.raises(ValueError, match="outside"):
        arena.view(64 * MIB - 1, 2)
    arena.free(offset)
    with pytest.raises(ValueError, match="freed twice"):
        arena.free(offset)
    with pytest.raises(ValueError, match="do not fit"):
        arena.write(offset, [b""])


def test_the_recently_freed_warm_range_is_reused_first() -> None:
    arena = Arena(create_memory(64 * MIB), 64 * MIB)
    offsets = [put(arena, bytes(2 * MIB)) for _ in range(6)]
    warm = offsets[3]
    for offset in (offsets[1], warm):
        arena.free(offset)
    assert put(arena, bytes(2 * MIB)) == warm  # the newest; now in our mapping
    arena.free(warm)
    arena.free(offsets[5])  # newer, but only in the file
    assert arena.allocate(2 * MIB) == warm
    assert arena.footprint_bytes == 12 * MIB
    arena.close()


class AllocatorMachine(RuleBasedStateMachine):
    """Random allocations, frees, trims and views; every live range keeps its bytes."""

    is_disk = False

    def __init__(self) -> None:
        super().__init__()
        capacity = 6 * MIB + 192
        fd = create_disk(capacity, tempfile.gettempdir()) if self.is_disk else create_memory(capacity)
        self.arena = Arena(fd, capacity, is_disk=self.is_disk)
        self.content: dict[int, bytes] = {}
        self.n = 0

    @rule(
        size=st.one_of(
            st.integers(0, 300), st.integers(3 * PAGE, 40 * PAGE), st.integers(MIB - 65, MIB + PAGE)
        ),
        is_written=st.booleans(),
    )
    def allocate(self, size: int, is_written: bool) -> None:
        try:
            offset = self.arena.allocate(size)
        except ArenaFull:
            return
        self.n += 1
        content = (self.n.to_bytes(4, "little") * (size // 4 + 1))[:size] if is_written else b""
        self.arena.write(offset, [content[: size // 128 * 64], content[size // 128 * 64 :]])
        self.content[offset] = content

    @rule(data=st.data(), count=st.integers(1, 5))
    def free(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.content))):
            offset = data.draw(st.sampled_from(sorted(self.content)))
            del self.content[offset]
            self.arena.free(offset)

    @rule(keep=st.integers(0, 300))
    def trim(self, keep: int) -> None:
        before = self.arena.footprint_bytes
        given_back = self.arena.trim(keep * PAGE)
        assert self.arena.footprint_bytes == before - given_back
        live_bytes = self.arena.allocated_bytes + 2 * PAGE * len(self.content)
        assert self.arena.footprint_bytes <= live_bytes + keep * PAGE

    @invariant()
    def is_sound(self) -> None:
        self.arena.validate()
        if not self.is_disk:
            assert self.arena.footprint_bytes == resident_bytes(self.arena)
        for offset, content in self.content.items():
            assert self.arena.view(offset, len(content)) == content

    def teardown(self) -> None:
        for offset in self.content:
            self.arena.free(offset)
        self.arena.trim()
        self.arena.validate()
        assert (self.arena.allocated_bytes, self.arena.footprint_bytes) == (0, 0)
        self.arena.close()


class DiskAllocatorMachine(AllocatorMachine):
    is_disk = True


TestAllocator = linux_only(AllocatorMachine.TestCase)
TestAllocator.settings = settings(max_examples=40, stateful_step_count=40)
TestDiskAllocator = linux_only(DiskAllocatorMachine.TestCase)
TestDiskAllocator.settings = settings(max_examples=10, stateful_step_count=30)


def test_many_objects_come_and_go() -> None:
    arena = Arena(create_memory(GIB), GIB)
    rng = random.Random(7)
    live: list[tuple[int, bytes]] = []
    for n in range(4000):
        if len(live) > 200:
            offset, mark = live.pop(rng.randrange(len(live)))
            assert arena.view(offset, 4) == mark
            arena.free(offset)
        mark = n.to_bytes(4, "little")
        size = rng.choice([10, 1000, 100_000, 3 * MIB])
        offset = arena.allocate(size)
        arena.write(offset, [mark])
        live.append((offset, mark))
    arena.validate()
    assert all(arena.view(offset, 4) == mark for offset, mark in live)
    arena.close()


def test_threads_share_an_arena(arena: Arena) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            content = bytes([rng.randrange(256)]) * rng.choice([50, 5000, 200_000, 2 * MIB])
            offset = put(arena, content)
            if arena.view(offset, len(content)) != content:
                failures.append(f"{len(content)} bytes at {offset}")
            arena.free(offset)
            if rng.random() < 0.1:
                arena.trim(MIB)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert arena.allocated_bytes == 0


# -- pages ---------------------------------------------------------------------------------------------


def test_content_survives_every_way_of_writing(arena: Arena) -> None:
    """Absent, present and warm pages, and a range that begins warm and ends absent."""
    rng = np.random.default_rng(0)
    for nbytes in (3 * MIB, 3 * MIB, 3 * MIB, 8 * MIB, 8 * MIB, 8 * MIB + 12345):
        content = rng.bytes(nbytes)
        offset = put(arena, content[:100_001], content[100_001:])
        assert offset == 0
        view = arena.view(offset, nbytes + 63)
        assert view[:100_001] == content[:100_001]
        assert view[100_032 : 100_032 + nbytes - 100_001] == content[100_001:]
        arena.free(offset)
        del view


@linux_only
def test_trim_gives_memory_back_to_the_system(arena: Arena) -> None:
    keep, drop, last = put(arena, b"k" * (4 * MIB)), put(arena, b"d" * (8 * MIB)), put(arena, b"l" * MIB)
    assert arena.footprint_bytes == 13 * MIB
    assert resident_bytes(arena) >= 13 * MIB
    arena.free(drop)
    assert arena.footprint_bytes == 13 * MIB  # freed, but kept for reuse
    assert arena.trim(keep_bytes=20 * MIB) == 0
    assert arena.trim(keep_bytes=2 * MIB) == 6 * MIB
    assert arena.trim() == 2 * MIB
    assert arena.trim() == 0
    assert arena.footprint_bytes == 5 * MIB
    assert resident_bytes(arena) <= 5 * MIB + 64 * 1024  # a filesystem may count its own blocks
    assert arena.view(keep, 4 * MIB) == b"k" * (4 * MIB)
    assert arena.view(last, MIB) == b"l" * MIB
    assert put(arena, b"n" * (8 * MIB)) == drop
    assert arena.view(drop, 8 * MIB) == b"n" * (8 * MIB)


def test_trim_without_holes_cuts_the_end(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no holes here")

    monkeypatch.setattr(arena_module, "punch_hole", refuse)
    offsets = [put(arena, bytes([i]) * (2 * MIB)) for i in range(3)]
    arena.free(offsets[0])
    assert arena.trim() == 0
    arena.free(offsets[2])
    assert arena.trim() == 2 * MIB
    assert os.fstat(arena.fd).st_size == arena.capacity_bytes
    assert arena.view(offsets[1], 2 * MIB) == bytes([1]) * (2 * MIB)


def test_failed_write_leaves_nothing_behind(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    budget = [MIB]

    def full_disk(fd: int, data: memoryview, offset: int) -> int:
        if budget[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n_written = real(fd, data[: budget[0]], offset)
        budget[0] -= n_written
        return n_written

    offset = arena.allocate(3 * MIB)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full_disk)
        with pytest.raises(OSError, match="No space left") as caught:
            arena.write(offset, [bytes(1000), bytes(2 * MIB)])
    assert caught.value.errno == errno.ENOSPC
    assert arena.footprint_bytes == MIB + PAGE  # 24 bytes of padding push it over the page
    arena.free(offset)
    arena.validate()
    assert arena.trim() == MIB + PAGE
    assert put(arena, b"x" * (3 * MIB)) == offset


def test_short_writes_are_continued(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7777], offset))
    content = np.random.default_rng(3).bytes(100_000)
    assert arena.view(put(arena, content), len(content)) == content


def test_beyond_four_gibibytes() -> None:
    """Small parts at large offsets: the file is sparse, so this is cheap."""
    capacity = 5 * GIB
    arena = Arena(create_memory(capacity), capacity)
    first, second = arena.allocate(3 * GIB), arena.allocate(3 * GIB // 2)
    tail = arena.allocate(1000)
    assert tail >= 4 * GIB
    for offset in (first, second, tail):
        arena.write(offset, [b"head", str(offset).encode()])
    reader = ArenaReader(os.dup(arena.fd), capacity)
    for place in (arena, reader):
        for offset in (first, second, tail):
            assert bytes(place.view(offset + 64, 20)).rstrip(b"\0") == str(offset).encode()
    assert place.view(first, 3 * GIB).nbytes == 3 * GIB
    assert arena.footprint_bytes == 3 * PAGE
    assert resident_bytes(arena) < MIB
    with pytest.raises(ArenaFull):
        arena.allocate(GIB)
    arena.close()
    reader.close()


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_tmpfile", [True, False])
def test_disk_arena_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_tmpfile: bool
) -> None:
    if not has_tmpfile:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    arena = Arena(create_disk(MIB, str(tmp_path)), MIB, is_disk=True)
    put(arena, b"x" * 1000)
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(arena.fd).st_nlink == 0
    assert not os.get_inheritable(arena.fd)
    arena.close()
    with pytest.raises(FileNotFoundError):
        create_disk(MIB, str(tmp_path / "missing"))


def test_a_file_that_cannot_be_that_long_is_an_error(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
    try:
        for create in (create_memory, lambda nbytes: create_disk(nbytes, str(tmp_path))):
            with pytest.raises(OSError, match="File too large"):
                create(2 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(ValueError, match="length"):
        ArenaReader(create_memory(MIB), 2 * MIB)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/dev/fd")) == before


def test_closing_closes_descriptors(arena: Arena) -> None:
    before = len(os.listdir("/dev/fd"))
    second = Arena(os.dup(arena.fd), arena.capacity_bytes)
    reader = ArenaReader(os.dup(arena.fd), arena.capacity_bytes)
    second.view(0, 1)
    for place in (reader, second):
        place.close()
        place.close()
        with pytest.raises(ValueError, match="closed"):
            place.view(0, 1)
    assert len(os.listdir("/dev/fd")) == before


# -- leases --------------------------------------------------------------------------------------------


def test_last_derived_object_ends_the_lease(arena: Arena) -> None:
    content = np.arange(50_000, dtype=np.int64)
    offset = put(arena, content.tobytes())
    drops: list[str] = []
    gc.disable()  # reference counting alone must do it
    try:
        view = arena.view(offset, content.nbytes, lambda: drops.append("dropped"))
        assert (view.format, view.readonly, view.nbytes, view.ndim) == ("B", True, content.nbytes, 1)
        array = np.frombuffer(view, dtype=np.int64)
        part = array[10:20]
        buffer = PickleBuffer(part)
        del view, array
        assert not drops
        del part
        assert not drops
        assert np.frombuffer(buffer, np.int64).sum() == content[10:20].sum()
        buffer.release()
        del buffer
        assert drops == ["dropped"]
        with arena.view(offset, 0, lambda: drops.append("empty")) as empty:
            assert (empty.nbytes, drops) == (0, ["dropped"])
        assert drops == ["dropped", "empty"]  # a released memoryview holds nothing, though it has a name
    finally:
        gc.enable()


@pytest.mark.parametrize("is_reader", [False, True])
def test_views_cannot_be_made_writable(arena: Arena, is_reader: bool) -> None:
    offset = put(arena, bytes(8000))
    reader = ArenaReader(os.dup(arena.fd), arena.capacity_bytes)
    view = (reader if is_reader else arena).view(offset, 8000)
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1
    array = np.frombuffer(view, dtype=np.float64)
    for candidate in (array, array[3:], array.reshape(10, 100).T):
        assert not candidate.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            candidate.flags.writeable = True
    with pytest.raises(TypeError):
        ctypes.c_char.from_buffer(view)
    reader.close()


def test_freeing_from_on_drop_works_inside_a_garbage_collection(arena: Arena) -> None:
    offset = put(arena, b"x" * 1000)

    class Node:
        pass

    node = Node()
    node.myself = node  # type: ignore[attr-defined]
    node.view = arena.view(offset, 1000, lambda: arena.free(offset))  # type: ignore[attr-defined]
    del node
    assert arena.allocated_bytes == 1024
    gc.collect()
    assert arena.allocated_bytes == 0


def test_readers_see_what_the_writer_writes_and_outlive_both(arena: Arena) -> None:
    reader = ArenaReader(os.dup(arena.fd), arena.capacity_bytes)
    offsets = [put(arena, bytes([i]) * 300_000) for i in range(1, 4)]
    drops: list[int] = []
    arrays = [
        np.frombuffer(place.view(offset, 300_000, lambda o=offset: drops.append(o)), np.uint8)
        for offset in offsets
        for place in (arena, reader)
    ]
    arena.close()
    reader.close()
    assert [int(array.sum()) for array in arrays] == [300_000 * i for i in (1, 1, 2, 2, 3, 3)]
    del arrays
    assert sorted(drops) == sorted(offsets * 2)
    for offset in offsets:
        arena.free(offset)  # leases may end after close
    assert arena.trim() == 0


@linux_only
def test_mapping_goes_with_its_last_lease() -> None:
    def n_maps() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:lease-test")

    arena = Arena(create_memory(MIB, "lease-test"), MIB)
    view = arena.view(put(arena, b"abc"), 3)
    arena.close()
    assert n_maps() == 1
    assert view == b"abc"
    del view
    assert n_maps() == 0


def test_nothing_is_printed_at_exit() -> None:
    script = """
import sys, numpy as np
from grainwise.objects.arena import *
arena = Arena(create_memory(1 << 20), 1 << 20)
offset = arena.allocate(1000)
arena.write(offset, [b"x" * 1000])
def on_drop():
    arena.free(offset); undefined_name_at_exit
array = np.frombuffer(arena.view(offset, 1000, on_drop), np.uint8)
sys.kept = np.frombuffer(arena.view(offset, 1000, on_drop), np.uint8)
cycle = [array]; cycle.append(cycle)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_forked_child_ending_its_leases_changes_nothing() -> None:
    arena = Arena(create_memory(MIB), MIB)
    offset = put(arena, b"x" * 1000)
    views = [arena.view(offset, 1000, lambda: arena.free(offset))]
    pid = os.fork()
    if pid == 0:
        views.clear()
        os._exit(0 if arena.allocated_bytes == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert arena.allocated_bytes == 1024
    assert views[0] == b"x" * 1000


def test_importing_the_arena_is_light() -> None:
    heavy = ["ctypes", "numpy", "typing", "pickle", "tempfile", "random", "threading", "dataclasses"]
    script = f"import sys; import grainwise.objects.arena; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import sys; sys.path[:] = " + repr(sys.path) + "\n" + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# -- compare -------------------------------------------------------------------------------------------


def test_compare() -> None:
    data = np.random.default_rng(0).bytes(100_000)
    array = np.frombuffer(data, dtype=np.float32)
    changed = bytearray(data)
    changed[-1] ^= 1
    assert compare(data, memoryview(bytearray(data)))
    assert compare(memoryview(data), memoryview(array))  # formats do not matter
    assert compare(memoryview(array.reshape(100, 250)), memoryview(data))
    assert not compare(data, memoryview(changed))
    assert not compare(data, memoryview(data)[:-1])
    assert compare(b"", memoryview(b""))
    assert compare(memoryview(np.zeros((0, 3))), memoryview(b""))
    assert not compare(b"", memoryview(b"x"))


def test_compare_is_bitwise() -> None:
    assert compare(np.array([np.nan]), memoryview(np.array([np.nan])))
    assert not compare(np.array([0.0]), memoryview(np.array([-0.0])))


def test_compare_takes_an_address() -> None:
    array = np.arange(1000)
    assert compare(array.ctypes.data, memoryview(array.copy()))
    assert not compare(array.ctypes.data, memoryview(array[::-1].copy()))
    assert compare(0, memoryview(b""))


def test_compare_refuses_scattered_buffers_and_lets_go_of_the_rest() -> None:
    held = bytearray(8)
    with pytest.raises((BufferError, ValueError)):
        compare(held, memoryview(np.arange(10))[::2])
    with pytest.raises((BufferError, ValueError)):
        compare(memoryview(np.arange(10))[::2], memoryview(held))
    assert compare(held, memoryview(bytes(8)))
    held.append(1)  # BufferError if a comparison still held it


def test_compare_beyond_four_gibibytes() -> None:
    """Cheap, because the file is sparse and the first byte differs already."""
    capacity = 5 * GIB
    arena = Arena(create_memory(capacity), capacity)
    offset = arena.allocate(4 * GIB + 4096)
    arena.write(offset, [b"\0\1"])
    view = arena.view(offset, 4 * GIB + 2)
    # A length cut to 32 bits would compare two bytes or none: equal lengths modulo 2**32, different content.
    assert not compare(view, memoryview(b"\0\1"))
    assert not compare(arena.view(offset + 1, 4 * GIB), arena.view(offset, 4 * GIB))
    arena.close()
