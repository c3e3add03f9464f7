"""How much shared memory a session holds, as the system counts it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def shared_bytes() -> int:
    """Return the bytes of all arenas in memory; the driver has a descriptor of each worker's, too."""
    sizes = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:grainwise "):
                status = os.fstat(int(fd))
                sizes[status.st_ino] = status.st_blocks * 512  # a mapping may have a descriptor of its own
        except OSError:
            continue  # the one that listed the folder, or one that another thread has just closed
    return sum(sizes.values())


def is_in_shared_memory(address: int) -> bool:
    """Say whether an address lies in an arena."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        first, last = (int(part, 16) for part in fields[0].split("-"))
        if first <= address < last:
            return len(fields) == 6 and fields[5].startswith("/memfd:grainwise ")
    return False


def address_of(array: Any) -> int:
    """Return where a NumPy array's first element lies."""
    address: int = array.__array_interface__["data"][0]
    return address


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
