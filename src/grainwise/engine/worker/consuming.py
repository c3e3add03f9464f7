"""A generator object inside a task: its refs come from the driver, some at a time.

A task asks for the next values under identities of its own; they are refs like any other, pending at first.
With a limit it asks for one after the other, since what is asked for may count as wanted; else for more each
time, so that many small values cost few messages.
"""

from __future__ import annotations

from collections import deque

from ...objects.ref import ObjectRef
from ..generators import END
from ..wire.tasks import TAKE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

    from .inside import Inside
    from .submitting import Submitting
    from .values import BorrowedRef

MOST_AT_ONCE = 512


class Inlet:
    """See the module docstring; `generators.Source`. Dropping it tells the driver, as the end of a loan."""

    __slots__ = ("_ask_for", "_completed", "_inside", "_num_taken", "_ref", "limit", "refs")

    def __init__(self, inside: Submitting, refs: list[BorrowedRef], limit: int) -> None:
        self._inside: Inside = inside  # type: ignore[assignment]  # what is submitted has an engine to wait with
        self._completed = refs[0]
        self._ref = refs[1]
        self.limit = limit
        self.refs: deque[ObjectRef[Any]] = deque()
        self._ask_for = 1
        self._num_taken = 0

    @property
    def completed(self) -> ObjectRef[Any]:
        """The ref of the call."""
        return self._completed

    def peek(self) -> ObjectRef[Any] | None:
        """Return the next ref, made in advance if need be; None if there are no more."""
        refs = self.refs
        if refs:
            return None if refs[0]._value is END else refs[0]
        self._ask(self._ask_for)
        if not self.limit:
            self._ask_for = min(2 * self._ask_for, MOST_AT_ONCE)
        return refs[0]

    def wait(self, ref: ObjectRef[Any], timeout_s: float | None) -> bool:
        """Wait for the next value, and take along what else is there; false on a timeout."""
        return self._inside.await_any(self._missing(), timeout_s)

    def later(self, ref: ObjectRef[Any]) -> Future[Any]:
        """Return a future that is done when the next value has come; takes along what else is there."""
        future: Future[Any] = self._inside.future_of_any(ref, self._missing())
        return future

    def _missing(self) -> dict[int, ObjectRef[Any]]:
        return {each._id: each for each in list(self.refs) if each._state.__class__ is not int}

    def look(self, ref: ObjectRef[Any]) -> None:
        """Ask the driver whether the next value is there: a round trip."""
        (answer,) = self._inside._new_refs(1)
        self._ask(0, answer._id)
        self._inside.await_any({ref._id: ref, answer._id: answer}, None)

    def took(self) -> None:
        """Note that a ref was taken, where there is a limit; the next one is wanted then."""
        self._num_taken += 1
        if not self.refs:
            self._ask(1)

    def _ask(self, count: int, answer: int = 0) -> None:
        inside = self._inside
        refs = inside._new_refs(count) if count else []
        inside.send_open()  # the call itself may lie in the buffer
        inside.worker.send((TAKE, self._ref._id, [ref._id for ref in refs], self._num_taken, answer))
        self.refs.extend(refs)
