"""`Executor.map`: calls without futures, so that an item costs what a naive `remote` call does."""

from __future__ import annotations

import concurrent.futures
import weakref
from collections import deque
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...api.values import get, wait
from ...errors import GetTimeoutError, SerializationError
from ...objects.ref import ObjectRef
from .. import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

open_maps: set[MapCalls] = set()
"""Every map with calls that nobody has read: shutdown waits for them, though their reader be gone."""


class MapCalls:
    """The calls of one `map`.

    Args:
        owner: what the calls of one executor have in common.
        submit: makes a ref, or a future, of `carried` and an item's arguments.
        carried: what comes before those.
        items: the arguments of each call.
        raised: makes the error that users get of one that `get` raises.
    """

    def __init__(
        self,
        owner: object,
        submit: Callable[..., Any],
        carried: tuple[Any, ...],
        items: Iterator[tuple[Any, ...]],
        raised: Callable[[Exception], Exception],
    ) -> None:
        self.owner = owner
        self._submit = submit
        self._carried = carried
        self._items = items
        self._raised = raised
        self._pending: deque[Any] = deque()
        self._reader: weakref.ref[Any] | None = None

    def start(self, buffersize: int | None, deadline: float | None) -> Iterator[Any]:
        """Submit as much as may be ahead of the reader, and return the iterator over the results."""
        _forget_unread()
        open_maps.add(self)
        self._fill(buffersize)
        reader = self._read(buffersize is not None, deadline)
        self._reader = weakref.ref(reader)
        return reader

    def refs(self) -> list[ObjectRef[Any]]:
        """Return the tasks whose results nobody has read."""
        return [each for each in list(self._pending) if isinstance(each, ObjectRef)]

    def finish(self) -> None:
        """Wait until all have ended, however they do."""
        refs = [ref for ref in self.refs() if not ref.is_resolved()]
        if refs:
            wait(refs, num_returns=len(refs))
        self.forget_if_unread()

    def forget_if_unread(self) -> None:
        """Let go of results if there is nobody left to read them."""
        if self._reader is None or self._reader() is not None:
            return
        left = [ref for ref in self.refs() if not ref.is_resolved()]
        self._pending = deque(left)
        if not left:
            open_maps.discard(self)

    def _fill(self, count: int | None) -> None:
        append, submit, carried = self._pending.append, self._submit, self._carried
        for args in islice(self._items, count):
            try:
                append(submit(*carried, *args))
            except SerializationError as error:
                append(error)  # it is raised in its place

    def _read(self, must_refill: bool, deadline: float | None) -> Generator[Any, None, None]:
        pending = self._pending
        try:
            while pending:
                if must_refill:
                    self._fill(1)
                yield self._result(pending.popleft(), deadline)
        finally:
            seam.withdraw(self.refs())
            for each in pending:
                if isinstance(each, concurrent.futures.Future):
                    each.cancel()
            pending.clear()
            open_maps.discard(self)

    def _result(self, call: Any, deadline: float | None) -> Any:
        """Return the result of a call; no reference to it stays behind."""
        left_s = None if deadline is None else max(0.0, deadline - monotonic())
        if isinstance(call, concurrent.futures.Future):
            try:
                return call.result(left_s)
            finally:
                call.cancel()
        if isinstance(call, SerializationError):
            raise call
        try:
            return get(call, timeout=left_s)
        except GetTimeoutError as error:
            if call.is_resolved():
                raise  # the task's own
            seam.withdraw([call])
            raise concurrent.futures.TimeoutError(str(error)) from None
        except Exception as error:
            known = self._raised(error)
            if known is error:
                raise
            raise known from error.__cause__


def _forget_unread() -> None:
    for calls in list(open_maps):
        calls.forget_if_unread()
