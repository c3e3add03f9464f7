"""What became of one element: its value, or its error with all that is known of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Outcome:
    """What became of one element of a map, or of a call.

    Attributes:
        index: the element's number, from 0.
        value: what the function returned; None if it failed.
        error: what it raised, also of the type `TaskError`; None if it returned.
        traceback_text: the traceback in the replica, without our own frames; "" if it returned.
        attempts: how often it was run, as far as is known, 1 or more.
        pid: the replica that failed, or that succeeded at a later attempt; None otherwise.
    """

    __slots__ = ("attempts", "error", "index", "pid", "traceback_text", "value")

    def __init__(
        self,
        index: int,
        value: Any = None,
        error: BaseException | None = None,
        traceback_text: str = "",
        attempts: int = 1,
        pid: int | None = None,
    ) -> None:
        self.index = index
        self.value = value
        self.error = error
        self.traceback_text = traceback_text
        self.attempts = attempts
        self.pid = pid

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value

    def __repr__(self) -> str:
        what = f"value={self.value!r:.200}" if self.error is None else f"error={self.error!r:.200}"
        return f"Outcome(index={self.index}, {what}, attempts={self.attempts})"
