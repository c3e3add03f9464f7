"""Tasks that travel together: nothing is sent while they are submitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grainwise as ray
from grainwise.engine.current import current

from .full_pool import LIMIT_S


@contextmanager
def sent_together() -> Iterator[None]:
    """Submit within: the first `get`, `wait` or tick behind it sends everything at once."""
    engine: Any = current()
    engine.dispatcher.dispatch = lambda waiting: None
    try:
        yield
    finally:
        del engine.dispatcher.dispatch


class SentBatches:
    """Records what the driver sends from here on: (tasks, those of them that need nothing of the others)."""

    def __init__(self) -> None:
        engine: Any = current()
        dispatcher = engine.dispatcher
        send_batch = dispatcher.send_batch
        self.batches: list[tuple[int, int]] = []

        def send(handle: Any, refs: list[Any], parts: Any, flags: int = 0, num_free: int = -1) -> None:
            self.batches.append((len(refs), num_free if num_free >= 0 else len(refs)))
            send_batch(handle, refs, parts, flags, num_free)

        dispatcher.send_batch = send

    @property
    def num_followers(self) -> int:
        """Tasks that were sent behind what they depend on, in the same batch."""
        return sum(count - free for count, free in self.batches)


def make_known(*functions: Callable[[int], Any]) -> None:
    """Let the engine learn that tasks of these functions are quick: they are called with numbers."""
    for function in functions:
        for _ in range(3):
            ray.get([function(i) for i in range(1000)], timeout=LIMIT_S)
