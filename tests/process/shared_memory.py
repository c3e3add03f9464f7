"""How much shared memory a session holds, as the system counts it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def shared_bytes() -> int:
    """Return the bytes of all arenas in memory, the workers' included: the driver has a descriptor of each."""
    total = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:grainwise "):
                total += os.fstat(int(fd)).st_blocks * 512
        except OSError:
            continue  # the descriptor that listed the folder, or one that another thread has just closed
    return total


def resident_bytes(pid: int | None = None) -> int:
    """Return the memory of a process that is its own: shared memory, which the store counts, is left out."""
    fields = Path(f"/proc/{pid or 'self'}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def wait_until(holds: Callable[[], bool], within_s: float) -> bool:
    """Look every 20 ms whether something holds, for so many seconds at most; return whether it does."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
