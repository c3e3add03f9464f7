"""A worker's side of the object store: it writes into its own arenas and borrows everything else.

    intern(array) ──► memory that was lent to us?          the loan itself: nothing is written
                  ──► equal to what we sent lately?        that range once more (arguments only)
                  ──► else                                 a new range of an arena of our own

Guarantees:

* A range lives as long as anything here refers to its `OwnBlob`, or the driver may: it owns what was sent,
  and says when it is free again. One that was never sent (a later part failed to pickle) frees itself.
* The driver's "free" may cross a descriptor that is on its way once more. So it says how often the range had
  come, and the range is free only when that is as often as it went (`OwnBlob.num_sent`).
* What the driver lends stays in its place until the worker has given it back. Giving back costs no message
  of its own: identities of borrowed blobs that died gather in `returned` and leave with the next report.
* A loan may be sent back as a value, by its identity, while whoever sends it holds it until the frame is out:
  then it is given back behind that frame, and the driver has it still when it reads the identity.

The end of a blob is told by a weak reference, not by `__del__`: what is ending can't be found any more then,
in no thread, so nobody is handed a loan or a range that is being given back.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

from ..errors import ObjectStoreFullError, OutOfDiskError
from . import arena as arenas
from .dedup import Dedup, fingerprint, same_content
from .disk import open_disk_arena
from .lease import address_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .blob import BlobWire
    from .usage import Usage


class OwnBlob:
    """A range that this worker has written.

    Attributes:
        num_sent: how often its descriptor went to the driver, less what the driver has freed. Changes under
            the outpost's lock.
    """

    __slots__ = ("__weakref__", "arena_id", "nbytes", "num_sent", "offset", "outpost")

    def __init__(self, outpost: Outpost, arena_id: int, offset: int, nbytes: int) -> None:
        self.outpost = outpost
        self.arena_id = arena_id
        self.offset = offset
        self.nbytes = nbytes
        self.num_sent = 0

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return its bytes, read-only; they keep it from being freed."""
        return self.outpost.own_view(self.arena_id, self.offset + offset, nbytes, self)

    def lend(self) -> BlobWire:
        """Return its descriptor, to be sent: from now on the driver decides about its life, too.

        It goes without an identity (0): the driver knows it by its place.
        """
        self.outpost.note_sent(self)
        return (0, self.arena_id, self.offset, self.nbytes)


