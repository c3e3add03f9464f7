"""The control page: a few shared words per worker, so that neither side has to ask the other.

One anonymous file, mapped by the driver and every worker; each worker has a *slot* of 256 eight-byte words.
Aligned eight-byte stores and loads are atomic on every machine that we run on.

| word | meaning | written by |
|---|---|---|
| `SEQ` | sequence number of the batch being run | worker |
| `STARTED` | index of the item that was started last | worker, before it calls the function |
| `USED` | bytes that this process has put into its memory arena, ever | its owner (slot 0 is the driver's) |
| `FREED` | bytes of those that the driver has let go of, ever | driver |
| `CANCEL` | `(seq << 32 | index) + 1` of the item to interrupt, 0 for none | driver |
| `claim(seq)` | items below it are the worker's | worker |
| `limit(seq)` | items from it on are not the worker's | driver |

**Taking back** un-started items needs no help of the worker, which may be deep in somebody's C code:

    worker                              driver
    claim = stop                        limit = x
    if limit < stop: retract            membarrier()
    run [.., stop)                      if claim <= x: [x, n) is the driver's

Each side stores its word before it loads the other's. The processor may let the worker's load pass its
store (18 double wins in 400,000 rounds were seen without a fence); `membarrier` makes every running worker
pass a full barrier, so one of the two sees the other's store. The worker pays nothing for it.
When the driver finds `claim > x`, it owns nothing yet and tries again from the claim; whatever it wrote as
the last limit holds, and the worker reports where it stopped, so a gap can't be lost.
"""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SLOT_WORDS = 256
NUM_SLOTS = 1024
NBYTES = SLOT_WORDS * 8 * NUM_SLOTS

SEQ = 0
STARTED = 1
USED = 2
CANCEL = 3
FREED = 4
_CLAIMS = 16
DEPTH = 64
"""Batches that may be on their way to one worker or begun by it: each needs a claim and a limit word."""

_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_GLOBAL_EXPEDITED = 1 << 1
_REGISTER_GLOBAL_EXPEDITED = 1 << 2


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


def _call_membarrier(command: int) -> bool:
    import ctypes

    number = _MEMBARRIER.get(os.uname().machine)
    if number is None or os.uname().sysname != "Linux":
        return False
    libc: Any = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(number, command, 0, 0) == 0)


def register_for_barriers() -> bool:
    """Let the driver's barriers reach this process; false where the kernel has none."""
    return _call_membarrier(_REGISTER_GLOBAL_EXPEDITED)


class Barrier:
    """The driver's side of the fence: `pass_all()` returns once every worker has passed a full barrier."""

    def __init__(self) -> None:
        self._syscall: Any = None
        self._number = 0
        self.is_available: bool | None = None

    def pass_all(self) -> bool:
        """Make all workers pass a barrier; false where that is not possible (then nothing may be taken)."""
        if self.is_available is None:
            self.is_available = register_for_barriers()
            if self.is_available:
                import ctypes

                self._number = _MEMBARRIER[os.uname().machine]
                self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        return bool(self.is_available) and self._syscall(self._number, _GLOBAL_EXPEDITED, 0, 0) == 0


def take_back(words: memoryview, seq: int, wanted: int, barrier: Barrier) -> int | None:
    """Take the items of a batch from `wanted` on away from its worker, or as many as it has not claimed.

    Args:
        words: the worker's slot.
        seq: the batch.
        wanted: index of the first item to take.
        barrier: the fence.

    Returns:
        Index of the first item that is now the caller's, or None if the worker was too quick three times or
        the machine has no barrier: then its report will say where it stopped.
    """
    at = claim_word(seq)
    before = words[at + 1]  # from here on everything is the driver's already: the limit never rises above it
    for _ in range(3):
        words[at + 1] = wanted
        if not barrier.pass_all():
            words[at + 1] = before
            return None
        claimed = words[at]
        if claimed <= wanted:
            return wanted
        if claimed >= before:
            words[at + 1] = before
            return None
        wanted = claimed
    return None
