"""Arenas: the large-object memory of one writer, mapped read-only by everybody else.

An arena is a file without a name, so that nothing can outlive its users, however they die:

    writer                                            every other process
    Arena ── allocate, write, free, trim              ArenaReader
      │        mapped read-write (disk: read-only)        │ mapped read-only: the kernel forbids changes
      └──────────────► memfd, or unlinked file ◄──────────┘
                       `capacity_bytes` long, sparse: only pages that were written exist

The file is as long as the arena may ever become and each process maps it once, so an object's address never
changes and a reader needs no system call to reach it. Only the writer allocates: no lock and no message
between processes.

Page faults, not copying, are the cost, so the arena knows the state of each page and writes accordingly:

| state | meaning | how it is written |
|---|---|---|
| absent | never written, or given back | `pwrite`: no faults; a full disk is an error, not SIGBUS |
| present | in the file, not in our mapping | mapped in one go, then copied; warm afterwards |
| warm | in our mapping too | copied, at the speed of memory |

Free space is reused before the file grows, warm and recently freed ranges first; `trim` gives it back.

A forked child must not use its copy of an Arena (the engine never forks a process that has one). Nothing has
to be done for that: leases that end in the child only touch the child's own bookkeeping.
"""

from __future__ import annotations

import _thread
import mmap
import os
from collections import deque

from .lease import Mapping, compare, punch_hole
from .ranges import FreeRanges

TYPE_CHECKING = False  # checkers take it for true; importing typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ALIGN", "Arena", "ArenaFull", "ArenaReader", "compare", "create_disk", "create_memory", "layout"]

ALIGN = 64
"""Offsets of objects and of their parts are multiples of this many bytes: a cache line, an AVX-512 load."""

_PAGE = mmap.PAGESIZE
# Objects from here on begin at a page and fill whole pages: freeing one gives back all its pages.
_LARGE_BYTES = 1 << 20
# Linux writes at most 0x7ffff000 bytes per call; a smaller step also lets other threads in at times.
_WRITE_STEP_BYTES = 1 << 30
# A warm beginning shorter than this is written along with the absent pages behind it.
_SPLIT_BYTES = 64 << 10

_ABSENT, _PRESENT, _WARM = 0, 1, 2
_ABSENT_TO_PRESENT = bytes([_PRESENT, _PRESENT, _WARM]) + bytes(range(3, 256))


