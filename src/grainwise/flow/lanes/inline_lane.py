"""The lane that runs tasks on the spot, in the caller's process and thread."""

from __future__ import annotations

import time
from typing import Any

from ..mapping.elements import ElementsRun
from .attempt import run_function, surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..running.jobs import Job
    from ..running.scheduler import Scheduler


class InlineLane:
    """Runs each job as it is handed over. Time and memory limits are not enforced."""

    is_immediate = True
    """Whether jobs have ended when `submit` returns."""

    def __init__(self) -> None:
        self._ended: list[tuple[Job, Any, BaseException | None]] = []

    def submit(self, job: Job, scheduler: Scheduler) -> None:
        """Run a job."""
        try:
            if job.entity.kind == "map":
                value = ElementsRun(job, scheduler, is_inline=True).run()
            else:
                with surroundings(job.options.variables, None):
                    value = run_function(job.entity, job.values)
        except Exception as error:
            self._ended.append((job, None, error))
        else:
            self._ended.append((job, value, None))

    def wait(self, timeout_s: float | None) -> list[tuple[Job, Any, BaseException | None]]:
        """Return what has ended; sleep until the next retry if that is all there is."""
        if not self._ended and timeout_s:
            time.sleep(timeout_s)
        ended, self._ended = self._ended, []
        return ended

    def wake(self) -> None:
        """Do nothing: nobody waits."""

    def facts(self, job: Job) -> dict[str, Any]:
        """Return what is known of the process."""
        import os

        return {"pid": os.getpid()}

    def ref_of(self, job: Job) -> Any:
        """Return None: values are here."""
        return None

    def close(self) -> None:
        """Do nothing."""
