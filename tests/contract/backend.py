"""What the contract is held against: grainwise, or Ray itself with `GRAINWISE_CONTRACT=ray`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

BACKEND = os.environ.get("GRAINWISE_CONTRACT", "") or "grainwise"
ray: Any = import_module(BACKEND)
exceptions: Any = import_module(f"{BACKEND}.exceptions")
IS_RAY = BACKEND == "ray"
LONG_S = 60.0
"""How long something may take that must happen."""


def module(name: str) -> Any:
    """Return a module of the backend, such as `util.queue`."""
    return import_module(f"{BACKEND}.{name}")


def until(condition: Callable[[], Any]) -> Any:
    """Wait for what nobody announces, such as the end of a process; return what it gives."""
    end = time.monotonic() + LONG_S
    while True:
        found = condition()
        if found or time.monotonic() > end:
            assert found, "it did not happen"
            return found
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def make_gate() -> Any:
    """Return an actor with which tests hold tasks back: `wait` returns when somebody has called `open`."""
    import asyncio

    class Gate:
        def __init__(self) -> None:
            self.event = asyncio.Event()
            self.num_waiting = 0

        async def wait(self) -> str:
            self.num_waiting += 1
            await self.event.wait()
            return "open"

        async def open(self) -> None:
            self.event.set()

        async def waiting(self, count: int) -> int:
            """Return when so many wait, or have waited."""
            while self.num_waiting < count:  # noqa: ASYNC110 -- an event would be of one count
                await asyncio.sleep(0.005)
            return self.num_waiting

    return ray.remote(num_cpus=0)(Gate).remote()
