"""The control page: a few shared words per worker, so that neither side has to ask the other.

One anonymous file, mapped by the driver and every worker; each worker has a *slot* of 256 eight-byte words.
Aligned eight-byte stores and loads are atomic on every machine that we run on.

| word | meaning | written by |
|---|---|---|
| `SEQ` | sequence number of the batch being run | worker |
| `STARTED` | index of the item that was started last | worker, before it calls the function |
| `USED` | bytes that this process has put into its memory arena, ever | its owner (slot 0 is the driver's) |
| `FREED` | bytes of those that the driver has let go of, ever | driver |
| `SPARE_CHILD` | 1 if the item to interrupt may first finish a child that it runs itself | driver |
| `IN_CHILD` | how many children deep the item's own process runs what nobody else knows of | worker |
| `MODE` | how the worker claims: `claims.BARRIER` or `claims.LOCK` | worker, once |
| `ASIDE` | 1 while what runs is no part of the item, such as the setup of a `map` | worker |
| `LOOSE` | 1 while `STARTED` is that of a sub-block, not of an item | worker |
| `WANTED` | `(seq << 32 | index) + 1` of a result that somebody waits for | driver; worker clears it |
| `CANCEL` | `(seq << 32 | index) + 1` of the item to interrupt, 0 for none | driver |
| `TOLD` | the same of an actor's call that is cancelled and not interrupted: it may ask | driver |
| `claim(seq)` | items below it are the worker's | worker |
| `limit(seq)` | items from it on are not the worker's | driver |

Who may run what of a batch is decided with its claim and limit words: see `claims`. Slot 0 has no claims: its
first claim word is the version of the logging levels behind the slots, see `printed.levels`.
"""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

SLOT_WORDS = 256
NUM_SLOTS = 1024
NBYTES = SLOT_WORDS * 8 * NUM_SLOTS

SEQ = 0
STARTED = 1
USED = 2
CANCEL = 3
FREED = 4
WANTED = 5
MODE = 6
IN_CHILD = 7
SPARE_CHILD = 8
ASIDE = 9
LOOSE = 10
TOLD = 11
_CLAIMS = 16
DEPTH = 64
"""Batches that may be on their way to one worker or begun by it: each needs a claim and a limit word."""


def claim_word(seq: int) -> int:
    """Return the index of a batch's claim word within its slot; its limit word is the next."""
    return _CLAIMS + 2 * (seq % DEPTH)


def create() -> int:
    """Create the file behind the page and return its descriptor."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("grainwise-control", os.MFD_CLOEXEC)
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix="grainwise-")
        os.unlink(path)
    os.ftruncate(fd, NBYTES)
    return fd


def open_page(fd: int) -> mmap.mmap:
    """Map the page."""
    return mmap.mmap(fd, NBYTES)


def slot_words(words: memoryview, slot: int) -> memoryview:
    """Return the words of one slot."""
    return words[slot * SLOT_WORDS : (slot + 1) * SLOT_WORDS]