class ArenaFull(Exception):  # noqa: N818 - a state to act upon: the store then spills
    """No free range of an arena is long enough. Internal: the store spills, and words the public error."""

    def __init__(self, requested: int, free: int, capacity: int) -> None:
        super().__init__(f"{requested} bytes requested, {free} of {capacity} free, but not in one piece")
        self.requested = requested
        self.free = free
        self.capacity = capacity


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Place parts one after another, each at a multiple of `ALIGN`.

    Args:
        sizes: The sizes of the parts in bytes.

    Returns:
        The offset of each part and the bytes that all need together.
    """
    offsets: list[int] = []
    end = 0
    for size in sizes:
        start = -(-end // ALIGN) * ALIGN
        offsets.append(start)
        end = start + size
    return offsets, end


def create_memory(capacity_bytes: int, name: str = "grainwise") -> int:
    """Create the file of an arena in memory and return its descriptor.

    Args:
        capacity_bytes: Length of the file. It is sparse: memory is taken when pages are written.
        name: What `/proc/<pid>/maps` shows; nothing can be opened by it.

    Raises:
        OSError: When the file cannot be that long (`RLIMIT_FSIZE`) or no descriptor is left.
    """
    if hasattr(os, "memfd_create"):
        return _sized(os.memfd_create(name), capacity_bytes)
    import tempfile

    return create_disk(capacity_bytes, tempfile.gettempdir())


def create_disk(capacity_bytes: int, directory: str) -> int:
    """Create the file of a disk arena, without a name, and return its descriptor.

    Args:
        capacity_bytes: Length of the file. It is sparse: disk space is taken when pages are written.
        directory: An existing folder on the filesystem to use.

    Raises:
        OSError: When the folder is missing or not writable, or the file cannot be that long (`RLIMIT_FSIZE`,
            a filesystem with a smaller limit).
    """
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is not None:
        try:
            return _sized(os.open(directory, unnamed | os.O_RDWR, 0o600), capacity_bytes)
        except OSError as error:
            import errno

            # What filesystems (NFS, some overlays) and kernels that do not know the flag answer.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
    import tempfile

    fd, path = tempfile.mkstemp(prefix="grainwise-", dir=directory)
    try:
        os.unlink(path)
    except OSError:
        os.close(fd)
        raise
    return _sized(fd, capacity_bytes)


def _sized(fd: int, capacity_bytes: int) -> int:
    try:
        os.ftruncate(fd, capacity_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _as_bytes(part: bytes | memoryview) -> memoryview:
    view = memoryview(part)
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    # Not view.cast: it refuses shapes with a zero and formats of structured arrays.
    from pickle import PickleBuffer

    return PickleBuffer(view).raw()


class ArenaReader:
    """Another process's arena, mapped read-only."""

    def __init__(self, fd: int, capacity_bytes: int) -> None:
        """Take over `fd` and map it at once; `fd` stays open until `close`, so that it can be passed on.

        Raises:
            OSError: When the system refuses the mapping; `fd` is closed then.
            ValueError: When the file is shorter than `capacity_bytes`; `fd` is closed then.
        """
        self.fd = fd
        self.capacity_bytes = capacity_bytes
        self._mapping: Mapping | None = None
        try:
            self._mapping = Mapping(fd, capacity_bytes, is_writable=False)
        except BaseException:
            os.close(fd)
            raise

    @property
    def address(self) -> int:
        """Where the mapping begins; 0 when the reader is closed."""
        return 0 if self._mapping is None else self._mapping.address

    def view(self, offset: int, nbytes: int, on_drop: Callable[[], None] | None = None) -> memoryview:
        """Lease a range; see `Mapping.view`.

        Raises:
            ValueError: When the range is outside the arena, or the reader is closed.
        """
        mapping = self._mapping
        if mapping is None:
            raise ValueError("the arena is closed")
        return mapping.view(offset, nbytes, on_drop)

    def close(self) -> None:
        """Close `fd` and drop our reference to the mapping; it goes when its last lease does."""
        if self._mapping is not None:
            self._mapping = None
            os.close(self.fd)


