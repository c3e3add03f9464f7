"""Runs by name: `run` gives their outputs and id, `resume` goes on with one that was interrupted."""

from __future__ import annotations

from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .record.resume import Resumption


@contextmanager
def resume(run: str) -> Iterator[Resumption]:
    """Have the next run in this block go on where an earlier one ended.

        with flow.resume("last") as earlier:
            result = train_all(**earlier.inputs)

    Nodes and elements of maps that the earlier run has finished are not run again, as long as their inputs
    are the same; the record tells of both as one run.

    Args:
        run: the id of the earlier run, the beginning of it, or "last".

    Raises:
        RecordError: there is no such run, it is done, or it is under way.
    """
    from .record.resume import claim
    from .running.resumption import resuming

    resumption = claim(run)
    with resuming(resumption):
        yield resumption
