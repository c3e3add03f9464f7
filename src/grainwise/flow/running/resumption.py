"""The seam for resuming: the next run of this context goes on where an earlier one ended.

What is put in place answers `holds`, `outputs` and `elements`, as `record.resume.Resumption` does. The run
that begins next takes it; runs within that one are nodes of it, or runs by themselves.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_waiting: ContextVar[list[Any] | None] = ContextVar("grainwise_flow_resumption", default=None)
_current: dict[str, Any] = {}


@contextmanager
def resuming(resumption: Any) -> Iterator[None]:
    """Have the next run in this block go on."""
    token = _waiting.set([resumption])
    try:
        yield
    finally:
        _waiting.reset(token)
        _current.pop(resumption.run_id, None)


def take_resumption() -> Any:
    """Return what the run that begins now goes on from, None if it begins anew."""
    waiting = _waiting.get()
    if not waiting:
        return None
    resumption = waiting.pop()
    _current[resumption.run_id] = resumption
    return resumption


def current_resumption(run_id: str) -> Any:
    """Return what a run that is under way goes on from."""
    return _current.get(run_id)