class Arena:
    """The writer's side of an arena.

    Safe to use from several threads. `free` takes no lock and may be called from anywhere, also from the
    `on_drop` of a view inside a garbage collection; no other method may be called from there.

    Allocating and freeing take a few microseconds, however many objects live (see `ranges`), plus the work
    per page of the object (a byte of bookkeeping each).
    """

    def __init__(self, fd: int, capacity_bytes: int, *, is_disk: bool = False) -> None:
        """Take over `fd`, a file of `capacity_bytes` that `create_memory` or `create_disk` made."""
        self.fd = fd
        self.capacity_bytes = capacity_bytes
        self.is_disk = is_disk
        self._best_state = _PRESENT if is_disk else _WARM
        self._mapping: Mapping | None = None
        self._is_closed = False
        # Guards what follows; never held while foreign code can run, except that a garbage collection may
        # call on_drop, hence free, at any moment: so free must not take it.
        self._lock = _thread.allocate_lock()
        self._live: dict[int, int] = {}  # offset -> bytes of each allocated range
        self._freed: deque[tuple[int, int]] = deque()  # (offset, bytes) freed, not yet in self._free
        self._free = FreeRanges(capacity_bytes)  # pages from its top on are absent
        self._states = bytearray()  # state of each page below the top
        self._n_present = 0  # pages in self._states that are not absent
        self._allocated_bytes = 0  # sum of self._live and self._freed

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the live ranges, rounded up to the alignment (from 1 MiB on: to pages)."""
        with self._lock:
            self._collect_freed()
            return self._allocated_bytes

    @property
    def footprint_bytes(self) -> int:
        """Bytes of the pages that the system has given us: written and not yet trimmed, live or free."""
        return self._n_present * _PAGE

    @property
    def address(self) -> int:
        """Where the mapping begins; 0 before its first use and when the arena is closed."""
        mapping = self._mapping
        return 0 if mapping is None else mapping.address

    def allocate(self, nbytes: int) -> int:
        """Reserve a range; nothing is written.

        Args:
            nbytes: Its length; 0 is allowed and gives an offset of its own.

        Returns:
            Its offset, a multiple of `ALIGN`, from 1 MiB on of the page size.

        Raises:
            ArenaFull: When no free range is long enough.
        """
        if nbytes < 0:
            raise ValueError(f"cannot allocate {nbytes} bytes")
        align = _PAGE if nbytes >= _LARGE_BYTES else ALIGN
        size = max(-(-nbytes // align) * align, ALIGN)
        with self._lock:
            self._collect_freed()
            found = self._free.find(size, align, self._warmth, 3 * self._best_state)
            if found is None:
                free = self.capacity_bytes - self._allocated_bytes
                raise ArenaFull(nbytes, free, self.capacity_bytes)
            offset = -(-found // align) * align
            self._free.take(found, offset, offset + size)
            self._states.extend(bytes(max(0, -(-self._free.top // _PAGE) - len(self._states))))
            self._allocated_bytes += size
            self._live[offset] = size
        return offset

    def free(self, offset: int) -> None:
        """Give a range back for reuse; its pages stay until `trim`.

        Raises:
            ValueError: When no live range begins at `offset`: it was freed already or never allocated.
        """
        # One atomic pop decides who frees; the free ranges are brought up to date by the next call that holds
        # the lock.
        size = self._live.pop(offset, None)
        if size is None:
            raise ValueError(f"no live range at offset {offset}: freed twice, or never allocated")
        self._freed.append((offset, size))

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        """Fill a live range with parts, placed as `layout` says; bytes between them are left as they are.

        Nobody else may free the range meanwhile. Large parts are copied without the GIL.

        Args:
            offset: What `allocate` returned.
            parts: Contiguous buffers of any format.

        Raises:
            OSError: When the system has no room (`ENOSPC`, `ENOMEM`, `EDQUOT`, `EFBIG`); the range stays
                allocated with unknown content, and the caller frees it.
            ValueError: When no live range begins at `offset` or the parts do not fit into it.
        """
        views = [_as_bytes(part) for part in parts]
        starts, total = layout([view.nbytes for view in views])
        size = self._live.get(offset)
        if size is None or total > size:
            raise ValueError(
                f"{total} bytes do not fit into the live range of {size} bytes at offset {offset}"
            )
        if self._is_closed:
            raise ValueError("the arena is closed")
        end = offset + total
        cut = offset if self.is_disk else self._end_of_present(offset, end)
        reached = cut
        try:
            for start, view in zip(starts, views, strict=True):
                begin = offset + start
                n_done = min(max(cut - begin, 0), view.nbytes)
                if n_done:
                    self._map().copy_in(begin, view[:n_done])
                while n_done < view.nbytes:
                    n_done += os.pwrite(self.fd, view[n_done : n_done + _WRITE_STEP_BYTES], begin + n_done)
                    reached = begin + n_done
        finally:
            # After an error too: pages that exist must be known, or no trim would ever give them back.
            if reached > offset:
                self._mark(offset, cut, reached)

    def view(self, offset: int, nbytes: int, on_drop: Callable[[], None] | None = None) -> memoryview:
        """Lease a range; see `Mapping.view`. The caller keeps it from being freed before `on_drop`.

        Raises:
            ValueError: When the range is outside the arena, or the arena is closed.
        """
        return self._map().view(offset, nbytes, on_drop)

    def trim(self, keep_bytes: int = 0) -> int:
        """Give pages of free ranges back to the system, from the highest offset down.

        Where holes cannot be punched (not Linux, some filesystems), only a free end of the file is given
        back.

        Args:
            keep_bytes: How many bytes of free pages may stay for reuse.

        Returns:
            The bytes given back. A page shared with a live range stays.
        """
        given_back = 0
        with self._lock:
            self._collect_freed()
            if self._is_closed:
                return 0
            spans = [self._span(start, end) for start, end in sorted(self._free, reverse=True)]
            excess = sum(self._count_present(*span) for span in spans) - keep_bytes // _PAGE
            for first, last in spans:
                if excess <= 0:
                    break
                n_given = self._give_back(self._cut_span(first, last, excess), last)
                excess -= n_given
                given_back += n_given * _PAGE
            self._lower_top()
        return given_back

    def close(self) -> None:
        """Close the file and drop our reference to the mapping; it goes when its last lease does.

        Other processes keep theirs. `free` still works, so that leases may end later.
        """
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._mapping = None
                os.close(self.fd)

    def validate(self) -> None:
        """Check the bookkeeping; raises `AssertionError`. For tests: linear in everything."""
        with self._lock:
            self._collect_freed()
            self._free.validate(self._live)
            assert all(start % ALIGN == 0 for start in self._live), "a range is not aligned"
            assert self._allocated_bytes == sum(self._live.values())
            assert len(self._states) == -(-self._free.top // _PAGE)
            assert self._n_present == self._count_present(0, len(self._states))

    # Pages and bytes.

    def _map(self) -> Mapping:
        mapping = self._mapping
        if mapping is None:
            with self._lock:
                if self._is_closed:
                    raise ValueError("the arena is closed")
                mapping = self._mapping
                if mapping is None:
                    # A disk arena is only written by pwrite: a store to a full disk's mapping would be
                    # SIGBUS.
                    mapping = Mapping(self.fd, self.capacity_bytes, is_writable=not self.is_disk)
                    self._mapping = mapping
        return mapping

    def _end_of_present(self, offset: int, end: int) -> int:
        """Return where the absent part of a range begins; what lies before gets mapped for copying."""
        first, last = offset // _PAGE, -(-end // _PAGE)
        absent = self._states.find(_ABSENT, first, last)
        cut = end
        if absent >= 0:
            cut = max(absent * _PAGE, offset)
            if cut - offset < _SPLIT_BYTES:
                return offset
            last = absent
        if self._states.find(_PRESENT, first, last) >= 0:
            # populate and copy take as long as pwrite (40 against 36 ms for 200 MB), but only the first time.
            self._map().populate(first * _PAGE, (last - first) * _PAGE)
        return cut

    def _mark(self, offset: int, cut: int, end: int) -> None:
        """Note that pages were written: up to `cut` through the mapping, then to `end` by pwrite."""
        first, middle, last = offset // _PAGE, -(-cut // _PAGE), -(-end // _PAGE)
        with self._lock:
            n_absent = self._states.count(_ABSENT, first, last)
            if cut > offset:
                self._states[first:middle] = bytes([_WARM]) * (middle - first)
                first = middle
            if n_absent:
                self._states[first:last] = self._states[first:last].translate(_ABSENT_TO_PRESENT)
                self._n_present += n_absent

    def _count_present(self, first: int, last: int) -> int:
        return last - first - self._states.count(_ABSENT, first, last) if last > first else 0

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """Return the pages (first, end) that lie wholly in a free range."""
        # Behind the top nothing lives, so its page belongs to the range below.
        return -(-start // _PAGE), -(-end // _PAGE) if end == self._free.top else end // _PAGE

    def _cut_span(self, first: int, last: int, n_pages: int) -> int:
        """Return the highest page from which on `n_pages` of a span are present; `first` if it has fewer."""
        cut, missing = last, n_pages
        while missing > 0 and cut > first:
            cut = max(cut - missing, first)
            missing = n_pages - self._count_present(cut, last)
        return cut

    def _give_back(self, first: int, last: int) -> int:
        """Return the pages `first` to `last` to the system; returns how many of them were present."""
        n_present = self._count_present(first, last)
        if not n_present:
            return 0
        try:
            punch_hole(self.fd, first * _PAGE, (last - first) * _PAGE)
        except OSError:
            if last < len(self._states):
                return 0
            os.ftruncate(self.fd, first * _PAGE)
            os.ftruncate(self.fd, self.capacity_bytes)
        self._states[first:last] = bytes(last - first)
        self._n_present -= n_present
        return n_present

    # Ranges.

    def _warmth(self, offset: int, size: int) -> int:
        """Sum the states of three pages of a range: a sample is enough to choose by."""
        states = self._states
        last = (offset + size - 1) // _PAGE
        return states[offset // _PAGE] + states[(offset + size // 2) // _PAGE] + states[last]

    def _collect_freed(self) -> None:
        """Note as free what `free` has left."""
        freed = self._freed
        while freed:
            start, size = freed.popleft()
            self._allocated_bytes -= size
            self._free.add(start, start + size)

    def _lower_top(self) -> None:
        """Turn a free range at the end that has no pages back into fresh space."""
        start = self._free.last_start()
        if start is not None:
            first = -(-start // _PAGE)
            if self._count_present(first, len(self._states)) == 0:
                self._free.lower_top()
                del self._states[first:]
