"""The driver's object store: who owns which large bytes, and what happens when there is no room.

    driver's arena (memory)   driver's arena (disk)   worker 1's arenas   worker 2's arenas
      blob blob ....            blob                    blob blob           blob
         ^--- written by the driver ---^                ^-- adopted: written by the worker, owned here

Guarantees:

* The driver owns every blob. A blob lives exactly as long as something in the driver refers to it: a ref's
  value, an argument of a task under way, a view that the user holds, a worker that has borrowed it.
* Dropping the last reference frees the range without a garbage collection, from any thread and from inside
  any finalizer: the end of a blob only appends to a deque; the range is freed at the next allocation or tick.
* A worker may send the same range again at any moment. The driver counts how often each came; the worker,
  which has counted how often it went, frees the range only when the two agree.
* A blob's bytes never change. They may move to disk when memory is short and nobody reads them
  (least recently used first); readers then map the disk arena instead.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from time import monotonic

from ..errors import EngineClosedError, ObjectStoreFullError, OutOfDiskError
from . import arena as arenas
from .blob import Blob, Lease, Place
from .dedup import Dedup, fingerprint, roots, same_content
from .disk import open_disk_arena
from .lease import address_of
from .orphan import Orphan
from .writewatch import WriteWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .blob import BlobWire
    from .usage import Usage

MEMORY_ARENA = 0
DISK_ARENA = 1
KEPT_SHARE = 0.25
"""Share of the store that copies may fill which only their living source keeps."""
HIGH_WATER = 0.8
"""Above this share of the capacity the driver spills ahead, so that workers find room for results."""
SPILL_PAUSE_S = 1.0
"""After a spill that failed, none is made ahead for so long."""


class Store:
    """Owns the large objects of a session. Thread-safe.

    Args:
        capacity_bytes: what memory arenas may hold in all processes together.
        spill_directory: where the disk arena goes; None turns spilling off.
        usage: counts what the other processes hold.
        release_remote: called with (arena id, offset, bytes, how often it came) when a blob that a worker
            wrote is dropped.
        on_drop: called when any blob is dropped, from finalizers: must not block.
    """

    def __init__(
        self,
        capacity_bytes: int,
        spill_directory: str | None,
        usage: Usage,
        release_remote: Callable[[int, int, int, int], None],
        on_drop: Callable[[], None] = lambda: None,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.spill_directory = spill_directory
        self.dropped: deque[tuple[int, int, int, int]] = deque()
        self.saved_bytes = 0
        self.spilled_bytes = 0
        self.is_closed = False
        self._usage = usage
        self._release_remote = release_remote
        self.on_drop = on_drop
        self._no_spill_before = 0.0
        self._uncounted_bytes = 0
        self._lock = threading.RLock()
        self._arenas: dict[int, arenas.Arena] = {}
        self._readers: dict[int, arenas.ArenaReader] = {}
        self._live: dict[int, dict[int, Place]] = {}  # arena id -> offset -> its latest blob
        self._orphans: dict[int, Orphan] = {}  # by arena id, which is in _readers and _live, too
        self._dedup = Dedup()
        self._watch = WriteWatch()
        self._ids = itertools.count(1)
        self._ticks = itertools.count(1)

    # -- writing ---------------------------------------------------------------------------------------

    def intern(self, parts: Sequence[memoryview], value: object) -> tuple[Blob, list[int]]:
        """Store buffers as one blob, or find the blob that already holds the same bytes.

        Args:
            parts: C-contiguous byte buffers.
            value: the argument that they belong to: as long as it lives, or the owner of a single buffer,
                the copy is worth keeping.

        Returns:
            The blob and the offset of each part in it.
        """
        offsets, total = arenas.layout([part.nbytes for part in parts])
        own = self._find_view(parts)
        if own is not None:
            self.saved_bytes += total
            return own, offsets
        print_ = fingerprint(parts)
        sources = roots(parts[0].obj if len(parts) == 1 else value, value)
        same = self._find(print_, offsets, parts)
        if same is not None:
            with self._lock:
                self._dedup.touch(*same, sources)
                self.saved_bytes += total
            return same[1], offsets
        blob = self._write(parts, total)
        with self._lock:
            self._dedup.add(print_, blob, sources)
            self._uncounted_bytes += total
            if (
                self._uncounted_bytes > self.capacity_bytes * KEPT_SHARE / 8
            ):  # a soft limit: look now and then
                self._uncounted_bytes = 0
                kept = self._dedup.kept_bytes()
                excess = min(kept - int(self.capacity_bytes * KEPT_SHARE), kept - total)
                if excess > 0:  # the oldest ones, never the newest
                    self._dedup.release_kept(excess)
        return blob, offsets

    def _find_view(self, parts: Sequence[memoryview]) -> Blob | None:
        """Return the blob whose very memory a buffer is, such as an array that came out of `get`.

        Nothing is compared, as nobody can write there; and the blob stays in its place for as long as
        somebody holds the buffer. As in `Outpost.find_loan`, a large part of it will do if it is its
        beginning.
        """
        if len(parts) > 1:
            return None
        address, nbytes = address_of(parts[0]), parts[0].nbytes
        with self._lock:
            mappings: dict[int, arenas.Arena | arenas.ArenaReader] = {**self._readers, **self._arenas}
            for arena_id, mapping in mappings.items():
                offset = address - mapping.address
                if mapping.address and 0 <= offset < mapping.capacity_bytes:
                    place = self._live.get(arena_id, {}).get(offset)
                    blob = place() if place is not None else None
                    return blob if blob is not None and nbytes <= blob.nbytes <= 2 * nbytes else None
        return None

    def _find(self, print_: Any, offsets: list[int], parts: Sequence[memoryview]) -> tuple[Any, Blob] | None:
        """Return the stored copy of buffers; look-alikes are let go of before room is made for a new one."""
        with self._lock:
            found = self._dedup.candidates(print_)
        for entry, blob in found:
            if self._is_same(entry, blob, offsets, parts):
                return entry, blob
        return None

    def _is_same(self, entry: Any, blob: Blob, offsets: list[int], parts: Sequence[memoryview]) -> bool:
        """Prove that buffers still hold what was stored: by the pages written since, else byte by byte."""
        if len(parts) > 1:
            return same_content(blob, offsets, parts)
        part = parts[0]
        if self._watch.is_clean(entry.watch, part):
            return True
        token = self._watch.arm(part, blob.view(offsets[0], part.nbytes)) if entry.hits else None
        if not same_content(blob, offsets, parts):
            return False
        entry.hits += 1
        entry.watch = token
        return True

    def put(self, parts: Sequence[memoryview]) -> tuple[Blob, list[int]]:
        """Store buffers as a new blob of their own; later equal arguments will find it."""
        offsets, total = arenas.layout([part.nbytes for part in parts])
        blob = self._write(parts, total)
        with self._lock:
            self._dedup.add(fingerprint(parts), blob, ())
        return blob, offsets

    def _write(self, parts: Sequence[memoryview], nbytes: int) -> Blob:
        arena_id, arena, offset = self._reserve(nbytes)
        try:
            arena.write(offset, parts)
        except BaseException as error:
            with self._lock:
                arena.free(offset)
            if isinstance(error, OSError):
                raise self._write_failed(error, arena, nbytes) from error
            raise
        return self._new_blob(arena_id, offset, nbytes, 0)

    def _new_blob(self, arena_id: int, offset: int, nbytes: int, adoptions: int) -> Blob:
        blob = Blob(self, next(self._ids), arena_id, offset, nbytes)
        self.spilled_bytes += nbytes * self._is_disk(arena_id)
        blob.used_at = next(self._ticks)
        place = Place(blob, self._on_end)
        place.arena_id, place.offset, place.nbytes, place.adoptions = arena_id, offset, nbytes, adoptions
        with self._lock:
            self._live.setdefault(arena_id, {})[offset] = place
        return blob

    def _on_end(self, place: Any) -> None:
        """Note that nothing refers to a blob any more. Called in any thread, in the middle of anything."""
        self.dropped.append((place.arena_id, place.offset, place.nbytes, place.adoptions))
        self.on_drop()

    def _reserve(self, nbytes: int) -> tuple[int, arenas.Arena, int]:
        """Find room: in memory, else in memory after spilling, else on disk."""
        with self._lock:
            self.collect()
            excess = self._usage.total() + nbytes - self.capacity_bytes
            while excess > 0 and self._dedup.release_kept(excess):
                self.collect()
                excess = self._usage.total() + nbytes - self.capacity_bytes
            if excess > 0 and nbytes <= self.capacity_bytes:
                excess -= self._spill(excess)
            which = MEMORY_ARENA if excess <= 0 else DISK_ARENA
            arena = self._arena(which, nbytes)
            try:
                offset = arena.allocate(nbytes)
            except arenas.ArenaFull as full:
                if which == DISK_ARENA or self.spill_directory is None:
                    raise self._no_room(arena, nbytes) from full
                which, arena = DISK_ARENA, self._arena(DISK_ARENA, nbytes)
                offset = self._allocate_on_disk(arena, nbytes)
            self._publish()
            return which, arena, offset

    def _allocate_on_disk(self, disk: arenas.Arena, nbytes: int) -> int:
        try:
            return disk.allocate(nbytes)
        except arenas.ArenaFull as full:
            raise self._no_room(disk, nbytes) from full

    def _no_room(self, arena: arenas.Arena, nbytes: int) -> Exception:
        if not arena.is_disk:
            return self._full(nbytes)
        return OutOfDiskError(
            f"the object store is full and so is its spill folder {self.spill_directory!r}: expected room "
            f"for {nbytes:,} bytes beside {arena.allocated_bytes:,} spilled ones, got "
            f"{arena.capacity_bytes:,} in all; set spill_dir to a folder with more room, or drop refs"
        )

    def _arena(self, which: int, nbytes: int) -> arenas.Arena:
        arena = self._arenas.get(which)
        if arena is None:
            if which == MEMORY_ARENA:
                capacity = self.capacity_bytes + self.capacity_bytes // 2
                arena = arenas.Arena(arenas.create_memory(capacity), capacity)
            else:
                arena = open_disk_arena(self.spill_directory, self._full(nbytes))
            self._arenas[which] = arena
        return arena

    def _full(self, nbytes: int) -> ObjectStoreFullError:
        return ObjectStoreFullError(
            requested_bytes=nbytes, capacity_bytes=self.capacity_bytes, used_bytes=self._usage.total()
        )

    def _write_failed(self, error: OSError, arena: arenas.Arena, nbytes: int) -> Exception:
        if arena.is_disk:
            return OutOfDiskError(
                f"spilling {nbytes:,} bytes to {self.spill_directory!r} failed: {error.strerror}; "
                f"free some disk space, set spill_dir to another folder, or drop refs"
            )
        return self._full(nbytes)

    # -- reading ---------------------------------------------------------------------------------------

    def view(self, blob: Blob, offset: int, nbytes: int) -> memoryview:
        """Return read-only bytes of a blob that keep it alive.

        Raises:
            EngineClosedError: the session has been shut down.
        """
        with self._lock:
            self._check_open()
            blob.used_at = next(self._ticks)
            place = self._arenas.get(blob.arena_id) or self._readers[blob.arena_id]
            return place.view(blob.offset + offset, nbytes, Lease(blob))

    def arena_fd(self, arena_id: int) -> tuple[int, int]:
        """Return the descriptor and the capacity in bytes of an arena, to pass on to a worker."""
        place = self._arenas.get(arena_id) or self._readers[arena_id]
        return place.fd, place.capacity_bytes

    def _check_open(self) -> None:
        if self.is_closed:
            raise EngineClosedError(
                "a value belonged to a session that has been shut down - expected a ref of the running one"
            )

    def lend(self, blob: Blob) -> BlobWire:
        """Note that one more worker may read a blob, which pins it to its place; return its descriptor."""
        if blob.store is not self:
            blob.store._check_open()
        with self._lock:
            self._check_open()
            blob.lent += 1
            blob.used_at = next(self._ticks)
            return blob.wire

    # -- what workers wrote ----------------------------------------------------------------------------

    def add_reader(self, arena_id: int, fd: int, capacity_bytes: int) -> None:
        """Take over the descriptor of a worker's arena."""
        with self._lock:
            self._readers[arena_id] = arenas.ArenaReader(fd, capacity_bytes)

    def adopt(self, arena_id: int, offset: int, nbytes: int) -> Blob:
        """Become the owner of a blob that a worker wrote; a range that has come before is the same blob.

        Unless that has been dropped: then it is a new one, and the worker, which hears how often each of them
        came, knows better than to free the range between the two.
        """
        with self._lock:
            place = self._live.get(arena_id, {}).get(offset)
            blob = place() if place is not None else None
            if place is None or blob is None:
                return self._new_blob(arena_id, offset, nbytes, 1)
            place.adoptions += 1
            blob.used_at = next(self._ticks)
            return blob

    def orphan(self, arena_ids: Sequence[int]) -> None:
        """Note that the writer of these arenas is gone: what is live in them counts as ours from now on."""
        with self._lock:
            self.collect()
            for arena_id in arena_ids:
                reader = self._readers.get(arena_id)
                if reader is not None:
                    live = self._live.get(arena_id, {})
                    ranges = [(place.offset, place.nbytes) for place in live.values()]
                    self._orphans[arena_id] = orphan = Orphan(reader, ranges)
                    if not ranges:
                        self._close_orphan(arena_id, orphan)
            self._publish()

    def _close_orphan(self, arena_id: int, orphan: Orphan) -> None:
        del self._orphans[arena_id]
        self._live.pop(arena_id, None)
        self._readers.pop(arena_id).close()

    # -- room ------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Free the ranges of blobs that were dropped."""
        dropped = self.dropped
        if not dropped:
            return
        with self._lock:
            if self.is_closed:
                dropped.clear()
            while dropped:
                try:
                    arena_id, offset, nbytes, adoptions = dropped.popleft()
                except IndexError:
                    break
                place = self._live.get(arena_id, {}).get(offset)
                if place is not None and place() is None:  # else it was adopted anew meanwhile
                    del self._live[arena_id][offset]
                self._release(arena_id, offset, nbytes, adoptions)
            self._publish()

    def _release(self, arena_id: int, offset: int, nbytes: int, adoptions: int) -> None:
        """Give a range back to whoever may use it again."""
        arena, orphan = self._arenas.get(arena_id), self._orphans.get(arena_id)
        if arena is not None:
            arena.free(offset)
        elif orphan is None:
            self._release_remote(arena_id, offset, nbytes, adoptions)
        elif orphan.free(offset):
            self._close_orphan(arena_id, orphan)

    def _publish(self) -> None:
        if self.is_closed:
            return
        arena = self._arenas.get(MEMORY_ARENA)
        used = 0 if arena is None else arena.allocated_bytes
        for arena_id, orphan in self._orphans.items():
            if not self._is_disk(arena_id):
                used += orphan.live_bytes
        self._usage.publish(used)

    def make_room(self) -> None:
        """Spill ahead when the store is nearly full, so that workers find room for their results."""
        used = self._usage.total()
        limit = int(self.capacity_bytes * HIGH_WATER)
        if used > limit and self.spill_directory is not None:
            with self._lock:
                self._dedup.release_kept(used - limit)
                self.collect()
                used = self._usage.total()
                if used <= limit or monotonic() < self._no_spill_before:
                    return
                try:
                    self._spill(used - limit)
                except (OutOfDiskError, ObjectStoreFullError):
                    # Whoever needs the room gets the error.
                    self._no_spill_before = monotonic() + SPILL_PAUSE_S

    def _spill(self, nbytes: int) -> int:
        """Move the least recently used blobs that nobody reads to disk; return the bytes freed."""
        if self.spill_directory is None:
            return 0
        idle = []
        for arena_id, live in self._live.items():
            if not self._is_disk(arena_id):
                for place in live.values():
                    blob = place()
                    if blob is not None and not blob.lent and not blob.leases:
                        idle.append((blob.used_at, blob))
        idle.sort(key=lambda pair: pair[0])
        freed = 0
        for _, blob in idle:
            if freed >= nbytes:
                break
            self._move_to_disk(blob)
            freed += blob.nbytes
        idle.clear()
        return freed

    def _is_disk(self, arena_id: int) -> bool:
        return arena_id % 2 == DISK_ARENA

    def _move_to_disk(self, blob: Blob) -> None:
        disk = self._arena(DISK_ARENA, blob.nbytes)
        offset = self._allocate_on_disk(disk, blob.nbytes)
        source = self._arenas.get(blob.arena_id) or self._readers[blob.arena_id]
        try:
            disk.write(offset, [source.view(blob.offset, blob.nbytes)])
        except OSError as error:
            disk.free(offset)
            raise self._write_failed(error, disk, blob.nbytes) from error
        place = self._live[blob.arena_id].pop(blob.offset)
        old = (place.arena_id, place.offset, place.nbytes, place.adoptions)
        self._live.setdefault(DISK_ARENA, {})[offset] = place
        place.arena_id, place.offset, place.adoptions = DISK_ARENA, offset, 0
        blob.arena_id, blob.offset = DISK_ARENA, offset
        self.spilled_bytes += blob.nbytes
        self._release(*old)
        self._publish()

    def places(self) -> list[Place]:
        """Return where the living blobs lie: for listings."""
        with self._lock:
            return [place for by_offset in self._live.values() for place in list(by_offset.values())]

    def trim(self, keep_bytes: int = 0) -> int:
        """Give the pages of free ranges back to the system; return how many bytes."""
        with self._lock:
            self.collect()
            return sum(arena.trim(keep_bytes) for arena in self._arenas.values())

    def close(self) -> None:
        """Drop all arenas; views that the user still holds stay valid."""
        with self._lock:
            self._dedup.release_kept()
            self.is_closed = True
            self._watch.close()
            for arena in self._arenas.values():
                arena.close()
            for reader in self._readers.values():
                reader.close()
            self._arenas.clear()
            self._readers.clear()
            self._orphans.clear()
            self._live.clear()
            self.dropped.clear()
