"""Who may run an item of a batch: the worker claims sub-blocks, the driver takes back what is not claimed.

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

**Without membarrier** (old kernels, sandboxes, other systems) both sides do the same inside a lock of the
kernel's on one byte of the control page's file: two system calls for each claim of some 200 us of work. The
lock goes with its owner, however that ends; a driver that finds it taken lets the worker be this time.
"""

from __future__ import annotations

import os

from .control import claim_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BARRIER = 0
LOCK = 1
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_GLOBAL_EXPEDITED = 1 << 1
_REGISTER_GLOBAL_EXPEDITED = 1 << 2


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


class SlotLock:
    """The lock of one worker's slot, for machines without barriers; in the worker a context manager."""

    def __init__(self, fd: int, slot: int) -> None:
        import fcntl

        self._fcntl = fcntl
        self._fd = fd
        self._slot = slot

    def __enter__(self) -> None:
        self._fcntl.lockf(self._fd, self._fcntl.LOCK_EX, 1, self._slot)

    def __exit__(self, *_: object) -> None:
        self._fcntl.lockf(self._fd, self._fcntl.LOCK_UN, 1, self._slot)

    def is_mine_now(self) -> bool:
        """Take the lock if nobody has it."""
        try:
            self._fcntl.lockf(self._fd, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB, 1, self._slot)
        except OSError:
            return False
        return True


def claim(words: memoryview, seq: int, first: int, stop: int, lock: SlotLock | None) -> int:
    """Make the items `[first, stop)` of a batch this worker's, or as many as the driver has left.

    Args:
        words: the worker's slot.
        seq: the batch.
        first: index of the first item.
        stop: index behind the last.
        lock: the slot's lock where there are no barriers.

    Returns:
        Index behind the last item that is the worker's; `first` if there is none.
    """
    if lock is not None:
        with lock:
            return claim(words, seq, first, stop, None)
    at = claim_word(seq)
    words[at] = stop
    limit = words[at + 1]
    if limit < stop:
        stop = max(first, limit)
        words[at] = stop
    return stop


def take_back_locked(words: memoryview, seq: int, wanted: int, lock: SlotLock) -> int | None:
    """Do what `take_back` does, where the worker claims under a lock."""
    if not lock.is_mine_now():
        return None
    with lock:  # again, which changes nothing, and released at the end
        at = claim_word(seq)
        before = words[at + 1]
        start: int = max(words[at], wanted)
        if start >= before:
            return None
        words[at + 1] = start
        return start


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
