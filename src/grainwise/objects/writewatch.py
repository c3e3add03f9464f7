"""Has this buffer been written to since it was last compared? The kernel knows, without reading the bytes.

Linux (6.7 and later) can write-protect pages for us and take the protection off by itself at the first write
(userfaultfd, asynchronous mode); one `PAGEMAP_SCAN` then tells which pages still have it:

            arm(part, stored)                                       is_clean(token, part)
                  │   the caller compares `part` with the stored copy       │
    ──────────────┼─────────────────────────────────────────────────────────┼─────► time
       register,  │                                                         │
       protect    └─ a write from here on leaves its page unprotected ──►   └─ all still protected: clean

Only whole pages can be protected, so a buffer has a run of pages of its own and two ragged edges, whose other
bytes belong to strangers. The edges are never protected: up to two pages' worth of bytes are compared.

Guarantees:

- `is_clean` is True only if the token was made for this address and size, the edges hold the bytes of the
  stored copy, and *every* page between them is mapped, registered with us, present and unwritten.
  Everything else, errors and gaps included, is False: the caller then compares, which is always right.
- Writes by the kernel (`readinto`, `recv_into`, `preadv`, `process_vm_writev`, `/proc/self/mem`) count as
  writes; so do `MADV_DONTNEED`, `munmap`, `mremap` and mapping something else at the same address, because
  new pages are unregistered or unprotected. Writing the bytes that were there already counts, too.
- **No page of a live token is ever protected again**, because that would erase what the page has to tell.
  Arming a range that overlaps live tokens scans these first: an unwritten one keeps its pages, which serve
  both tokens, and only the rest is protected; one that was written to is dropped for good. Views of one
  array may therefore be watched side by side.
- Two watches in one process (or another user of userfaultfd) cannot mislead each other: the kernel gives each
  range to one of them, and `is_clean` asks whether it is still ours.
- A forked child is not affected: its memory is not registered, its tokens are not clean, and it neither asks
  about nor changes its parent's memory through inherited descriptors. It may watch memory of its own.
- Nobody ever waits for us: there are no events to be handled, so a write costs a page fault at most.
- Where the kernel, its settings or a sandbox don't offer this, `arm` returns None for ever. Whether the
  kernel does what this page says is tried on three pages of our own first.

Watched is private anonymous memory only (what `malloc` and `mmap` of no file give). Bytes of shared memory
can change through another mapping; a dropped page of a private file mapping keeps its mark although the bytes
of the file reappear.

Price for 200 MB in 4 KiB pages, where comparing takes 13 ms: arming 3-4 ms (14 on a busy machine), a clean
answer 0.13 ms, a dirty one 3-4 ms because it ends the watching, and rewriting everything once 45 ms instead
of 7.5: about 1 µs at the first write to each page. In huge pages: arming 0.5 ms, a clean answer 0.02 ms, and
the first write splits its huge page. Hence the thrift: big buffers only, few of them, and none whose tokens
keep failing to pay (`_Strikes`).

Things that don't work:

- Bytes that a device writes on its own into pages that were pinned *before* arming: no page fault, no mark.
  Registered buffers of io_uring and RDMA show in `VmPin`, and then nothing is armed. What no counter shows
  goes unseen: an `O_DIRECT` read in another thread that began before arming and ended after the comparison;
  arrays registered with a GPU driver (`cudaHostRegister`) or migrated to a GPU (unified memory).
- Registering splits the mapping, and `mremap` refuses ranges that span a split. `realloc` then copies;
  `mmap.resize` of private anonymous memory fails while only a *part* of it is watched.
- Soft-dirty bits (`/proc/self/clear_refs`): process-wide, hence shared with whoever else clears them, and
  many kernels are built without.
- `mprotect` and a SIGSEGV handler: kernel-side writes fail with EFAULT instead of being noticed.
- Protecting with the scan itself (`PM_SCAN_WP_MATCHING`): it skips pages that kept their mark, though they
  had become writable, through an `mremap` of older kernels.
- Trusting swapped-out pages: their mark survives, yet a False costs little where swapping is under way.
- A lock that its own thread may take twice: a signal handler that submits a task in the middle of `arm` would
  protect pages behind its back. Such a call is refused instead.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import weakref
from collections import OrderedDict, deque

from .lease import _Pinned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Range = tuple[int, int]
    """Addresses of the first byte and behind the last."""

MIN_BYTES = 1 << 20
"""Smaller buffers are compared in less than 50 µs."""
MAX_RUNS = 64
"""Live tokens; each may add two mappings to the process (the system's limit is 65,530)."""
PAYS_AFTER = 8
"""Clean answers that make up for the page faults of rewriting a whole buffer."""
MAX_STRIKES = 3
REFUSALS = 32
"""How often a buffer with too many strikes is refused before it gets another chance."""

_PAGE = mmap.PAGESIZE
_SYSCALL = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
# Lets unprivileged processes in. It concerns faults that wait for a handler; ours never do.
_USER_MODE_ONLY = 1
_WP_UNPOPULATED = 1 << 13
_WP_ASYNC = 1 << 15
_MODE_WP = 2
_PROTECT = 1

_API = 0xC018AA3F
_REGISTER = 0xC020AA00
_UNREGISTER = 0x8010AA01
_WRITEPROTECT = 0xC018AA06
_PAGEMAP_SCAN = 0xC0606610

_WPALLOWED = 1 << 0
_WRITTEN = 1 << 1
_PRESENT = 1 << 3
_MS_ASYNC = 1  # does nothing but look for gaps


class _Kernel:
    """The kernel's side: one userfaultfd and the page map of this process.

    Raises:
        OSError: From every method, where the kernel says no.
    """

    def __init__(self) -> None:
        self._fds: list[int] = []  # first, since `__del__` runs also if the rest fails
        import ctypes
        import fcntl
        import struct

        number = _SYSCALL.get(os.uname().machine) if sys.maxsize > 1 << 32 else None
        if sys.platform != "linux" or number is None:
            raise OSError("no userfaultfd on this platform")
        self._ioctl = fcntl.ioctl
        self._pack = struct.pack
        self._region = (ctypes.c_uint64 * 3)()  # where a scan puts what it found; only the number matters
        self._region_address = ctypes.addressof(self._region)
        libc, long = ctypes.CDLL(None), ctypes.c_long
        self._msync: Callable[[int, int, int], int] = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        )(("msync", libc))
        syscall = ctypes.CFUNCTYPE(long, long, long)(("syscall", libc))
        fd = syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
        if fd < 0:
            raise OSError("userfaultfd is not allowed here")
        self._fds.append(fd)
        self._call(_API, 0xAA, _WP_UNPOPULATED | _WP_ASYNC, 0)
        self._fds.append(os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC))
        self._prove()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; the kernel ends the registrations unless a forked child has a copy."""
        while self._fds:
            os.close(self._fds.pop())

    def _call(self, request: int, *words: int) -> None:
        self._ioctl(self._fds[0], request, bytearray(self._pack(f"{len(words)}Q", *words)))

    def _prove(self) -> None:
        """Try the whole mechanism on three pages of our own: emulated kernels promise more than they hold."""
        with mmap.mmap(-1, 3 * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory[:] = b"\1" * len(memory)
            with _Pinned(memory) as pinned:
                pages = (pinned.address, pinned.address + pinned.nbytes)
            before = self.is_untouched(pages)
            self.register(pages)
            registered = self.is_untouched(pages)
            self.protect(pages)
            protected = self.is_untouched(pages)
            memory[_PAGE] = 2
            written = self.is_untouched(pages)
            if (before, registered, protected, written) != (False, False, True, False):
                raise OSError("userfaultfd does not tell which pages were written to")

    def register(self, pages: Range) -> None:
        """Make pages ours; fails if some belong to another userfaultfd, does nothing if they are ours."""
        self._call(_REGISTER, pages[0], pages[1] - pages[0], _MODE_WP, 0)

    def unregister(self, pages: Range) -> None:
        """Let go of pages that are ours or nobody's, and take the protection off."""
        self.register(pages)  # older kernels would take them away from anybody
        self._call(_UNREGISTER, pages[0], pages[1] - pages[0])

    def protect(self, pages: Range) -> None:
        """Mark registered pages as unwritten, those that don't exist yet included."""
        self._call(_WRITEPROTECT, pages[0], pages[1] - pages[0], _PROTECT)

    def _finds(self, pages: Range, any_of: int, none_of: int = 0) -> bool:
        """Say whether a mapped page has one of the marks `any_of`, or lacks one of `none_of`."""
        request = (96, 0, *pages, 0, self._region_address, 1, 1)
        masks = (none_of, 0, any_of | none_of, _WRITTEN)
        found: int = self._ioctl(self._fds[1], _PAGEMAP_SCAN, bytearray(self._pack("12Q", *request, *masks)))
        return found > 0

    def is_untouched(self, pages: Range) -> bool:
        """Say whether every page is registered (with anybody), present and unwritten.

        Looking for pages that are not takes 0.12 ms for 50,000 pages; collecting those that are, 0.5 ms. It
        would notice unmapped gaps, but so does `msync`. Looking for written pages alone takes 0.05 ms, but
        how it treats pages that are gone is not documented.
        """
        if self._msync(pages[0], pages[1] - pages[0], _MS_ASYNC) != 0:
            return False
        return not self._finds(pages, any_of=_WRITTEN, none_of=_WPALLOWED | _PRESENT)

    def is_written(self, pages: Range) -> bool:
        """Say whether some page has been written to."""
        return self._finds(pages, any_of=_WRITTEN)


