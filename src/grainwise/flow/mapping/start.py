"""A map that is called by itself, outside of a workflow."""

from __future__ import annotations

import os
from typing import Any

from ..declared.options import Options
from ..running.mode import is_inline
from ..running.recorder import Telling
from ..running.resumption import take_resumption
from .elements import ElementsRun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .budget import Concurrency


class MapAlone:
    """Stands for the scheduler of a map that is a run by itself."""

    def __init__(self) -> None:
        self.resumption = take_resumption()
        self.run_id = self.resumption.run_id if self.resumption else os.urandom(8).hex()
        self.telling = Telling()
        self.budget: Concurrency | None = None
        self.options = Options()


class _Job:
    """Stands for the job of a map that is a run by itself."""

    def __init__(self, entity: Any, values: dict[str, Any]) -> None:
        self.entity = entity
        self.options = entity.options
        self.values = values
        self.path = "n0"


def run_map(entity: Any, values: dict[str, Any]) -> Any:
    """Run a map with checked inputs in the caller's thread; return what it gives."""
    is_here = is_inline()
    alone: Any = MapAlone()
    job: Any = _Job(entity, values)
    tell = alone.telling.tell
    tell("run_started", alone.run_id, entity.name, entity.kind, values)
    tell("node_started", alone.run_id, job.path, entity.name, entity.kind, values)
    tell("attempt_started", alone.run_id, job.path, 1)
    if alone.resumption is not None:
        alone.resumption.holds(job.path, entity.name, entity.kind, values)
    outcome: Any = None
    failure: BaseException | None = None
    try:
        outcome = ElementsRun(job, alone, is_inline=is_here).run()
    except BaseException as error:
        failure = error
        raise
    finally:
        outputs = {} if failure else dict(zip(entity.interface.outputs, entity.interface.split(outcome)))
        tell("attempt_ended", alone.run_id, job.path, 1, failure, {})
        tell("node_ended", alone.run_id, job.path, None if failure else outputs, failure, False)
        tell("run_ended", alone.run_id, outcome, failure)
    return outcome
