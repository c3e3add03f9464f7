"""What replicas run in the tests of hosts; they import it by its name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from grainwise.flow.hosts import actor_cache

calls: list[str] = []


def double(x: Any) -> Any:
    return 2 * x


def pid_of(_: object) -> int:
    return os.getpid()


def total(array: Any) -> float:
    return float(array.sum())


class OwnError(Exception):
    """Takes other arguments than it hands on."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


def refuse_odd(x: int) -> int:
    if x % 2:
        raise OwnError(f"{x} is odd", code=x)
    return x


def succeed_at_third(folder: str) -> int:
    """Count attempts in a file."""
    path = Path(folder, "attempts")
    count = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(count))
    if count < 3:
        raise ValueError(f"attempt {count}")
    return count


def die_once(path: str) -> int:
    """Kill this process, unless another did before."""
    with First(path) as is_first:
        if is_first:
            os.kill(os.getpid(), 9)
    return load("model")[1]


class First:
    """Say who is the first to make a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> bool:
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        return None


@actor_cache
def load(name: str) -> tuple[str, int]:
    calls.append(name)
    return name, os.getpid()


def load_and_count(name: str) -> tuple[int, int]:
    """Return the replica, and how often it has loaded."""
    return load(name)[1], calls.count(name)


def wait_for(path: str) -> int:
    """Wait until a file is there."""
    Path(path + f".waits-{os.getpid()}").touch()
    while not os.path.exists(path):
        time.sleep(0.002)
    return os.getpid()


def run_for_ever(path: str) -> None:
    Path(path).touch()
    while True:
        time.sleep(0.01)
