"""Which process is which: a pid with the time of its start, so that a reused one is not taken for the old."""

from __future__ import annotations

import os


def this_process() -> tuple[int, int]:
    """Return the pid of this process, and when it started, in clock ticks since boot (0 if unknown)."""
    return os.getpid(), started(os.getpid()) or 0


def started(pid: int) -> int | None:
    """Return when a process started, None if it is no more; 0 where that can't be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    except (OSError, ValueError, IndexError):
        return 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def is_alive(pid: int, pid_started: int, host: str) -> bool:
    """Say whether the process of a driver still runs; of one on another machine that is not known: no."""
    if host != os.uname().nodename:
        return False
    now = started(pid)
    return now is not None and (not now or not pid_started or now == pid_started)
