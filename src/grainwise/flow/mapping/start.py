"""A map that is called by itself, outside of a workflow."""

from __future__ import annotations

import os
from typing import Any

from ..declared.options import Options
from ..running.mode import is_inline
from ..running.recorder import Telling
from .elements import ElementsRun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .budget import Concurrency


class MapAlone:
    """Stands for the scheduler of a map that is a run by itself."""

    def __init__(self) -> None:
        self.run_id = os.urandom(8).hex()
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
    alone: Any = MapAlone()
    job: Any = _Job(entity, values)
    tell = alone.telling.tell
    tell("run_started", alone.run_id, entity.name, entity.kind, values)
    outcome: Any = None
    failure: BaseException | None = None
    try:
        outcome = ElementsRun(job, alone, is_inline=is_inline()).run()
    except BaseException as error:
        failure = error
        raise
    finally:
        tell("run_ended", alone.run_id, outcome, failure)
    return outcome
