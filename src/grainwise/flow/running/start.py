"""Starting a run: chooses the lane, the options and the budget."""

from __future__ import annotations

from typing import Any

from ..declared.options import Options
from ..mapping.budget import Concurrency
from .mode import is_inline
from .recorder import Telling
from .scheduler import Scheduler


def run_entity(entity: Any, values: dict[str, Any], options: Options | None = None) -> Any:
    """Run a workflow or dynamic workflow with checked inputs; return plain values.

    Args:
        entity: what runs.
        values: its inputs.
        options: of the run; by default those that the workflow was declared with.
    """
    chosen = options or getattr(entity, "default_options", None) or Options()
    limit = chosen.max_parallelism
    budget = None if not limit else Concurrency(limit)
    lane: Any
    if is_inline():
        from ..lanes.inline_lane import InlineLane

        lane = InlineLane()
    else:
        from ..lanes.engine_lane import EngineLane

        lane = EngineLane()
    return Scheduler(lane, Telling(), chosen, budget).run(entity, values)
