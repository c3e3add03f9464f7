"""After a fault: is the pool of two workers whole again?"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import grainwise as ray

LIMIT_S = 30.0
"""What a test waits for at most before it calls it a hang; an idle machine needs a fraction of a second."""


def assert_pool_is_full(folder: Path) -> None:
    """Fail unless two tasks run at the same time in two workers, and a few hundred get their results.

    Either end of a fifo opens only when somebody opens the other: the two tasks meet or hang.
    """
    path = str(folder / f"meeting-{uuid.uuid4()}")
    os.mkfifo(path)

    def meet(mode: int) -> int:
        os.close(os.open(path, mode))
        return os.getpid()

    def double(x: int) -> int:
        return 2 * x

    remote_meet, remote_double = ray.remote(meet), ray.remote(double)
    pids = ray.get([remote_meet.remote(os.O_RDONLY), remote_meet.remote(os.O_WRONLY)], timeout=LIMIT_S)
    assert len(set(pids)) == 2, "both tasks ran in one process"
    refs = [remote_double.remote(i) for i in range(300)]
    assert ray.get(refs, timeout=LIMIT_S) == [2 * i for i in range(300)]


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
