"""A queue between tasks, actors and the program: an actor that holds an `asyncio.Queue`.

Whoever has the `Queue` can put and get; it may be passed on like the handle of an actor. A call that must
wait does so in the actor, which goes on serving the others.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable

from ..api.actors import kill
from ..api.tasks import remote
from ..api.values import get

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Empty(queue.Empty):
    """The queue has no item, or not as many as were asked for."""


class Full(queue.Full):
    """The queue has no room for the items."""


class Queue:
    """A first-in, first-out queue that several processes share, with the methods of `queue.Queue`.

    Args:
        maxsize: items that it holds at most; 0 or less for no limit.
        actor_options: of the actor behind it, such as `{"num_cpus": 1}` or `{"name": "jobs"}`.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        made: Any = remote(_QueueActor)
        self.actor: Any = made.options(**(actor_options or {})).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Return how many items there are now."""
        found: int = get(self.actor.qsize.remote())
        return found

    def qsize(self) -> int:
        """Return how many items there are now."""
        return self.size()

    def empty(self) -> bool:
        """Say whether there is no item now."""
        found: bool = get(self.actor.empty.remote())
        return found

    def full(self) -> bool:
        """Say whether there is no room now."""
        found: bool = get(self.actor.full.remote())
        return found

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item.

        Args:
            item: what to add.
            block: wait for room.
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            Full: there is no room (in time).
            ValueError: `timeout` is negative.
        """
        if not block:
            try:
                get(self.actor.put_nowait.remote(item))
            except asyncio.QueueFull:
                raise Full from None
            return
        get(self.actor.put.remote(item, _checked(timeout)))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item, as `put` does, without blocking the event loop."""
        if not block:
            try:
                await self.actor.put_nowait.remote(item)
            except asyncio.QueueFull:
                raise Full from None
            return
        await self.actor.put.remote(item, _checked(timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item out and return it.

        Args:
            block: wait for one.
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            Empty: there is none (in time).
            ValueError: `timeout` is negative.
        """
        if not block:
            try:
                return get(self.actor.get_nowait.remote())
            except asyncio.QueueEmpty:
                raise Empty from None
        return get(self.actor.get.remote(_checked(timeout)))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item out, as `get` does, without blocking the event loop."""
        if not block:
            try:
                return await self.actor.get_nowait.remote()
            except asyncio.QueueEmpty:
                raise Empty from None
        return await self.actor.get.remote(_checked(timeout))

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room now.

        Raises:
            Full: there is none.
        """
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add several items if there is room for all of them now.

        Raises:
            Full: there is not.
            TypeError: `items` can't be iterated over.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"Argument 'items' must be an Iterable, got {type(items).__name__}")
        get(self.actor.put_nowait_batch.remote(list(items)))

    def get_nowait(self) -> Any:
        """Take the oldest item out and return it, if there is one now.

        Raises:
            Empty: there is none.
        """
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take the oldest items out and return them, if there are as many now.

        Raises:
            Empty: there are not.
            TypeError: `num_items` is no int.
            ValueError: `num_items` is negative.
        """
        if not isinstance(num_items, int):
            raise TypeError(f"Argument 'num_items' must be an int, got {type(num_items).__name__}")
        if num_items < 0:
            raise ValueError(f"'num_items' must be nonnegative, got {num_items}")
        found: list[Any] = get(self.actor.get_nowait_batch.remote(num_items))
        return found

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the actor behind the queue; the items that are left are lost.

        Args:
            force: end it at once; otherwise its calls that are under way may end first.
            grace_period_s: seconds that they have.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            from ..api.values import wait

            if wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)[0]:
                return
        kill(actor, no_restart=True)


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"'timeout' must be a non-negative number, got {timeout}")
    return timeout


class _QueueActor:
    """The actor behind a queue."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    def qsize(self) -> int:
        return self.queue.qsize()

    def empty(self) -> bool:
        return self.queue.empty()

    def full(self) -> bool:
        return self.queue.full()

    async def put(self, item: Any, timeout: float | None = None) -> None:
        try:
            await asyncio.wait_for(self.queue.put(item), timeout)
        except asyncio.TimeoutError:
            raise Full from None

    async def get(self, timeout: float | None = None) -> Any:
        try:
            return await asyncio.wait_for(self.queue.get(), timeout)
        except asyncio.TimeoutError:
            raise Empty from None

    def put_nowait(self, item: Any) -> None:
        self.queue.put_nowait(item)

    def put_nowait_batch(self, items: list[Any]) -> None:
        if self.maxsize > 0 and len(items) + self.qsize() > self.maxsize:
            raise Full(f"Cannot add {len(items)} items to a queue of {self.qsize()} of {self.maxsize} items.")
        for item in items:
            self.queue.put_nowait(item)

    def get_nowait(self) -> Any:
        return self.queue.get_nowait()

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self.qsize():
            raise Empty(f"Cannot get {num_items} items from a queue of {self.qsize()}.")
        return [self.queue.get_nowait() for _ in range(num_items)]


__all__ = ["Empty", "Full", "Queue"]
