"""The errors of an executor whose worker died or would not start its work.

They are the standard library's `BrokenProcessPool` too, so that a program written for `ProcessPoolExecutor`
handles them as it does now. Loaded when one is raised: `concurrent.futures.process` imports multiprocessing.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from ...errors import GrainwiseError, WorkerCrashedError


class BrokenWorkerError(WorkerCrashedError, BrokenProcessPool):
    """The worker that ran this call died. Only this call is lost: the executor goes on.

    Both a `WorkerCrashedError` with its fields and a `BrokenProcessPool`.
    """


class InitializerError(GrainwiseError, BrokenProcessPool):
    """The executor's `initializer` raised in a worker; the executor takes no more calls."""


def from_crash(error: WorkerCrashedError) -> BrokenWorkerError:
    """Return the same error as an executor's."""
    made = BrokenWorkerError(
        str(error),
        task_name=error.task_name,
        pid=error.pid,
        exit_code=error.exit_code,
        signal=error.signal,
        detail=error.detail,
    )
    made.__cause__ = error.__cause__
    return made
