"""The arena of a worker that is gone: what it has left behind goes object by object.

Nobody allocates in such an arena any more, so what is not live will never be written again: its pages go back
to the system at once, those of an object when the object does.

    live ░░ unused ░░ live ░ half-written ░ live        pages in ░ are punched out of the file when the
      └─ free ─► its pages, and those that it shared    worker dies, those of an object with the object
                 with nothing but free neighbours

The driver can do that though it maps the arena read-only: the descriptor that the worker has sent is the one
that it wrote with. Where holes can't be punched (not Linux, some filesystems), the pages stay until the last
object has gone and the file is closed.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left

from .lease import punch_hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .arena import ArenaReader

_PAGE = mmap.PAGESIZE


class Orphan:
    """The live ranges of an arena without a writer. Used under the store's lock.

    Attributes:
        live_bytes: the size of the live ranges.
    """

    def __init__(self, reader: ArenaReader, live: Iterable[tuple[int, int]]) -> None:
        """Give back all pages of an arena but those of its live ranges: (offset, bytes)."""
        self._reader = reader
        self._sizes = dict(sorted(live))
        self._offsets = list(self._sizes)
        self.live_bytes = sum(self._sizes.values())
        end = 0
        for offset, nbytes in self._sizes.items():
            self._give_back(end, offset)
            end = offset + nbytes
        self._give_back(end, reader.capacity_bytes)

    def free(self, offset: int) -> bool:
        """Give the pages of a live range back; return whether nothing is left."""
        nbytes = self._sizes.pop(offset, None)
        if nbytes is not None:
            self.live_bytes -= nbytes
            offsets = self._offsets
            at = bisect_left(offsets, offset)
            del offsets[at]
            before = offsets[at - 1] if at else None
            start = 0 if before is None else before + self._sizes[before]
            end = offsets[at] if at < len(offsets) else self._reader.capacity_bytes
            # The gap around it has no other pages than those that it shares with the range.
            first, last = offset // _PAGE * _PAGE, -(-(offset + nbytes) // _PAGE) * _PAGE
            self._give_back(max(start, first), min(end, last))
        return not self._sizes

    def _give_back(self, start: int, end: int) -> None:
        """Give back the pages that lie wholly in a range."""
        first, last = -(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE
        if first < last:
            try:
                punch_hole(self._reader.fd, first, last - first)
            except OSError:
                pass
