"""The same large argument, passed by value many times, is stored once.

By-value semantics hold because nothing is taken on trust: a buffer is the same only if every byte is. What
makes that cheap is the order of the questions.

1. *Could it be the same?* A fingerprint of the sizes and of a few dozen samples finds the candidates.
2. *Is it the same?* The candidate's stored copy is compared with the buffer at memory speed (10 ms for
   200 MB); the comparison stops at the first difference.
   Where the kernel can tell which pages were written to since the last comparison (`writewatch`), an
   unchanged buffer costs some ten microseconds instead.

The identity of the object is never asked: a fitted model makes fresh arrays whenever it is pickled, and an
array may be changed in place between two calls.

A stored copy stays for as long as the object that it came from lives, so that the next loop over the same
array finds it; under pressure such copies go first (`release_kept`).
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

from .lease import address_of, same_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .codec import BlobLike

    Fingerprint = tuple[int, ...]

SAMPLES = 32
SAMPLE_BYTES = 64
MAX_CANDIDATES = 8
"""Stored copies of one fingerprint that are compared at most: more would cost more than storing anew."""

MAX_KEPT = 4096


def fingerprint(parts: Sequence[memoryview]) -> Fingerprint:
    """Return what equal buffers have in common: sizes, and a hash of samples spread over the content."""
    samples = []
    step = max(1, len(parts) // SAMPLES)
    share = max(2, SAMPLES // len(parts))
    for part in parts[::step]:
        if part.nbytes <= share * SAMPLE_BYTES:
            samples.append(bytes(part))
            continue
        stride = (part.nbytes - SAMPLE_BYTES) // (share - 1)
        samples.extend(bytes(part[at : at + SAMPLE_BYTES]) for at in range(0, stride * share, stride))
    return (len(parts), sum(part.nbytes for part in parts), hash(b"".join(samples)))


class Entry:
    """A stored copy and the objects whose life keeps it."""

    __slots__ = ("__weakref__", "_kept", "blob", "hits", "print", "sources", "watch")

    def __init__(self, print_: Fingerprint, blob: BlobLike, forget: Any) -> None:
        self.print = print_
        self.blob: weakref.ref[Any] = weakref.ref(blob, forget)
        self._kept: BlobLike | None = None
        self.sources: list[weakref.ref[Any]] = []
        self.hits = 0
        self.watch: Any = None

    def keep(self, blob: BlobLike, sources: Iterable[object]) -> None:
        """Hold the copy until every one of `sources` is gone; objects without weak references don't count."""
        me = weakref.ref(self)

        def gone(dead: weakref.ref[Any]) -> None:
            entry = me()
            if entry is not None:
                entry.sources = [source for source in entry.sources if source is not dead]
                if not entry.sources:
                    entry._kept = None

        known = {id(source()) for source in self.sources}
        for source in sources:
            if id(source) in known:
                continue
            try:
                self.sources.append(weakref.ref(source, gone))
            except TypeError:
                continue
        if self.sources:
            self._kept = blob

    @property
    def is_kept(self) -> bool:
        """Say whether it is this entry that may be holding the copy."""
        return self._kept is not None

    def release(self) -> None:
        """Stop holding the copy; tasks under way still do."""
        self._kept = None
        self.sources = []


class Dedup:
    """Finds stored copies by content. Not thread-safe: its owner calls it under a lock.

    Blobs may end at any time. They must not have a `__del__`: `candidates` could hand one out while it runs.
    """

    def __init__(self) -> None:
        self._entries: dict[Fingerprint, list[Entry]] = {}
        self._recent: OrderedDict[int, Entry] = OrderedDict()  # those that may hold their copy

    def candidates(self, print_: Fingerprint) -> list[tuple[Entry, Any]]:
        """Return the stored copies that may have this content, most recent first."""
        found = []
        for entry in reversed(self._entries.get(print_, ())):
            blob = entry.blob()
            if blob is not None:
                found.append((entry, blob))
        return found[:MAX_CANDIDATES]

    def add(self, print_: Fingerprint, blob: BlobLike, sources: Iterable[object]) -> Entry:
        """Remember a stored copy, and hold it for as long as its sources live."""
        entries = self._entries.setdefault(print_, [])
        entries[:] = [entry for entry in entries if entry.blob() is not None]
        table = self._entries

        def forget(_: object, print_: Fingerprint = print_) -> None:
            alive = [entry for entry in table.get(print_, ()) if entry.blob() is not None]
            if not alive:
                table.pop(print_, None)

        entry = Entry(print_, blob, forget)
        entries = table.setdefault(print_, [])
        entries.append(entry)
        self.touch(entry, blob, sources)
        return entry

    def touch(self, entry: Entry, blob: BlobLike, sources: Iterable[object]) -> None:
        """Note that a stored copy was used again."""
        entry.keep(blob, sources)
        if not entry.is_kept:
            return
        self._recent[id(entry)] = entry
        self._recent.move_to_end(id(entry))
        if len(self._recent) > MAX_KEPT:
            self._recent.popitem(last=False)[1].release()

    def release_kept(self, nbytes: int | None = None) -> int:
        """Let go of copies that only their source keeps, least recently used first.

        Args:
            nbytes: stop after so many bytes; None lets go of all.

        Returns:
            The bytes let go of (those still used by tasks under way included).
        """
        freed = 0
        while self._recent and (nbytes is None or freed < nbytes):
            _, entry = self._recent.popitem(last=False)
            blob = entry.blob()
            if entry.is_kept and blob is not None:
                freed += blob.nbytes
            del blob
            entry.release()
        return freed

    def kept_bytes(self) -> int:
        """Return the bytes that are held for the sake of a living source; forget entries without a copy."""
        for key in [key for key, entry in list(self._recent.items()) if entry.blob() is None]:
            del self._recent[key]
        return sum(
            blob.nbytes for e in list(self._recent.values()) if e.is_kept and (blob := e.blob()) is not None
        )


def same_content(blob: BlobLike, offsets: Sequence[int], parts: Sequence[memoryview]) -> bool:
    """Compare buffers with their stored copy, byte for byte."""
    if offsets[-1] + parts[-1].nbytes != blob.nbytes:
        return False  # other parts of the same total: their addresses would lie beyond the stored ones
    stored = blob.view(0, blob.nbytes)
    base = address_of(stored)
    return same_bytes([base + offset for offset in offsets], parts)


def roots(exporter: object, value: object) -> list[object]:
    """Return the objects whose life says that a buffer may be passed again: its owner and the argument."""
    owner = exporter
    while (base := getattr(owner, "base", None)) is not None and not isinstance(base, memoryview):
        owner = base
    return [owner] if owner is value else [owner, value]
