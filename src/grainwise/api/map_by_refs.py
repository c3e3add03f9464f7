"""`map` over an engine that offers refs only, such as the one inside a task: a window of refs."""

from __future__ import annotations

from collections import deque

from ..errors import SerializationError
from ..objects.ref import ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..engine.current import EngineLike

WINDOW = 256
"""Items that are under way at once."""


def map_by_refs(
    engine: EngineLike,
    submit: Callable[..., ObjectRef[Any]],
    rows: Iterator[tuple[Any, ...]],
    *,
    is_ordered: bool,
    window: int,
    failed: Callable[[BaseException, int, tuple[Any, ...]], Any],
) -> Iterator[Any]:
    """Yield results of a function for rows of arguments.

    Args:
        engine: waits and cancels.
        submit: submits a call: index, then the arguments.
        rows: the arguments, read as results are taken.
        is_ordered: in the order of the input, else as they come.
        window: so many are under way at once.
        failed: returns what to yield for an item that failed, or raises.
    """
    pending: deque[ObjectRef[Any]] = deque()
    sources: dict[ObjectRef[Any], tuple[int, tuple[Any, ...]]] = {}
    refused: dict[ObjectRef[Any], SerializationError] = {}
    num_read = 0
    is_exhausted = False
    read_error: BaseException | None = None
    try:
        while True:
            while not is_exhausted and len(pending) < window:
                try:
                    row = next(rows)
                except StopIteration:
                    is_exhausted = True
                    break
                except Exception as error:  # the results of what came before it come first
                    is_exhausted, read_error = True, error
                    break
                index = num_read
                num_read += 1
                try:
                    ref = submit(index, *row)
                except SerializationError as error:
                    ref = engine.put(None)  # stands for its task
                    refused[ref] = _name(error, index, row)
                sources[ref] = (index, row)
                pending.append(ref)
            if not pending:
                break
            if is_ordered:
                ready = [pending.popleft()]
            else:
                ready, rest = engine.wait(list(pending), 1, None)
                pending = deque(rest)
            for ref in ready:
                index, row = sources.pop(ref)
                try:
                    if ref in refused:
                        raise refused.pop(ref)
                    value = engine.get([ref], None)[0]
                except Exception as error:
                    value = failed(error, index, row)
                yield value
        if read_error is not None:
            raise read_error
    finally:
        for ref in pending:
            engine.cancel(ref, force=False, recursive=True)


def _name(error: SerializationError, index: int, row: tuple[Any, ...]) -> SerializationError:
    """Return the error of a call that can't be pickled as one of an item."""
    from ..objects.culprit import describe, find_culprit

    culprit = find_culprit(row[0] if len(row) == 1 else row, name="item")
    reason = str(error.__cause__) if culprit is None else describe(culprit)
    path = "" if culprit is None else culprit.path
    return SerializationError(reason, task_name=error.task_name, what=f"item {index}", path=path)
