"""Ending a map from another thread than the one that waits for its outcomes."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .starting import Link


class Cancellation:
    """Given to a map, it ends it: what runs is interrupted, and its iterator gives no more.

    `set` may be called by any thread, before the map begins, while it waits, or when it has ended.

    Attributes:
        is_set: `set` was called.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        self._link: Link | None = None  # under the lock; the map's own as long as it is here

    def set(self) -> None:
        """End the map."""
        with self._lock:
            self.is_set = True
            if self._link is not None:
                self._link.hang_up()

    def hold(self, link: Link | None) -> None:
        """Note which connection the map has; None before others may have it."""
        with self._lock:
            self._link = link
            if link is not None and self.is_set:
                link.hang_up()
