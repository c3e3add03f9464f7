"""A blob: a large immutable run of bytes that the driver owns. The store says how long it lives."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .store import Store

    BlobWire = tuple[int, int, int, int]


class Blob:
    """A large immutable run of bytes in an arena. See `store` for its life."""

    __slots__ = ("__weakref__", "arena_id", "id", "leases", "lent", "nbytes", "offset", "store", "used_at")

    def __init__(self, store: Store, identity: int, arena_id: int, offset: int, nbytes: int) -> None:
        self.store = store
        self.id = identity
        self.arena_id = arena_id
        self.offset = offset
        self.nbytes = nbytes
        self.leases = 0  # views alive in this process; no lock: these are counts under the GIL
        self.lent = 0  # workers that may read it
        self.used_at = 0

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return read-only bytes that keep this blob alive and in its place."""
        return self.store.view(self, offset, nbytes)

    @property
    def wire(self) -> BlobWire:
        """The descriptor that travels: identity, arena, offset, size in bytes."""
        return (self.id, self.arena_id, self.offset, self.nbytes)


class Place(weakref.ref[Blob]):
    """Where a blob lies, and what is called when it ends.

    Not `Blob.__del__`: a weak reference still hands out an object whose `__del__` is running, to another
    thread or to a hook called from there, whose range would then be freed while it is used.

    Attributes:
        adoptions: how often a worker has sent the range since this blob was made; 0 for the driver's own.
    """

    __slots__ = ("adoptions", "arena_id", "nbytes", "offset")

    adoptions: int
    arena_id: int
    nbytes: int
    offset: int


class Lease:
    """Called when a view dies; holding it holds the blob."""

    __slots__ = ("blob",)

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        blob.leases += 1

    def __call__(self) -> None:
        """End it."""
        self.blob.leases -= 1
