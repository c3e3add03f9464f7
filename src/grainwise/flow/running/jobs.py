"""Jobs: single runs of tasks and maps that a scheduler hands on."""

from __future__ import annotations

import os
from typing import Any

from ..errors import NonRecoverableError, TypeMismatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..declared.options import TaskOptions
    from ..graph.node import Node
    from .frames import Frame

MAX_PAUSE_S = 30.0


class Job:
    """A task or map, with its arguments, on its way through attempts.

    Attributes:
        values: checked arguments.
        refs: of the arguments that the engine holds already.
        key: under which its result is kept, None if it is not.
        attempt: which run it is, from 1.
        cancel: stops it; None while it does not run.
    """

    __slots__ = (
        "attempt", "cancel", "entity", "frame", "is_budgeted", "key", "node", "options", "path",
        "refs", "values",
    )  # fmt: skip

    def __init__(
        self, frame: Frame, node: Node, entity: Any, options: TaskOptions, values: dict[str, Any]
    ) -> None:
        self.frame = frame
        self.node = node
        self.entity = entity
        self.options = options
        self.values = values
        self.refs: dict[str, Any] = {}
        self.key: bytes | None = None
        self.attempt = 1
        self.cancel: Any = None
        self.is_budgeted = False
        self.path = f"{frame.path}/{node.id}" if frame.path else node.id

    def is_worth_another(self, error: BaseException) -> bool:
        """Say whether it is to run again after an error."""
        if self.attempt > self.options.metadata.retries:
            return False
        return is_retriable(error)


def is_retriable(error: BaseException) -> bool:
    """Say whether another run may go better: not after a wrong type, nor when the task says so itself."""
    if not isinstance(error, Exception):
        return False
    from ...errors import TaskCancelledError

    return not isinstance(error, (NonRecoverableError, TypeMismatchError, TaskCancelledError))


def pause_s(attempt: int) -> float:
    """Return how long to wait after a failed run: `GRAINWISE_FLOW_BACKOFF_S` (0.1), doubled each time.

    Raises:
        ValueError: the variable is no number from 0 up.
    """
    text = os.environ.get("GRAINWISE_FLOW_BACKOFF_S") or "0.1"
    try:
        first = float(text)
    except ValueError:
        first = -1.0
    if not 0 <= first < float("inf"):
        raise ValueError(f"GRAINWISE_FLOW_BACKOFF_S expected seconds, got {text!r}")
    return min(MAX_PAUSE_S, first * 2.0 ** (attempt - 1))
