"""Flow: typed tasks and workflows, with Flyte's names.

    from grainwise.flow import task, workflow, map_task

    @task
    def double(x: int) -> int:
        return 2 * x

    @workflow
    def double_all(xs: list[int]) -> list[int]:
        return map_task(double)(x=xs)

Arguments and results are checked against the annotations. A direct call of a task runs in the caller's process; a
workflow runs on the engine, or, under `with inline():`, in the caller's process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .declared.image import ImageSpec as ImageSpec
    from .declared.options import Cache as Cache
    from .declared.options import Options as Options
    from .declared.options import TaskMetadata as TaskMetadata
    from .declared.options import VersionParameters as VersionParameters
    from .declared.options import WorkflowFailurePolicy as WorkflowFailurePolicy
    from .declared.resources import Resources as Resources
    from .errors import (
        BranchError as BranchError,
    )
    from .graph.conditional import conditional as conditional
    from .running.budget import Concurrency as Concurrency
    from .running.failure import FlyteError as FlyteError
    from .running.mode import inline as inline
    from .tasks.dynamic import dynamic as dynamic
    from .tasks.map_task import map_task as map_task
    from .tasks.task import task as task
    from .types.paths import FlyteDirectory as FlyteDirectory
    from .types.paths import FlyteFile as FlyteFile
    from .workflows.workflow import workflow as workflow

_WHERE = {
    "ImageSpec": "declared.image",
    "Cache": "declared.options",
    "Options": "declared.options",
    "TaskMetadata": "declared.options",
    "VersionParameters": "declared.options",
    "WorkflowFailurePolicy": "declared.options",
    "Resources": "declared.resources",
    "conditional": "graph.conditional",
    "Promise": "graph.promise",
    "Concurrency": "running.budget",
    "FlyteError": "running.failure",
    "LocalTaskCache": "running.caching",
    "inline": "running.mode",
    "Recorder": "running.recorder",
    "add_recorder": "running.recorder",
    "remove_recorder": "running.recorder",
    "Task": "tasks.task",
    "dynamic": "tasks.dynamic",
    "map_task": "tasks.map_task",
    "MapTask": "tasks.map_task",
    "task": "tasks.task",
    "FlyteDirectory": "types.paths",
    "FlyteFile": "types.paths",
    "workflow": "workflows.workflow",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{where}", __name__), name)
    globals()[name] = value
    return value
