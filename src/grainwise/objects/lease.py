"""Mapped memory handed out as leases: buffers that report when their last user is gone.

A lease covers one range of one mapping. It is wrapped in a read-only `memoryview`; every object derived from
that (NumPy array, slice, pickle buffer) keeps the lease alive through the buffer protocol, whatever library
made it, and the lease keeps the mapping alive:

    numpy array ─► memoryview ─► lease (from_address, __del__) ─► Mapping ─► mmap ─► pages of the arena's file
                                     └─► on_drop(), once, when nothing above is left

Guarantees:

- `on_drop` is called once, by reference counting, without a garbage collection; never at interpreter exit.
- The address range stays mapped while any derived object lives, whoever else lets go of it: no SIGSEGV.
- What users see is not writable and NumPy refuses to make it so.

Things that do not work: a `weakref` to the memoryview (slices of it outlive it); slices of one memoryview
over the whole `mmap` (they keep the map alive, but nobody learns which range is still used); one `mmap` per
object (page faults on every use); `mmap.close` while views exist (it raises `BufferError`, so we only drop
our reference).
"""

from __future__ import annotations

import mmap
import os
import sys

TYPE_CHECKING = False  # checkers take it for true; importing typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

# Linux's MADV_POPULATE_READ (5.14); the mmap module has no name for it.
_POPULATE_READ = 22
_FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
# Below this a copy that holds the GIL is shorter than the ctypes call that would release it (about 1.5 µs).
_UNLOCKED_COPY_BYTES = 64 << 10


class _Native:
    """The C functions used here. Made at first need, because importing ctypes costs milliseconds."""

    def __init__(self) -> None:
        import ctypes as c

        libc = c.CDLL(None)
        # Prototypes of our own: setting argtypes on ctypes.pythonapi would change them for everybody else.
        self.get_buffer: Callable[[Any, Any, int], int] = c.PYFUNCTYPE(
            c.c_int, c.py_object, c.c_void_p, c.c_int
        )(("PyObject_GetBuffer", c.pythonapi))
        self.release_buffer: Callable[[Any], None] = c.PYFUNCTYPE(None, c.c_void_p)(
            ("PyBuffer_Release", c.pythonapi)
        )
        self.addressof: Callable[[Any], int] = c.addressof
        self.c_char: Any = c.c_char
        # CFUNCTYPE releases the GIL during the call.
        pointers_and_size = (c.c_void_p, c.c_void_p, c.c_size_t)
        self.memcmp: Callable[[int, int, int], int] = c.CFUNCTYPE(c.c_int, *pointers_and_size)(
            ("memcmp", libc)
        )
        self.memmove: Callable[[int, int, int], Any] = c.CFUNCTYPE(c.c_void_p, *pointers_and_size)(
            ("memmove", libc)
        )
        self.madvise: Callable[[int, int, int], int] = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_size_t, c.c_int)(
            ("madvise", libc)
        )
        # A Py_buffer is 10 words (buf, obj, len, ...); the spare ones are for layouts yet to come.
        self.new_record: Callable[[], Any] = c.c_size_t * 16
        self._lease_types: dict[int, Any] = {}

    def lease_type(self, nbytes: int) -> Any:
        """Return a ctypes array type of at least `nbytes`, one per power of two.

        Making a ctypes type takes 20 µs and it is never freed, hence classes of sizes. The excess lies beyond
        the range, perhaps beyond the mapping, and is cut off before anybody can read it.
        """
        exponent = max(nbytes - 1, 1).bit_length()
        found = self._lease_types.get(exponent)
        if found is None:
            import ctypes as c

            found = type(
                f"Lease{exponent}",
                (c.Array,),
                {
                    "_type_": c.c_char,
                    "_length_": 1 << exponent,
                    "mapping": None,
                    "on_drop": None,
                    "__del__": _drop,
                },
            )
            found = self._lease_types.setdefault(exponent, found)
        return found


