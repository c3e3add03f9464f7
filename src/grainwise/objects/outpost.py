"""A worker's side of the object store: it writes results into its own arenas and borrows everything else.

Guarantees:

* Each range that a worker writes is owned by the driver from the moment its descriptor is sent; the driver
  says when it is free again. A range that was never sent (a later part failed to pickle) frees itself.
* What the driver lends stays in its place until the worker has given it back. Giving back costs no message
  of its own: identities of borrowed blobs that died gather in `returned` and leave with the next report.
"""

from __future__ import annotations

import weakref
from collections import deque

from ..errors import ObjectStoreFullError, OutOfDiskError
from . import arena as arenas
from .store import open_disk_arena

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .store import BlobWire, Usage


class OwnBlob:
    """A blob that this worker has just written."""

    __slots__ = ("arena_id", "is_sent", "nbytes", "offset", "outpost")

    def __init__(self, outpost: Outpost, arena_id: int, offset: int, nbytes: int) -> None:
        self.outpost = outpost
        self.arena_id = arena_id
        self.offset = offset
        self.nbytes = nbytes
        self.is_sent = False

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return its bytes, read-only. Only before it is sent: then the driver decides about its life."""
        return self.outpost.own_view(self.arena_id, self.offset + offset, nbytes, self)

    def lend(self) -> BlobWire:
        """Return the descriptor of a new blob (identity 0) and leave its ownership to the driver."""
        self.is_sent = True
        return (0, self.arena_id, self.offset, self.nbytes)

    def __del__(self) -> None:
        if not self.is_sent:
            self.outpost.unsent.append((self.arena_id, self.offset, self.nbytes))


class BorrowedBlob:
    """A blob that the driver has lent to this worker."""

    __slots__ = ("__weakref__", "arena_id", "count", "id", "nbytes", "offset", "outpost")

    def __init__(self, outpost: Outpost, wire: BlobWire) -> None:
        self.outpost = outpost
        self.id, self.arena_id, self.offset, self.nbytes = wire
        self.count = 0

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return read-only bytes that keep the loan alive."""
        return self.outpost.reader(self.arena_id).view(self.offset + offset, nbytes, _Holder(self))

    def __del__(self) -> None:
        self.outpost.returned.append((self.id, self.count))


class _Holder:
    """Called when a view dies; until then it holds the loan."""

    __slots__ = ("blob",)

    def __init__(self, blob: object) -> None:
        self.blob = blob

    def __call__(self) -> None:
        self.blob = None


class Outpost:
    """The arenas of one worker and its loans.

    Args:
        memory_id: the identity of its memory arena; its disk arena has the next one.
        capacity_bytes: of the whole store.
        spill_directory: None when spilling is off.
        usage: says how full the store is.
        announce: sends a new arena's descriptor to the driver: (arena id, fd, capacity).
        obtain: receives the descriptor and capacity of a foreign arena.
    """

    def __init__(
        self,
        memory_id: int,
        capacity_bytes: int,
        spill_directory: str | None,
        usage: Usage,
        announce: Callable[[int, int, int], None],
        obtain: Callable[[int], tuple[int, int]],
    ) -> None:
        self.memory_id = memory_id
        self.capacity_bytes = capacity_bytes
        self.spill_directory = spill_directory
        self.returned: deque[tuple[int, int]] = deque()
        self.unsent: deque[tuple[int, int, int]] = deque()
        self._usage = usage
        self._written_bytes = 0
        self._announce = announce
        self._obtain = obtain
        self._own: dict[int, arenas.Arena] = {}
        self._readers: dict[int, arenas.ArenaReader] = {}
        self._loans: weakref.WeakValueDictionary[int, BorrowedBlob] = weakref.WeakValueDictionary()

    def intern(self, parts: Sequence[memoryview], value: object) -> tuple[OwnBlob, list[int]]:
        """Write buffers into this worker's arena, or to disk when the store is full.

        Raises:
            ObjectStoreFullError: the store is full and spilling is off.
            OutOfDiskError: the store is full, and so is the spill folder.
        """
        offsets, total = arenas.layout([part.nbytes for part in parts])
        self._free_unsent()
        is_full = self._usage.total() + total > self.capacity_bytes
        if not is_full:
            try:
                return self._write(self.memory_id, parts, total), offsets
            except (arenas.ArenaFull, OSError):
                if self.spill_directory is None:
                    raise self._full(total) from None
        return self._write(self.memory_id + 1, parts, total), offsets

    def _write(self, arena_id: int, parts: Sequence[memoryview], nbytes: int) -> OwnBlob:
        arena = self._own.get(arena_id) or self._open(arena_id, nbytes)
        try:
            offset = arena.allocate(nbytes)
            try:
                arena.write(offset, parts)
            except BaseException:
                arena.free(offset)
                raise
        except (OSError, arenas.ArenaFull) as error:
            if arena_id == self.memory_id:
                raise
            raise OutOfDiskError(
                f"spilling {nbytes:,} bytes to {self.spill_directory!r} failed: {error}; free some disk "
                f"space, set spill_dir to another folder, or drop refs"
            ) from error
        self._count(arena_id, nbytes)
        return OwnBlob(self, arena_id, offset, nbytes)

    def _open(self, arena_id: int, nbytes: int) -> arenas.Arena:
        if arena_id == self.memory_id:
            capacity = self.capacity_bytes + self.capacity_bytes // 2
            arena = arenas.Arena(arenas.create_memory(capacity), capacity)
        else:
            arena = open_disk_arena(self.spill_directory, self._full(nbytes))
        self._announce(arena_id, arena.fd, arena.capacity_bytes)
        self._own[arena_id] = arena
        return arena

    def _full(self, nbytes: int) -> ObjectStoreFullError:
        return ObjectStoreFullError(
            requested_bytes=nbytes, capacity_bytes=self.capacity_bytes, used_bytes=self._usage.total()
        )

    def _free_unsent(self) -> None:
        while self.unsent:
            arena_id, offset, nbytes = self.unsent.popleft()
            self._own[arena_id].free(offset)
            self._count(arena_id, -nbytes)

    def own_view(self, arena_id: int, offset: int, nbytes: int, holder: object) -> memoryview:
        """Return bytes of an own arena, keeping `holder` alive."""
        return self._own[arena_id].view(offset, nbytes, _Holder(holder))

    def borrow(self, wire: BlobWire) -> BorrowedBlob:
        """Take a loan; each arrival of a descriptor counts as one."""
        blob = self._loans.get(wire[0])
        if blob is None:
            blob = self._loans[wire[0]] = BorrowedBlob(self, wire)
        blob.count += 1
        return blob

    def reader(self, arena_id: int) -> arenas.Arena | arenas.ArenaReader:
        """Return the mapping of an arena, own or foreign."""
        place = self._own.get(arena_id) or self._readers.get(arena_id)
        if place is None:
            fd, capacity = self._obtain(arena_id)
            place = self._readers[arena_id] = arenas.ArenaReader(fd, capacity)
        return place

    def free(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Free own ranges that the driver has let go of: (arena id, offset)."""
        for arena_id, offset in ranges:
            self._own[arena_id].free(offset)

    def _count(self, arena_id: int, nbytes: int) -> None:
        if arena_id == self.memory_id:
            self._written_bytes += nbytes
            self._usage.publish(self._written_bytes)

    def trim(self, keep_bytes: int = 0) -> None:
        """Give the pages of free ranges back to the system."""
        for arena in self._own.values():
            arena.trim(keep_bytes)
