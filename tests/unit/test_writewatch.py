"""Watching for writes: every way to write, every way memory can be replaced, and who must not be misled."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grainwise.objects import writewatch
from grainwise.objects.writewatch import MAX_RUNS, MAX_STRIKES, MIN_BYTES, PAYS_AFTER, REFUSALS, WriteWatch
from tests.leaks import run_script

np = pytest.importorskip("numpy")

PAGE = mmap.PAGESIZE
MIB = 1 << 20
SIZE = 4 * MIB
PRIVATE = mmap.MAP_PRIVATE | getattr(mmap, "MAP_ANONYMOUS", 0)
MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 8, 14, 15
MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 21, 22, 23, 25
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4

libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def is_offered() -> bool:
    watch = WriteWatch()
    try:
        return watch.arm(memoryview(np.ones(SIZE, np.uint8))) is not None
    finally:
        watch.close()


needs_kernel = pytest.mark.skipif(
    not is_offered(), reason="this kernel, or a sandbox, has no asynchronous write-protection (Linux 6.7)"
)


@pytest.fixture
def watch() -> Iterator[WriteWatch]:
    made = WriteWatch()
    yield made
    made.close()


class Region:
    """Anonymous memory mapped by hand: the tests pull it from under its own views."""

    def __init__(self, nbytes: int = SIZE, *, advice: int = MADV_NOHUGEPAGE, flags: int = PRIVATE) -> None:
        self.nbytes = nbytes
        self.address = libc.mmap(None, nbytes, 3, flags, -1, 0)
        assert self.address not in (None, ctypes.c_void_p(-1).value)
        self.advise(advice)
        self.view = memoryview((ctypes.c_char * nbytes).from_address(self.address)).cast("B")

    def fill(self, value: int = 1) -> Region:
        ctypes.memset(self.address, value, self.nbytes)
        return self

    def advise(self, advice: int, offset: int = 0, nbytes: int | None = None) -> int:
        return int(libc.madvise(self.address + offset, self.nbytes if nbytes is None else nbytes, advice))

    def map_again(self, flags: int = 0) -> None:
        assert libc.mmap(self.address, self.nbytes, 3, PRIVATE | 0x10 | flags, -1, 0) == self.address

    def unmap(self) -> None:
        self.view.release()
        libc.munmap(self.address, self.nbytes)


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region().fill()
    yield made
    made.unmap()


def is_registered(address: int) -> bool:
    """Ask the system whether a mapping is under somebody's write-protection."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(bound, 16) for bound in head.split("-"))
            is_inside = low <= address < high
        elif is_inside and head == "VmFlags:":
            return " uw" in line
    raise AssertionError("not mapped")


