"""What a host knows: the functions that programs have sent, and its replicas with what they have loaded."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import OrderedDict

from ..parcels import Parcel
from .replica import signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_FUNCTION_BYTES = 256 << 20
MAX_FUNCTIONS = 256


class Functions:
    """Entries of functions by content; those that were not used for longest are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self._nbytes = 0

    def keep(self, digest: bytes, entry: Any) -> None:
        """Keep a function."""
        if digest in self._known:
            return
        nbytes = entry.nbytes if isinstance(entry, Parcel) else len(entry)
        self._known[digest] = entry, nbytes
        self._nbytes += nbytes
        while len(self._known) > 1 and (
            self._nbytes > MAX_FUNCTION_BYTES or len(self._known) > MAX_FUNCTIONS
        ):
            _, (_, gone) = self._known.popitem(last=False)
            self._nbytes -= gone

    def find(self, digest: bytes) -> Any:
        """Return a function's entry, None if it is not known."""
        found = self._known.get(digest)
        if found is None:
            return None
        self._known.move_to_end(digest)
        return found[0]


class Replicas:
    """The replicas that were heard of.

    Their processes are known by descriptors, never by numbers alone, which others may have by then.
    """

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._files: dict[str, Any] = {}

    def note(self, pids: set[int], files: dict[str, Any]) -> None:
        """Keep what replicas say of themselves: that they are there, and which files they have loaded."""
        for pid in pids - self._fds.keys():
            self._forget_dead()
            try:
                self._fds[pid] = os.pidfd_open(pid)
            except (AttributeError, OSError):  # macOS; or it is gone
                self._fds[pid] = -1
        for file, loaded in files.items():
            if file not in self._files or self._files[file] == loaded:
                self._files[file] = loaded
            else:
                self._files[file] = None  # two replicas have loaded different contents of it

    def are_stale(self) -> bool:
        """Say whether a file that one of them has loaded, as far as is known, is another one now."""
        return any(loaded is None or signature(file) != loaded for file, loaded in self._files.items())

    def sizes(self) -> dict[int, int]:
        """Return the memory of each that lives, in bytes."""
        return {pid: size for pid in sorted(self._fds) if (size := resident_bytes(pid))}

    def end(self, limit_s: float) -> None:
        """Have them run their exit hooks, and wait for them."""
        poller, left = select.poll(), 0
        for fd in self._fds.values():
            if fd >= 0:
                try:
                    signal.pidfd_send_signal(fd, signal.SIGTERM)
                except OSError:
                    continue
                poller.register(fd, select.POLLIN)
                left += 1
        deadline = time.monotonic() + limit_s
        while left and time.monotonic() < deadline:
            for fd, _ in poller.poll(1000 * limit_s):
                poller.unregister(fd)
                left -= 1

    def _forget_dead(self) -> None:
        poller = select.poll()
        by_fd = {fd: pid for pid, fd in self._fds.items() if fd >= 0}
        for fd in by_fd:
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(0):
            os.close(fd)
            del self._fds[by_fd[fd]]


def resident_bytes(pid: int) -> int:
    """Return the memory of a process; 0 if it is gone, or where nobody can tell."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