def _drop(lease: Any, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    """Report the end of a lease; `is_finalizing` is bound early because globals may be gone by then."""
    on_drop = lease.on_drop
    if on_drop is not None and not is_finalizing():
        on_drop()


_loaded: _Native | None = None


def _native() -> _Native:
    global _loaded
    if _loaded is None:
        _loaded = _Native()
    return _loaded


class _Pinned:
    """The address and length of a C-contiguous buffer, held for the length of a `with` block."""

    __slots__ = ("_record", "_source", "address", "nbytes")

    def __init__(self, source: Any) -> None:
        self._source = source

    def __enter__(self) -> _Pinned:
        native = _native()
        self._record = native.new_record()
        # PyBUF_SIMPLE: any format, read-only welcome; raises BufferError when not C-contiguous.
        native.get_buffer(self._source, self._record, 0)
        self.address: int = self._record[0]
        self.nbytes: int = self._record[2]
        return self

    def __exit__(self, *_: object) -> None:
        _native().release_buffer(self._record)


def compare(address_or_view: int | Any, other: Any) -> bool:
    """Tell whether two buffers hold the same bytes.

    Exact, at the speed of `memcmp` (it stops at the first difference) and without the GIL. The formats of the
    buffers do not matter; buffers of different length are different.

    Args:
        address_or_view: A C-contiguous buffer, or the address of at least `other.nbytes` readable bytes.
        other: A C-contiguous buffer.

    Raises:
        BufferError: When a buffer is not C-contiguous.
    """
    native = _native()
    with _Pinned(other) as right:
        if isinstance(address_or_view, int):
            return right.nbytes == 0 or native.memcmp(address_or_view, right.address, right.nbytes) == 0
        with _Pinned(address_or_view) as left:
            if left.nbytes != right.nbytes:
                return False
            return left.nbytes == 0 or native.memcmp(left.address, right.address, left.nbytes) == 0


def address_of(source: Any) -> int:
    """Return the address of a C-contiguous buffer; it holds for as long as something keeps the buffer."""
    with _Pinned(source) as pinned:
        return pinned.address


def same_bytes(addresses: Sequence[int], parts: Sequence[memoryview]) -> bool:
    """Tell whether many buffers equal the bytes at as many addresses; for parts too short for `compare`.

    Args:
        addresses: Where at least `part.nbytes` readable bytes are, for each part.
        parts: C-contiguous buffers.
    """
    native = _native()
    memcmp, locate, one = native.memcmp, native.addressof, native.c_char
    for address, part in zip(addresses, parts, strict=True):
        if part.readonly or not part.nbytes:
            if not compare(address, part):
                return False
        elif memcmp(address, locate(one.from_buffer(part)), part.nbytes):
            return False
    return True


def punch_hole(fd: int, offset: int, nbytes: int) -> None:
    """Give the pages of a range of a file back to the system; they read as zeros afterwards.

    Args:
        fd: An open file, writable.
        offset: Start in bytes, a multiple of the page size.
        nbytes: Length in bytes, a multiple of the page size.

    Raises:
        OSError: When the system or the filesystem cannot do it (anything but Linux: `ENOSYS`).
    """
    import ctypes as c
    import errno

    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "no hole punching on this system")
    prototype = c.CFUNCTYPE(c.c_int, c.c_int, c.c_int, c.c_int64, c.c_int64, use_errno=True)
    # Not MADV_REMOVE: that needs a writable mapping, which disk arenas do not have, and holds the GIL in
    # `mmap`.
    if prototype(("fallocate", c.CDLL(None)))(fd, _FALLOC_PUNCH_HOLE_KEEP_SIZE, offset, nbytes) != 0:
        code = c.get_errno()
        raise OSError(code, os.strerror(code))


class Mapping:
    """One shared mapping of an arena's file, from its first byte.

    Unmapped when neither this object nor any lease is left. Safe to use from several threads.
    """

    __slots__ = ("__weakref__", "_memory", "address", "nbytes")

    def __init__(self, fd: int, nbytes: int, *, is_writable: bool) -> None:
        """Map `nbytes` of `fd`; the descriptor stays the caller's and may be closed.

        Raises:
            OSError: When the system refuses the mapping (address space, `RLIMIT_AS`).
            ValueError: When the file is shorter than `nbytes`.
        """
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
        if sys.version_info >= (3, 13):
            # Without trackfd=False every mapping holds a duplicate of the descriptor.
            self._memory = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, protection, trackfd=False)
        else:
            self._memory = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, protection)
        self.nbytes = nbytes
        with _Pinned(self._memory) as pinned:
            # Valid for the life of the mmap object, not only while pinned: nobody can close or resize it but
            # us.
            self.address = pinned.address

    def view(self, offset: int, nbytes: int, on_drop: Callable[[], None] | None = None) -> memoryview:
        """Lease a range.

        Args:
            offset: Start of the range in bytes.
            nbytes: Its length in bytes.
            on_drop: Called once without arguments when the last object derived from the view is gone: from
                any thread, also inside a garbage collection, hence it must not block or take a lock that the
                thread could be holding. Not called at interpreter exit. If it raises, `sys.unraisablehook`
                reports it.

        Returns:
            A read-only view of format `"B"`, shared with the mapping, not copied.

        Raises:
            ValueError: When the range is not inside the mapping.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"range {offset}+{nbytes} is outside the mapping of {self.nbytes} bytes")
        lease = _native().lease_type(nbytes).from_address(self.address + offset)
        lease.mapping = self
        lease.on_drop = on_drop
        return memoryview(lease).cast("B")[:nbytes].toreadonly()

    def copy_in(self, offset: int, source: memoryview) -> None:
        """Copy one-dimensional bytes to `offset` of a writable mapping; large ones without the GIL."""
        if source.nbytes < _UNLOCKED_COPY_BYTES:
            self._memory[offset : offset + source.nbytes] = source
            return
        if offset < 0 or offset + source.nbytes > self.nbytes:
            raise ValueError(f"range {offset}+{source.nbytes} is outside the mapping of {self.nbytes} bytes")
        with _Pinned(source) as pinned:
            _native().memmove(self.address + offset, pinned.address, pinned.nbytes)

    def populate(self, offset: int, nbytes: int) -> None:
        """Map pages that exist in the file already, many in one go; a hint that may do nothing.

        Three times cheaper than the write faults that a copy would cause. `offset` is a multiple of the page
        size.
        """
        if sys.platform.startswith("linux"):
            # An error (a kernel before 5.14) only means that the copy takes the faults one by one.
            _native().madvise(self.address + offset, nbytes, _POPULATE_READ)
