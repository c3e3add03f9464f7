"""A launch plan as the target of a map: its workflow runs wholly in the worker that has the element."""

from __future__ import annotations

from typing import Any

from ..declared.options import TaskMetadata, TaskOptions


class PlanTarget:
    """Gives a launch plan what a map asks of its task."""

    kind = "plan"
    is_async = False
    stand_in = None
    place = None

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.name = plan.name
        self.interface = plan.interface
        self.options = TaskOptions(TaskMetadata())
        self.task_function = self.execute

    def execute(self, **values: Any) -> Any:
        """Run the workflow with the inputs of an element."""
        return self.plan(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlanTarget, (self.plan,)
