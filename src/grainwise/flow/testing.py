"""Stand-ins for tasks in tests."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from unittest.mock import MagicMock


@contextmanager
def task_mock(t: Any) -> Iterator[MagicMock]:
    """Put a mock in the place of a task's function, or of a workflow.

        with task_mock(load) as mock:
            mock.return_value = 3
            assert my_workflow() == 3

    What the mock returns is checked like any result. A task with a stand-in runs in the caller's process.
    """
    from unittest.mock import MagicMock

    target = t.target if hasattr(t, "target") else t
    if not hasattr(target, "stand_in"):
        raise ValueError(f"task_mock() expected a task or workflow, got {type(t).__name__}")
    mock = MagicMock()
    before = target.stand_in
    target.stand_in = mock
    try:
        yield mock
    finally:
        target.stand_in = before


def patch(target: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a mock in the place of a task's function while a test runs; it is the test's next argument."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with task_mock(target) as mock:
                return function(*args, mock, **kwargs)

        del wrapped.__wrapped__  # its signature has one argument less
        return wrapped

    return decorate
