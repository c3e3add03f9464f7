"""After a fault: is the pool of two workers whole again?"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import grainwise as ray

LIMIT_S = 30.0
"""What a test waits for at most before it calls it a hang; an idle machine needs a fraction of a second."""


def find_workers(folder: Path) -> set[int]:
    """Return the pids of both workers: two tasks must run at the same time.

    Either end of a fifo opens only when somebody opens the other: the two tasks meet, or the time is over.
    """
    path = str(folder / f"meeting-{uuid.uuid4()}")
    os.mkfifo(path)

    def meet(mode: int) -> int:
        os.close(os.open(path, mode))
        return os.getpid()

    remote = ray.remote(meet).remote
    pids = set(ray.get([remote(os.O_RDONLY), remote(os.O_WRONLY)], timeout=LIMIT_S))
    assert len(pids) == 2, "both tasks ran in one process"
    return pids


def assert_pool_is_full(folder: Path) -> None:
    """Fail unless two workers run tasks at the same time, and a few hundred tasks get their results."""
    find_workers(folder)

    def double(x: int) -> int:
        return 2 * x

    remote = ray.remote(double).remote
    assert ray.get([remote(i) for i in range(300)], timeout=LIMIT_S) == [2 * i for i in range(300)]


class RunLog:
    """Counts runs of tasks across processes: each appends one line, which the system never tears."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / f"runs-{uuid.uuid4()}")
        Path(self.path).touch()

    def note(self, what: object = "") -> None:
        """Note one run; called in a task."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{os.getpid()} {what}\n".encode())
        os.close(fd)

    def pids(self) -> list[int]:
        """Return the process of each run, in order."""
        return [int(line.split()[0]) for line in Path(self.path).read_text().splitlines()]

    def runs(self) -> list[str]:
        """Return what each run noted, in order."""
        return [line.partition(" ")[2] for line in Path(self.path).read_text().splitlines()]