class BorrowedBlob:
    """A blob that the driver has lent to this worker."""

    __slots__ = ("__weakref__", "arena_id", "id", "nbytes", "offset", "outpost")

    def __init__(self, outpost: Outpost, wire: BlobWire) -> None:
        self.outpost = outpost
        self.id, self.arena_id, self.offset, self.nbytes = wire

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return read-only bytes that keep the loan alive."""
        return self.outpost.reader(self.arena_id).view(self.offset + offset, nbytes, _Holder(self))

    def lend(self) -> BlobWire:
        """Return its descriptor, to be sent back; the caller keeps the loan until the frame is out."""
        return (self.id, self.arena_id, self.offset, self.nbytes)


class _Range(weakref.ref[OwnBlob]):
    """Told of the end of an own blob."""

    __slots__ = ("place",)

    place: tuple[int, int, int]  # arena id, offset, bytes


class _Loan(weakref.ref[BorrowedBlob]):
    """Told of the end of a borrowed blob.

    Attributes:
        count: how often it has arrived; changes under the outpost's lock, while somebody holds the blob.
    """

    __slots__ = ("count", "id", "place")

    count: int
    id: int
    place: tuple[int, int]  # arena id, offset


class _Holder:
    """Called when a view dies; until then it holds the loan."""

    __slots__ = ("blob",)

    def __init__(self, blob: object) -> None:
        self.blob = blob

    def __call__(self) -> None:
        self.blob = None


class Outpost:
    """The arenas of one worker and its loans. Thread-safe.

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
        self.results = ResultSink(self)
        self.returned: deque[tuple[int, int]] = deque()
        self._usage = usage
        # Guards what follows; its holder runs no code of the user's but finalizers. Ends of blobs are only
        # noted in deques, without it.
        self._lock = threading.RLock()
        self._put_bytes = 0  # what went into the memory arena, ever; what outlived its "free" counts again
        self._announce = announce
        self._obtain = obtain
        self._own: dict[int, arenas.Arena] = {}
        self._readers: dict[int, arenas.ArenaReader] = {}
        self._ranges: dict[tuple[int, int], _Range] = {}  # all that are not free, by arena and offset
        self._sent: dict[tuple[int, int], OwnBlob] = {}  # those that the driver may refer to
        self._dead: deque[_Range] = deque()
        self._dedup = Dedup()
        self._loans: dict[int, _Loan] = {}  # by identity
        self._lent_at: dict[tuple[int, int], _Loan] = {}  # the same by arena and offset
        self._ended: deque[_Loan] = deque()

    # -- writing ---------------------------------------------------------------------------------------

    def intern(self, parts: Sequence[memoryview], value: object) -> tuple[OwnBlob | BorrowedBlob, list[int]]:
        """Find the blob that holds these buffers already, or write one.

        Raises:
            ObjectStoreFullError: the store is full and spilling is off.
            OutOfDiskError: the store is full, and so is the spill folder.
        """
        offsets, total = arenas.layout([part.nbytes for part in parts])
        loan = self.find_loan(parts)
        if loan is not None:
            return loan, offsets
        print_ = fingerprint(parts)
        same = self._find_equal(print_, offsets, parts)
        if same is not None:
            return same, offsets
        blob = self.write(parts, total)
        with self._lock:
            self._dedup.add(print_, blob, ())
        return blob, offsets

    def find_loan(self, parts: Sequence[memoryview]) -> BorrowedBlob | None:
        """Return the loan whose very memory a buffer is, such as an array that a task has received.

        No bytes need to be compared: nobody can write to that memory as long as the loan lasts. A part of it
        will do if it is its beginning and at least half, else a small part would keep a large object.
        """
        if len(parts) > 1 or not self._lent_at:
            return None
        address, nbytes = address_of(parts[0]), parts[0].nbytes
        mappings: dict[int, arenas.Arena | arenas.ArenaReader] = {**self._readers, **self._own}
        for arena_id, mapping in mappings.items():
            offset = address - mapping.address
            if mapping.address and 0 <= offset < mapping.capacity_bytes:
                loan = self._lent_at.get((arena_id, offset))
                blob = loan() if loan is not None else None
                return blob if blob is not None and nbytes <= blob.nbytes <= 2 * nbytes else None
        return None

    def _find_equal(self, print_: Any, offsets: list[int], parts: Sequence[memoryview]) -> OwnBlob | None:
        """Return an own blob with the same bytes; holding it keeps it from being freed."""
        with self._lock:
            found = self._dedup.candidates(print_)
        for _, blob in found:
            if same_content(blob, offsets, parts):
                own: OwnBlob = blob
                return own
        return None

    def write(self, parts: Sequence[memoryview], nbytes: int) -> OwnBlob:
        """Write buffers into this worker's arena, or to disk when the store is full; see `intern`."""
        with self._lock:
            self._free_dead()
        is_full = self._usage.total() + nbytes > self.capacity_bytes
        if not is_full:
            try:
                return self._write(self.memory_id, parts, nbytes)
            except (arenas.ArenaFull, OSError):
                if self.spill_directory is None:
                    raise self._full(nbytes) from None
        return self._write(self.memory_id + 1, parts, nbytes)

    def _write(self, arena_id: int, parts: Sequence[memoryview], nbytes: int) -> OwnBlob:
        with self._lock:
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
        blob = OwnBlob(self, arena_id, offset, nbytes)
        range_ = _Range(blob, self._dead.append)
        range_.place = (arena_id, offset, nbytes)
        with self._lock:
            self._ranges[arena_id, offset] = range_
            self._count(arena_id, nbytes)
        return blob

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

    def own_view(self, arena_id: int, offset: int, nbytes: int, holder: object) -> memoryview:
        """Return bytes of an own arena, keeping `holder` alive."""
        return self._own[arena_id].view(offset, nbytes, _Holder(holder))

    # -- own ranges ------------------------------------------------------------------------------------

    def note_sent(self, blob: OwnBlob) -> None:
        """Count that a descriptor goes to the driver."""
        with self._lock:
            blob.num_sent += 1
            self._sent[blob.arena_id, blob.offset] = blob

    def free(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Hear what the driver has let go of: (arena id, offset, how often it had come).

        A range that went more often is about to come to the driver again, and one that somebody here holds
        may go again: they stay, and count as put anew, because the driver has counted them as freed.
        """
        with self._lock:
            for arena_id, offset, count in ranges:
                blob = self._sent[arena_id, offset]
                blob.num_sent -= count
                if not blob.num_sent:
                    del self._sent[arena_id, offset]
                self._count(arena_id, blob.nbytes)
                del blob
            self._free_dead()

    def _free_dead(self) -> None:
        """Free the ranges that nobody refers to any more."""
        while self._dead:
            arena_id, offset, nbytes = self._dead.popleft().place
            del self._ranges[arena_id, offset]
            self._own[arena_id].free(offset)
            self._count(arena_id, -nbytes)

    def _count(self, arena_id: int, nbytes: int) -> None:
        if arena_id == self.memory_id:
            self._put_bytes += nbytes
            self._usage.publish(self._put_bytes)

    # -- loans -----------------------------------------------------------------------------------------

    def borrow(self, wire: BlobWire) -> BorrowedBlob:
        """Take a loan; each arrival of a descriptor counts as one."""
        with self._lock:
            self._forget_ended()
            loan = self._loans.get(wire[0])
            blob = loan() if loan is not None else None
            if loan is None or blob is None:
                blob = BorrowedBlob(self, wire)
                loan = _Loan(blob, self._on_return)
                loan.id, loan.place, loan.count = wire[0], (wire[1], wire[2]), 0
                self._loans[loan.id] = self._lent_at[loan.place] = loan
            loan.count += 1
            return blob

    def _on_return(self, loan: Any) -> None:
        """Note that the last use of a loan is gone. Called in any thread, in the middle of anything."""
        self.returned.append((loan.id, loan.count))
        self._ended.append(loan)

    def _forget_ended(self) -> None:
        while self._ended:
            loan = self._ended.popleft()
            if self._loans.get(loan.id) is loan:  # else it was lent anew meanwhile
                del self._loans[loan.id]
            if self._lent_at.get(loan.place) is loan:
                del self._lent_at[loan.place]

    def reader(self, arena_id: int) -> arenas.Arena | arenas.ArenaReader:
        """Return the mapping of an arena, own or foreign."""
        place = self._own.get(arena_id) or self._readers.get(arena_id)
        if place is None:
            with self._lock:
                place = self._readers.get(arena_id)
                if place is None:
                    fd, capacity = self._obtain(arena_id)
                    place = self._readers[arena_id] = arenas.ArenaReader(fd, capacity)
        return place

    def after_fork(self) -> None:
        """In a process that a task has forked: whoever held the lock is not here to let go of it."""
        self._lock = threading.RLock()

    def trim(self, keep_bytes: int = 0) -> None:
        """Give the pages of free ranges back to the system."""
        with self._lock:
            self._free_dead()
        for arena in list(self._own.values()):
            arena.trim(keep_bytes)


class ResultSink:
    """Stores parts of results: looks for arguments that are given back, and not for equal copies.

    A function's results differ as a rule, and a look costs as much as copying 100 KB.
    """

    def __init__(self, outpost: Outpost) -> None:
        self._outpost = outpost

    def intern(self, parts: Sequence[memoryview], value: object) -> tuple[OwnBlob | BorrowedBlob, list[int]]:
        """See `Outpost.intern`."""
        offsets, total = arenas.layout([part.nbytes for part in parts])
        return self._outpost.find_loan(parts) or self._outpost.write(parts, total), offsets