class _Run:
    """What a token watches. Live as long as it is in `WriteWatch._runs`."""

    __slots__ = ("address", "head", "inner", "n_answers", "nbytes", "outer", "tail")

    def __init__(self, part: memoryview, address: int, stored: memoryview) -> None:
        self.address = address
        self.nbytes = part.nbytes
        end = address + part.nbytes
        # Registered is every page that the buffer touches, so that a whole mapping stays whole; protected are
        # those that it has to itself.
        self.outer: Range = (address // _PAGE * _PAGE, -(-end // _PAGE) * _PAGE)
        self.inner: Range = (-(-address // _PAGE) * _PAGE, end // _PAGE * _PAGE)
        self.head = bytes(stored[: self.inner[0] - address])
        self.tail = bytes(stored[self.inner[1] - address :])
        self.n_answers = 0

    def has_edges_of(self, part: memoryview) -> bool:
        """Compare what lies outside the protected pages."""
        tail_at = self.inner[1] - self.address
        return bytes(part[: len(self.head)]) == self.head and bytes(part[tail_at:]) == self.tail


class Token:
    """A promise to notice writes to one buffer; dropping it ends the watching at the watch's next call."""

    __slots__ = ("_dropped", "run")

    def __init__(self, run: _Run, dropped: deque[_Run]) -> None:
        self.run = run
        self._dropped = dropped

    def __del__(self) -> None:
        self._dropped.append(self.run)  # no lock: this may run inside any finalizer, in any thread


class _Strikes:
    """Remembers the buffers (address and size) for which arming did not pay, to leave them alone.

    A strike is a token that never said "clean", or said it too seldom before its pages were written to.
    Programs reuse addresses, so this learns about places rather than objects, and forgives in time.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[Range, int] = OrderedDict()

    def is_out(self, place: Range) -> bool:
        """Say whether a buffer must not be armed now."""
        count = self._counts.get(place, 0)
        if count < MAX_STRIKES:
            return False
        self._counts[place] = count + 1 if count < MAX_STRIKES + REFUSALS else MAX_STRIKES - 1
        return True

    def count(self, place: Range, *, was_in_vain: bool) -> None:
        """Note how a token ended."""
        if not was_in_vain:
            self._counts.pop(place, None)
            return
        self._counts[place] = self._counts.get(place, 0) + 1
        self._counts.move_to_end(place)
        if len(self._counts) > 4 * MAX_RUNS:
            self._counts.popitem(last=False)


class WriteWatch:
    """Answers "has this buffer been written to since?". See the module docstring. Thread-safe.

    Making one costs nothing; the kernel is asked at the first `arm`.
    """

    def __init__(self) -> None:
        self._kernel: _Kernel | None = None
        self._is_off = False
        self._pid = 0
        self._lock = threading.Lock()
        self._holder = 0  # the thread that has the lock: its own signal handlers must not wait for it
        self._runs: OrderedDict[_Run, None] = OrderedDict()  # live ones, least recently useful first
        self._dropped: deque[_Run] = deque()  # appended to by any thread, without the lock
        self._strikes = _Strikes()

    def arm(self, part: memoryview, stored: memoryview | None = None) -> Token | None:
        """Start watching a buffer. Call it *before* comparing: a write between the two must not be missed.

        Args:
            part: bytes (one-dimensional), which the caller keeps alive during the call.
            stored: the copy that `part` is going to be compared with, which never changes. Without it, edge
                bytes that differ only during the comparison would be taken for compared.

        Returns:
            A token for `is_clean`, or None where watching is impossible or not worth its price.
        """
        if self._is_off or part.nbytes < MIN_BYTES or part.itemsize != 1 or part.ndim != 1:
            return None
        if self._is_barred():
            return None
        with self._lock:
            self._holder = threading.get_ident()
            try:
                self._collect()
                return self._arm(part, part if stored is None else stored)
            except (OSError, BufferError):
                return None
            finally:
                self._holder = 0

    def is_clean(self, token: Token | None, part: memoryview) -> bool:
        """Say whether provably not one byte of `part` has changed since its token was made.

        False whenever in doubt; the token is then spent, unless `part` was just another buffer.
        """
        if token is None or self._is_off or self._is_barred():
            return False
        with self._lock:
            self._holder = threading.get_ident()
            try:
                self._collect()
                return self._is_clean(token.run, part)
            except (OSError, BufferError):
                return False
            finally:
                self._holder = 0

    def probe(self) -> bool:
        """Say whether this system offers what a watch needs."""
        if self._is_off or self._is_barred():
            return False
        with self._lock:
            return self._kernel is not None or self._open() is not None

    def close(self) -> None:
        """Stop watching everything, for good."""
        self._is_off = True
        if self._is_barred() or self._kernel is None:
            return
        with self._lock:
            for run in list(self._runs):
                self._drop(run)
            self._kernel.close()

    # -- under the lock --------------------------------------------------------------------------------

    def _arm(self, part: memoryview, stored: memoryview) -> Token | None:
        with _Pinned(part) as pinned:
            run = _Run(part, pinned.address, stored)
        if self._strikes.is_out((run.address, run.nbytes)):
            return None
        kernel = self._kernel or self._open()
        if kernel is None or _has_pinned_pages() or not _is_private_memory(run.outer):
            return None
        for other in list(self._runs):
            if _overlap(other.inner, run.inner) and not kernel.is_untouched(other.inner):
                self._drop(other)
        # From here on no live run has a page among those that are protected.
        try:
            kernel.register(run.outer)
            for pages in _without([run.inner], [other.inner for other in self._runs]):
                kernel.protect(pages)
        except OSError:
            self._unregister(run)
            raise
        self._runs[run] = None
        if len(self._runs) > MAX_RUNS:
            self._drop(next(iter(self._runs)))
        return Token(run, self._dropped)

    def _is_clean(self, run: _Run, part: memoryview) -> bool:
        if run not in self._runs or self._kernel is None:
            return False
        with _Pinned(part) as pinned:
            if (pinned.address, pinned.nbytes) != (run.address, run.nbytes):
                return False
        try:
            if run.has_edges_of(part) and self._kernel.is_untouched(run.inner):
                self._kernel.register(run.inner)  # fails if the pages belong to another userfaultfd by now
                run.n_answers += 1
                self._runs.move_to_end(run)
                return True
        except OSError:
            pass
        self._drop(run)
        return False

    def _drop(self, run: _Run) -> None:
        """End a run: first for us, then for the kernel, so that an interruption leaves no false promise."""
        del self._runs[run]
        try:
            is_costly = self._kernel is not None and self._kernel.is_written(run.inner)
        except OSError:
            is_costly = False
        was_in_vain = run.n_answers < (PAYS_AFTER if is_costly else 1)
        self._strikes.count((run.address, run.nbytes), was_in_vain=was_in_vain)
        self._unregister(run)

    def _unregister(self, run: _Run) -> None:
        """Let the user's writes be fast again, except on pages that others still watch."""
        for pages in _without([run.outer], [other.outer for other in self._runs]):
            try:
                if self._kernel is not None:
                    self._kernel.unregister(pages)
            except OSError:  # unmapped, or somebody else's by now
                pass

    def _collect(self) -> None:
        """Drop the runs whose token is gone."""
        while self._dropped:
            run = self._dropped.popleft()
            if run in self._runs:
                self._drop(run)

    # -- processes -------------------------------------------------------------------------------------

    def _open(self) -> _Kernel | None:
        try:
            self._kernel = _Kernel()
        except (OSError, ImportError, AttributeError):
            self._is_off = True
            return None
        self._pid = os.getpid()
        _notice_forks(self)
        return self._kernel

    def _is_barred(self) -> bool:
        """Say whether this very call must stay outside.

        Either it interrupts another one of its own thread, or this process was forked behind Python's back:
        descriptors, lock and records are then those of the parent, whose memory they would ask about.
        """
        is_nested = self._holder == threading.get_ident()
        return is_nested or (self._kernel is not None and self._pid != os.getpid())

    def _forget(self) -> None:
        """Start anew in a forked child; its copies of the descriptors act on the parent."""
        self._lock = threading.Lock()
        self._holder = 0
        self._runs = OrderedDict()
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


_open_watches: weakref.WeakSet[WriteWatch] | None = None


def _notice_forks(watch: WriteWatch) -> None:
    global _open_watches
    if _open_watches is None:
        _open_watches = weakref.WeakSet()
        os.register_at_fork(after_in_child=_forget_all)
    _open_watches.add(watch)


def _forget_all() -> None:
    for watch in list(_open_watches or ()):
        watch._forget()


def _overlap(one: Range, other: Range) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _without(ranges: list[Range], holes: list[Range]) -> list[Range]:
    """Return what is left of ranges when others are taken out."""
    for low, high in holes:
        left = []
        for start, end in ranges:
            left += [(start, min(end, low)), (max(start, high), end)]
        ranges = [(start, end) for start, end in left if start < end]
    return ranges


def _has_pinned_pages() -> bool:
    """Say whether a device may write to memory of this process without a page fault."""
    with open("/proc/self/status", "rb") as lines:
        return any(int(line.split()[1]) > 0 for line in lines if line.startswith(b"VmPin:"))


def _is_private_memory(pages: Range) -> bool:
    """Say whether all of a range is mapped, to no file, and to no other process."""
    reached, end = pages
    with open("/proc/self/maps", "rb") as lines:
        for line in lines:
            fields = line.split(None, 5)
            low, high = (int(bound, 16) for bound in fields[0].split(b"-"))
            if high <= reached:
                continue
            name = fields[5].rstrip() if len(fields) > 5 else b""
            is_plain = fields[4] == b"0" and (not name or name == b"[heap]" or name.startswith(b"[anon:"))
            if low > reached or fields[1][3:4] != b"p" or not is_plain:
                return False
            reached = high
            if reached >= end:
                return True
    return False
