"""Where a workflow runs: on the engine, or in this process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "GRAINWISE_FLOW"
_is_asked_for: ContextVar[bool] = ContextVar("grainwise_flow_inline", default=False)
_is_in_task: ContextVar[bool] = ContextVar("grainwise_flow_in_task", default=False)


@contextmanager
def inline() -> Iterator[None]:
    """Run workflows and maps wholly in this process, one task after another, in this `with` block.

    Mocks, globals, closures and a debugger then work in tasks as in plain functions. The variable
    `GRAINWISE_FLOW=inline` says the same for a whole program. Time and memory limits are not enforced.
    """
    token = _is_asked_for.set(True)
    try:
        yield
    finally:
        _is_asked_for.reset(token)


@contextmanager
def in_task() -> Iterator[None]:
    """Note that a task's function runs here: workflows that it calls stay in its process."""
    token = _is_in_task.set(True)
    try:
        yield
    finally:
        _is_in_task.reset(token)


def is_inline() -> bool:
    """Say whether workflows are to run in this process.

    Raises:
        ValueError: the variable has a value that is not known.
    """
    if _is_asked_for.get() or _is_in_task.get():
        return True
    chosen = os.environ.get(VARIABLE)
    if not chosen or chosen == "engine":
        return False
    if chosen != "inline":
        raise ValueError(f'{VARIABLE} expected "inline" or "engine", got {chosen!r}')
    return True