def in_child(check: Callable[[], bool]) -> None:
    """Fork, check there, and fail here if it is false, raises or takes more than 30 seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy has threads; the child doesn't use them
        pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


# -- everywhere ----------------------------------------------------------------------------------------


def test_making_one_costs_nothing() -> None:
    result = run_script(
        "import os, sys\n"
        "from grainwise.objects import writewatch\n"
        "before = sorted(os.listdir('/dev/fd')), set(sys.modules)\n"
        "watch = writewatch.WriteWatch()\n"
        "assert watch.arm(memoryview(bytes(1000))) is None\n"
        "assert not watch.is_clean(None, memoryview(bytes(1000)))\n"
        "watch.close()\n"
        "assert before == (sorted(os.listdir('/dev/fd')), set(sys.modules))\n"
        "assert not {'ctypes', 'fcntl', 'struct'} & set(sys.modules)\n",
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("failure", ["platform", "syscall", "pagemap", "broken"])
def test_silently_off_where_the_kernel_does_not_offer_it(
    monkeypatch: pytest.MonkeyPatch, watch: WriteWatch, failure: str
) -> None:
    if failure == "platform":
        monkeypatch.setattr(writewatch, "_SYSCALL", {})
    elif failure == "syscall":
        monkeypatch.setattr(writewatch, "_SYSCALL", dict.fromkeys(writewatch._SYSCALL, 100_000))
    elif failure == "pagemap":

        def refuse(path: str, flags: int) -> int:
            raise PermissionError(path)

        monkeypatch.setattr(os, "open", refuse)
    else:
        monkeypatch.setattr(writewatch._Kernel, "is_untouched", lambda *_: True)
    descriptors = len(os.listdir("/dev/fd"))
    part = memoryview(np.ones(SIZE, np.uint8))
    assert watch.arm(part) is None
    monkeypatch.undo()
    gc.collect()
    assert len(os.listdir("/dev/fd")) == descriptors
    assert watch.arm(part) is None, "asked once, never again"
    assert not watch.is_clean(None, part)


def test_small_or_odd_buffers_are_not_watched(watch: WriteWatch) -> None:
    assert watch.arm(memoryview(bytes(MIN_BYTES - 1))) is None
    assert watch.arm(memoryview(np.ones(SIZE))) is None, "not bytes"
    assert watch.arm(memoryview(np.ones(SIZE, np.uint8))[::2]) is None


def test_what_is_left_of_ranges() -> None:
    assert writewatch._without([(0, 10)], []) == [(0, 10)]
    assert writewatch._without([(0, 10)], [(2, 4), (3, 6), (9, 20)]) == [(0, 2), (6, 9)]
    assert writewatch._without([(0, 10)], [(0, 10)]) == []
    assert writewatch._without([(0, 10)], [(10, 20)]) == [(0, 10)]


# -- writes --------------------------------------------------------------------------------------------


@needs_kernel
def test_clean_until_one_byte_changes_anywhere(watch: WriteWatch) -> None:
    array = np.ones(SIZE + 3 * PAGE, np.uint8)
    low = -array.ctypes.data % PAGE + 100  # 100 bytes into a page, up to 200 bytes into another
    part = memoryview(array)[low : low + SIZE + 100]
    places = [0, PAGE - 101, PAGE - 100, SIZE // 2, SIZE - 101, SIZE - 100, SIZE + 99]
    for place in places:
        watch._strikes = writewatch._Strikes()
        token = watch.arm(part)
        assert token is not None
        assert watch.is_clean(token, part)
        array[low - 1] += 1  # the neighbours' bytes on the first and the last page
        array[low + len(part)] += 1
        assert watch.is_clean(token, part)
        part[place] += 1
        assert not watch.is_clean(token, part), place
        part[place] -= 1
        assert not watch.is_clean(token, part), "once written to, for ever"


@needs_kernel
def test_edges_are_those_of_the_stored_copy(watch: WriteWatch) -> None:
    part = memoryview(np.ones(SIZE + 100, np.uint8))
    part[0] = 7  # as if another thread wrote it between arming and comparing, and took it back afterwards
    token = watch.arm(part, memoryview(b"\1" * len(part)))
    assert not watch.is_clean(token, part)


def write_readinto(part: memoryview) -> None:
    with open("/dev/zero", "rb", buffering=0) as file:
        file.readinto(part)


def write_preadv(part: memoryview) -> None:
    fd = os.open("/dev/zero", os.O_RDONLY)
    os.preadv(fd, [part], 0)
    os.close(fd)


def write_file(part: memoryview) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"\2" * len(part))
        file.seek(0)
        file.readinto(part)


def write_recv_into(part: memoryview) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(b"\2" * len(part))
        assert right.recv_into(part) == len(part)


def write_memmove(part: memoryview) -> None:
    ctypes.memmove(np.frombuffer(part, np.uint8).ctypes.data, b"\2" * len(part), len(part))


def write_numpy(part: memoryview) -> None:
    np.frombuffer(part, np.uint8)[:] = 2


def write_proc_mem(part: memoryview) -> None:
    fd = os.open("/proc/self/mem", os.O_WRONLY)
    os.pwrite(fd, b"\2" * len(part), np.frombuffer(part, np.uint8).ctypes.data)
    os.close(fd)


def write_process_vm(part: memoryview) -> None:
    data = ctypes.create_string_buffer(b"\2" * len(part), len(part))
    here = (ctypes.c_size_t * 2)(ctypes.addressof(data), len(part))
    there = (ctypes.c_size_t * 2)(np.frombuffer(part, np.uint8).ctypes.data, len(part))
    written = libc.process_vm_writev(os.getpid(), here, ctypes.c_ulong(1), there, ctypes.c_ulong(1), 0)
    assert written == len(part)


def write_slice(part: memoryview) -> None:
    part[:] = b"\2" * len(part)


WRITES = [
    write_slice,
    write_numpy,
    write_memmove,
    write_readinto,
    write_file,
    write_preadv,
    write_recv_into,
    write_proc_mem,
    write_process_vm,
]


@needs_kernel
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("advice", [MADV_HUGEPAGE, MADV_NOHUGEPAGE])
def test_every_way_to_write_is_noticed(
    watch: WriteWatch, write: Callable[[memoryview], None], advice: int
) -> None:
    region = Region(8 * MIB, advice=advice).fill()
    for nbytes in (1, 3 * PAGE):
        token = watch.arm(region.view)
        assert watch.is_clean(token, region.view)
        write(region.view[5 * MIB + 17 :][:nbytes])
        assert not watch.is_clean(token, region.view)
        region.fill()
    region.unmap()


@needs_kernel
def test_direct_reads_are_noticed(watch: WriteWatch, region: Region, tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(SIZE))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("no O_DIRECT on this filesystem")
    token = watch.arm(region.view)
    assert watch.is_clean(token, region.view)
    assert os.preadv(fd, [region.view[MIB : MIB + PAGE]], MIB) == PAGE
    os.close(fd)
    assert not watch.is_clean(token, region.view)


@needs_kernel
@pytest.mark.parametrize("advice", [MADV_HUGEPAGE, MADV_NOHUGEPAGE])
def test_random_writes_against_a_model(watch: WriteWatch, advice: int) -> None:
    """Clean exactly if nothing was written: thousands of writes through all doors, of many sizes."""
    chance = random.Random(f"writes {advice}")
    region = Region(8 * MIB, advice=advice).fill()
    start, end = 1234, 8 * MIB - 777
    part = region.view[start:end]
    watch._strikes.is_out = lambda place: False  # type: ignore[method-assign]
    n_clean = n_dirty = 0
    stored = memoryview(bytes(part))
    token = watch.arm(part, stored)
    for _ in range(3000):
        is_changed = False
        for _ in range(chance.choice([0, 1, 1, 3])):
            nbytes = min(chance.choice([1, 8, 100, PAGE, PAGE + 1, 3 * PAGE]), SIZE)
            at = chance.choice([0, start, end - 1, chance.randrange(8 * MIB)])
            at = min(max(at + chance.randint(-nbytes, nbytes), 0), 8 * MIB - nbytes)
            chance.choice(WRITES)(region.view[at : at + nbytes])
            is_changed |= at < end and at + nbytes > start
        is_same = part == stored if is_changed and chance.random() < 0.02 else None
        if watch.is_clean(token, part):
            n_clean += 1
            # Only the edges may have been written to and still be clean: with the bytes that were there.
            assert not is_changed or part[:PAGE] == stored[:PAGE]
            assert not is_changed or part[-PAGE:] == stored[-PAGE:]
            assert is_same is not False
        else:
            n_dirty += 1
            assert is_changed
            region.fill(chance.randrange(256)) if chance.random() < 0.02 else None
            stored = memoryview(bytes(part))
            token = watch.arm(part, stored)
            assert token is not None
    assert n_clean > 500
    assert n_dirty > 500
    region.unmap()


# -- memory that is replaced ---------------------------------------------------------------------------


@needs_kernel
def test_freed_and_allocated_again_at_the_same_address(watch: WriteWatch) -> None:
    seen = set()
    for value in range(20):
        array = np.full(64 * MIB, value, np.uint8)
        part = memoryview(array)
        place = array.ctypes.data
        token = watch.arm(part)
        assert token is None or watch.is_clean(token, part)
        seen.add(place)
        del array, part
        array = np.zeros(64 * MIB, np.uint8)
        assert not watch.is_clean(token, memoryview(array))
        assert int(array[:: 4 * PAGE].sum()) == 0
        assert not watch.is_clean(token, memoryview(array))
        del array
    assert len(seen) < 20, "the allocator gave the same place twice, or this tests nothing"


def pull_dontneed(region: Region) -> None:
    assert region.advise(MADV_DONTNEED) == 0


def pull_one_page(region: Region) -> None:
    assert region.advise(MADV_DONTNEED, MIB, PAGE) == 0


def pull_whole_tables(region: Region) -> None:
    start = -region.address % (2 * MIB)
    assert region.advise(MADV_DONTNEED, start, 2 * MIB) == 0


def pull_and_read(region: Region) -> None:
    assert region.advise(MADV_DONTNEED, MIB, 10 * PAGE) == 0
    assert bytes(region.view[MIB : MIB + 10 * PAGE]) == bytes(10 * PAGE)


def pull_free(region: Region) -> None:
    assert region.advise(MADV_FREE) == 0
    region.view[MIB] = 0  # what was not reclaimed yet becomes the user's again by a write


def pull_map_again(region: Region) -> None:
    region.map_again()


def pull_map_again_and_read(region: Region) -> None:
    region.map_again()
    region.advise(MADV_POPULATE_READ)


def pull_map_again_and_fill(region: Region) -> None:
    region.map_again()
    region.fill(2)


def pull_move_away_and_back(region: Region) -> None:
    other = libc.mremap(region.address, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, None)
    assert other not in (None, ctypes.c_void_p(-1).value)
    ctypes.memset(other + MIB, 9, 1)
    back = libc.mremap(other, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, region.address)
    assert back == region.address
    assert region.view[MIB] == 9


def pull_move_pages_away(region: Region) -> None:
    other = libc.mremap(region.address, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, None)
    assert other not in (None, ctypes.c_void_p(-1).value)
    assert bytes(region.view[:SIZE]) == bytes(SIZE)
    libc.munmap(other, SIZE)


def pull_move_something_here(region: Region) -> None:
    other = libc.mmap(None, SIZE, 3, PRIVATE, -1, 0)
    ctypes.memset(other, 1, SIZE)
    assert libc.mremap(other, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, region.address) == region.address


def pull_move_and_write(region: Region) -> None:
    """Older kernels carry the mark along, and leave it when the page is written to elsewhere."""
    other = libc.mmap(None, SIZE, 3, PRIVATE, -1, 0)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    assert libc.mremap(region.address, SIZE, SIZE, flags, other) == other
    ctypes.memset(other, 9, SIZE)
    assert libc.mremap(other, SIZE, SIZE, flags, region.address) == region.address


def pull_one_page_mapped_again(region: Region) -> None:
    assert libc.mmap(region.address + MIB, PAGE, 3, PRIVATE | 0x10, -1, 0) == region.address + MIB
    ctypes.memset(region.address + MIB, 1, PAGE)


def pull_gap(region: Region) -> None:
    libc.munmap(region.address + MIB, 4 * PAGE)


PULLS = [value for name, value in sorted(globals().items()) if name.startswith("pull_")]


@needs_kernel
@pytest.mark.parametrize("pull", PULLS)
@pytest.mark.parametrize("advice", [MADV_HUGEPAGE, MADV_NOHUGEPAGE])
def test_replaced_memory_is_never_clean(
    watch: WriteWatch, pull: Callable[[Region], None], advice: int
) -> None:
    region = Region(advice=advice).fill(0 if pull in (pull_dontneed, pull_and_read) else 1)
    token = watch.arm(region.view)
    assert watch.is_clean(token, region.view)
    pull(region)
    assert not watch.is_clean(token, region.view)
    if pull is not pull_gap:
        region.fill(3)
        assert not watch.is_clean(token, region.view)
        token = watch.arm(region.view)
        assert watch.is_clean(token, region.view), "and can be watched anew"
        region.view[MIB] = 4
        assert not watch.is_clean(token, region.view)
    region.unmap()


@needs_kernel
@pytest.mark.parametrize("advice", [MADV_PAGEOUT, MADV_COLLAPSE, MADV_POPULATE_READ, MADV_HUGEPAGE])
def test_memory_that_the_system_moves_about_stays_truthful(watch: WriteWatch, advice: int) -> None:
    region = Region(8 * MIB).fill()
    token = watch.arm(region.view)
    region.advise(MADV_HUGEPAGE)
    region.advise(advice)  # where a kernel doesn't know it, nothing happens, which is right as well
    region.view[3 * MIB] = 1
    assert not watch.is_clean(token, region.view)
    token = watch.arm(region.view)
    region.advise(advice)
    assert bytes(region.view) == bytes([1]) * region.nbytes
    watch.is_clean(token, region.view)  # either answer is true
    region.unmap()


@needs_kernel
def test_populating_for_writing_counts_as_a_write_or_changes_nothing(watch: WriteWatch) -> None:
    region = Region()
    token = watch.arm(region.view)
    region.advise(MADV_POPULATE_WRITE)
    region.view[MIB] = 1
    assert not watch.is_clean(token, region.view)
    region.unmap()


@needs_kernel
def test_pages_that_were_never_touched(watch: WriteWatch) -> None:
    for advice in (MADV_HUGEPAGE, MADV_NOHUGEPAGE):
        region = Region(8 * MIB, advice=advice)
        token = watch.arm(region.view)
        assert token is not None
        assert bytes(region.view) == bytes(8 * MIB), "the comparison makes the pages exist"
        assert watch.is_clean(token, region.view)
        region.view[5 * MIB] = 1
        assert not watch.is_clean(token, region.view)
        region.unmap()


@needs_kernel
@pytest.mark.parametrize("nbytes", [4 * MIB, 4 * MIB + 100])
def test_watched_memory_can_still_be_resized(watch: WriteWatch, nbytes: int) -> None:
    with mmap.mmap(-1, nbytes, PRIVATE) as memory:
        memory[:] = bytes(nbytes)
        with memoryview(memory) as part:
            token = watch.arm(part)
            assert watch.is_clean(token, part)
        memory.resize(2 * nbytes)
        with memoryview(memory) as part:
            assert not watch.is_clean(token, part)
            assert not watch.is_clean(token, part[:nbytes])
    array = np.ones(nbytes, np.uint8)
    token = watch.arm(memoryview(array))
    array.resize(2 * nbytes, refcheck=False)
    assert int(array.sum()) == nbytes  # it may have grown in place, and then these bytes are clean indeed
    array[MIB] = 2
    assert not watch.is_clean(token, memoryview(array)[:nbytes])


@needs_kernel
def test_protection_by_the_user_does_not_blind_us(watch: WriteWatch, region: Region) -> None:
    protect = libc.mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    token = watch.arm(region.view)
    assert protect(region.address, SIZE, 1) == 0
    assert watch.is_clean(token, region.view)
    assert protect(region.address, SIZE, 3) == 0
    assert watch.is_clean(token, region.view)
    region.view[MIB] = 2
    assert not watch.is_clean(token, region.view)


@needs_kernel
@pytest.mark.parametrize("kind", ["shared", "memfd", "private file", "hugetlb", "straddling"])
def test_other_kinds_of_memory_are_not_watched(watch: WriteWatch, kind: str, tmp_path: Path) -> None:
    if kind == "straddling":
        region = Region().fill()
        libc.mmap(region.address + MIB, PAGE, 3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x10, -1, 0)
        assert watch.arm(region.view) is None
        assert not is_registered(region.address)
        region.unmap()
        return
    if kind == "memfd":
        fd = os.memfd_create("test")
        os.ftruncate(fd, SIZE)
        memory = mmap.mmap(fd, SIZE)
        os.close(fd)
    elif kind == "private file":
        path = tmp_path / "bytes"
        path.write_bytes(b"\1" * SIZE)
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), SIZE, mmap.MAP_PRIVATE)
    elif kind == "hugetlb":
        try:
            memory = mmap.mmap(-1, SIZE, PRIVATE | 0x40000)
        except OSError:
            pytest.skip("no huge pages are set aside here")
    else:
        memory = mmap.mmap(-1, SIZE)
    with memory, memoryview(memory) as part:
        part[:] = b"\1" * SIZE
        assert watch.arm(part) is None


@needs_kernel
def test_nothing_is_watched_while_a_device_may_write_unseen(watch: WriteWatch, region: Region) -> None:
    """Buffers that io_uring holds registered are written to without a page fault."""
    ring = libc.syscall(425, 4, ctypes.create_string_buffer(256))
    if ring < 0:
        pytest.skip("no io_uring here")
    iovec = ctypes.create_string_buffer(struct.pack("QQ", region.address, MIB))
    assert libc.syscall(427, ring, 0, iovec, 1) == 0
    assert watch.arm(region.view) is None
    assert libc.syscall(427, ring, 1, None, 0) == 0
    assert watch.arm(region.view) is not None
    os.close(ring)


# -- tokens side by side -------------------------------------------------------------------------------


@needs_kernel
def test_a_token_is_for_one_address_and_size(watch: WriteWatch) -> None:
    one, two = memoryview(np.ones(SIZE, np.uint8)), memoryview(np.ones(SIZE, np.uint8))
    token = watch.arm(one)
    assert not watch.is_clean(token, two)
    assert not watch.is_clean(token, one[:-1])
    assert not watch.is_clean(token, one[1:])
    assert watch.is_clean(token, one), "asking about another buffer does no harm"
    assert watch.is_clean(token, one.toreadonly())


@needs_kernel
def test_arming_again_does_not_clear_what_another_token_must_see(watch: WriteWatch, region: Region) -> None:
    part = region.view
    first = watch.arm(part)
    part[2 * MIB] = 2
    second = watch.arm(part)
    assert watch.is_clean(second, part)
    assert not watch.is_clean(first, part)
    half = watch.arm(part[: 3 * MIB])
    assert watch.is_clean(second, part), "arming a part of clean memory takes nothing away"
    part[MIB] = 3
    other_half = watch.arm(part[MIB // 2 : 2 * MIB])
    assert watch.is_clean(other_half, part[MIB // 2 : 2 * MIB])
    assert not watch.is_clean(second, part)
    assert not watch.is_clean(half, part[: 3 * MIB])
    assert watch.is_clean(other_half, part[MIB // 2 : 2 * MIB]), "outlives those that it overlaps"


@needs_kernel
def test_a_write_while_an_overlapping_range_is_being_armed_is_seen_by_both(
    watch: WriteWatch, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = watch.arm(region.view)
    register = writewatch._Kernel.register

    def register_late(kernel: writewatch._Kernel, pages: tuple[int, int]) -> None:
        region.view[MIB] ^= 1  # another thread, after `arm` found the first token unwritten
        register(kernel, pages)

    monkeypatch.setattr(writewatch._Kernel, "register", register_late)
    second = watch.arm(region.view[: 3 * MIB])
    monkeypatch.undo()
    assert second is not None
    assert not watch.is_clean(first, region.view)
    assert not watch.is_clean(second, region.view[: 3 * MIB])


@needs_kernel
@pytest.mark.parametrize("advice", [MADV_HUGEPAGE, MADV_NOHUGEPAGE])
def test_random_views_of_one_array_against_a_model(watch: WriteWatch, advice: int) -> None:
    """Many overlapping tokens, writes and drops: clean exactly if none of its own pages was written since."""
    chance = random.Random(f"views {advice}")
    watch._strikes.is_out = lambda place: False  # type: ignore[method-assign]
    region = Region(16 * MIB, advice=advice).fill()
    written = np.zeros(16 * MIB // PAGE, np.int64)  # per page: when last
    token: writewatch.Token | None
    tokens: list[tuple[writewatch.Token, int, int, bytes, int]] = []
    n_answers = {True: 0, False: 0}
    for clock in range(1, 6001):
        action = chance.random()
        if action < 0.2 or not tokens:
            low = chance.randrange(14 * MIB) // PAGE * PAGE + chance.choice([0, 0, 16])
            high = chance.randrange(low + MIB, 16 * MIB + 1)
            part = region.view[low:high]
            token = watch.arm(part)
            assert token is not None
            tokens.append((token, low, high, part[:PAGE].tobytes() + part[-PAGE:].tobytes(), clock))
        elif action < 0.25:
            at = chance.randrange(16 * MIB)
            region.view[at] = clock % 256
            written[at // PAGE] = clock
        elif action < 0.35 or len(tokens) > MAX_RUNS - 4:
            tokens.pop(chance.randrange(len(tokens)))
        else:
            which = chance.randrange(len(tokens))
            token, low, high, edges, armed = tokens[which]
            part = region.view[low:high]
            inner = slice(-(-low // PAGE), high // PAGE)
            is_clean = watch.is_clean(token, part)
            is_same = part[:PAGE].tobytes() + part[-PAGE:].tobytes() == edges
            assert is_clean == (written[inner].max() < armed and is_same)
            n_answers[is_clean] += 1
            if not is_clean:
                tokens.pop(which)
        token = None
    assert min(n_answers.values()) > 100
    tokens.clear()
    watch.close()
    assert not is_registered(region.address)
    region.unmap()


@needs_kernel
def test_two_watches_do_not_mislead_each_other(watch: WriteWatch, region: Region) -> None:
    other = WriteWatch()
    token = watch.arm(region.view)
    assert other.arm(region.view) is None
    assert watch.is_clean(token, region.view)
    region.map_again()
    region.fill(2)
    theirs = other.arm(region.view)
    assert other.is_clean(theirs, region.view)
    assert not watch.is_clean(token, region.view), "unwritten, but in their registration"
    assert other.is_clean(theirs, region.view), "and ours did not end theirs"
    assert not watch.is_clean(theirs, region.view)
    other.close()
    assert not other.is_clean(theirs, region.view)
    assert watch.arm(region.view) is not None


@needs_kernel
def test_dropped_tokens_leave_the_memory_alone(watch: WriteWatch, region: Region) -> None:
    token = watch.arm(region.view)
    assert is_registered(region.address)
    del token
    gc.collect()
    assert not watch.is_clean(watch.arm(memoryview(bytes(2 * MIB))), region.view)
    assert not is_registered(region.address)


@needs_kernel
def test_a_dirty_answer_ends_the_watching(watch: WriteWatch, region: Region) -> None:
    token = watch.arm(region.view)
    region.view[0] = 9
    assert not watch.is_clean(token, region.view)
    assert not is_registered(region.address)


@needs_kernel
def test_closing_gives_everything_back(region: Region) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    watch = WriteWatch()
    token = watch.arm(region.view)
    assert len(os.listdir("/dev/fd")) == descriptors + 2
    watch.close()
    watch.close()
    assert len(os.listdir("/dev/fd")) == descriptors
    assert not is_registered(region.address)
    assert not watch.is_clean(token, region.view)
    assert watch.arm(region.view) is None


@needs_kernel
def test_live_tokens_are_bounded(watch: WriteWatch) -> None:
    region = Region((MAX_RUNS + 2) * MIB).fill()
    parts = [region.view[at * MIB : (at + 1) * MIB] for at in range(MAX_RUNS + 2)]
    tokens = [watch.arm(part) for part in parts[:MAX_RUNS]]
    assert watch.is_clean(tokens[0], parts[0])  # the second is now the one that was of use least recently
    tokens += [watch.arm(part) for part in parts[MAX_RUNS:]]
    answers = [watch.is_clean(token, part) for token, part in zip(tokens, parts, strict=True)]
    assert answers == [True, False, False] + [True] * (MAX_RUNS - 1)
    assert not is_registered(region.address + MIB)
    region.unmap()


# -- policy --------------------------------------------------------------------------------------------


@needs_kernel
def test_buffers_that_keep_changing_are_left_alone_for_a_while(watch: WriteWatch, region: Region) -> None:
    part = region.view

    def use(n_clean: int) -> bool:
        token = watch.arm(part)
        for _ in range(n_clean):
            assert watch.is_clean(token, part)
        part[MIB] ^= 1
        assert not watch.is_clean(token, part)
        return token is not None

    assert all(use(PAYS_AFTER) for _ in range(2 * MAX_STRIKES)), "it pays"
    assert all(use(PAYS_AFTER - 1) for _ in range(MAX_STRIKES - 1))
    assert use(PAYS_AFTER), "one that pays wipes out the strikes"
    assert all(use(PAYS_AFTER - 1) for _ in range(MAX_STRIKES))
    assert not any(use(0) for _ in range(REFUSALS))
    assert use(0) or use(0), "another chance"
    assert not use(0)


def test_strikes_are_remembered_for_a_bounded_number_of_buffers() -> None:
    strikes = writewatch._Strikes()
    for place in range(10_000):
        strikes.count((place, place), was_in_vain=True)
    assert len(strikes._counts) <= 4 * MAX_RUNS


# -- processes and threads -----------------------------------------------------------------------------


@needs_kernel
def test_a_forked_child_is_not_harmed_and_does_not_ask_about_its_parent(
    watch: WriteWatch, region: Region
) -> None:
    part = region.view
    token = watch.arm(part)
    assert watch.is_clean(token, part)

    def child() -> bool:
        assert not is_registered(region.address)
        assert not watch.is_clean(token, part)
        part[:] = b"\2" * SIZE
        write_readinto(part[:MIB])
        assert not watch.is_clean(token, part)
        own = watch.arm(part)
        assert watch.is_clean(own, part)
        part[MIB] = 3
        assert not watch.is_clean(own, part)
        watch.close()
        return True

    in_child(child)
    assert watch.is_clean(token, part), "a child's writes are its own"
    part[MIB] = 7
    assert not watch.is_clean(token, part), "copy-on-write pages tell of the parent's writes"


@needs_kernel
def test_a_child_forked_behind_our_back_stays_outside(watch: WriteWatch, region: Region) -> None:
    """`fork` called from C runs no hook: the descriptors still act on the parent."""
    token = watch.arm(region.view)
    watch._pid -= 1
    assert not watch.is_clean(token, region.view)
    assert watch.arm(region.view) is None
    watch.close()
    assert is_registered(region.address)
    watch._pid += 1
    watch._is_off = False
    assert watch.is_clean(token, region.view)


@needs_kernel
def test_a_fork_in_the_middle_of_a_call_leaves_the_child_a_free_lock(
    watch: WriteWatch, region: Region
) -> None:
    watch.arm(region.view)
    with watch._lock:
        in_child(lambda: watch.arm(region.view) is not None)


@needs_kernel
def test_descriptors_are_not_inherited_by_programs(watch: WriteWatch, region: Region) -> None:
    watch.arm(region.view)
    assert watch._kernel is not None
    assert not any(os.get_inheritable(fd) for fd in watch._kernel._fds)


@needs_kernel
def test_a_call_that_interrupts_another_of_its_own_thread_is_refused(
    watch: WriteWatch, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler does that submits a task in the middle of `arm`."""
    token = watch.arm(region.view)
    answers = []

    def interrupt() -> bool:
        answers.append((watch.arm(region.view), watch.is_clean(token, region.view)))
        return False

    monkeypatch.setattr(writewatch, "_has_pinned_pages", interrupt)
    assert watch.arm(region.view[:-1]) is not None
    assert answers == [(None, False)]


@needs_kernel
def test_threads_with_arrays_of_their_own(watch: WriteWatch) -> None:
    watch._strikes.is_out = lambda place: False  # type: ignore[method-assign]
    wrong: list[str] = []
    start = threading.Barrier(4)

    def use(number: int) -> None:
        chance = random.Random(number)
        array = np.ones(2 * MIB, np.uint8)
        part = memoryview(array)
        start.wait(30)
        for _ in range(150):
            token = watch.arm(part)
            if token is None:
                wrong.append("not armed")
            elif not watch.is_clean(token, part):
                wrong.append("not clean")
            array[chance.randrange(2 * MIB)] += 1
            if watch.is_clean(token, part):
                wrong.append("clean")
            if chance.random() < 0.1:
                del array, part
                array = np.ones(2 * MIB, np.uint8)
                part = memoryview(array)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_kernel
def test_a_write_between_arming_and_comparing_is_not_missed(watch: WriteWatch, region: Region) -> None:
    stored = memoryview(bytes(region.view))
    token = watch.arm(region.view, stored)
    region.view[MIB] = 5
    assert region.view != stored
    region.view[MIB] = 1
    assert region.view == stored
    assert not watch.is_clean(token, region.view)
