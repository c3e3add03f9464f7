"""Events across processes: a sign is a file; one process puts it up, others wait for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .full_pool import LIMIT_S


class Sign:
    """A file that is there or not. Can be pickled, so tasks may put it up and wait for it."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)

    def put_up(self, text: str = "") -> None:
        """Put the sign up, with a text, all at once."""
        draft = f"{self.path}.{os.getpid()}.draft"
        with open(draft, "w") as file:
            file.write(text)
        os.rename(draft, self.path)

    def is_up(self) -> bool:
        """Say whether the sign is up."""
        return os.path.exists(self.path)

    def wait(self, limit_s: float = LIMIT_S) -> str:
        """Return the sign's text once it is up.

        Raises:
            TimeoutError: it was not put up within `limit_s` seconds.
        """
        deadline = time.monotonic() + limit_s
        while not self.is_up():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody put up {self.path} within {limit_s} s")
            time.sleep(0.002)
        with open(self.path) as file:
            return file.read()


def wait_until_gone(pid: int, limit_s: float = LIMIT_S) -> None:
    """Return once a process has ended (a zombie has).

    Raises:
        TimeoutError: it is alive after `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} is alive after {limit_s} s")
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
